"""Archives that attack, and those that are simply broken."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from litfast.data import archive as archives
from litfast.data.archive import archive_kind, extract

Entry = tuple[str, Any]  # a name, and: bytes of a file, None for a folder, or (type, target)
GOOD: list[Entry] = [("set/", None), ("set/a.bin", b"1234"), ("set/deep/b.txt", b"x" * 5000), ("notes", b"n")]


def tar(path: Path, entries: list[Entry], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as opened:  # type: ignore[call-overload]
        for name, content in entries:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                opened.addfile(info, io.BytesIO(content))
                continue
            info.type, info.linkname = (tarfile.DIRTYPE, "") if content is None else content
            opened.addfile(info)
    return path


def zipped(path: Path, entries: list[Entry]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in entries:
            opened.writestr(name, content or b"")
    return path


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def refused(archive: Path, into: Path, message: str, **limits: Any) -> None:
    """The line names the archive, and nothing is left: neither the folder nor what was written aside."""
    before = sorted(into.parent.rglob("*"))
    with pytest.raises(ValueError, match=message) as caught:
        extract(archive, into, **limits)
    line = str(caught.value)
    assert line.startswith("extract: ") and str(archive) in line and "\n" not in line
    assert sorted(into.parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("suffix", "make"),
    [
        ("tar", tar),
        ("tar.gz", lambda path, entries: tar(path, entries, "w:gz")),
        ("tar.xz", lambda path, entries: tar(path, entries, "w:xz")),
        ("zip", zipped),
    ],
)
def test_an_archive_of_each_kind_becomes_a_folder(
    suffix: str, make: Callable[[Path, list[Entry]], Path], tmp_path: Path
) -> None:
    archive = make(tmp_path / "any.name", GOOD)
    assert archive_kind(archive) == suffix
    assert extract(archive, tmp_path / "new" / "all") == tmp_path / "new" / "all"
    expected = {"notes": b"n", "set/a.bin": b"1234", "set/deep/b.txt": b"x" * 5000}
    assert everything(tmp_path / "new" / "all") == expected
    extract(archive, tmp_path / "new" / "part", top="set")
    assert everything(tmp_path / "new" / "part") == {"a.bin": b"1234", "deep/b.txt": b"x" * 5000}
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"all", "part"}


def test_the_folder_is_as_open_as_any_that_the_user_makes(tmp_path: Path) -> None:
    (tmp_path / "usual").mkdir()
    made = extract(tar(tmp_path / "a.tar", GOOD), tmp_path / "made")
    assert stat.S_IMODE(made.stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


ESCAPES = [
    ("../evil", "stay inside the folder"),
    ("set/../../evil", "stay inside the folder"),
    ("set/../a", "stay inside the folder"),
    ("..\\evil", "stay inside the folder"),
    ("/tmp/evil", "have a relative name"),
    ("//host/evil", "have a relative name"),
    ("C:\\evil", "have a relative name"),
    ("C:evil", "have a relative name"),
]


@pytest.mark.parametrize("make", [tar, zipped])
@pytest.mark.parametrize(("name", "rule"), ESCAPES)
def test_a_name_that_leads_outside_is_refused(name: str, rule: str, make: Any, tmp_path: Path) -> None:
    archive = make(tmp_path / "a.archive", [("set/a", b"1"), (name, b"evil")])
    refused(archive, tmp_path / "into", f"member .* must {rule}, got")
    assert not (tmp_path / "evil").exists()


LINKS: list[tuple[list[Entry], str]] = [
    ([("l", (tarfile.SYMTYPE, "../out"))], "member 'l' .* link to a place inside .*, got '../out'"),
    ([("l", (tarfile.SYMTYPE, "/etc/passwd"))], "link to a place inside"),
    ([("l", (tarfile.SYMTYPE, "C:/x"))], "link to a place inside"),
    ([("d/l", (tarfile.SYMTYPE, "../../out"))], "link to a place inside"),
    (
        # each looks harmless by its words alone: `up` is the folder itself, so `up/..` is outside
        [("d/e/up", (tarfile.SYMTYPE, "../..")), ("l", (tarfile.SYMTYPE, "d/e/up/.."))],
        "member 'l' .* link to a place inside",
    ),
    ([("l", (tarfile.SYMTYPE, "d")), ("l/x", b"1")], "member 'l/x' .* lie in folders only, got 'l', a symli"),
    (
        [("l", (tarfile.SYMTYPE, "x")), ("l", b"written through it")],
        "named once, got a file where .* symlink",
    ),
    ([("l", (tarfile.LNKTYPE, "../out"))], "link to a file before it"),
    ([("l", (tarfile.LNKTYPE, "/etc/passwd"))], "link to a file before it"),
    ([("l", (tarfile.LNKTYPE, "later")), ("later", b"1")], "link to a file before it"),
    ([("s", (tarfile.SYMTYPE, "x")), ("l", (tarfile.LNKTYPE, "s"))], "link to a file before it"),
    ([("dev", (tarfile.CHRTYPE, ""))], "member 'dev' .* be a file, a folder or a link, got a device or pipe"),
    ([("dev", (tarfile.BLKTYPE, ""))], "got a device or pipe"),
    ([("pipe", (tarfile.FIFOTYPE, ""))], "got a device or pipe"),
    ([("a", b"1"), ("a", b"2")], "member 'a' .* be named once, got a file where there is a file"),
    ([("a", b"1"), ("./a", b"2")], "be named once"),
    ([("a", b"1"), ("a/b", b"2")], "lie in folders only, got 'a', a file"),
    ([("a/b", b"1"), ("a", b"2")], "be named once, got a file where there is a folder"),
    ([(".", b"1")], "be named once, got a file where there is a folder"),
    ([("two\nlines/../..", b"1")], r"member 'two\\nlines"),
]


@pytest.mark.parametrize(("entries", "message"), LINKS)
def test_links_devices_and_doubles_that_could_do_harm_are_refused(
    entries: list[Entry], message: str, tmp_path: Path
) -> None:
    (tmp_path / "out").write_bytes(b"of somebody else")
    refused(tar(tmp_path / "a.tar", [("x", b"1"), *entries]), tmp_path / "into", message)
    assert (tmp_path / "out").read_bytes() == b"of somebody else"


@pytest.mark.parametrize("entries", [entries for entries, _ in LINKS] + [[(n, b"1")] for n, _ in ESCAPES])
def test_nothing_that_pythons_own_data_filter_refuses_is_let_through(
    entries: list[Entry], tmp_path: Path
) -> None:
    archive = tar(tmp_path / "a.tar", entries)
    (tmp_path / "filtered").mkdir()
    with tarfile.open(archive) as opened:
        try:
            opened.extractall(tmp_path / "filtered", filter="data")
        except (tarfile.FilterError, OSError, KeyError):
            refused(archive, tmp_path / "into", "extract: ")


def test_links_that_stay_inside_are_made(tmp_path: Path) -> None:
    entries: list[Entry] = [
        ("set/d/a", b"1234"),
        ("set/up", (tarfile.SYMTYPE, "d/a")),
        ("set/d/down", (tarfile.SYMTYPE, "../d/a")),
        ("set/hard", (tarfile.LNKTYPE, "set/d/a")),
    ]
    into = extract(tar(tmp_path / "a.tar", entries), tmp_path / "into", top="set")
    assert everything(into) == dict.fromkeys(["d/a", "d/down", "hard", "up"], b"1234")
    assert os.readlink(into / "up") == "d/a" and (into / "hard").stat().st_nlink == 2


def test_a_link_out_of_the_folder_that_is_taken_leads_outside(tmp_path: Path) -> None:
    entries: list[Entry] = [("secret", b"1"), ("set/l", (tarfile.SYMTYPE, "../secret"))]
    archive = tar(tmp_path / "a.tar", entries)
    refused(archive, tmp_path / "into", "link to a place inside", top="set")
    assert (extract(archive, tmp_path / "all") / "set" / "l").read_bytes() == b"1"


def test_a_zip_archive_may_hold_no_links(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("l")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        opened.writestr(info, "/etc/passwd")
    refused(tmp_path / "a.zip", tmp_path / "into", "member 'l' .* got a link, device or pipe in a zip")


def test_bytes_and_members_are_limited(tmp_path: Path) -> None:
    bomb = tar(tmp_path / "bomb.tar.gz", [("a", b"1"), ("zeros", bytes(1 << 20))], "w:gz")
    assert bomb.stat().st_size < 5000
    refused(bomb, tmp_path / "into", r"'zeros' .* within 1000000 bytes, got 1048577", max_bytes=1_000_000)
    many = zipped(tmp_path / "many.zip", [(str(i), b"") for i in range(11)])
    refused(many, tmp_path / "into", r"member '10' .* at most 10 members, got number 11", max_members=10)
    assert len(everything(extract(many, tmp_path / "into", max_members=11))) == 11


def test_what_is_there_already_is_never_touched(tmp_path: Path) -> None:
    archive = tar(tmp_path / "a.tar", GOOD)
    (tmp_path / "into").mkdir()
    (tmp_path / "into" / "mine").write_bytes(b"mine")
    with pytest.raises(ValueError, match=f"{tmp_path}/into must not exist yet"):
        extract(archive, tmp_path / "into")
    assert everything(tmp_path / "into") == {"mine": b"mine"}


def changed(archive: Path, at: int) -> None:
    content = bytearray(archive.read_bytes())
    content[at] ^= 0xFF
    archive.write_bytes(content)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_an_archive_cut_anywhere_is_refused(mode: str, tmp_path: Path) -> None:
    whole = tar(tmp_path / "a.tar", [("a", b"1" * 512), ("b", os.urandom(40_000))], mode).read_bytes()
    tar_end = 512 + 512 + 512 + 40_448 if mode == "w" else len(whole)  # behind it lies only padding
    for length in [*range(512, tar_end, 4096), 1024, 1536, tar_end - 1, tar_end]:
        if mode != "w" and length == tar_end:
            continue
        (tmp_path / "cut.tar").write_bytes(whole[:length])
        refused(tmp_path / "cut.tar", tmp_path / "into", "must be a whole tar.* archive, got: ")


def test_a_whole_gzip_file_needs_no_mark_of_the_tars_end(tmp_path: Path) -> None:
    content = tar(tmp_path / "a.tar", [("a", b"1")]).read_bytes()[:1024]
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(content))
    assert everything(extract(tmp_path / "a.tar.gz", tmp_path / "into")) == {"a": b"1"}


@pytest.mark.parametrize("make", [lambda p, e: tar(p, e, "w:gz"), lambda p, e: tar(p, e, "w:xz"), zipped])
def test_an_altered_byte_is_found_by_the_archives_own_sums(make: Any, tmp_path: Path) -> None:
    archive = make(tmp_path / "a.archive", [("a", os.urandom(50_000))])
    changed(archive, 20_000)
    refused(archive, tmp_path / "into", "must be a whole .* archive, got: ")


def test_what_is_no_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "page.tar.gz").write_text("<html>404</html>")
    refused(tmp_path / "page.tar.gz", tmp_path / "into", "must be a tar, tar.gz, tar.xz or zip archive")
    refused(tmp_path / "none.tar", tmp_path / "into", "must be a tar, tar.gz, tar.xz or zip archive")
    (tmp_path / "text.xz").write_bytes(lzma.compress(b"words " * 1000))
    refused(tmp_path / "text.xz", tmp_path / "into", "must be a whole tar.xz archive")
    archive = tar(tmp_path / "a.tar", GOOD)
    refused(archive, tmp_path / "into", "must hold the folder 'sat', got none", top="sat")


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archives.shutil, "copyfileobj", full)
    archive = tar(tmp_path / "a.tar", GOOD)
    with pytest.raises(
        OSError, match=r"extract: .*a.tar cannot be unpacked as .*into: No space left on device$"
    ):
        extract(archive, tmp_path / "into")
    assert list(tmp_path.iterdir()) == [archive]


def test_an_interruption_leaves_nothing_half_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(source: io.BytesIO, target: io.BytesIO, *_: object) -> None:
        target.write(source.read(2))
        raise KeyboardInterrupt

    monkeypatch.setattr(archives.shutil, "copyfileobj", interrupted)
    archive = tar(tmp_path / "a.tar", GOOD)
    with pytest.raises(KeyboardInterrupt):
        extract(archive, tmp_path / "into")
    assert list(tmp_path.iterdir()) == [archive]
