"""The teacher in pieces: what each branch reads is to the bit what the whole teacher gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import litfast
from litfast.data.loader import Batch
from litfast.engine.prepare import prepared
from litfast.models.inference import Inference
from litfast.phase import Phase, Schedule

ONCE = Schedule(epochs=1, lr=0.1)


def sections(*, folded: bool, **options: Any) -> Phase:
    torch.manual_seed(0)
    teacher, student = litfast.create("resnet14", classes=4), litfast.create("resnet8", classes=4)
    words = {"beta": 0.0, "bn_stats": "ir", "sections": ONCE, "finetune": ONCE, **options}
    return next(
        litfast.methods.lit(teacher, student, observer=Inference(teacher) if folded else None, **words)
    )


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("spans", [[(0, 0), (1, 2)], [(0, 1), (2, 2)], [(0, 2)]])
def test_pieces_hold_what_the_whole_does(folded: bool, spans: list[tuple[int, int]]) -> None:
    phase = sections(folded=folded)
    line = phase.line
    assert line is not None and line.count == 3
    batch = Batch(torch.randn(4, 3, 8, 8), torch.zeros(4, dtype=torch.int64))
    with prepared(phase, torch.device("cpu")), torch.no_grad():
        whole = phase.observe(batch)
        ir = None
        for first, last in spans:
            for seen in (line.run(batch, first, last, ir), line.run(batch, first, last, None)):
                for branch in phase.branches:
                    at = line.of[branch.name]
                    if first <= at <= last:
                        assert torch.equal(line.output(seen, at), line.output(whole, at))
                        assert torch.equal(branch.loss(seen)["loss"], branch.loss(whole)["loss"])
                    else:
                        assert line.output(seen, at).numel() == 0 or at == first - 1
            ir = line.output(seen, last)


def test_a_section_that_does_not_train_is_in_the_line_all_the_same() -> None:
    line = sections(folded=False, train_sections=["layer1", "layer3"]).line
    assert line is not None and dict(line.of) == {"layer1": 0, "layer3": 2} and line.count == 3


@pytest.mark.parametrize(
    "options", [{"beta": 0.5}, {"ir_input": "student"}, {"bn_stats": "both"}, {"bn_stats": "own"}]
)
def test_what_needs_all_of_the_teacher_has_no_line(options: dict[str, Any]) -> None:
    assert sections(folded=False, **options).line is None
