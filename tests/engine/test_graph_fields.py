"""A captured or compiled step on batches of several inputs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from litfast.data.loader import Batch
from litfast.engine.graph import GraphStep
from litfast.engine.parts import parts
from litfast.engine.prepare import prepared
from litfast.engine.step import Step
from litfast.methods import lit
from litfast.models import Input, create
from litfast.models.inference import Inference
from litfast.phase import Phase, Schedule

from .tape import TapeCapture

CPU = torch.device("cpu")
FILE = Path(__file__).parents[1] / "models" / "third_party.py"
READS = Input((6,), 11, "input_ids", (Input((6,), 2, "attention_mask"),))


def made() -> Phase:
    torch.manual_seed(0)
    given = {"classes": 4, "alphabet": 11, "size": [6], "inputs": READS.listed}
    teacher, student = (create(f"{FILE}:text", blocks=blocks, **given) for blocks in (None, [1, 1]))
    schedule = Schedule(epochs=1, lr=0.01)
    observer = Inference(teacher.eval())
    return next(lit(teacher, student, sections=schedule, finetune=schedule, beta=0.0, observer=observer))


def batches() -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(1)
    for at in range(4):
        given = READS.example(8, generator=generator)
        given["attention_mask"][:, 2 + at :] = 0
        yield Batch(given, torch.arange(8) % 4)


def test_replays_and_compiled_steps_are_the_eager_ones() -> None:
    ends = {}
    for way in ("eager", "captured", "compiled"):
        phase, capture = made(), TapeCapture()
        with prepared(phase, CPU):
            step = Step(phase, precision="fp32", device=CPU, captured=True)
            runner = GraphStep(step, capture, rows=4) if way == "captured" else step
            for at, batch in enumerate(batches()):
                if at == 1 and way == "compiled":
                    torch.compiler.reset()
                    step.wrap(
                        lambda function: torch.compile(
                            function, backend="eager", fullgraph=True, dynamic=False
                        )
                    )
                runner(batch, step=at, progress=0.0)
        assert step.notes == [] and capture.records == (way == "captured")
        ends[way] = phase.model.state_dict()
    for way, off in (("captured", 0.0), ("compiled", 1e-6)):  # a compiler may round otherwise
        for name, value in ends[way].items():
            torch.testing.assert_close(
                value, ends["eager"][name], rtol=10 * off, atol=off, msg=f"{way} {name}"
            )


def test_parts_of_a_batch_have_a_share_of_every_input() -> None:
    batch = next(batches())
    found = parts(batch, 4)
    assert [len(part.target) for part in found] == [2] * 4
    for name, value in batch.images.items():
        assert torch.equal(torch.cat([part.images[name] for part in found]), value)
