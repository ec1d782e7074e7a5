"""Unpack tar and zip archives that nobody vouches for, into a fresh folder, whole or not at all."""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, NamedTuple, NoReturn, Self

MAX_BYTES, MAX_MEMBERS = 64 << 30, 5_000_000  # beyond every official set, short of a machine's disk
OPENERS: dict[str, Callable[..., Any]] = {"tar": open, "tar.gz": gzip.GzipFile, "tar.xz": lzma.LZMAFile}
BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    NotImplementedError,  # what zipfile says to a compression that it does not know
)
CHUNK, MOST_BEHIND = 1 << 20, 1 << 30  # bytes read at once; behind the end of a tar
LONGEST_NAME = 1 << 20  # bytes of a long name or of pax records, which tarfile reads at once
OF_NAMES = (b"L", b"K", b"x", b"X", b"g")  # types of the headers that hold those


Refuse = Callable[[str, str], NoReturn]  # (rule, what came)


class Member(NamedTuple):
    """One entry of an archive of either kind."""

    name: str
    kind: str  # "file", "folder", "symlink", "hardlink", or in words what else it is
    size: int = 0
    target: str = ""  # of a link
    content: IO[bytes] | None = None  # of a file, to be read before the next member


class Header(tarfile.TarInfo):
    """A tar's header, for `tarfile.open(tarinfo=Header)`: whatever is wrong with one is a TarError.

    Without it a size below 0 would lead backwards, one of a name would be set aside as it is announced, and
    a number that is none would be any error.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        found = super().frombuf(buf, encoding, errors)
        if found.size < 0 or (found.type in OF_NAMES and found.size > LONGEST_NAME):
            raise tarfile.ReadError(f"a header that announces {found.size} bytes")
        return found

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        try:
            found = super().fromtarfile(tar)
        except (ValueError, LookupError, OverflowError, RecursionError) as error:
            raise tarfile.ReadError(f"a header that cannot be read ({error})") from None
        if found.size < 0:
            raise tarfile.ReadError(f"a header that announces {found.size} bytes")
        return found


def archive_kind(file: str | Path) -> str | None:
    """ "tar", "tar.gz", "tar.xz" or "zip" by the file's first bytes; None for anything else.

    A gzip or xz file need not hold a tar archive; that shows when it is read.
    """
    with open(file, "rb") as opened:
        head = opened.read(262)
    starts = {b"\x1f\x8b": "tar.gz", b"\xfd7zXZ\0": "tar.xz", b"PK\3\4": "zip", b"PK\5\6": "zip"}
    for start, kind in starts.items():
        if head.startswith(start):
            return kind
    return "tar" if head[257:] == b"ustar" else None


def extract(
    archive: str | Path,
    into: str | Path,
    *,
    top: str | None = None,
    max_bytes: int = MAX_BYTES,
    max_members: int = MAX_MEMBERS,
) -> Path:
    """Unpack an archive as the folder `into`, which must not exist yet.

    Everything is written to a folder beside `into` that takes its name at the end, so an interruption leaves
    no half of it. Owners, modes and times are left out. Links are made only where they stay inside.

    Args:
        archive: tar (plain, gzip or xz) or zip.
        top: the folder within the archive that becomes `into`, all else is left out; None takes everything.
        max_bytes, max_members: of all files together.

    Returns:
        `into`.

    Raises:
        ValueError: no such archive or a broken one; a member that is absolute, leads outside, is named twice
            or is a device; a link that may lead outside; more bytes or members than allowed; `into` exists.
        OSError: the disk is full or may not be written to.
    """
    archive, into = Path(archive), Path(into)
    if into.exists() or into.is_symlink():
        raise ValueError(f"extract: {into} must not exist yet, got a file or folder of that name")
    into.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{into.name}.", dir=into.parent))
    whole = aside / "whole"  # made by mkdir: mkdtemp's own folder is closed to all others
    try:
        _unpack(archive, whole, top, max_bytes, max_members)
        whole.rename(into)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"extract: {archive} cannot be unpacked as {into}: {reason}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return into


@contextmanager
def members(archive: Path) -> Iterator[Iterator[Member]]:
    """The entries of an archive in its order, unchecked, within a `with`.

    Raises:
        ValueError: no archive, or a broken one, as soon as that shows.
    """
    kind = archive_kind(archive) if archive.is_file() else None
    if kind is None:
        raise ValueError(f"extract: {archive} must be a tar, tar.gz, tar.xz or zip archive, got none")
    try:
        if kind == "zip":
            with zipfile.ZipFile(archive) as packed, closing(_of_zip(packed)) as entries:
                yield entries
        else:
            with OPENERS[kind](archive, "rb") as stream, closing(_of_tar(stream, kind)) as entries:
                yield entries
    except BROKEN as error:
        raise ValueError(f"extract: {archive} must be a whole {kind} archive, got: {error}") from error


def _of_tar(stream: IO[bytes], kind: str) -> Generator[Member, None, None]:
    # "r|" reads front to back: to seek in compressed data is to decompress it again
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=Header) as tar:
        for entry in tar:
            if entry.issparse():
                yield Member(entry.name, "a sparse file")
            elif entry.isdir():
                yield Member(entry.name, "folder")
            elif entry.isfile():
                yield Member(entry.name, "file", entry.size, content=tar.extractfile(entry))
            elif entry.issym() or entry.islnk():
                yield Member(entry.name, "symlink" if entry.issym() else "hardlink", target=entry.linkname)
            else:
                yield Member(entry.name, "a device or pipe")
        assert tar.fileobj is not None
        # no empty block was read after the last member, and no compression knows where the end is
        if kind == "tar" and tar.fileobj.tell() == tar.offset:
            raise tarfile.ReadError("it ends without the mark of its end")
    for _ in range(MOST_BEHIND // CHUNK):  # only at its end does a compressed stream show that it is altered
        if not stream.read(CHUNK):
            return
    raise tarfile.ReadError(f"more than {MOST_BEHIND} bytes follow its end")


def _of_zip(packed: zipfile.ZipFile) -> Generator[Member, None, None]:
    for entry in packed.infolist():
        form = stat.S_IFMT(entry.external_attr >> 16)
        if entry.is_dir():
            yield Member(entry.filename, "folder")
        elif form not in (0, stat.S_IFREG):
            yield Member(entry.filename, "a link, device or pipe in a zip archive")
        elif entry.flag_bits & 1:
            yield Member(entry.filename, "encrypted")
        else:
            with packed.open(entry) as content:
                yield Member(entry.filename, "file", entry.file_size, content=content)


def _unpack(archive: Path, folder: Path, top: str | None, max_bytes: int, max_members: int) -> None:
    folder.mkdir()
    made: dict[PurePosixPath, str] = {}  # what each name has become
    total = 0
    with members(archive) as entries:
        for count, member in enumerate(entries, 1):
            refuse = partial(_refuse, archive, member.name)
            total += member.size
            if count > max_members:
                refuse(f"be one of at most {max_members} members", f"number {count}")
            if total > max_bytes:
                refuse(f"keep the total within {max_bytes} bytes", f"{total}")
            _check_name(member, refuse)
            path = _below(top, member.name)
            if path is None:
                continue
            _enter(member, path, made, refuse)
            _write(member, path, folder, top, made, refuse)
    if top is not None and not made:
        raise ValueError(f"extract: {archive} must hold the folder {top!r}, got none of that name")


def _refuse(archive: Path, name: str, rule: str, got: str) -> NoReturn:
    raise ValueError(f"extract: member {name!r} of {archive} must {rule}, got {got}")


def _check_name(member: Member, refuse: Refuse) -> None:
    """What Windows reads into a name counts everywhere: an archive is good or bad on all systems alike."""
    forms = (PurePosixPath(member.name), PureWindowsPath(member.name))
    if any(form.anchor for form in forms):
        refuse("have a relative name", "an absolute one")
    if any(".." in form.parts for form in forms):
        refuse("stay inside the folder", "a name that leads out of it")
    if "\0" in member.name or "\0" in member.target:
        refuse("be named without null bytes", "one in its name or its target")
    if member.kind not in ("file", "folder", "symlink", "hardlink"):
        refuse("be a file, a folder or a link", member.kind)


def _below(top: str | None, name: str) -> PurePosixPath | None:
    """The place below `top`; None for what lies elsewhere in the archive."""
    path = PurePosixPath(name)
    if top is None:
        return path
    return path.relative_to(top) if path.is_relative_to(top) else None


def _enter(member: Member, path: PurePosixPath, made: dict[PurePosixPath, str], refuse: Refuse) -> None:
    """Note what the name becomes; only folders may be named twice, and only folders hold members."""
    for parent in path.parents:
        if made.setdefault(parent, "folder") != "folder":
            refuse("lie in folders only", f"{str(parent)!r}, a {made[parent]}, on its way")
    before = made.get(path) if path.parts else "folder"
    if before is not None and (before, member.kind) != ("folder", "folder"):
        refuse("be named once", f"a {member.kind} where there is a {before}")
    made[path] = member.kind


def _write(
    member: Member,
    path: PurePosixPath,
    folder: Path,
    top: str | None,
    made: dict[PurePosixPath, str],
    refuse: Refuse,
) -> None:
    place = folder / path
    place.parent.mkdir(parents=True, exist_ok=True)
    if member.kind == "folder":
        place.mkdir(exist_ok=True)
    elif member.kind == "symlink":
        if not _leads_inside(path, member.target):
            refuse("link to a place inside the folder", repr(member.target))
        place.symlink_to(member.target)
    elif member.kind == "hardlink":
        target = _below(top, member.target)
        if target is None or made.get(target) not in ("file", "hardlink"):
            refuse("link to a file before it in the archive", repr(member.target))
        os.link(folder / target, place)
    else:
        assert member.content is not None
        with place.open("xb") as file:
            shutil.copyfileobj(member.content, file, CHUNK)


def _leads_inside(path: PurePosixPath, target: str) -> bool:
    """Whether a symbolic link at `path` stays inside, whatever other links its target passes through.

    `..` is taken at the start alone: there it climbs through real folders (no member lies beyond a link),
    whereas behind a link's name it would climb from wherever that link leads.
    """
    if PurePosixPath(target).anchor or PureWindowsPath(target).anchor or "\\" in target:
        return False
    parts = PurePosixPath(target).parts
    climbs = next((i for i, part in enumerate(parts) if part != ".."), len(parts))
    return climbs < len(path.parts) and ".." not in parts[climbs:]
