"""MetaDistiller compiled and captured: its meta step stays out of compiled code and is captured."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from litfast.data.loader import Batch
from litfast.engine.compiled import CompiledStep
from litfast.engine.graph import GraphStep
from litfast.engine.prepare import prepared
from litfast.engine.step import Runner, Step
from litfast.methods import metadistiller
from litfast.models import Input, create
from litfast.phase import Schedule

from .tape import TapeCapture

CPU = torch.device("cpu")
STEPS = 6
Run = Callable[[Step], Runner]


def trained(run: Run, *, second_order: bool = True) -> tuple[nn.Module, Step]:
    """The model after six steps, the generator trained at every second one."""
    torch.manual_seed(0)
    student = create("resnext20", classes=4, blocks=[1, 1, 1], width=4, cardinality=1).double()
    schedule = Schedule(epochs=1, lr=0.05)
    phases = metadistiller(
        student, train=schedule, input=Input((3, 8, 8)), every=2, second_order=second_order, width=4
    )
    generator = torch.Generator().manual_seed(1)
    with prepared(phase := next(phases), CPU):
        step = Step(phase, precision="fp32", device=CPU, captured=True)
        runner = run(step)
        for at in range(STEPS):
            images = torch.randn(8, 3, 8, 8, dtype=torch.float64, generator=generator)
            runner(Batch(images, torch.arange(8) % 4), step=at, progress=0.0)
    return phase.model, step


def assert_same(ours: nn.Module, theirs: nn.Module) -> None:
    expected = theirs.state_dict()
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-9, msg=name)


@pytest.mark.parametrize("second_order", [True, False])
def test_replays_are_the_eager_steps(second_order: bool) -> None:
    """One graph of the steps with the meta step and one of those without."""
    capture = TapeCapture()
    graph, step = trained(lambda step: GraphStep(step, capture, rows=STEPS), second_order=second_order)
    eager, _ = trained(lambda step: step, second_order=second_order)
    assert step.notes == [] and capture.records == 2
    assert_same(graph, eager)


def test_a_compiled_step_is_the_eager_one() -> None:
    torch._dynamo.reset()

    def compiled(step: Step) -> Runner:
        return CompiledStep(step, step, lambda function: torch.compile(function, backend="eager"))

    ours, step = trained(compiled)
    eager, _ = trained(lambda step: step)
    assert step.notes == []
    assert_same(ours, eager)


def test_a_compiler_that_fails_leaves_a_note_and_the_eager_step() -> None:
    def refuse(function: object) -> object:
        raise RuntimeError("no compiler")

    ours, step = trained(lambda step: CompiledStep(step, step, refuse))  # type: ignore[arg-type]
    eager, _ = trained(lambda step: step)
    assert step.notes == ["train: the step is not compiled: no compiler"]
    assert_same(ours, eager)
