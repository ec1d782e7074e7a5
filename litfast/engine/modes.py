"""How a phase's steps are run: eager, compiled or captured, branches one by one or at once."""

from __future__ import annotations

from typing import Any

import torch

from litfast.engine.compiled import CompiledStep
from litfast.engine.graph import CudaCapture, GraphStep
from litfast.engine.ranks import ALONE, Ranks
from litfast.engine.step import Runner, Step
from litfast.engine.streams import Forked, Serial
from litfast.phase import Phase

MODES = ("eager", "compile", "graph", "compile-graph")  # the last: compiled, then captured
BRANCHES = ("serial", "parallel")


def check(mode: str, branches: str, device: torch.device) -> None:
    """Refuse what is unknown, and what this device cannot do.

    Raises:
        ValueError: an unknown name; graphs or streams without a CUDA device.
    """
    for what, value, known in (("mode", mode, MODES), ("branches", branches, BRANCHES)):
        if value not in known:
            raise ValueError(f"train: {what} must be one of {', '.join(known)}, got {value!r}")
    for what, value, cuda in (("mode", mode, captures(mode)), ("branches", branches, branches == "parallel")):
        if cuda and device.type != "cuda":
            raise ValueError(f"train: {what} {value} must have a CUDA device, got {device}")


def make(
    phase: Phase,
    device: torch.device,
    *,
    mode: str,
    branches: str,
    rows: int,
    ranks: Ranks = ALONE,
    **options: Any,
) -> tuple[Step, Runner]:
    """The step of a phase, and how to run it: that very step, or what stands for it.

    Args:
        mode, branches: one of MODES, one of BRANCHES.
        rows: metrics stay valid for so many steps.
        ranks: who trains together. Several do not capture, as their messages would be in the graph.
        options: of Step.
    """
    alone = captures(mode) and ranks.world > 1
    if alone:
        mode = "compile" if mode.startswith("compile") else "eager"
    compiles = mode.startswith("compile")
    streams = Forked(phase, early=not compiles) if branches == "parallel" else Serial()
    step = Step(phase, device=device, streams=streams, captured=captures(mode), ranks=ranks, **options)
    if alone:
        step.notes.append(f"{phase.name}: the step is not captured: {ranks.world} ranks train together")
    runner: Runner = GraphStep(step, CudaCapture(device), rows=rows) if captures(mode) else step
    return step, CompiledStep(step, runner) if compiles else runner


def captures(mode: str) -> bool:
    """Whether a mode replays the whole step as one CUDA graph."""
    return mode.endswith("graph")
