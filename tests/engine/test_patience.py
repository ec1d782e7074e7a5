"""Branches that have learnt what they can are frozen and leave the step."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import litfast
from litfast.data.loader import Batch
from litfast.data.resident import ResidentLoader
from litfast.engine import Report
from litfast.engine.loop import SPEEDS
from litfast.engine.patience import exhausted, updated, validation_losses
from litfast.engine.prepare import prepared
from litfast.engine.step import Step
from litfast.phase import Branch, Losses, Phase, Schedule

CPU = torch.device("cpu")


class Two(nn.Module):
    """One linear layer and one batch norm for each of two branches."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Sequential(nn.Linear(192, 4), nn.BatchNorm1d(4))
        self.b = nn.Sequential(nn.Linear(192, 4), nn.BatchNorm1d(4))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.b(images.flatten(1))


def made(*, patience: int, flat: tuple[str, ...] = ("a",), epochs: int = 6) -> Phase:
    """Branch `a` (or all in `flat`) has a loss that nothing can improve."""
    model = Two()
    schedule = Schedule(epochs=epochs, lr=0.01, patience=patience)

    def branch(name: str) -> Branch:
        part = getattr(model, name)

        def loss(batch: Batch) -> Losses:
            value = part(batch.images.flatten(1)).mean() + part[0].weight.square().mean()
            return {"loss": value * 0 + 1 if name in flat else value}

        return Branch(name=name, params=tuple(part.parameters()), loss=loss, schedule=schedule)

    def observe(batch: Batch) -> Batch:
        model.a(batch.images.flatten(1))  # moves the statistics of whatever is in train mode
        return batch

    branches = (branch("a"), branch("b"))
    return Phase(name="play", model=model, observe=observe, branches=branches, trains=tuple(model.children()))


def run(phase: Phase, data: Any, val: Any, **options: Any) -> list[Report]:
    return list(litfast.train([phase], data, val, **options))


def test_a_branch_that_no_longer_improves_is_stopped_and_said(
    data: ResidentLoader, val: ResidentLoader
) -> None:
    ours = made(patience=2)
    state = ours.model.a.state_dict()
    kept: dict[str, torch.Tensor] = {}
    epochs: list[Report] = []
    for report in litfast.train([ours], data, val):
        if report.kind == "epoch":
            epochs.append(report)
            if report.epoch == 3:
                kept = {name: value.clone() for name, value in state.items()}
    assert [report.notes for report in epochs[:2] + epochs[3:]] == [()] * 5
    assert epochs[2].notes == (
        "play: branch a stopped after epoch 3 of 6: its validation loss has not improved on 1 for 2 epochs",
    )
    assert all(torch.equal(value, kept[name]) for name, value in state.items())  # statistics too
    assert [set(r.metrics) for r in epochs[2:4]] == [
        {"a.loss", "b.loss", "a.val_loss", "b.val_loss"},
        {"b.loss", "b.val_loss"},
    ]
    assert epochs[-1].epoch == 6


def test_a_phase_is_over_when_all_its_branches_are(data: ResidentLoader, val: ResidentLoader) -> None:
    reports = run(made(patience=1, flat=("a", "b")), data, val)
    assert [r.epoch for r in reports if r.kind == "epoch"] == [1, 2]
    assert (reports[-1].kind, reports[-1].epoch) == ("phase", 2)


def test_without_patience_nothing_stops(data: ResidentLoader, val: ResidentLoader) -> None:
    reports = run(made(patience=0), data, val)
    assert all(set(r.metrics) == {"a.loss", "b.loss"} for r in reports if r.kind == "epoch")


def test_patience_wants_validation_samples(data: ResidentLoader) -> None:
    message = "train: patience of branch 'a' must be 0 without a validation loader, got 2"
    with pytest.raises(ValueError, match=message):
        run(made(patience=2), data, None)


@pytest.mark.parametrize("stop", [9, 13, 14, 20])
def test_a_resumed_run_remembers_what_was_stopped_and_what_was_about_to_be(
    stop: int, data: ResidentLoader, val: ResidentLoader, tmp_path: Path
) -> None:
    whole, last = made(patience=2), made(patience=2)
    run(whole, data, val, out=tmp_path / "whole")
    reports: Any = litfast.train([made(patience=2)], data, val, out=tmp_path / "parts")
    for _ in range(stop):
        next(reports)
    reports.close()
    run(last, data, val, out=tmp_path / "parts", resume=True)
    theirs = whole.model.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in last.model.state_dict().items())
    journals = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "parts")
    ]
    for row in journals[0] + journals[1]:
        for name in SPEEDS:
            row.pop(name)
    assert journals[0] == journals[1]


@pytest.mark.parametrize("options", [{"beta": 0.0, "noise": 0.1}, {"beta": 0.5}], ids=["apart", "joint"])
def test_looking_at_the_validation_losses_changes_nothing(
    options: dict[str, Any], lit: Any, data: ResidentLoader, val: ResidentLoader
) -> None:
    run = lit(bn_stats="both", **options)
    ours = next(run.phases)
    with prepared(ours, CPU):
        step = Step(ours, precision="fp32", device=CPU)
        before, modes = run.state(), [module.training for module in run.student.modules()]
        torch.manual_seed(5)
        losses = validation_losses(step, ours.branches, val)
        drawn = torch.rand(())
        again = validation_losses(step, ours.branches, val)
        assert [module.training for module in run.student.modules()] == modes
    torch.manual_seed(5)
    assert drawn == torch.rand(())
    assert losses == again and set(losses) == {branch.name for branch in ours.branches}
    assert all(torch.equal(value, before[name]) for name, value in run.state().items())


def test_a_loss_that_is_no_number_is_no_improvement(phase: Callable[..., Phase], toy: nn.Module) -> None:
    waits = updated(updated({}, {"toy": 1.0}), {"toy": float("nan")})
    assert waits == {"toy": [1.0, 1.0]}
    assert exhausted(phase(toy, patience=1).branches, waits) == ["toy"]
    assert exhausted(phase(toy, patience=2).branches, waits) == []
