"""The step with its losses and its observation under torch.compile."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from litfast.data.loader import Batch
from litfast.engine.step import Function, Runner, Step
from litfast.engine.trial import objection

Compiler = Callable[[Function], Function]


def compile_function(function: Function) -> Function:
    """`function` under torch.compile, for fixed shapes."""
    compiled: Function = torch.compile(function, dynamic=False)
    return compiled


def probe(device: torch.device, compiler: Compiler) -> None:
    """Compile something small: a missing compiler shows in a second, not after a step has been traced."""
    compiler(torch.neg)(torch.ones(8, device=device))


class CompiledStep:
    """Compiles at its first call, which checks two compiled steps against eager ones and leaves no trace.

    Where the compiler fails or disagrees the step stays eager, and `step.notes` says why.

    Args:
        step: whose functions are compiled.
        runner: runs the step; the step itself, or what captures it.
    """

    def __init__(self, step: Step, runner: Runner, compiler: Compiler = compile_function) -> None:
        self._step = step
        self._runner = runner
        self._compiler = compiler
        self._tried = False

    @property
    def inputs(self) -> Batch | None:
        """The memory that a captured step reads, see `GraphStep.inputs`."""
        return getattr(self._runner, "inputs", None)

    def __call__(self, batch: Batch, *, step: int, progress: float) -> dict[str, Tensor]:
        """As `Step.__call__`."""
        if not self._tried:
            self._tried = True
            self._try(batch, progress)
        return self._runner(batch, step=step, progress=progress)

    def _try(self, batch: Batch, progress: float) -> None:
        due = self._step.active

        def prepare() -> Callable[[], object]:
            probe(self._step.device, self._compiler)
            self._step.wrap(self._compiler)
            return lambda: self._step.compute(batch, due)

        with warnings.catch_warnings():  # of what dynamo itself asks behind a graph break
            warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
            why = objection(self._step, batch, due, progress, prepare)
        if why is not None:
            self._step.wrap(lambda function: function)
            self._step.notes.append(f"{self._step.phase.name}: the step is not compiled: {why}")
