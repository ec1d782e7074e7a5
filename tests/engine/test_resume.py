"""An interrupted run, resumed, ends bit-identical to one that was never interrupted."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import litfast
from litfast.data.resident import ResidentLoader
from litfast.engine import Report, loop
from litfast.engine.loop import SPEEDS
from litfast.phase import Phase

# (kind, n): closed at the n-th report of that kind. A run has 16 steps, 4 epochs (two a phase) and 2 phases.
STOPS = {
    "phase 1, first step": [("step", 1)],
    "phase 1, last step of an epoch": [("step", 4)],
    "phase 1, between epochs": [("epoch", 1)],
    "phase 1, mid epoch": [("step", 6)],
    "phase 1, very last step": [("step", 8)],
    "phase 1, last epoch over": [("epoch", 2)],
    "phase boundary": [("phase", 1)],
    "phase 2, first step": [("step", 9)],
    "phase 2, mid epoch": [("step", 14)],
    "phase 2, last epoch over": [("epoch", 4)],
    "finished": [("phase", 2)],
    "four times": [("step", 2), ("step", 1), ("phase", 1), ("step", 3)],
}


def run(made: Any, data: Any, val: Any, out: Path, **options: Any) -> None:
    for _ in litfast.train(made.phases, data, val, out=out, **options):
        pass


def interrupted(made: Any, data: Any, val: Any, out: Path, stop: tuple[str, int], **options: Any) -> None:
    """Train up to the n-th report of a kind that is new to this process, and close."""
    kind, left = stop
    reports = litfast.train(made.phases, data, val, out=out, **options)
    for report in reports:
        left -= report.kind == kind and not report.restored
        if not left:
            break
    reports.close()  # type: ignore[attr-defined]


def rows(out: Path) -> list[dict[str, Any]]:
    journal = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in SPEEDS} for row in journal]


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert [key for key, value in theirs.items() if not torch.equal(value, ours[key])] == []


@pytest.mark.parametrize("stops", STOPS.values(), ids=STOPS)
def test_wherever_a_run_is_interrupted_it_ends_bit_identical(
    stops: list[tuple[str, int]], lit: Any, data: ResidentLoader, val: ResidentLoader, tmp_path: Path
) -> None:
    options = {"beta": 0.0, "noise": 0.1}
    whole, last = lit(**options), lit(**options)
    run(whole, data, val, tmp_path / "whole")
    for count, stop in enumerate(stops):
        interrupted(lit(**options), data, val, tmp_path / "parts", stop, resume=count > 0)
    run(last, data, val, tmp_path / "parts", resume=True)
    assert_same(last.state(), whole.state())
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


@pytest.mark.parametrize("stop", [("step", 6), ("phase", 1), ("step", 11)])
@pytest.mark.parametrize(
    ("options", "engine"),
    [
        ({"beta": 0.5}, {}),
        ({"beta": 0.5, "schedule": {"optimizer": "adam", "lr": 0.003}}, {}),
        ({"beta": 0.0, "schedule": {"optimizer": "rmsprop", "lr": 0.003}}, {}),
        ({"beta": 0.0, "unfreeze": "all"}, {"keep": "best"}),
        ({"beta": 0.5, "student_init": "teacher", "noise": 0.2}, {"precision": "bf16"}),
        ({"beta": 0.0, "schedule": {"optimizer": "adamw", "lr": 0.003, "clip": 0.5}}, {"accumulate": 2}),
        ({"beta": 0.0}, {"ema": 0.7}),
        ({"beta": 0.0}, {"ema": 0.7, "keep": "best"}),
    ],
    ids=["joint", "adam", "rmsprop", "keep best", "bf16 with noise", "clip in parts", "ema", "best ema"],
)
def test_whatever_is_trained_ends_bit_identical(
    options: dict[str, Any],
    engine: dict[str, Any],
    stop: tuple[str, int],
    lit: Any,
    data: ResidentLoader,
    val: ResidentLoader,
    tmp_path: Path,
) -> None:
    whole, last = lit(**options), lit(**options)
    run(whole, data, val, tmp_path / "whole", **engine)
    interrupted(lit(**options), data, val, tmp_path / "parts", stop, **engine)
    run(last, data, val, tmp_path / "parts", resume=True, **engine)
    assert_same(last.state(), whole.state())
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


def test_the_best_weights_of_before_the_interruption_are_still_the_best(
    toy: nn.Module,
    phase: Callable[..., Phase],
    data: ResidentLoader,
    val: ResidentLoader,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    accuracies, weights = iter([90.0, 50.0, 60.0]), []

    def scripted(*_: Any, **__: Any) -> litfast.engine.Evaluation:
        weights.append(toy.linear.weight.clone())
        return litfast.engine.Evaluation(accuracy=next(accuracies), loss=0.0, samples=32)

    monkeypatch.setattr(loop, "evaluate", scripted)
    reports = litfast.train([phase(toy, epochs=3)], data, val, out=tmp_path, keep="best")
    assert [next(reports).kind for _ in range(7)][-1] == "step"
    reports.close()
    nn.init.zeros_(toy.linear.weight)
    last = list(litfast.train([phase(toy, epochs=3)], data, val, out=tmp_path, keep="best", resume=True))[-1]
    assert torch.equal(toy.linear.weight, weights[0])
    assert last.best_accuracy == 90.0


def test_finished_phases_are_loaded_and_not_trained(
    lit: Any, data: ResidentLoader, val: ResidentLoader, tmp_path: Path
) -> None:
    interrupted(lit(beta=0.0), data, val, tmp_path, ("step", 10))
    reports = list(litfast.train(lit(beta=0.0).phases, data, val, out=tmp_path, resume=True))
    first, *rest = reports
    assert (first.kind, first.phase, first.epoch, first.restored) == ("phase", "sections", 2, True)
    assert first.val is not None and first.best_accuracy is not None
    assert {(r.phase, r.restored) for r in rest} == {("finetune", False)}
    assert next((r.epoch, r.step) for r in rest if r.kind == "step") == (0, 3)


def test_a_finished_run_is_loaded_whole(lit: Any, data: ResidentLoader, tmp_path: Path) -> None:
    done, again = lit(beta=0.0), lit(beta=0.0)
    run(done, data, None, tmp_path)
    reports: list[Report] = list(litfast.train(again.phases, data, out=tmp_path, resume=True))
    assert [(r.kind, r.restored) for r in reports] == [("phase", True)] * 2
    assert_same(again.state(), done.state())


def test_resuming_an_empty_folder_starts_from_the_beginning(
    lit: Any, data: ResidentLoader, tmp_path: Path
) -> None:
    fresh, plain = lit(beta=0.0), lit(beta=0.0)
    run(fresh, data, None, tmp_path / "new", resume=True)
    run(plain, data, None, tmp_path / "plain")
    assert_same(fresh.state(), plain.state())


def test_without_resume_the_checkpoints_of_an_earlier_run_are_neither_continued_nor_touched(
    lit: Any, data: ResidentLoader, tmp_path: Path
) -> None:
    interrupted(lit(beta=0.0), data, None, tmp_path, ("step", 6))
    before = rows(tmp_path)
    with pytest.raises(
        ValueError, match="train: out must hold no checkpoints unless resume is asked for, got those"
    ):
        litfast.train(lit(beta=0.0).phases, data, out=tmp_path)
    assert rows(tmp_path) == before


def test_a_crash_between_the_end_of_a_phase_and_its_tidying_up_is_no_loss(
    lit: Any, data: ResidentLoader, tmp_path: Path
) -> None:
    whole, last = lit(beta=0.0), lit(beta=0.0)
    run(whole, data, None, tmp_path / "whole")
    out, under_way = tmp_path / "parts", tmp_path / "parts" / "checkpoints" / "last.pt"
    interrupted(lit(beta=0.0), data, None, out, ("epoch", 2))
    left_behind = under_way.read_bytes()
    interrupted(lit(beta=0.0), data, None, out, ("phase", 1), resume=True)
    under_way.write_bytes(left_behind)
    reports = list(litfast.train(last.phases, data, out=out, resume=True))
    assert reports[0].restored
    assert_same(last.state(), whole.state())
    assert rows(out) == rows(tmp_path / "whole")


def test_a_disk_that_fills_up_mid_run_loses_nothing(
    lit: Any, data: ResidentLoader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, last = lit(beta=0.0), lit(beta=0.0)
    run(whole, data, None, tmp_path / "whole")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    reports = litfast.train(lit(beta=0.0).phases, data, out=tmp_path / "parts")
    for _ in range(7):
        next(reports)
    with (
        monkeypatch.context() as patch,
        pytest.raises(OSError, match=r"No space left .* the previous one is kept"),
    ):
        patch.setattr(os, "fsync", full)
        list(reports)
    run(last, data, None, tmp_path / "parts", resume=True)
    assert_same(last.state(), whole.state())
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


def test_a_loss_that_recovers_resumes_from_the_last_good_checkpoint(
    toy: nn.Module, phase: Callable[..., Phase], data: ResidentLoader, tmp_path: Path
) -> None:
    start = {key: value.clone() for key, value in toy.state_dict().items()}
    for _ in litfast.train([phase(toy)], data):
        pass
    healthy = toy.linear.weight.clone()

    toy.load_state_dict(start)
    reports = litfast.train([phase(toy)], data, out=tmp_path)
    for _ in range(6):
        next(reports)
    nn.init.constant_(toy.linear.weight, float("nan"))
    with pytest.raises(
        FloatingPointError, match="branch 'toy' must be finite, got a non-finite one at step 5"
    ):
        list(reports)
    for _ in litfast.train([phase(toy)], data, out=tmp_path, resume=True):
        pass
    assert torch.equal(toy.linear.weight, healthy)


@pytest.mark.parametrize(
    ("stop", "options", "message"),
    [
        (
            ("step", 2),
            {"beta": 0.5},
            r"train: the checkpoint must be of branches student \(sgd\), got layer1 \(sgd\), ",
        ),
        (
            ("phase", 1),
            {"name": "other"},
            "checkpoints must hold checkpoints of this very method, got no 0-other.pt",
        ),
        (
            ("step", 2),
            {"name": "other"},
            "train: the checkpoint must be of phase 'other', got one of 'sections'",
        ),
        (
            ("step", 2),
            {"model": True},
            r"train: last.pt must fit the model of phase 'sections', got: size mismatch",
        ),
        (
            ("phase", 1),
            {"model": True},
            r"train: 0-sections.pt must fit the model of phase 'sections', got: ",
        ),
    ],
)
def test_the_checkpoint_of_another_method_or_model_is_refused(
    stop: tuple[str, int],
    options: dict[str, Any],
    message: str,
    lit: Any,
    toy: nn.Module,
    phase: Callable[..., Phase],
    data: ResidentLoader,
    tmp_path: Path,
) -> None:
    interrupted(lit(beta=0.0), data, None, tmp_path, stop)
    if "name" in options:
        phases: Any = [phase(toy, name=options["name"])]
    elif "model" in options:
        phases = [phase(litfast.create("resnet8", classes=5), name="sections")]
    else:
        phases = lit(**options).phases
    with pytest.raises(ValueError, match=message):
        list(litfast.train(phases, data, out=tmp_path, resume=True))


def test_a_torn_checkpoint_gets_one_clear_line(lit: Any, data: ResidentLoader, tmp_path: Path) -> None:
    interrupted(lit(beta=0.0), data, None, tmp_path, ("step", 2))
    torn = tmp_path / "checkpoints" / "last.pt"
    torn.write_bytes(torn.read_bytes()[:5000])
    with pytest.raises(
        ValueError, match=r"^checkpoint: [^\n]*last.pt must be a whole litfast checkpoint, got: [^\n]+$"
    ):
        list(litfast.train(lit(beta=0.0).phases, data, out=tmp_path, resume=True))
