from __future__ import annotations

import torch

from litfast.data import sets
from litfast.data.loader import IGNORED, UNLABELLED
from litfast.data.resident import ResidentLoader
from litfast.engine import evaluate
from litfast.engine.predicted import Predicted
from litfast.models import SectionedModel, create


def model(seed: int) -> SectionedModel:
    torch.manual_seed(seed)
    made = create("resnet8", classes=4)
    made(torch.randn(16, 3, 8, 8))
    return made


def loader() -> ResidentLoader:
    """20 images without labels in padded batches of 8."""
    samples = sets.load("synthetic", size=8, train=64, val=20).val
    options = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "train": False, "batch": 8}
    return ResidentLoader(samples.images, torch.full((20,), UNLABELLED), **options)


def test_the_accuracy_is_the_agreement_with_the_teacher() -> None:
    teacher, student = model(0).train(), model(1)
    said = Predicted(loader(), teacher)
    assert evaluate(teacher, said).accuracy == 100
    found = evaluate(student, said)
    assert teacher.training and found.samples == 20
    with torch.no_grad():
        images = torch.cat([batch.images for batch in loader().batches(0)])[:20]
        agree = student.eval()(images).argmax(-1) == teacher.eval()(images).argmax(-1)
    assert 0 < found.accuracy < 100 and round(found.accuracy / 5) == int(agree.sum())


def test_padding_stays_padding_and_the_teacher_is_asked_once() -> None:
    teacher = model(0)
    calls = []
    teacher.model.conv1.register_forward_hook(lambda *_: calls.append(1))
    said = Predicted(loader(), teacher)
    assert (len(said), said.samples, said.batch, said.steps, said.state()) == (20, 20, 8, 3, {})
    passes = [[batch.target for batch in said.batches(epoch)] for epoch in range(2)]
    assert len(calls) == 3 and all(torch.equal(*pair) for pair in zip(*passes, strict=True))
    assert passes[0][2].tolist()[4:] == [IGNORED] * 4 and min(passes[0][2].tolist()[:4]) >= 0
    assert [batch.target.tolist() for batch in said.batches(0, 2)] == [passes[0][2].tolist()]
