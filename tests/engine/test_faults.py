"""What machines do to a training: a full disk, a folder that turns read-only, a killed worker, a clock."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import litfast
from litfast.data import TorchLoader
from litfast.data.resident import ResidentLoader
from litfast.data.sets.items import Items
from litfast.engine import Report, checkpoint
from litfast.phase import Phase

Toys = Callable[..., Phase]
NOBODY = 65534


def trained(made: Phase, data: Any, out: Path | None = None, **options: Any) -> list[Report]:
    return list(litfast.train([made], data, out=out, **options))


@pytest.fixture
def whole(toy: nn.Module, phase: Toys, data: ResidentLoader) -> dict[str, Tensor]:
    """What the toy becomes when nothing happens; it is as new."""
    start = {key: value.clone() for key, value in toy.state_dict().items()}
    trained(phase(toy, epochs=3), data)
    end = {key: value.clone() for key, value in toy.state_dict().items()}
    toy.load_state_dict(start)
    return end


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that any user may search; pytest's own are not."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


class Full:
    """A disk without room: the kernel refuses what the checkpoint writes aside."""

    def __init__(self, out: Path) -> None:
        (out / "checkpoints" / "last.pt.part").symlink_to("/dev/full")

    def repair(self) -> None:
        pass


class Limited:
    """No file may grow above 8,000 bytes, as under a quota."""

    def __init__(self, out: Path) -> None:
        self._before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8000, self._before[1]))

    def repair(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self._before)


class ReadOnly:
    """The folder may not be written; root may write everywhere, so it is nobody who tries."""

    def __init__(self, out: Path) -> None:
        self._folder, self._user = out / "checkpoints", os.geteuid()
        self._folder.chmod(0o555)
        if self._user == 0:
            os.seteuid(NOBODY)

    def repair(self) -> None:
        os.seteuid(self._user)
        self._folder.chmod(0o755)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Full, "No space left on device"),
        (Limited, "File too large"),
        (ReadOnly, "Permission denied"),
    ],
)
def test_a_checkpoint_that_cannot_be_written_is_one_line_and_the_one_before_it_resumes(
    fault: Any, said: str, whole: Any, toy: nn.Module, phase: Toys, data: ResidentLoader, folder: Path
) -> None:
    reports = litfast.train([phase(toy, epochs=3)], data, out=folder)
    for _ in range(7):  # an epoch and two steps
        next(reports)
    kept = (folder / "checkpoints" / "last.pt").read_bytes()
    broken = fault(folder)
    try:
        with pytest.raises(
            OSError, match=rf"^checkpoint: last.pt must be .*{said}.*; the previous one is kept$"
        ):
            list(reports)
    finally:
        broken.repair()
    assert (folder / "checkpoints" / "last.pt").read_bytes() == kept
    assert not list(folder.rglob("*.part"))
    trained(phase(toy, epochs=3), data, folder, resume=True)
    assert all(torch.equal(value, toy.state_dict()[key]) for key, value in whole.items())


class Deadly:
    """Pictures of which one kills the process that reads it, once."""

    def __init__(self, mark: Path) -> None:
        torch.manual_seed(1)
        self._mark, self._main = mark, os.getpid()
        self._pixels = torch.randint(256, (32, 3, 8, 8), dtype=torch.uint8)

    def __len__(self) -> int:
        return 32

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        if i == 7 and self._mark.exists() and os.getpid() != self._main:
            self._mark.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return self._pixels[i], i % 4


def test_a_killed_worker_is_named_and_the_run_resumes_to_the_bit(
    toy: nn.Module, phase: Toys, tmp_path: Path
) -> None:
    mark, out = tmp_path / "mark", tmp_path / "run"
    samples = Items(dataset=Deadly(mark))
    words = {"batch": 16, "mean": (0.5,) * 3, "std": (0.5,) * 3, "train": True}
    data, safe = TorchLoader(samples, workers=1, **words), TorchLoader(samples, **words)
    start = {key: value.clone() for key, value in toy.state_dict().items()}
    trained(phase(toy), safe)
    whole = {key: value.clone() for key, value in toy.state_dict().items()}
    toy.load_state_dict(start)
    reports = litfast.train([phase(toy)], data, out=out)
    while next(reports).kind != "epoch":
        pass
    mark.touch()
    with pytest.raises(
        OSError, match=r"^TorchLoader: a worker must live .*, got process \d+ that was killed"
    ):
        list(reports)
    trained(phase(toy), safe, out, resume=True)
    assert all(torch.equal(value, toy.state_dict()[key]) for key, value in whole.items())


def test_a_clock_that_jumps_changes_nothing(
    whole: Any, toy: nn.Module, phase: Toys, data: ResidentLoader, tmp_path: Path, monkeypatch: Any
) -> None:
    """Of the wall clock; what is timed is timed by another one, which cannot."""
    real, jumps = time.time, iter(range(10**6))
    monkeypatch.setattr(time, "time", lambda: real() + (-1) ** next(jumps) * 1e8)
    reports = trained(phase(toy, epochs=3), data, tmp_path)
    assert next(jumps) > 0  # somebody has asked
    assert all(0 < report.samples_per_s < 1e9 for report in reports if report.kind != "phase")
    assert all(0 <= report.data_wait <= 1 for report in reports)
    assert all(torch.equal(value, toy.state_dict()[key]) for key, value in whole.items())


def test_every_random_state_is_in_a_checkpoint(phase: Toys, data: ResidentLoader, tmp_path: Path) -> None:
    """A loss that draws from torch, Python and numpy goes on where it was."""

    def made() -> tuple[nn.Module, Phase]:
        import random

        import numpy

        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))

        def loss(batch: Any) -> Any:
            factor = torch.rand(()) + random.random() + random.gauss(0, 1) + numpy.random.rand()
            return {"loss": nn.functional.cross_entropy(model(batch.images), batch.target) * factor}

        return model, phase(model, loss=loss)

    (ours, first), (_, second), (theirs, third) = made(), made(), made()
    trained(first, data)
    reports = litfast.train([second], data, out=tmp_path)
    for _ in range(6):
        next(reports)
    reports.close()  # type: ignore[attr-defined]
    trained(third, data, tmp_path, resume=True)
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in ours.state_dict().items())


def test_a_checkpoint_of_before_with_torchs_random_state_alone_still_loads(
    whole: Any, toy: nn.Module, phase: Toys, data: ResidentLoader, tmp_path: Path
) -> None:
    reports = litfast.train([phase(toy, epochs=3)], data, out=tmp_path)
    for _ in range(6):
        next(reports)
    reports.close()  # type: ignore[attr-defined]
    last = tmp_path / "checkpoints" / "last.pt"
    state = checkpoint.load(last)
    torch.save(state | {"rng": state.pop("ranks")[0]["rng"]["torch"]}, last)
    trained(phase(toy, epochs=3), data, tmp_path, resume=True)
    assert all(torch.equal(value, toy.state_dict()[key]) for key, value in whole.items())
