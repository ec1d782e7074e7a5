"""The pass that finds the images which cannot be decoded, and what it remembers."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

import litfast.data.decode
from litfast.data.decode import undecodable
from litfast.data.sets.image_set import Files, Members


def png(grey: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (3, 3), grey).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "litfast" / "decoded"


@pytest.fixture
def files(tmp_path: Path, cache: Path) -> Files:
    root = tmp_path / "set"
    root.mkdir()
    for i in range(5):
        (root / f"{i}.png").write_bytes(png(i))
    (root / "1.png").write_bytes(b"")
    (root / "3.png").write_bytes(png(3)[:-25])
    return Files(root=root, paths=tuple(f"{i}.png" for i in range(5)), labels=torch.zeros(5).long())


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the images that are read, in any order."""
    names: list[str] = []
    read = Files.read

    def noted(self: Files, i: int) -> bytes:
        names.append(self.paths[i])
        return read(self, i)

    monkeypatch.setattr(Files, "read", noted)
    return names


def test_every_unreadable_image_is_found_with_its_reason(files: Files) -> None:
    found = undecodable(files)
    assert list(found) == [1, 3]
    assert found[1] == "an empty file" and found[3]


def test_good_images_are_not_looked_at_again_and_bad_ones_are(files: Files, looked_at: list[str]) -> None:
    first = undecodable(files)
    assert sorted(looked_at) == list(files.paths)
    looked_at.clear()
    assert undecodable(files) == first
    assert sorted(looked_at) == ["1.png", "3.png"]


def test_an_image_changed_since_is_looked_at_again(files: Files, looked_at: list[str]) -> None:
    undecodable(files)
    looked_at.clear()
    for name, content in (("0.png", b"spoilt"), ("1.png", png(1))):
        (files.root / name).write_bytes(content)
    assert list(undecodable(files)) == [0, 3]
    assert sorted(looked_at) == ["0.png", "1.png", "3.png"]


def test_a_change_that_keeps_the_size_is_seen_by_its_time(files: Files) -> None:
    undecodable(files)
    path = files.root / "2.png"
    before = path.stat()
    path.write_bytes(bytes(before.st_size))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert list(undecodable(files)) == [1, 2, 3]


def test_two_parts_of_a_folder_share_what_is_known(files: Files, looked_at: list[str]) -> None:
    undecodable(files.at(torch.tensor([0])))
    undecodable(files.at(torch.tensor([2])))
    looked_at.clear()
    undecodable(files.at(torch.tensor([4, 2, 0])))
    assert looked_at == ["4.png"]


def test_a_file_that_is_not_there_is_never_known(files: Files) -> None:
    undecodable(files)
    (files.root / "0.png").unlink()
    assert list(undecodable(files)) == [0, 1, 3] and "No such file" in undecodable(files)[0]


def test_progress_counts_what_is_left_to_do(files: Files) -> None:
    calls: list[tuple[int, int]] = []
    for _ in range(2):
        undecodable(files, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(5, 5), (2, 2)]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"decoder": 1, "good": [1]}', "[" * 100_000])
def test_a_spoilt_memory_counts_as_none(
    content: str, files: Files, cache: Path, looked_at: list[str]
) -> None:
    undecodable(files)
    (memory,) = cache.iterdir()
    memory.write_text(content)
    looked_at.clear()
    assert list(undecodable(files)) == [1, 3] and len(looked_at) == 5
    assert set(json.loads(memory.read_text())["good"]) == {"0.png", "2.png", "4.png"}


def test_what_another_pillow_found_counts_as_nothing(
    files: Files, looked_at: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    undecodable(files)
    looked_at.clear()
    monkeypatch.setattr("PIL.__version__", "0.1")
    undecodable(files)
    assert len(looked_at) == 5


def test_an_interrupted_pass_or_writing_leaves_nothing_half_made(
    files: Files, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(litfast.data.decode, "_reason", interrupted)
        with pytest.raises(KeyboardInterrupt):
            undecodable(files)
    assert not cache.exists()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            undecodable(files)
    assert list(cache.iterdir()) == []
    undecodable(files)
    before = [(path.name, path.read_bytes()) for path in cache.iterdir()]
    (files.root / "1.png").write_bytes(png(1))
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            undecodable(files)
    assert [(path.name, path.read_bytes()) for path in cache.iterdir()] == before


def test_where_nothing_can_be_written_the_pass_is_made_all_the_same(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a file"))
    assert list(undecodable(files)) == [1, 3]


def test_nothing_is_written_beside_the_users_images(files: Files) -> None:
    undecodable(files)
    assert sorted(path.name for path in files.root.iterdir()) == list(files.paths)


def test_members_of_a_tar_are_known_by_the_tars_own_time(cache: Path, tmp_path: Path) -> None:
    tar = tmp_path / "a.tar"
    parts = [png(1), b"spoilt", png(2)]
    tar.write_bytes(b"".join(parts))
    size = torch.tensor([len(part) for part in parts])
    members = Members(
        tars=(tar,),
        tar=torch.zeros(3, dtype=torch.int64),
        offset=size.cumsum(0) - size,
        size=size,
        keys=("x", "y", "z"),
        labels=torch.zeros(3).long(),
    )
    calls: list[int] = []
    assert list(undecodable(members, progress=lambda done, total: calls.append(total))) == [1]
    assert list(undecodable(members, progress=lambda done, total: calls.append(total))) == [1]
    tar.write_bytes(bytes(len(parts[0])) + b"".join(parts[1:]))
    os.utime(tar, ns=(0, 0))
    assert list(undecodable(members, progress=lambda done, total: calls.append(total))) == [0, 1]
    assert calls == [3, 1, 3]
