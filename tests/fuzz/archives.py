"""Targets: tar and zip archives."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from hypothesis import strategies as st

from litfast.data.archive import extract

from .harness import Target
from .spoil import any_bytes

MOST = 1 << 20  # bytes that an archive may unpack to here

NAMES = [
    "a",
    "set/a",
    "set/b/c",
    "../out",
    "/abs",
    "set/../../out",
    "a/../b",
    "C:\\out",
    "..\\out",
    ".",
    "",
    "é",
    "x" * 300,
]
LINKS = [
    "a",
    "set/a",
    "..",
    "../..",
    "/etc/passwd",
    "b/..",
    "set",
    ".",
    "",
    "\\\\server\\share",
    "a/../../..",
]
KINDS = [
    tarfile.REGTYPE,
    tarfile.DIRTYPE,
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
    tarfile.CHRTYPE,
    tarfile.FIFOTYPE,
]
KINDS += [tarfile.GNUTYPE_SPARSE, tarfile.CONTTYPE, b"V", b"g"]
member = st.tuples(
    st.sampled_from(NAMES),
    st.sampled_from(KINDS),
    st.sampled_from(LINKS),
    st.binary(max_size=20),
    st.booleans(),
)


def tar_of(members: list[tuple[str, bytes, str, bytes, bool]], how: tuple[int, str]) -> bytes:
    """A tar of whatever members, of any of the formats; a member may announce more than it has."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=how[0]) as tar:
        for name, kind, target, content, is_bomb in members:
            info = tarfile.TarInfo(name[:90] if how[0] == tarfile.USTAR_FORMAT else name)
            info.type, info.linkname = kind, target
            info.size = len(content) if kind in (tarfile.REGTYPE, tarfile.CONTTYPE) else 0
            info.pax_headers = {"size": str(1 << 40)} if is_bomb and how[0] == tarfile.PAX_FORMAT else {}
            tar.addfile(info, io.BytesIO(content))
    # the fastest preset: each of the others takes 100 MB of the room that a target has
    xz = partial(lzma.compress, preset=0)
    pack: dict[str, Callable[[bytes], bytes]] = {"": bytes, "gz": gzip.compress, "xz": xz}
    return pack[how[1]](packed.getvalue())


def zip_of(members: list[tuple[str, bytes, str, bytes, bool]]) -> bytes:
    packed = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as opened:
        warnings.simplefilter("ignore", UserWarning)  # a name that comes twice
        for name, kind, target, content, is_bomb in members:
            info = zipfile.ZipInfo(name or "a")
            info.external_attr = (0o120777 if kind == tarfile.SYMTYPE else 0o100644) << 16
            opened.writestr(
                info, bytes(2 * MOST) if is_bomb else target if kind == tarfile.SYMTYPE else content
            )
    return packed.getvalue()


formats = st.tuples(
    st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]), st.just("")
)
packings = st.tuples(st.just(tarfile.PAX_FORMAT), st.sampled_from(["gz", "xz"]))
GOOD: list[tuple[str, bytes, str, bytes, bool]] = [
    ("set", tarfile.DIRTYPE, "", b"", False),
    ("set/a", tarfile.REGTYPE, "", b"1234", False),
    ("set/link", tarfile.SYMTYPE, "a", b"", False),
]
archives = st.one_of(
    st.builds(tar_of, st.lists(member, min_size=1, max_size=4), st.one_of(formats, packings)),
    st.builds(zip_of, st.lists(member, min_size=1, max_size=4)),
    any_bytes(
        *(
            tar_of(GOOD, (kind, ""))
            for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
        ),
        tar_of(GOOD, (tarfile.PAX_FORMAT, "gz")),
        tar_of(GOOD, (tarfile.PAX_FORMAT, "xz")),
        zip_of(GOOD[:2]),
    ),
)


def unpack(case: tuple[bytes, str | None], folder: Path) -> None:
    """Nothing outside of the new folder, nothing in it that leads there; after an error nothing at all."""
    data, top = case
    (folder / "archive").write_bytes(data)
    place = folder / "place"
    place.mkdir()
    (place / "secret").touch()
    try:
        extract(folder / "archive", place / "into", top=top, max_bytes=MOST)
    except Exception:
        assert _below(place) == [place / "secret"]
        raise
    finally:
        assert sorted(folder.iterdir()) == [folder / "archive", place]
    into = place / "into"
    assert sorted(place.iterdir()) == [into, place / "secret"]
    for path in _below(into):
        real = Path(os.path.realpath(path))  # Path.resolve raises at a link to itself
        assert real.is_relative_to(into.resolve())
        assert path.is_file() or path.is_dir() or path.is_symlink()
    assert sum(path.stat().st_size for path in _below(into) if path.is_file()) <= MOST


def _below(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


ARCHIVES = [
    Target(
        name="archives",
        cases=st.tuples(archives, st.sampled_from([None, None, "set"])),
        run=unpack,
        says="extract: ",
        refusals=(ValueError, OSError),
    )
]
