"""How several ranks run the phases of a run: sections shared out where they are independent, else rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from litfast.data.loader import Batch
from litfast.engine import modes
from litfast.engine.placement import Placement, place
from litfast.engine.ranks import Ranks
from litfast.engine.section_times import measure
from litfast.engine.shared import SharedStep, rows_of, sharers
from litfast.engine.step import Runner, Step
from litfast.phase import Phase


def make(
    phase: Phase,
    device: torch.device,
    *,
    ranks: Ranks,
    batches: Iterator[Batch],
    begun: Mapping[str, Any] | None,
    relay: bool,
    split: bool,
    mode: str,
    **options: Any,
) -> tuple[Step, Runner]:
    """The step of a phase on one of several ranks that all get whole batches, and how it is run.

    A phase with a `line` is shared out by sections, eagerly, as the first rank measures their costs; any
    other one by rows of the batch.

    Args:
        batches: to measure with.
        begun: a checkpoint to go on from, whose placement as many ranks use again; None: the phase begins.
        relay, split: as `place` takes them.
        mode, options: as `modes.make` takes them.
    """
    if phase.line is None:
        step, runner = modes.make(phase, device, ranks=ranks, mode=mode, **options)
        return step, _Rows(runner, ranks)
    made: dict[str, Any] = {key: value for key, value in options.items() if key not in ("branches", "rows")}
    same = begun is not None and len(begun.get("ranks", [begun])) == ranks.world
    kept = begun["step"].get("placement") if begun is not None and same else None
    if kept is None:
        costs = measure(Step(phase, device=device, **made), next(batches))
        kept = ranks.gather(place(costs, ranks.world, relay=relay, split=split).json())[0]
    placement = Placement.from_json(kept)
    step = Step(phase, device=device, ranks=sharers(placement, ranks), **made)
    step.notes.append(_said(phase, placement, ranks.world))
    if mode != "eager":
        step.notes.append(f"{phase.name}: mode {mode} is left out: ranks share out sections eagerly")
    return step, SharedStep(step, placement, ranks)


def settle(step: Step, runner: Runner) -> None:
    """Give all ranks the same model and optimizers, whatever each of them has done."""
    (runner if isinstance(runner, SharedStep) else step).settle()


def drain(runner: Runner) -> None:
    """Have nothing under way between ranks, before a step is given up."""
    if isinstance(runner, SharedStep):
        runner.drain()


class _Rows:
    """Runs a step on this rank's rows of every batch; the other ranks have the rest."""

    def __init__(self, runner: Runner, ranks: Ranks) -> None:
        self._runner, self._ranks = runner, ranks

    def __call__(self, batch: Batch, *, step: int, progress: float) -> dict[str, Tensor]:
        """As the step is called; the mean of its counts over the ranks is that of the whole batch."""
        share = len(batch.target) // self._ranks.world
        start = share * self._ranks.rank
        metrics = self._runner(rows_of(batch, slice(start, start + share)), step=step, progress=progress)
        counts = {name for name in metrics if name.endswith(".correct")}
        return metrics | {name: metrics[name] * self._ranks.world for name in counts}


def _said(phase: Phase, placement: Placement, world: int) -> str:
    """Who trains what, in a line."""
    assert phase.line is not None
    names = {section: name for name, section in phase.line.of.items()}
    parts = []
    for block in placement.blocks:
        sections = ", ".join(names[i] for i in block.sections if i in names) or "the teacher alone"
        ranks = "rank" if len(block.ranks) == 1 else "ranks"
        parts.append(f"{sections} on {ranks} {', '.join(map(str, block.ranks))}")
    idle = world - placement.used
    parts += [f"{idle} idle"] if idle else []
    return f"{phase.name}: shared out{' with a relay' if placement.relay else ''}: {'; '.join(parts)}"
