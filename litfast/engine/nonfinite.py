"""Losses and gradients that are not finite: at which step, of which branch, from which samples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from torch import Tensor

from litfast.data.loader import Loader, Named
from litfast.engine.guard import METRIC

WAYS = ("raise", "skip", "rewind")
REWINDS = 10  # of one phase: a training that fails time after time has another fault than bad batches
LISTED = 8  # names in a message

Series = Mapping[str, list[tuple[int, float]]]  # (step, value) pairs by "branch.metric"
Fault = tuple[int, str]  # step of the whole run, branch


class NonFinite(FloatingPointError):
    """A loss or gradient is not finite at `step`, counted through the whole run."""

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


def faults(series: Series) -> list[Fault]:
    """Where a guarded step left a branch's update out or, without a guard, a loss is not finite."""
    guarded, losses = f".{METRIC}", ".loss"
    if any(name.endswith(guarded) for name in series):
        return sorted(
            (step, name.removesuffix(guarded))
            for name, pairs in series.items()
            if name.endswith(guarded)
            for step, value in pairs
            if value
        )
    return sorted(
        (step, name.removesuffix(losses))
        for name, pairs in series.items()
        if name.endswith(losses)
        for step, value in pairs
        if not math.isfinite(value)
    )


def without(series: Series, found: Iterable[Fault]) -> Series:
    """The metrics but for those of the updates that were left out."""
    gone = set(found)
    branches = {branch for _, branch in gone}

    def kept(name: str, step: int) -> bool:
        return name.endswith(f".{METRIC}") or not any(
            name.startswith(f"{branch}.") and (step, branch) in gone for branch in branches
        )

    rest = {name: [pair for pair in pairs if kept(name, pair[0])] for name, pairs in series.items()}
    return {name: pairs for name, pairs in rest.items() if pairs}


def hopeless(means: Mapping[str, float]) -> str | None:
    """A branch that was left out of every step so far."""
    shares = {name: mean for name, mean in means.items() if name.endswith(f".{METRIC}")}
    return next((name.removesuffix(f".{METRIC}") for name, mean in shares.items() if mean == 1), None)


def spoilt(data: Loader, epoch: int, step: int) -> str:
    """Which samples of a batch are not finite themselves, by the names that the loader has for them."""
    batch = next(data.batches(epoch, step))
    names = data.names(epoch, step) if isinstance(data, Named) else None
    images = batch.images
    if not (isinstance(images, Tensor) and images.is_floating_point()):
        return "its batch"
    finite = images.flatten(1).isfinite().all(1).tolist()
    bad = [row for row, fine in enumerate(finite) if not fine]
    called = [f"row {row} of the batch" if names is None else names[row] for row in bad]
    if bad:
        return f"{_listed(called)} not finite"
    return "all its samples finite" + ("" if names is None else f": {_listed(names)}")


def _listed(names: list[str]) -> str:
    more = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {more} more" if more > 0 else "")
