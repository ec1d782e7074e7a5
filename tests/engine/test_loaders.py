"""What the loop asks of its loader: one memory for a captured step, a state in checkpoints, a clock on it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import litfast
from litfast.data import DaliLoader, TorchLoader, sets
from litfast.data.loader import Batch, Loader
from litfast.data.resident import ResidentLoader
from litfast.engine import checkpoint, modes
from litfast.engine.compiled import CompiledStep
from litfast.engine.graph import GraphStep
from litfast.engine.meters import Clock
from litfast.engine.step import Step
from litfast.phase import Phase

from .tape import TapeCapture

Toys = Callable[..., Phase]


class Spy:
    """A resident loader that notes what it is asked, keeps a state, and takes its time."""

    def __init__(self, data: ResidentLoader, seconds: float = 0.0) -> None:
        self._data, self._seconds = data, seconds
        self.samples, self.batch, self.steps = data.samples, data.batch, data.steps
        self.delivered = 0
        self.loaded: list[dict[str, Any]] = []
        self.places: list[Batch | None] = []

    def __len__(self) -> int:
        return self.samples

    def batches(self, epoch: int, start: int = 0, *, copy_into: Batch | None = None) -> Iterator[Batch]:
        self.places.append(copy_into)
        for batch in self._data.batches(epoch, start, copy_into=copy_into):
            time.sleep(self._seconds)
            self.delivered += 1
            yield batch

    def state(self) -> dict[str, Any]:
        return {"delivered": self.delivered, "position": torch.tensor([self.delivered])}

    def load_state(self, state: dict[str, Any]) -> None:
        self.loaded.append(state)


def stopped(data: Loader, phase: Phase, out: Path, steps: int) -> None:
    reports = litfast.train([phase], data, out=out)
    for _ in zip(range(steps), reports, strict=False):
        pass
    reports.close()  # type: ignore[attr-defined]


def test_the_loaders_state_goes_into_the_checkpoint_and_back(
    toy: nn.Module, phase: Toys, data: ResidentLoader, tmp_path: Path
) -> None:
    stopped(Spy(data), phase(toy), tmp_path, 3)
    assert checkpoint.load(tmp_path / "checkpoints" / "last.pt")["ranks"][0]["data"]["delivered"] == 3
    ours = Spy(data)
    list(litfast.train([phase(toy)], ours, out=tmp_path, resume=True))
    assert [state["delivered"] for state in ours.loaded] == [3]
    assert torch.equal(ours.loaded[0]["position"], torch.tensor([3]))


def test_a_checkpoint_without_a_loaders_state_still_loads(
    toy: nn.Module, phase: Toys, data: ResidentLoader, tmp_path: Path
) -> None:
    stopped(Spy(data), phase(toy), tmp_path, 3)
    last = tmp_path / "checkpoints" / "last.pt"
    state = checkpoint.load(last)
    state["rng"] = state.pop("ranks")[0]["rng"]
    checkpoint.save(last, state)
    ours = Spy(data)
    list(litfast.train([phase(toy)], ours, out=tmp_path, resume=True))
    assert ours.loaded == [{}]


def test_a_captured_step_has_its_memory_written_by_the_loader_from_the_next_epoch_on(
    toy: nn.Module, phase: Toys, data: ResidentLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[GraphStep] = []

    def captured(phase: Phase, device: torch.device, *, rows: int, **options: Any) -> Any:
        options = {key: value for key, value in options.items() if key not in ("mode", "branches")}
        step = Step(phase, device=device, captured=True, **options)
        made.append(GraphStep(step, TapeCapture(), rows=rows))
        return step, made[-1]

    before = {key: value.clone() for key, value in toy.state_dict().items()}
    list(litfast.train([phase(toy, epochs=3)], data))
    expected = {key: value.clone() for key, value in toy.state_dict().items()}
    toy.load_state_dict(before)
    monkeypatch.setattr(modes, "make", captured)
    ours = Spy(data)
    list(litfast.train([phase(toy, epochs=3)], ours))
    assert ours.places[0] is None
    assert all(place is made[0].inputs for place in ours.places[1:]) and made[0].inputs is not None
    for key, value in toy.state_dict().items():
        torch.testing.assert_close(value, expected[key])


def test_a_compiled_step_hands_out_the_memory_of_what_it_runs(toy: nn.Module, phase: Toys) -> None:
    step = Step(phase(toy), precision="fp32", device=torch.device("cpu"), captured=True)
    graph = GraphStep(step, TapeCapture(), rows=1)
    place = Batch(torch.zeros(1), torch.zeros(1))
    assert CompiledStep(step, step).inputs is None and CompiledStep(step, graph).inputs is None
    graph._recorded[("toy",)] = SimpleNamespace(inputs=place)  # type: ignore[assignment]
    assert CompiledStep(step, graph).inputs is place


def test_waiting_for_the_loader_is_reported(toy: nn.Module, phase: Toys, data: ResidentLoader) -> None:
    slow = list(litfast.train([phase(toy, epochs=1)], Spy(data, seconds=0.05)))
    (epoch,) = [report for report in slow if report.kind == "epoch"]
    assert 0.5 < epoch.data_wait < 1
    assert epoch.loader_samples_per_s is not None and epoch.step_samples_per_s is not None
    assert epoch.loader_samples_per_s <= data.batch / 0.05
    whole = 1 / epoch.loader_samples_per_s + 1 / epoch.step_samples_per_s
    assert 1 / epoch.samples_per_s == pytest.approx(whole)
    assert all(0 < report.data_wait < 1 for report in slow if report.kind == "step")


def test_the_clock_counts_the_time_in_the_loader_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("litfast.engine.meters.time.perf_counter", lambda: now)

    def batches() -> Iterator[int]:
        nonlocal now
        for at in range(4):
            now += 1.0
            yield at
        now += 1.0

    clock = Clock(8)
    for _ in clock.timed(batches()):
        now += 4.0
    assert clock.read() == {"samples_per_s": 32 / 21, "data_wait": 5 / 21}


@pytest.mark.parametrize(
    "kind", [ResidentLoader, pytest.param(DaliLoader, marks=pytest.mark.dali), TorchLoader]
)
@pytest.mark.parametrize("stop", [3, 6])
def test_a_run_stopped_within_an_epoch_goes_on_to_the_same_weights(
    stop: int, kind: Callable[..., Loader], phase: Toys, tmp_path: Path
) -> None:
    """A fresh model and a fresh loader take up what another process would find: the checkpoint alone."""
    split = sets.load("synthetic", size=8, train=64).train
    words: dict[str, Any] = {"batch": 16, "mean": (0.5,) * 3, "std": (0.25,) * 3, "train": True, "crop": 1}

    def fresh() -> tuple[Phase, Loader]:
        torch.manual_seed(0)
        samples = (split.images, split.labels) if kind is ResidentLoader else (split,)  # type: ignore[union-attr]
        net = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(3 * 8 * 8, 4))
        return phase(net, epochs=3), kind(*samples, **words)

    ours, data = fresh()
    list(litfast.train([ours], data))
    theirs, data = fresh()
    stopped(data, theirs, tmp_path, stop)
    place = checkpoint.load(tmp_path / "checkpoints" / "last.pt")["progress"]
    assert (place["epoch"], place["step"]) == ((0, 3) if stop == 3 else (1, 1))
    theirs, data = fresh()
    list(litfast.train([theirs], data, out=tmp_path, resume=True))
    for key, value in ours.model.state_dict().items():
        assert torch.equal(theirs.model.state_dict()[key], value)
