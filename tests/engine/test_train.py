from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import litfast
from litfast.data.loader import Batch
from litfast.data.resident import ResidentLoader
from litfast.engine import Evaluation, Report, evaluate, loop
from litfast.engine.loop import SPEEDS
from litfast.phase import Losses, Phase

Toys = Callable[..., Phase]


def reports_of(phases: Any, *args: Any, **options: Any) -> list[Report]:
    return list(litfast.train(phases, *args, **options))


class Poisoned:
    """Cross-entropy that is NaN at the n-th call (from 0) and from then on."""

    def __init__(self, model: nn.Module, at: int) -> None:
        self.model, self.at, self.calls = model, at, 0

    def __call__(self, batch: Batch) -> Losses:
        loss = cross_entropy(self.model(batch.images), batch.target)
        self.calls += 1
        return {"loss": loss * float("nan") if self.calls > self.at else loss}


def test_train_reports_every_step_epoch_and_phase_in_order(lit: Any, data: ResidentLoader) -> None:
    reports = reports_of(lit(beta=0.0).phases, data)
    epoch = ["step"] * 4 + ["epoch"]
    assert [report.kind for report in reports] == (epoch * 2 + ["phase"]) * 2
    assert Counter((r.phase, r.index) for r in reports) == {("sections", 0): 11, ("finetune", 1): 11}
    steps = [(r.epoch, r.step) for r in reports if r.kind == "step"]
    assert steps == [(epoch, step) for epoch in (0, 1) for step in (1, 2, 3, 4)] * 2
    assert [r.epoch for r in reports if r.kind != "step"] == [1, 2, 2] * 2
    assert {(r.epochs, r.steps) for r in reports} == {(2, 4)}
    assert all(r.samples_per_s > 0 for r in reports if r.kind != "phase")
    assert not any(r.restored or r.val for r in reports)


def test_metrics_are_means_over_the_epoch_read_every_few_steps(
    toy: nn.Module, phase: Toys, data: ResidentLoader
) -> None:
    values = iter(range(1, 9))

    def loss(batch: Batch) -> Losses:
        value = float(next(values))
        plain = cross_entropy(toy(batch.images), batch.target)
        return {"loss": plain * 0 + value, "correct": torch.tensor(8)}

    reports = reports_of([phase(toy, loss=loss)], data, log_every=3)
    read = [r.metrics.get("toy.loss") for r in reports if r.kind == "step"]
    assert read == [None, None, 2.0, 2.5, None, None, 6.0, 6.5]
    epochs = [r.metrics for r in reports if r.kind == "epoch"]
    assert epochs == [{"toy.loss": 2.5, "toy.accuracy": 50.0}, {"toy.loss": 6.5, "toy.accuracy": 50.0}]


def test_the_metrics_of_lit_are_named_by_branch_and_section(lit: Any, data: ResidentLoader) -> None:
    def names(beta: float) -> list[set[str]]:
        return [set(r.metrics) for r in reports_of(lit(beta=beta).phases, data) if r.kind == "epoch"]

    distilled = {"student.loss", "student.soft", "student.hard", "student.accuracy"}
    sections = {f"layer{i}.{what}" for i in (1, 2, 3) for what in ("loss", "ir")}
    assert names(0.0) == [sections, sections, distilled, distilled]
    joint = distilled | {f"student.ir.layer{i}" for i in (1, 2, 3)}
    assert names(0.5) == [joint, joint, distilled, distilled]


def test_validation_is_reported_with_epochs_and_phases_and_changes_nothing(
    lit: Any, data: ResidentLoader, val: ResidentLoader
) -> None:
    run, blind = lit(beta=0.0), lit(beta=0.0)
    last = [r for r in reports_of(run.phases, data, val) if r.kind != "step"][-2:]
    reports_of(blind.phases, data)
    assert all(torch.equal(value, blind.state()[key]) for key, value in run.state().items())
    assert last[0].val == last[1].val == evaluate(run.student, val)
    assert last[0].best_accuracy is not None and last[0].best_accuracy >= last[0].val.accuracy


def test_a_phase_of_no_epochs_trains_nothing(toy: nn.Module, phase: Toys, data: ResidentLoader) -> None:
    before = toy.linear.weight.clone()
    reports = reports_of([phase(toy, epochs=0)], data)
    assert [report.kind for report in reports] == ["phase"]
    assert torch.equal(toy.linear.weight, before)


def test_the_loaders_epochs_run_on_through_the_phases(
    toy: nn.Module, phase: Toys, data: ResidentLoader
) -> None:
    asked: list[tuple[int, int]] = []

    class Spy:
        samples, batch, steps = data.samples, data.batch, data.steps

        def batches(self, epoch: int, start: int = 0, *, copy_into: Batch | None = None) -> Iterator[Batch]:
            asked.append((epoch, start))
            return data.batches(epoch, start)

        state, load_state = data.state, data.load_state

    reports_of([phase(toy, name="a"), phase(toy, name="b", epochs=1)], Spy())
    assert asked == [(0, 0), (1, 0), (2, 0)]


def test_the_seed_decides_the_noise(lit: Any, data: ResidentLoader) -> None:
    def trained(seed: int) -> dict[str, Tensor]:
        run = lit(beta=0.0, noise=0.1)
        torch.rand(int(torch.randint(1, 9, ())))  # whatever was drawn before does not matter
        reports_of(run.phases, data, seed=seed)
        return run.state()

    first, again, other = trained(0), trained(0), trained(1)
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    assert not torch.equal(first["layer1.0.conv1.weight"], other["layer1.0.conv1.weight"])


def test_every_phase_starts_from_a_seed_of_its_own(toy: nn.Module, phase: Toys, data: ResidentLoader) -> None:
    draws: dict[str, list[float]] = {}

    def drawing(name: str, epochs: int) -> Phase:
        def loss(batch: Batch) -> Losses:
            draws.setdefault(name, []).append(torch.rand(()).item())
            return {"loss": cross_entropy(toy(batch.images), batch.target)}

        return phase(toy, name=name, epochs=epochs, loss=loss)

    reports_of([drawing("short", 1), drawing("b", 1)], data)
    reports_of([drawing("long", 3), drawing("b again", 1)], data)
    assert draws["b"] == draws["b again"]  # however much the phase before drew
    assert draws["short"] == draws["long"][:4] != draws["b"]


def test_bf16_trains_lit_and_keeps_every_parameter_and_buffer_in_fp32(lit: Any, data: ResidentLoader) -> None:
    full, half = lit(beta=0.5), lit(beta=0.5)
    reports_of(full.phases, data)
    last = reports_of(half.phases, data, precision="bf16")[-2]
    assert all(value == value for value in last.metrics.values())
    state = half.state()
    assert {value.dtype for value in state.values() if value.is_floating_point()} == {torch.float32}
    weight = full.state()["layer3.0.conv1.weight"]
    assert not torch.equal(state["layer3.0.conv1.weight"], weight)
    torch.testing.assert_close(state["layer3.0.conv1.weight"], weight, rtol=0, atol=0.05)


def test_without_a_folder_nothing_is_kept(
    lit: Any, data: ResidentLoader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    reports_of(lit(beta=0.0).phases, data)
    assert not list(tmp_path.iterdir())


def test_a_run_leaves_the_end_of_each_phase_and_a_row_an_epoch(
    lit: Any, data: ResidentLoader, val: ResidentLoader, tmp_path: Path
) -> None:
    epochs = [r for r in reports_of(lit(beta=0.0).phases, data, val, out=tmp_path) if r.kind == "epoch"]
    assert sorted(file.name for file in (tmp_path / "checkpoints").iterdir()) == [
        "0-sections.pt",
        "1-finetune.pt",
    ]
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for row, report, step in zip(rows, epochs, (4, 8, 12, 16), strict=True):
        place = {
            "step": step,
            "phase": report.phase,
            "epoch": report.epoch,
            **{name: getattr(report, name) for name in SPEEDS},
        }
        assert report.val is not None
        checked = {"val_accuracy": report.val.accuracy, "val_loss": report.val.loss}
        assert row == {**place, **report.metrics, **checked}


def test_keep_best_ends_each_phase_with_the_weights_of_its_best_epoch(
    toy: nn.Module, phase: Toys, data: ResidentLoader, val: ResidentLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    accuracies = iter([50.0, 90.0, 70.0, 90.0])
    weights = []

    def scripted(model: nn.Module, *_: Any, **__: Any) -> Evaluation:
        weights.append(toy.linear.weight.clone())
        return Evaluation(accuracy=next(accuracies), loss=0.0, samples=32)

    monkeypatch.setattr(loop, "evaluate", scripted)
    last = reports_of([phase(toy, epochs=4)], data, val, keep="best")[-1]
    assert torch.equal(toy.linear.weight, weights[1])  # of two equals the first
    assert not torch.equal(weights[1], weights[3])
    assert last.best_accuracy == 90.0


def test_keep_last_ends_with_the_last_weights(
    toy: nn.Module, phase: Toys, data: ResidentLoader, val: ResidentLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    accuracies, weights = iter([90.0, 50.0]), []

    def scripted(model: nn.Module, *_: Any, **__: Any) -> Evaluation:
        weights.append(toy.linear.weight.clone())
        return Evaluation(accuracy=next(accuracies), loss=0.0, samples=32)

    monkeypatch.setattr(loop, "evaluate", scripted)
    last = reports_of([phase(toy)], data, val)[-1]
    assert torch.equal(toy.linear.weight, weights[1])
    assert (last.best_accuracy, last.val.accuracy) == (90.0, 50.0)


def test_a_loss_that_is_not_finite_names_phase_branch_and_step_and_keeps_the_checkpoint(
    toy: nn.Module, phase: Toys, data: ResidentLoader, tmp_path: Path
) -> None:
    reports: list[Report] = []
    with pytest.raises(FloatingPointError) as caught:
        for report in litfast.train([phase(toy, epochs=3, loss=Poisoned(toy, at=5))], data, out=tmp_path):
            reports.append(report)
    where = r"at step 5 \(epoch 2 of 3, all its samples finite: image \d+, image \d+, .* and 8 more\)"
    assert re.fullmatch(
        "train: loss of phase 'play', branch 'toy' must be finite, "
        f"got a non-finite one {where}; the last good checkpoint is kept",
        str(caught.value),
    )
    kept = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)
    assert kept["progress"]["epoch"] == 1
    assert all(value.isfinite().all() for value in kept["model"].values())


def test_closing_after_an_unread_nan_does_not_replace_the_good_checkpoint(
    toy: nn.Module, phase: Toys, data: ResidentLoader, tmp_path: Path
) -> None:
    reports = litfast.train([phase(toy, epochs=3, loss=Poisoned(toy, at=5))], data, out=tmp_path)
    for _ in range(7):  # 4 steps, the epoch, 2 steps
        next(reports)
    with pytest.raises(FloatingPointError, match="at step 5"):
        reports.close()
    kept = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)
    assert kept["progress"]["global_step"] == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp8"}, "train: precision must be one of fp32, bf16, fp16, got 'fp8'"),
        ({"keep": "worst"}, "train: keep must be last, or best with a validation loader, got 'worst'"),
        ({"keep": "best"}, "train: keep must be last, or best with a validation loader, got 'best'"),
        ({"log_every": 0}, "train: log_every must be 1 or more, got 0"),
        ({"resume": True}, "train: out must be the run's folder when resume is asked for, got none"),
    ],
)
def test_a_wrong_option_is_refused_at_once(
    options: dict[str, Any], message: str, data: ResidentLoader
) -> None:
    with pytest.raises(ValueError, match=message):
        litfast.train([], data, **options)
