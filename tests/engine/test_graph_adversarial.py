"""A discriminator and a generator captured and compiled: one graph a set of due branches, eager's results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from litfast.data.loader import Batch
from litfast.engine.compiled import CompiledStep
from litfast.engine.graph import WARM_UP, GraphStep
from litfast.engine.prepare import prepared
from litfast.engine.step import Runner, Step
from litfast.methods import adversarial, lit_generator
from litfast.models import SectionedModel
from litfast.models.stargan import Discriminator, Generator
from litfast.phase import Phase, Schedule

from .tape import TapeCapture

CPU = torch.device("cpu")
ADAM = Schedule(epochs=1, lr=1e-3, optimizer="adam", betas=(0.5, 0.999), weight_decay=0.0, schedule="linear")
STEPS, CHECKED = 12, 2
Run = Callable[[Step], Runner]


def translator(blocks: int) -> SectionedModel:
    return SectionedModel(Generator([blocks], classes=4, channels=3, width=4), ["bottleneck"]).double()


def trained(which: str, run: Run, *, captured: bool = False) -> tuple[nn.Module, Step, list[Any]]:
    """The model after twelve steps of one phase, the step, and all metrics."""
    torch.manual_seed(0)
    critic, student = Discriminator(4, image_size=8, channels=3, width=4).double(), translator(1)
    if which == "adversarial":
        phase: Phase = next(adversarial(student, critic, train=ADAM, domains=4))
    else:
        phases = lit_generator(translator(2), student, critic, sections=ADAM, finetune=ADAM, domains=4)
        phase = next(found for found in phases if found.name == which)
    generator, said = torch.Generator().manual_seed(1), []
    labels = torch.arange(4).repeat(2)
    with prepared(phase, CPU):
        step = Step(phase, precision="fp32", device=CPU, captured=captured)
        runner = run(step)
        torch.manual_seed(2)
        for at in range(STEPS):
            batch = Batch(
                torch.rand(8, 3, 8, 8, dtype=torch.float64, generator=generator), labels[torch.randperm(8)]
            )
            said.append(runner(batch, step=at, progress=at / STEPS))
            said[-1] = {name: value.item() for name, value in said[-1].items()}
    return phase.model, step, said


def assert_same(ours: nn.Module, theirs: nn.Module, **tolerance: float) -> None:
    expected: dict[str, Tensor] = theirs.state_dict()
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, expected[name], msg=name, **tolerance)


@pytest.mark.parametrize(("which", "records"), [("adversarial", 2), ("sections", 1), ("finetune", 1)])
def test_replays_are_the_eager_steps_to_the_bit(which: str, records: int) -> None:
    """A graph for the steps of the discriminator alone and one for those of both, every fifth."""
    capture = TapeCapture()
    graph, step, said = trained(which, lambda step: GraphStep(step, capture, rows=STEPS), captured=True)
    eager, _, expected = trained(which, lambda step: step, captured=True)
    assert step.notes == []
    assert (capture.records, capture.runs) == (records, records * WARM_UP)
    assert capture.replays == records * CHECKED + STEPS - 1
    assert_same(graph, eager, rtol=0, atol=0)
    assert said == expected
    if which == "adversarial":
        fifth = [at for at, metrics in enumerate(said) if "generator.loss" in metrics]
        assert fifth == [0, 5, 10] and all("discriminator.gp" in metrics for metrics in said)


@pytest.mark.parametrize("which", ["adversarial", "sections", "finetune"])
@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
def test_a_compiled_step_is_the_eager_one(which: str, backend: str) -> None:
    """The random draws and what is differentiated twice stay outside of the compiled code.

    In fp64: before an instance norm the middle tap of a constant plane has no gradient but for rounding,
    which Adam makes a step of.
    """
    torch._dynamo.reset()

    def compiled(step: Step) -> Runner:
        return CompiledStep(step, step, lambda function: torch.compile(function, backend=backend))

    ours, step, _ = trained(which, compiled)
    eager, _, _ = trained(which, lambda step: step)
    assert step.notes == []
    assert_same(ours, eager, rtol=0, atol=1e-8)
