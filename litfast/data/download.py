"""One file over HTTP: resumed where it broke off, retried, and kept only when its checksum is right."""

from __future__ import annotations

import hashlib
import http.client
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

Progress = Callable[[str, int, int | None], None]  # (file's name, bytes there, bytes in all where known)

CHUNK = 1 << 18
LONGEST_PAUSE_S = 60.0
PASSING = (408, 429, 500, 502, 503, 504)  # HTTP states that a later attempt may not meet


class _Broken(Exception):
    """The transfer broke off, and another attempt may get further."""


class _Unavailable(Exception):
    """The address does not deliver the file."""


def download(
    addresses: Sequence[str],
    file: Path,
    *,
    md5: str,
    progress: Progress | None = None,
    timeout: float = 30.0,
    attempts: int = 5,
    pause: float = 1.0,
) -> None:
    """Fetch `file` from the first address that delivers it.

    What has arrived lies in `FILE.part` until all of it is there. A broken transfer goes on from its end, in
    this call or in a later one: by a Range request under the condition (If-Range) that the server still has
    the same file. A server without ranges starts anew.

    Args:
        addresses: of the same file, in order of preference.
        file: where it goes; a file with the right checksum that lies there already is taken as it is.
        md5: of the whole file, in hexadecimal digits.
        progress: called with (name, bytes there, bytes in all or None).
        timeout: seconds without a byte until a transfer counts as broken.
        attempts: in a row that bring nothing, before an address is given up.
        pause: seconds before the second attempt; doubled with each one after it.

    Raises:
        ValueError: what came, or what lies there, has another checksum; what came is deleted.
        OSError: no address delivers the file, or the disk does not take it; what has arrived is kept.
    """
    if file.exists():
        if _md5(file) != md5:
            raise ValueError(f"fetch: {file} must have md5 {md5}, got another file; move it out of the way")
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    part = _Part(file)
    resumed = part.size > 0
    address = _deliver(addresses, part, progress, timeout, attempts, pause)
    found = _md5(part.path)
    if found == md5:
        part.path.replace(file)
        part.discard()
        return
    part.discard()
    if not resumed:
        raise ValueError(
            f"fetch: {file.name} from {address} must have md5 {md5}, got {found}; the download is deleted"
        )
    # what lay there from an earlier call may have been the start of another file
    download(addresses, file, md5=md5, progress=progress, timeout=timeout, attempts=attempts, pause=pause)


class _Part:
    """What has arrived of a file, and the mark by which its server knows that version of it."""

    def __init__(self, file: Path) -> None:
        self.name = file.name
        self.path = file.with_name(f"{file.name}.part")
        self._mark = file.with_name(f"{file.name}.part.etag")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    @property
    def mark(self) -> str | None:
        return self._mark.read_text() if self._mark.is_file() else None

    def begin(self, mark: str | None) -> None:
        self.discard()
        if mark is not None:
            self._mark.write_text(mark)

    def discard(self) -> None:
        for path in (self.path, self._mark):
            path.unlink(missing_ok=True)


def _deliver(
    addresses: Sequence[str],
    part: _Part,
    progress: Progress | None,
    timeout: float,
    attempts: int,
    pause: float,
) -> str:
    """The address that has delivered the whole part."""
    failures = []
    for address in addresses:
        try:
            _persist(address, part, progress, timeout, attempts, pause)
            return address
        except _Unavailable as error:
            failures.append(f"{address}: {error}")
    kept = f"; {part.size} bytes of it are kept in {part.path}" if part.size else ""
    raise OSError(f"fetch: {part.name} must be had from an address, got {'; '.join(failures)}{kept}")


def _persist(
    address: str, part: _Part, progress: Progress | None, timeout: float, attempts: int, pause: float
) -> None:
    """Attempt after attempt; one that gets further than all before it starts the count again."""
    failed, furthest = 0, part.size
    while True:
        try:
            _transfer(address, part, progress, timeout)
            return
        except _Broken as error:
            failed = failed + 1 if part.size <= furthest else 1
            furthest = max(furthest, part.size)
            if failed >= attempts:
                raise _Unavailable(f"{error} ({attempts} attempts)") from error
        time.sleep(min(pause * 2 ** (failed - 1), LONGEST_PAUSE_S))


def _transfer(address: str, part: _Part, progress: Progress | None, timeout: float) -> None:
    """One attempt, from the end of what has arrived where the server allows it."""
    start = part.size
    answer = _ask(address, start, part.mark, timeout)
    if answer is None:
        return
    with answer:
        if answer.status == 206:
            first, total = _range(answer)
            if first != start:
                raise _Unavailable(f"bytes from {first} on came, asked for were those from {start} on")
        else:
            start, length = 0, answer.headers.get("Content-Length")
            total = int(length) if length else None
        try:
            if start == 0:
                part.begin(_mark(answer))
            with part.path.open("ab") as file:
                for chunk in _chunks(answer, timeout):
                    file.write(chunk)
                    start += len(chunk)
                    if progress is not None:
                        progress(part.name, start, total)
        except OSError as error:
            raise OSError(
                f"fetch: {part.path} cannot be written: {error.strerror or error}; "
                "what has arrived is kept, the next call goes on from there"
            ) from error
    if total is not None and start < total:
        raise _Broken(f"the transfer ended after {start} of {total} bytes")


def _ask(address: str, start: int, mark: str | None, timeout: float) -> http.client.HTTPResponse | None:
    """The server's answer; None where it says that nothing is missing."""
    request = urllib.request.Request(
        address, headers={"User-Agent": "litfast", "Accept-Encoding": "identity"}
    )
    if start:
        request.add_header("Range", f"bytes={start}-")
        if mark is not None:
            request.add_header("If-Range", mark)
    try:
        answer: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=timeout)
        return answer
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            return None  # the checksum tells whether all is there or too much
        kind = _Broken if error.code in PASSING else _Unavailable
        raise kind(f"HTTP {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        # without a network no name is known, and to try again for long helps nobody
        kind = _Unavailable if isinstance(error.reason, socket.gaierror) else _Broken
        raise kind(_reason(error.reason, timeout)) from error
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(_reason(error, timeout)) from error


def _chunks(answer: http.client.HTTPResponse, timeout: float) -> Iterator[bytes]:
    try:
        while chunk := answer.read1(CHUNK):
            yield chunk
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(_reason(error, timeout)) from error


def _reason(error: object, timeout: float) -> str:
    if isinstance(error, TimeoutError):
        return f"nothing came for {timeout:g} s"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _range(answer: http.client.HTTPResponse) -> tuple[int, int | None]:
    """(first byte, bytes of the whole file) of `Content-Range: bytes 5-9/10`."""
    header = answer.headers.get("Content-Range", "")
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", header)
    if not found:
        raise _Unavailable(f"a part of the file came with Content-Range {header!r}")
    return int(found[1]), None if found[2] == "*" else int(found[2])


def _mark(answer: http.client.HTTPResponse) -> str | None:
    """What If-Range may name: a strong ETag, else the date."""
    etag = answer.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else answer.headers.get("Last-Modified")


def _md5(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
