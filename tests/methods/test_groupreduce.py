from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import litfast
from litfast.data.tokens import StreamLoader
from litfast.engine import evaluate
from litfast.methods import groupreduce
from litfast.models import SectionedModel, create
from litfast.models.low_rank import compressed
from litfast.phase import Schedule

V, D = 120, 8
TEXT = torch.randint(V, (400,), generator=torch.Generator().manual_seed(0)).square() // V
COUNTS = TEXT.bincount(minlength=V)
FINETUNE = Schedule(epochs=2, lr=0.01, optimizer="adam", clip=1.0)


def loader(train: bool = True) -> StreamLoader:
    return StreamLoader(TEXT, batch=4, length=6, train=train)


def models(**options: Any) -> tuple[SectionedModel, SectionedModel]:
    torch.manual_seed(0)
    return tuple(create("lstm_lm", classes=V, width=D, layers=1, **options) for _ in range(2))  # type: ignore[return-value]


def reduced(
    teacher: SectionedModel, student: SectionedModel, finetune: Schedule = FINETUNE, **options: Any
) -> Any:
    given = {"compression": 2.0, "blocks": 3, "counts": COUNTS, **options}
    return groupreduce(teacher, student, finetune=finetune, **given)


def weights(net: SectionedModel) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in net.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[key]) for key, value in a.items())


@pytest.mark.parametrize("tied", [False, True])
def test_the_student_begins_as_the_compressed_teacher(tied: bool) -> None:
    teacher, student = models(tied=tied)
    before = weights(teacher)
    phase = next(reduced(teacher, student))
    wanted = compressed(teacher, COUNTS, compression=2.0, blocks=3)
    assert phase.name == "finetune" and phase.model is student and student.spec == wanted.spec
    assert same(weights(student), weights(wanted)) and same(weights(teacher), before)


def test_without_epochs_it_stays_what_it_was_before_retraining() -> None:
    teacher, student = models()
    for _ in litfast.train(reduced(teacher, student, Schedule(epochs=0, lr=0.1)), loader()):
        pass
    assert same(weights(student), weights(compressed(teacher, COUNTS, compression=2.0, blocks=3)))


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_fine_tuning_lowers_the_perplexity_and_leaves_the_teacher(alpha: float) -> None:
    teacher, student = models()
    before = weights(teacher)
    start = evaluate(compressed(teacher, COUNTS, compression=2.0, blocks=3), loader(False)).perplexity
    for _ in litfast.train(reduced(teacher, student, alpha=alpha, tau=2.0), loader()):
        pass
    end = evaluate(student, loader(False)).perplexity
    assert start is not None and end is not None and end < start
    assert same(weights(teacher), before)


@pytest.mark.parametrize("options", [{"accumulate": 2}, {"precision": "bf16"}], ids=str)
def test_it_trains_in_other_ways(options: dict[str, Any]) -> None:
    teacher, student = models()
    reports = list(litfast.train(reduced(teacher, student, bits=8), loader(), mode="eager", **options))
    assert [report.phase for report in reports if report.kind == "phase"] == ["finetune", "quantised"]


def test_eight_bits_come_after_fine_tuning() -> None:
    (teacher, student), phases = models(), []
    method = reduced(teacher, student, bits=8)
    finetune = next(method)
    trained = copy.deepcopy(student)
    phases = list(method)
    assert [finetune.name, *(phase.name for phase in phases)] == ["finetune", "quantised"]
    assert phases[0].epochs == 0 and student.spec is not None and student.spec["bits"] == 8
    wanted, found = (evaluate(net, loader(False)).perplexity for net in (trained, student))
    assert found == pytest.approx(wanted, rel=0.02) and found != wanted


def test_a_run_resumes_to_the_bit(tmp_path: Path) -> None:
    whole_teacher, whole = models()
    for _ in litfast.train(reduced(whole_teacher, whole, bits=8), loader(), out=tmp_path / "whole"):
        pass
    teacher, student = models()
    run = litfast.train(reduced(teacher, student, bits=8), loader(), out=tmp_path / "cut")
    for report in run:
        if report.kind == "step" and report.epoch == 1:
            run.close()
            break
    teacher, student = models()
    for _ in litfast.train(reduced(teacher, student, bits=8), loader(), out=tmp_path / "cut", resume=True):
        pass
    assert same(weights(student), weights(whole))


def test_the_plain_svd_at_the_same_bytes_is_one_block_unweighted() -> None:
    teacher, student = models()
    next(reduced(teacher, student, blocks=1, weighted=False))
    assert student.spec is not None and len(student.spec["groups"]["softmax"]) == 1
    u, s, v = torch.linalg.svd(teacher.model.softmax.weight.double(), full_matrices=False)
    (rank,) = (r for _, r in student.spec["groups"]["softmax"])
    wanted = u[:, :rank] * s[:rank] @ v[:rank]
    x = torch.randn(3, D)
    logits = student.model.softmax(x) - student.model.softmax.bias
    torch.testing.assert_close(logits, x @ wanted.float().T)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"counts": None}, "groupreduce: the data must count its words, got a set without counts"),
        ({"blocks": 121}, "factorise: the vocabulary must hold a word for each of 121 blocks, got 120"),
        (
            {"compression": 1000.0},
            r"groupreduce: compression must be at most [\d.]+ here \(\d+ of the \d+ bytes of the embedding: "
            r"each block at its smallest rank\), got 1000 \(\d+ bytes\)",
        ),
        ({"compression": 0.0}, "groupreduce: compression must be positive, got 0.0"),
        ({"bits": 4}, "groupreduce: bits must be 8 or 32, got 4"),
        (
            {"counts": COUNTS[1:]},
            r"factorise: counts must be one whole number a word \[120\], got torch.int64",
        ),
    ],
)
def test_a_mistake_gets_one_line(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=rf"\A{line}[^\n]*\Z"):
        next(reduced(*models(), **changes))


def test_a_student_of_another_network_is_refused() -> None:
    teacher, _ = models()
    with pytest.raises(ValueError, match=r"student must be the teacher's network .* got"):
        next(reduced(teacher, create("lstm_lm", classes=V, width=D + 1)))
