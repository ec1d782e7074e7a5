"""A teacher in pieces, for sections that train independently of each other."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from litfast.data.loader import Batch
from litfast.methods._kd import Seen
from litfast.models.inference import Observer
from litfast.phase import Line


def teacher_line(observer: Observer, count: int, of: Mapping[str, int]) -> Line:
    """How `observer` runs some of its `count` sections alone; `of` names the branches and what they train."""

    def run(batch: Batch, first: int, last: int, ir: Tensor | None) -> Seen:
        irs = observer.span(batch.images, first, last, ir)
        none = irs[0].new_empty(0)  # in the place of what was not run
        everything = [none] * first + irs + [none] * (count - 1 - last)
        return Seen(batch.images, batch.target, everything, none)

    return Line(count=count, of=of, run=run, output=lambda seen, i: seen.irs[i + 1])
