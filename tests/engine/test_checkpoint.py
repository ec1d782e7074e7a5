from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path
from typing import IO, Any

import pytest
import torch

from litfast.engine import checkpoint, durable

STATE: dict[str, Any] = {
    "progress": {"epoch": 3, "best": None},
    "model": {"weight": torch.arange(5000.0), "bits": torch.ones(3, dtype=torch.bfloat16)},
    "rng": torch.get_rng_state(),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints" / "last.pt"


class FullDisk:
    """A file on a disk with room for `room` bytes."""

    def __init__(self, file: IO[bytes], room: int) -> None:
        self.file, self.room = file, room

    def __enter__(self) -> FullDisk:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, data: bytes) -> int:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(data)


def fill_the_disk(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    def opened(path: Path, mode: str) -> FullDisk:
        return FullDisk(path.open(mode), room)

    monkeypatch.setattr(durable, "open", opened, raising=False)


def test_what_is_saved_is_loaded_bit_for_bit(path: Path) -> None:
    checkpoint.save(path, STATE)
    again = checkpoint.load(path)
    assert again["progress"] == STATE["progress"]
    assert torch.equal(again["rng"], STATE["rng"])
    for key, value in STATE["model"].items():
        assert torch.equal(again["model"][key], value) and again["model"][key].dtype == value.dtype
    assert [file.name for file in path.parent.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("room", [0, 100, 15000])
def test_a_full_disk_leaves_the_checkpoint_before_intact_and_says_so(
    room: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(path, STATE)
    before = path.read_bytes()
    fill_the_disk(monkeypatch, room)
    with pytest.raises(OSError) as caught:
        checkpoint.save(path, {**STATE, "progress": {"epoch": 4}})
    assert str(caught.value).startswith("checkpoint: last.pt must be written whole, got: ")
    assert "got: [Errno 28] No space left on device" in str(caught.value)
    assert str(caught.value).endswith("; the previous one is kept")
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["last.pt"]  # the torn half is gone


def test_a_full_disk_at_the_first_checkpoint_says_that_there_is_none(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_the_disk(monkeypatch, 100)
    with pytest.raises(OSError, match=r"No space left on device; there is none before it$"):
        checkpoint.save(path, STATE)
    assert not path.exists()


def test_a_crash_before_the_rename_leaves_the_checkpoint_before_intact(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(path, STATE)

    def power_cut(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", power_cut)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(path, {**STATE, "progress": {"epoch": 4}})
    assert checkpoint.load(path)["progress"]["epoch"] == 3


@pytest.mark.parametrize("part", [0, 0.001, 0.3, 0.7, 0.999])
def test_a_torn_checkpoint_gets_one_clear_line(part: float, path: Path) -> None:
    checkpoint.save(path, STATE)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(ValueError) as caught:
        checkpoint.load(path)
    assert str(caught.value).startswith(f"checkpoint: {path} must be a whole litfast checkpoint, got: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"not a checkpoint", pickle.dumps({"a": 1}, protocol=2), pickle.dumps(os.getcwd, protocol=2)]
)
def test_a_foreign_file_gets_one_clear_line_and_runs_no_code(content: bytes, path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"^checkpoint: .*last.pt must be a whole litfast checkpoint, got[^\n]*$"
    ):
        checkpoint.load(path)


@pytest.mark.parametrize("content", [{"state_dict": {}}, [1, 2]])
def test_a_torch_file_of_another_program_is_refused(content: Any, path: Path) -> None:
    path.parent.mkdir()
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"must be a whole litfast checkpoint, got another program's file$"):
        checkpoint.load(path)


def test_a_missing_checkpoint_is_named(path: Path) -> None:
    with pytest.raises(ValueError, match=r"last.pt must be a whole litfast checkpoint, got: .*No such file"):
        checkpoint.load(path)
