"""LIT's captured or compiled step: what its first batch decides by reading the host is decided before."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from litfast.data.loader import Batch
from litfast.engine.graph import GraphStep
from litfast.engine.prepare import prepared
from litfast.engine.step import Step
from litfast.methods import _paths, lit
from litfast.models import _fusion, create
from litfast.models.inference import Inference
from litfast.phase import Phase, Schedule

from .tape import TapeCapture

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: no oneDNN weights, whose storage the tape cannot see, and twin batches."""
    monkeypatch.setattr(_fusion, "_packs", lambda *_: False)
    monkeypatch.setattr(_paths, "TWIN_DEVICES", ("cpu",))  # whose check reads the host


def made(beta: float, precision: str) -> Phase:
    """Phase "sections" with the teacher as a program."""
    torch.manual_seed(0)
    teacher, student = (create(name, classes=4, channels=3) for name in ("resnet14", "resnet8"))
    schedule = Schedule(epochs=1, lr=0.01)
    observer = Inference(teacher.eval(), precision=precision)
    return next(lit(teacher, student, sections=schedule, finetune=schedule, beta=beta, observer=observer))


def batches() -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        yield Batch(torch.randn(8, 3, 8, 8, generator=generator), torch.arange(8) % 4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("beta", [0.0, 0.75])
def test_a_captured_lit_step_reads_no_host(beta: float, precision: str) -> None:
    ends = []
    for captured in (True, False):
        phase, capture = made(beta, precision), TapeCapture()
        with prepared(phase, CPU):
            step = Step(phase, precision="fp32", device=CPU, captured=True)
            runner = GraphStep(step, capture, rows=4) if captured else step
            for at, batch in enumerate(batches()):
                runner(batch, step=at, progress=0.0)
        assert step.notes == []
        assert capture.records == captured
        ends.append(phase.model.state_dict())
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("beta", [0.0, 0.75])
def test_the_first_lit_step_does_read_it(beta: float) -> None:
    phase = made(beta, "fp32")
    with prepared(phase, CPU):
        step = Step(phase, precision="fp32", device=CPU, captured=True)
        with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
            TapeCapture().record(lambda: step.compute(next(batches()), phase.branches) and None)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("beta", [0.0, 0.75])
def test_a_step_that_has_run_compiles_to_whole_graphs(beta: float, precision: str) -> None:
    phase, batch = made(beta, precision), next(batches())
    with prepared(phase, CPU):
        step = Step(phase, precision="fp32", device=CPU)
        step(batch, step=0, progress=0.0)
        torch.compiler.reset()
        step.wrap(lambda function: torch.compile(function, backend="eager", fullgraph=True, dynamic=False))
        metrics = step(batch, step=1, progress=0.0)
    assert all(value.isfinite() for value in metrics.values())
