"""How a phase's steps are run: eager, compiled or captured, branches one by one or at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from litfast.engine.compiled import CompiledStep
from litfast.engine.graph import CudaCapture, GraphStep
from litfast.engine.lanes import Forked, Serial
from litfast.engine.step import Step
from litfast.phase import Phase

MODES = ("eager", "compile", "graph")
BRANCHES = ("serial", "parallel")

Runner = Callable[..., dict[str, Tensor]]  # called as a Step is


def check(mode: str, branches: str, device: torch.device) -> None:
    """Refuse what is unknown, and what this device cannot do.

    Raises:
        ValueError: an unknown name; graphs or streams without a CUDA device.
    """
    for what, value, known in (("mode", mode, MODES), ("branches", branches, BRANCHES)):
        if value not in known:
            raise ValueError(f"train: {what} must be one of {', '.join(known)}, got {value!r}")
    for what, value, cuda in (("mode", mode, "graph"), ("branches", branches, "parallel")):
        if value == cuda and device.type != "cuda":
            raise ValueError(f"train: {what} {cuda} must have a CUDA device, got {device}")


def make(
    phase: Phase, device: torch.device, *, mode: str, branches: str, rows: int, **options: Any
) -> tuple[Step, Runner]:
    """The step of a phase, and how to run it: that very step, or what stands for it.

    Args:
        mode, branches: one of MODES, one of BRANCHES.
        rows: metrics stay valid for so many steps.
        options: of Step.
    """
    lanes = Forked(phase) if branches == "parallel" else Serial()
    step = Step(phase, device=device, lanes=lanes, captured=mode == "graph", **options)
    match mode:
        case "graph":
            return step, GraphStep(step, CudaCapture(device), rows=rows)
        case "compile":
            return step, CompiledStep(step)
    return step, step
