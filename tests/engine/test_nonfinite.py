"""A loss or gradient that is not finite: named, left out on the device, or rewound."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import litfast
from litfast.data import TorchLoader
from litfast.data.loader import Batch
from litfast.data.resident import ResidentLoader
from litfast.data.sets.items import Items
from litfast.engine import Report, checkpoint, nonfinite
from litfast.engine.nonfinite import faults, without
from litfast.engine.prepare import prepared
from litfast.engine.step import Step
from litfast.phase import Branch, Losses, Phase, Schedule

Toys = Callable[..., Phase]
CPU = torch.device("cpu")


class Spoilt:
    """A loader of which one batch, or more, has an image that is no number; or which lacks those batches."""

    def __init__(self, data: ResidentLoader, *bad: tuple[int, int], drop: bool = False) -> None:
        self._data, self._bad, self._drop = data, bad, drop
        self.samples, self.batch = data.samples, data.batch
        self.steps = data.steps - (len(bad) if drop else 0)
        self.names = data.names

    def __len__(self) -> int:
        return self.samples

    def batches(self, epoch: int, start: int = 0, *, copy_into: Batch | None = None) -> Iterator[Batch]:
        for step, batch in enumerate(self._data.batches(epoch, start, copy_into=copy_into), start):
            if (epoch, step) in self._bad and self._drop:
                continue
            if (epoch, step) in self._bad:
                batch.images[3, 0, 0, 0] = math.nan
            yield batch

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        pass


class Normed(nn.Module):
    """With batch norm, which sees a bad batch before its loss does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.linear = nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.Linear(128, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.norm(self.conv(images)).flatten(1))


def trained(model: nn.Module, made: Phase, data: Any, **options: Any) -> list[Report]:
    return list(litfast.train([made], data, **options))


def notes(reports: list[Report]) -> list[str]:
    return [line for report in reports for line in report.notes]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("first", [0, 2], ids=["very first step", "later step"])
def test_a_skipped_batch_leaves_no_trace(
    optimizer: str, first: int, phase: Toys, data: ResidentLoader
) -> None:
    """As if the batch had not been there: weights, momentum, batch-norm statistics, bit for bit."""
    ours, theirs = Normed(), Normed()
    words = {"epochs": 1, "optimizer": optimizer, "weight_decay": 0.1}
    reports = trained(ours, phase(ours, **words), Spoilt(data, (0, first)), on_nan="skip", log_every=1)
    trained(theirs, phase(theirs, **words), Spoilt(data, (0, first), drop=True))
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key
    name = data.names(0, first)[3]
    assert notes(reports) == [
        f"play: step {first} (epoch 1 of 1, {name} not finite) is left out of toy: not finite",
        "play: 1 steps were left out in all",
    ]
    (epoch,) = [report for report in reports if report.kind == "epoch"]
    assert epoch.metrics["toy.nonfinite"] == 0.25 and math.isfinite(epoch.metrics["toy.loss"])


def test_a_gradient_that_is_not_finite_is_found_though_its_loss_is(
    toy: nn.Module, phase: Toys, data: ResidentLoader
) -> None:
    before = {key: value.clone() for key, value in toy.state_dict().items()}

    def loss(batch: Batch) -> Losses:
        return {
            "loss": cross_entropy(toy(batch.images), batch.target)
            + toy.linear.bias.sub(toy.linear.bias.detach()).sqrt().sum()
        }

    reports = litfast.train([phase(toy, loss=loss, epochs=1)], data, on_nan="skip")
    with pytest.raises(FloatingPointError, match="must be finite at some step, got none in epoch 1 of 1"):
        list(reports)
    assert all(torch.equal(value, before[key]) for key, value in toy.state_dict().items())


def test_only_the_branch_concerned_is_left_out(data: ResidentLoader) -> None:
    models = {name: Normed() for name in ("well", "ill")}
    both = nn.ModuleDict(models)
    schedule = Schedule(epochs=1, lr=0.1)

    def branch(name: str) -> Branch:
        def loss(batch: Batch) -> Losses:
            value = cross_entropy(models[name](batch.images), batch.target)
            return {"loss": value * math.nan if name == "ill" else value}

        return Branch(name=name, params=tuple(models[name].parameters()), loss=loss, schedule=schedule)

    made = Phase(
        name="two",
        model=both,
        observe=lambda batch: batch,
        branches=(branch("well"), branch("ill")),
        trains=(both,),
    )
    before = {key: value.clone() for key, value in both.state_dict().items()}
    with prepared(made, CPU):
        step = Step(made, precision="fp32", device=CPU, on_nan="skip")
        metrics = step(next(iter(data.batches(0))), step=0, progress=0.0)
    assert [float(metrics[f"{name}.nonfinite"]) for name in models] == [0.0, 1.0]
    for key, value in both.state_dict().items():
        assert torch.equal(value, before[key]) == key.startswith("ill"), key


def test_raise_names_the_sample_by_the_loaders_own_name(toy: nn.Module, phase: Toys) -> None:
    class Pictures:
        def __len__(self) -> int:
            return 16

        def __getitem__(self, i: int) -> tuple[Tensor, int]:
            return torch.full((3, 8, 8), math.nan if i == 5 else 0.5), i % 4

    samples = Items(dataset=Pictures())
    data = TorchLoader(samples, batch=16, mean=(0.5,) * 3, std=(0.5,) * 3, train=True)
    with pytest.raises(
        FloatingPointError,
        match=r"at step 0 \(epoch 1 of 2, sample 5 of Pictures not finite\); no checkpoint",
    ):
        list(litfast.train([phase(toy)], data))


@pytest.mark.parametrize("bad", [[(0, 0)], [(1, 2)], [(0, 1), (1, 0), (1, 3)]])
def test_a_rewind_goes_back_and_leaves_the_batch_out(
    bad: list[tuple[int, int]], phase: Toys, data: ResidentLoader, tmp_path: Path
) -> None:
    """At a constant rate: the weights of a run that skips; nothing of the bad steps in its rows."""
    ours, theirs = Normed(), Normed()
    options: dict[str, Any] = {"log_every": 2}
    reports = trained(ours, phase(ours), Spoilt(data, *bad), out=tmp_path, on_nan="rewind", **options)
    trained(theirs, phase(theirs), Spoilt(data, *bad), on_nan="skip", **options)
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key
    said = notes(reports)
    assert len(said) == len(bad)
    assert all("gone back to it, and that batch is left out" in line for line in said)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert all(math.isfinite(row["toy.loss"]) and row["toy.nonfinite"] == 0 for row in rows)


def test_a_run_that_rewound_and_was_stopped_goes_on_to_the_same_weights(
    phase: Toys, data: ResidentLoader, tmp_path: Path
) -> None:
    whole, first, last = Normed(), Normed(), Normed()
    bad, options = Spoilt(data, (0, 1)), {"on_nan": "rewind", "log_every": 1}
    trained(whole, phase(whole), bad, out=tmp_path / "whole", **options)
    reports = litfast.train([phase(first)], bad, out=tmp_path / "parts", **options)
    for _ in range(5):
        next(reports)
    reports.close()  # type: ignore[attr-defined]
    kept = checkpoint.load(tmp_path / "parts" / "checkpoints" / "last.pt")["progress"]
    assert kept["left_out"] == [1]
    trained(last, phase(last), bad, out=tmp_path / "parts", resume=True, **options)
    assert all(torch.equal(value, last.state_dict()[key]) for key, value in whole.state_dict().items())


def test_rewinds_are_bounded(
    toy: nn.Module, phase: Toys, data: ResidentLoader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("litfast.engine.loop.REWINDS", 2)
    every = Spoilt(data, *((epoch, step) for epoch in range(2) for step in range(4)))
    with pytest.raises(FloatingPointError, match=r"at step 2 \(epoch 1 of 2"):
        list(litfast.train([phase(toy)], every, out=tmp_path, on_nan="rewind"))


def test_rewinding_takes_a_folder(data: ResidentLoader) -> None:
    with pytest.raises(
        ValueError, match=r"on_nan must be raise, skip, or rewind with a folder .*, got 'rewind'"
    ):
        litfast.train([], data, on_nan="rewind")


def test_faults_are_read_off_the_losses_or_off_the_guard() -> None:
    series = {"a.loss": [(1, 0.5), (2, math.inf)], "b.loss": [(1, math.nan), (2, 0.5)]}
    assert faults(series) == [(1, "b"), (2, "a")]
    guarded = series | {"a.nonfinite": [(1, 0.0), (2, 1.0)], "b.nonfinite": [(1, 0.0), (2, 0.0)]}
    assert faults(guarded) == [(2, "a")]
    assert without(guarded, [(2, "a")])["a.loss"] == [(1, 0.5)]
    assert "a.loss" not in without({"a.loss": [(2, 1.0)]}, [(2, "a")])
    assert nonfinite.hopeless({"a.loss": 1.0, "a.nonfinite": 0.5, "b.nonfinite": 1.0}) == "b"
