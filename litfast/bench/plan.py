"""A student for a latency: blocks chosen by what a block of each section costs here, and the proof."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from litfast.bench import machine
from litfast.bench.blocks import Blocks, Costs, choose, counts, fit, probes
from litfast.bench.latency import measure
from litfast.bench.row import Row
from litfast.bench.stats import milliseconds, speedup
from litfast.config import PlanConfig
from litfast.models import Input
from litfast.models.sectioned import SectionedModel

TOLERANCE = 0.10  # of the target: a student that takes this much longer still meets it
DIGITS = 4  # of the milliseconds in a recipe, which people read
Make = Callable[[Sequence[int]], SectionedModel]  # blocks of each section -> a model of the teacher's family


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The student's blocks and how they were found.

    Attributes:
        teacher, student: blocks of each section.
        latencies: measured milliseconds (median of single calls) of the models that `costs` were fitted to.
        expected: target, prediction and the cell that both are of, as the recipe keeps them.
    """

    teacher: Blocks
    student: Blocks
    latencies: Mapping[Blocks, float]
    costs: Costs
    expected: PlanConfig

    def json(self) -> dict[str, Any]:
        """In values that JSON has."""
        return {
            "teacher_blocks": list(self.teacher),
            "student_blocks": list(self.student),
            "costs": asdict(self.costs),
            "measured": [
                {"blocks": list(blocks), "p50_ms": ms, "predicted_ms": self.costs.predict(blocks)}
                for blocks, ms in self.latencies.items()
            ],
            "expected": asdict(self.expected),
        }


def plan(
    make: Make,
    teacher: SectionedModel,
    *,
    input: Input,
    target_ms: float | None = None,
    times: float | None = None,
    batch: int = 1,
    mode: str = "eager",
    precision: str = "fp32",
    seconds: float = 2.0,
    device: str | torch.device = "cpu",
    threads: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Plan:
    """Measure what a block of each section costs, and choose as many as the target allows.

    A few models of the family (`blocks.probes`) are timed in turn, round after round; `blocks.fit` and
    `blocks.choose` say how a latency is predicted and what is maximised.

    Args:
        make: gives a model of the teacher's family with so many blocks.
        input: what they read.
        target_ms: latency that the student may take, or
        times: how many times faster than the teacher it should be.
        batch, mode, precision, device, threads: the one cell that the target is of.
        seconds: time to spend on each model.

    Raises:
        ValueError: a target that is not below the teacher's latency, or below that of one block a section; a
            teacher with one block a section; a model that could not be timed.
    """
    check_target(target_ms, times)
    most = counts(teacher)
    if max(most) < 2:
        raise ValueError(f"plan: teacher must have a section of 2 blocks or more, got {list(most)}")
    rows = measure(
        {_name(blocks): teacher if blocks == most else make(blocks) for blocks in probes(most)},
        input=input,
        batches=(batch,),
        modes=(mode,),
        precisions=(precision,),
        seconds=seconds,
        device=device,
        threads=threads,
        progress=progress,
    )
    latencies = {blocks: _time(row, batch) for blocks, row in zip(probes(most), rows, strict=True)}
    target = latencies[most] / times if times is not None else target_ms
    assert target is not None, "one of the two was given"
    if target >= latencies[most]:
        raise ValueError(
            f"plan: target must lie below the teacher's {latencies[most]:.3g} ms, got {target:.3g} ms"
        )
    costs = fit(latencies)
    chosen = choose(costs, most, target)
    expected = PlanConfig(
        target_ms=round(target, DIGITS),
        times=times,
        predicted_ms=round(costs.predict(chosen), DIGITS),
        teacher_ms=round(latencies[most], DIGITS),
        batch=batch,
        mode=mode,
        precision=precision,
        threads=threads or torch.get_num_threads(),
        device=str(device),
        shape=input.shape,
        machine=chip(device),
    )
    return Plan(teacher=most, student=chosen, latencies=latencies, costs=costs, expected=expected)


def verify(
    expected: PlanConfig, teacher: nn.Module, student: nn.Module, *, input: Input, seconds: float = 2.0
) -> dict[str, Any]:
    """Measure teacher and student in turn in the cell of a plan, and compare with what it expected.

    Returns:
        A document that JSON holds: target_ms and times (the target), predicted_ms, measured_ms, error
        (measured / predicted - 1), teacher_ms, speedup with p10 and p90 of single rounds, off (by how much
        the student is slower than the target, in the target's own terms: time, or the factor over this
        teacher), met (off is at most 10 %), batch, mode, precision, threads, device, check, notes (where the
        conditions are not those of the plan), reason (why there are no numbers; else null).
    """
    cell = {key: getattr(expected, key) for key in ("batch", "mode", "precision", "threads", "device")}
    asked = {"target_ms": expected.target_ms, "times": expected.times, "predicted_ms": expected.predicted_ms}
    document = {**asked, **cell, "check": "plan", "notes": _notes(expected, input), "reason": None}
    try:
        slow, fast = measure(
            {"teacher": teacher, "student": student},
            input=input,
            batches=(expected.batch,),
            modes=(expected.mode,),
            precisions=(expected.precision,),
            seconds=seconds,
            device=expected.device,
            threads=expected.threads,
        )
        teacher_ms, measured_ms = _time(slow, expected.batch), _time(fast, expected.batch)
    except ValueError as error:  # another machine may have no such device, mode or memory
        nothing = dict.fromkeys(("measured_ms", "error", "teacher_ms", "speedup", "p10", "p90", "off", "met"))
        return document | nothing | {"reason": str(error)}
    ratio = speedup(slow.round_ms, fast.round_ms)
    off = measured_ms / expected.target_ms if expected.times is None else expected.times / ratio.speedup
    return document | {
        "measured_ms": measured_ms,
        "error": measured_ms / expected.predicted_ms - 1,
        "teacher_ms": teacher_ms,
        "speedup": ratio.speedup,
        "p10": ratio.p10,
        "p90": ratio.p90,
        "off": off - 1,
        "met": off <= 1 + TOLERANCE,
    }


def lines(document: Mapping[str, Any]) -> list[str]:
    """What `verify` found, for people."""
    found = document
    place = f"batch {found['batch']}, {found['mode']}, {found['precision']}, {found['threads']} threads"
    notes = [f"plan: {note}" for note in found["notes"]]
    if found["reason"] is not None:
        return [f"plan: the student could not be measured ({place}): {found['reason']}", *notes]
    predicted, measured = milliseconds(found["predicted_ms"]), milliseconds(found["measured_ms"])
    factor = f"{found['speedup']:.2f}x ({found['p10']:.2f} to {found['p90']:.2f}) the teacher's speed"
    target = f"{found['target_ms']:.3g} ms" if found["times"] is None else f"{found['times']:.3g}x"
    way = "slower" if found["off"] > 0 else "faster"
    verdict = f"target {target} {'met' if found['met'] else 'missed'}: {abs(found['off']):.1%} {way}"
    return [
        f"plan: predicted {predicted} ms, measured {measured} ms ({found['error']:+.1%}), {factor}; "
        f"{verdict} ({place})",
        *notes,
    ]


def chip(device: str | torch.device) -> str:
    """What computes, by name."""
    found = machine.describe(device)
    return str(found["gpu"]["name"] if torch.device(device).type == "cuda" else found["cpu"])


def _name(blocks: Blocks) -> str:
    return f"blocks {list(blocks)}"


def _time(row: Row, batch: int) -> float:
    if row.batch != batch:  # measure takes the half where there is no memory
        raise ValueError(f"plan: {row.contender} must find memory for batch {batch}, got it for {row.batch}")
    if row.p50_ms is None:
        raise ValueError(f"plan: {row.contender} must run to be timed, got: {row.reason}")
    return row.p50_ms


def _notes(expected: PlanConfig, input: Input) -> list[str]:
    """Where the conditions differ from the plan's; a GPU that is not there becomes a reason instead."""
    notes = []
    if input.shape != expected.shape:
        notes.append(f"made for samples {list(expected.shape)}, these are {list(input.shape)}")
    there = torch.device(expected.device).type == "cpu" or torch.cuda.is_available()
    if there and (here := chip(expected.device)) != expected.machine:
        notes.append(f"made on {expected.machine}, this is {here}")
    return notes


def check_target(target_ms: float | None, times: float | None) -> None:
    """Refuse both or none of the targets, and one that asks for nothing.

    Raises:
        ValueError: see above.
    """
    if (target_ms is None) == (times is None):
        got = "none" if times is None else "both"
        raise ValueError(f"plan: either a target latency or a speed-up must be given, got {got}")
    if target_ms is not None and not (target_ms > 0 and math.isfinite(target_ms)):
        raise ValueError(f"plan: target latency must be above 0 ms, got {target_ms}")
    if times is not None and not (times > 1 and math.isfinite(times)):
        raise ValueError(f"plan: speed-up must be above 1, got {times}")
