"""The costs of a phase's sections, measured where it runs and without a trace."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from litfast.data.loader import Batch
from litfast.engine.costs import Cost, Costs, SectionCost
from litfast.engine.parts import parts
from litfast.engine.snapshot import Snapshot
from litfast.engine.step import Step, autocast
from litfast.phase import Line

SHARES = (1, 2, 4)  # of a batch: costs are lines through the times at these sizes
ROUNDS = 3
Work = Callable[[], Any]


def measure(step: Step, batch: Batch, *, rounds: int = ROUNDS) -> Costs:
    """Time each section's teacher, and its loss, backward and update, on all and on parts of a batch.

    Each piece runs once ahead, then all in turn, round after round; a time is the median of its rounds.
    Weights, statistics, optimizers and random state are given back.

    Args:
        step: of a phase with a `line`; eager.
        batch: the rows that training has.
    """
    line = step.phase.line
    assert line is not None, step.phase.name
    rows = len(batch.target)
    names = {section: name for name, section in line.of.items()}
    before = Snapshot(step)
    points: dict[int, list[float]] = {}
    irs: list[Tensor] = []
    try:
        for share in (share for share in SHARES if rows % share == 0):
            part = parts(batch, share)[0]
            found, pieces = _pieces(step, line, part)
            points[rows // share] = _times(pieces, rounds, step.device)
            irs = irs or found
    finally:
        step.wrap(lambda function: function)
        before.restore()
    costs = [Cost.through({at: times[i] for at, times in points.items()}) for i in range(2 * line.count + 2)]
    stem, observed, teacher, student = costs[0], costs[1], costs[2 : 2 + line.count], costs[2 + line.count :]
    head = max(observed.at(rows) - stem.at(rows) - sum(cost.at(rows) for cost in teacher), 0.0)
    sizes = {b.name: sum(p.numel() * p.element_size() for p in b.params) for b in step.phase.branches}
    sections = [
        SectionCost(
            name=names.get(i, ""),
            teacher=teacher[i],
            student=student[i] if i in names else Cost(),
            ir_bytes=irs[i].numel() * irs[i].element_size() // rows,
            gradient_bytes=sizes.get(names.get(i, ""), 0),
        )
        for i in range(line.count)
    ]
    return Costs(batch=rows, stem=stem, sections=tuple(sections), head=Cost(per_row=head / rows))


def _pieces(step: Step, line: Line, part: Batch) -> tuple[list[Tensor], list[Work]]:
    """The sections' outputs, and what is timed: stem, all of `observe`, teacher's sections, student's."""
    branches = {line.of[branch.name]: branch for branch in step.phase.branches}

    def seen(first: int, last: int, ir: Tensor | None = None) -> Any:
        with torch.no_grad(), autocast(step.device, step.precision):
            return line.run(part, first, last, ir)

    def observe() -> None:
        with torch.no_grad(), autocast(step.device, step.precision):
            step.phase.observe(part)

    whole = seen(0, line.count - 1)
    outputs = [line.output(whole, i) for i in range(line.count)]

    def train(i: int) -> None:
        if i not in branches:
            return
        step.wrap(lambda function: (lambda _: whole) if function is step.phase.observe else function)
        step.compute(part, [branches[i]])

    def teach(i: int) -> None:
        seen(i, i, outputs[i - 1] if i else stem)

    stem = line.output(seen(0, -1), -1)
    pieces: list[Work] = [partial(seen, 0, -1), observe]
    pieces += [partial(teach, i) for i in range(line.count)]
    pieces += [partial(train, i) for i in range(line.count)]
    return outputs, pieces


def _times(pieces: list[Work], rounds: int, device: torch.device) -> list[float]:
    """Median seconds of each; the device is waited for before and after."""
    taken: list[list[float]] = [[] for _ in pieces]
    for number in range(rounds + 1):
        for piece, times in zip(pieces, taken, strict=True):
            _wait(device)
            started = time.perf_counter()
            piece()
            _wait(device)
            if number:
                times.append(time.perf_counter() - started)
    return [median(times) for times in taken]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
