"""A language model's step captured or compiled: the text goes on as it does eagerly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import litfast
from litfast.carried import reset
from litfast.data.tokens import StreamLoader
from litfast.engine.compiled import CompiledStep
from litfast.engine.graph import GraphStep
from litfast.engine.prepare import prepared
from litfast.engine.step import Runner, Step
from litfast.methods import kd, scratch
from litfast.models import SectionedModel
from litfast.models.inference import Inference
from litfast.phase import Phase

from .tape import TapeCapture

V, CPU = 7, torch.device("cpu")
SCHEDULE = litfast.Schedule(epochs=2, lr=0.5, clip=1.0)


def model(seed: int = 0, **options: Any) -> SectionedModel:
    torch.manual_seed(seed)
    return litfast.create("lstm_lm", classes=V, width=5, **options)


def trained() -> Iterator[Phase]:
    return scratch(model(dropout=0.5), train=SCHEDULE)


def distilled() -> Iterator[Phase]:
    teacher = model(9)
    return kd(teacher, model(), distill=SCHEDULE, alpha=0.5, tau=2.0, observer=Inference(teacher.eval()))


def ended(
    phase: Phase, run: Callable[[Step], Runner], *, captured: bool = False, accumulate: int = 1
) -> tuple[list[Tensor], Step]:
    """The weights after two epochs of a text."""
    ids = torch.randint(V, (131,), generator=torch.Generator().manual_seed(4))
    loader = StreamLoader(ids, batch=4, length=8, train=True)
    with prepared(phase, CPU):
        step = Step(phase, precision="fp32", device=CPU, captured=captured, accumulate=accumulate)
        runner = run(step)
        torch.manual_seed(0)
        for epoch in range(2):
            reset(phase.model, *phase.frozen)
            for at, batch in enumerate(loader.batches(epoch)):
                runner(batch, step=at, progress=0.0)
    return [value.clone() for value in phase.model.state_dict().values()], step


@pytest.fixture
def no_onednn() -> Iterator[None]:
    """As on a GPU: its LSTM returns what the tape cannot replay. Its own switch warns of another setting."""
    torch._C._set_mkldnn_enabled(False)
    yield
    torch._C._set_mkldnn_enabled(True)


@pytest.mark.usefixtures("no_onednn")
@pytest.mark.parametrize(("made", "accumulate"), [(trained, 1), (distilled, 2)])
def test_a_captured_step_reads_the_text_on(made: Callable[[], Iterator[Phase]], accumulate: int) -> None:
    capture = TapeCapture()
    options: dict[str, Any] = {"captured": True, "accumulate": accumulate}
    eager, _ = ended(next(made()), lambda step: step, **options)
    replayed, step = ended(next(made()), lambda step: GraphStep(step, capture, rows=4), **options)
    assert step.notes == [] and (capture.records, capture.replays) == (1, 9)
    assert all(torch.equal(a, b) for a, b in zip(eager, replayed, strict=True))


def test_a_compiled_step_reads_the_text_on() -> None:
    def compiler(function: Any) -> Any:
        return torch.compile(function, backend="eager", dynamic=False)

    torch.compiler.reset()
    eager, _ = ended(next(trained()), lambda step: step)
    compiled, step = ended(next(trained()), lambda step: CompiledStep(step, step, compiler))
    assert step.notes == []
    assert all(torch.equal(a, b) for a, b in zip(eager, compiled, strict=True))


@pytest.mark.parametrize("made", [trained, distilled])
def test_a_trial_that_fails_leaves_the_text_where_it_was(made: Callable[[], Iterator[Phase]]) -> None:
    def broken(function: Any) -> Any:
        def doubled(seen: Any) -> Any:
            found = function(seen)
            return {name: 2 * value for name, value in found.items()} if isinstance(found, dict) else found

        return doubled if function is not torch.neg else function

    eager, _ = ended(next(made()), lambda step: step)
    tried, step = ended(next(made()), lambda step: CompiledStep(step, step, broken))
    assert "the step is not compiled" in step.notes[0]
    assert all(torch.equal(a, b) for a, b in zip(eager, tried, strict=True))
