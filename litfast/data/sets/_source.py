"""Text files as data sets come: plain or gzip, read in pieces."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, cast

Progress = Callable[[int, int], None]  # (bytes of the file read, all its bytes)


def find(who: str, root: Path, name: str) -> Path:
    """The file `name` in the folder root, or `name`.gz.

    Raises:
        ValueError: neither is there.
    """
    for file in (root / name, root / f"{name}.gz"):
        if file.is_file():
            return file
    raise ValueError(f"{who}: {root} must hold {name} or {name}.gz, got neither")


def pieces(file: Path, size: int, *, who: str, progress: Progress | None = None) -> Iterator[bytes]:
    """The file's content, unpacked, `size` bytes at a time.

    Raises:
        ValueError: a gzip file that is cut short or damaged.
    """
    total = file.stat().st_size
    with file.open("rb") as source:
        packed = source.read(2) == b"\x1f\x8b"
        source.seek(0)
        stream = cast(IO[bytes], gzip.GzipFile(fileobj=source)) if packed else source
        while piece := _read(stream, size, who):
            if progress is not None:
                progress(source.tell(), total)
            yield piece


def _read(stream: IO[bytes], size: int, who: str) -> bytes:
    try:
        return stream.read(size)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"{who} must be a whole gzip file, got one that is cut or damaged: {error}"
        ) from None


def not_utf8(error: UnicodeDecodeError) -> str:
    """The rule and what came, for a message."""
    return f"be UTF-8, got {error.object[error.start : error.start + 4]!r}"
