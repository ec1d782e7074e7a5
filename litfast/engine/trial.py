"""A faster step must earn its place: two steps beside the eager one's, from the same start."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from litfast.data.loader import Batch
from litfast.engine.snapshot import Snapshot, weights
from litfast.engine.step import Step
from litfast.phase import Branch

# How far two steps may end from the eager ones, as a share of the way that those went. Other kernels and
# other orders of addition should stay well below; a learning rate or a momentum that got lost shows as a
# third and more.
TOLERANCE = {"fp32": 0.02, "bf16": 0.2, "fp16": 0.1}

Work = Callable[[], object]


def objection(
    step: Step, batch: Batch, due: Sequence[Branch], progress: float, prepare: Callable[[], Work]
) -> str | None:
    """Why the work that `prepare` makes cannot stand for `step.compute(batch, due)`; None where it can.

    Several ranks try it apart, and the objection of one holds for all. Either way parameters, buffers,
    optimizer and random state are as they were; learning rates are not. The second step has half the first
    one's learning rate, which work that froze it would not notice.
    """
    with step.alone():
        found = _objection(step, batch, due, progress, prepare)
    return next((why for why in step.ranks.gather(found) if why is not None), None)


def _objection(
    step: Step, batch: Batch, due: Sequence[Branch], progress: float, prepare: Callable[[], Work]
) -> str | None:
    start = Snapshot(step)
    origin = _copies(step)
    try:
        eager = _after_two(step, due, progress, lambda: step.compute(batch, due))
        start.restore()
        work = prepare()
        start.restore()
        other = _after_two(step, due, progress, work)
    except Exception as error:  # whatever a compiler or a capture raises: eager serves instead, and says why
        return reason(error)
    finally:
        start.restore()
    for what, before, expected, found in zip(("weights", "buffers"), origin, eager, other, strict=True):
        off = deviation(before, expected, found)
        if not off <= TOLERANCE[step.precision]:
            return f"after two steps its {what} are {100 * off:.3g} % of the way off the eager ones"
    return None


def deviation(before: Sequence[Tensor], expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """|found - expected| / |expected - before|, each list taken as one vector; 0 where nothing differs."""
    off, way = _square_distance(found, expected), _square_distance(expected, before)
    if off == 0:
        return 0.0
    return (off / way) ** 0.5 if way else float("inf")


def _square_distance(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    # in fp64 from the start: a mask of bools knows no minus
    pairs = zip(ours, theirs, strict=True)
    return sum(((a.double() - b.double()).square().sum().item() for a, b in pairs), 0.0)


def reason(error: Exception) -> str:
    """One line that says what went wrong, without the machine's folders."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    headless = lines[1:] if lines[0].endswith("raised:") else []  # torch.compile: the cause comes second
    return re.sub(r"(?:/[^\s/:'\"]+)+/", "", (headless or lines)[0])[:200]


def _after_two(step: Step, due: Sequence[Branch], progress: float, work: Work) -> list[list[Tensor]]:
    for factor in (1.0, 0.5):
        step.set_lr(due, progress, factor)
        work()
    return _copies(step)


def _copies(step: Step) -> list[list[Tensor]]:
    with torch.no_grad():
        return [[tensor.detach().clone() for tensor in tensors] for tensors in weights(step)]
