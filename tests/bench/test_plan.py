"""A plan on a clock that is made up, and once on the real one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import pytest
from torch import nn

from litfast import config, create
from litfast.bench import Row
from litfast.bench import plan as planning
from litfast.bench.blocks import counts
from litfast.models import Input
from litfast.models.sectioned import SectionedModel

TINY = Input((3, 8, 8))


def make(blocks: Sequence[int]) -> SectionedModel:
    return create("resnet20", blocks=blocks)


def clock(per_block: Sequence[float], stretch: float = 1.0) -> Callable[..., list[Row]]:
    """`measure` without running anything: 1 ms and so much a block; the student takes `stretch` as long."""

    def measure(models: Mapping[str, nn.Module], **cell: Any) -> list[Row]:
        rows = []
        for name, model in models.items():
            assert isinstance(model, SectionedModel)
            ms = 1 + sum(cost * n for cost, n in zip(per_block, counts(model), strict=True))
            ms *= stretch if name == "student" else 1.0
            rows.append(_row(name, ms))
        return rows

    return measure


def _row(name: str, ms: float | None, reason: str | None = None) -> Row:
    rounds = () if ms is None else (ms,) * 5
    return Row(
        contender=name,
        mode="eager",
        precision="fp32",
        batch=1,
        p50_ms=ms,
        round_ms=rounds,
        gate=True,
        reason=reason,
    )


@pytest.fixture
def even(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "measure", clock((1.0, 1.0, 1.0)))


def test_a_recipe_keeps_a_plan_whose_times_are_above_zero(even: None) -> None:
    table = {"student": {"model": "resnet8"}}
    expected = planning.plan(make, make((3, 3, 3)), input=TINY, times=2.0).expected
    kept = config.parse(table | {"plan": asdict(expected)})
    assert kept.plan == expected and config.parse(config.dump(kept)) == kept
    with pytest.raises(ValueError, match=r"^recipe: plan\.predicted_ms must be above 0, got 0\.0$"):
        config.parse(table | {"plan": asdict(expected) | {"predicted_ms": 0}})


def test_a_smaller_batch_than_asked_for_is_no_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    halved = [replace(_row(str(i), 1.0), batch=4) for i in range(6)]
    monkeypatch.setattr(planning, "measure", lambda models, **cell: halved)
    with pytest.raises(ValueError, match="plan: 0 must find memory for batch 8, got it for 4"):
        planning.plan(make, make((3, 3, 3)), input=TINY, times=2.0, batch=8)


def test_a_plan_meets_a_latency(even: None) -> None:
    found = planning.plan(make, make((3, 3, 3)), input=TINY, target_ms=7.2)
    assert (found.teacher, found.student) == ((3, 3, 3), (2, 2, 2))
    assert found.expected.predicted_ms == pytest.approx(7.0) and found.expected.teacher_ms == 10.0
    assert found.expected.times is None and found.expected.shape == (3, 8, 8)
    json.dumps(found.json())


def test_a_plan_meets_a_speed_up_of_this_teacher(even: None) -> None:
    found = planning.plan(make, make((3, 3, 3)), input=TINY, times=2.0)
    assert found.expected.target_ms == pytest.approx(5.0) and found.expected.times == 2.0
    assert sum(found.student) == 4


@pytest.mark.parametrize(("stretch", "off", "met"), [(1.0, 0.0, True), (1.05, 0.05, True), (1.2, 0.2, False)])
def test_the_proof_says_by_how_much_the_target_is_missed(
    stretch: float, off: float, met: bool, even: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = make((3, 3, 3))
    expected = planning.plan(make, teacher, input=TINY, target_ms=7.0).expected
    monkeypatch.setattr(planning, "measure", clock((1.0, 1.0, 1.0), stretch))
    found = planning.verify(expected, teacher, make((2, 2, 2)), input=TINY)
    assert found["off"] == pytest.approx(off) and found["error"] == pytest.approx(off) and found["met"] is met
    assert found["speedup"] == pytest.approx(10 / 7 / stretch)
    (line,) = planning.lines(found)
    assert f"target 7 ms {'met' if met else 'missed'}" in line and "batch 1, eager, fp32" in line
    json.dumps(found)


def test_a_speed_up_is_judged_against_the_teacher_of_the_day(
    even: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = make((3, 3, 3))
    expected = planning.plan(make, teacher, input=TINY, times=2.0).expected
    monkeypatch.setattr(planning, "measure", clock((10.0, 10.0, 10.0)))  # a slow day
    found = planning.verify(expected, teacher, make((1, 1, 2)), input=TINY)
    assert found["measured_ms"] == pytest.approx(41) and found["error"] > 5
    assert found["off"] == pytest.approx(2.0 * 41 / 91 - 1) and found["met"]


def test_other_conditions_are_told_and_a_machine_without_the_device_gives_a_reason(even: None) -> None:
    teacher = make((3, 3, 3))
    expected = planning.plan(make, teacher, input=TINY, times=1.5).expected
    moved = replace(expected, machine="another chip", shape=(3, 16, 16))
    found = planning.verify(moved, teacher, make((2, 2, 2)), input=TINY)
    assert found["notes"][0] == "made for samples [3, 16, 16], these are [3, 8, 8]"
    assert found["notes"][1].startswith("made on another chip, this is ")
    assert len(planning.lines(found)) == 3


def test_a_student_that_cannot_run_here_gives_a_reason(even: None, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = make((3, 3, 3))
    expected = planning.plan(make, teacher, input=TINY, times=1.5).expected
    monkeypatch.setattr(
        planning, "measure", lambda models, **cell: [_row(n, None, "no memory") for n in models]
    )
    found = planning.verify(expected, teacher, make((2, 2, 2)), input=TINY)
    assert found["speedup"] is None and found["met"] is None
    assert "teacher must run to be timed, got: no memory" in found["reason"]
    assert "could not be measured (batch 1, eager, fp32" in planning.lines(found)[0]


@pytest.mark.parametrize(
    ("blocks", "target", "message"),
    [
        ((3, 3, 3), {"target_ms": 10.0}, "target must lie below the teacher's 10 ms, got 10 ms"),
        ((3, 3, 3), {"target_ms": 1.0}, "target must be at least 4 ms, which one block a section takes"),
        ((1, 1, 1), {"times": 2.0}, r"teacher must have a section of 2 blocks or more, got \[1, 1, 1\]"),
        ((3, 3, 3), {}, "either a target latency or a speed-up must be given, got none"),
        ((3, 3, 3), {"times": 2.0, "target_ms": 1.0}, "either a target latency .* got both"),
        ((3, 3, 3), {"times": 1.0}, "speed-up must be above 1, got 1.0"),
        ((3, 3, 3), {"target_ms": float("nan")}, "target latency must be above 0 ms, got nan"),
    ],
)
def test_an_impossible_target_gets_one_clear_line(
    blocks: tuple[int, ...], target: dict[str, float], message: str, even: None
) -> None:
    with pytest.raises(ValueError, match=f"^plan: {message}"):
        planning.plan(make, make(blocks), input=TINY, **target)


def test_the_real_clock_gives_a_whole_plan() -> None:
    teacher = make((6, 1, 1))
    found = planning.plan(make, teacher, input=TINY, times=1.2, seconds=0.01, threads=1)
    assert all(ms > 0 for ms in found.latencies.values()) and len(found.latencies) == 3
    assert found.expected.predicted_ms <= found.expected.target_ms < found.expected.teacher_ms
    verified = planning.verify(found.expected, teacher, make(found.student), input=TINY, seconds=0.01)
    assert verified["measured_ms"] > 0 and verified["reason"] is None
