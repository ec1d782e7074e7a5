"""The engine against LIT written out as one plain PyTorch loop."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, mse_loss, softmax

import litfast
from litfast.data.resident import ResidentLoader
from litfast.models import SectionedModel
from litfast.phase import Schedule

EPOCHS, LR = 2, 0.01

OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, lr=LR, momentum=0.9, weight_decay=1e-4),
    "adam": partial(torch.optim.Adam, lr=LR, weight_decay=1e-4),
    "adamw": partial(torch.optim.AdamW, lr=LR, weight_decay=1e-4),
    "rmsprop": partial(torch.optim.RMSprop, lr=LR, momentum=0.9, weight_decay=1e-4),
}


def distilled(z_s: Tensor, z_t: Tensor, target: Tensor) -> Tensor:
    """alpha .95, tau 6."""
    soft = -(softmax(z_t / 6, 1) * log_softmax(z_s / 6, 1)).sum(1).mean()
    return 0.95 * cross_entropy(z_s, target) + 0.05 * 36 * soft


def section_losses(student: SectionedModel, irs: list[Tensor]) -> list[Tensor]:
    return [mse_loss(section(irs[i]), irs[i + 1]) for i, section in enumerate(student.sections)]


def plain_lit(
    teacher: SectionedModel, student: SectionedModel, data: ResidentLoader, beta: float, kind: str
) -> None:
    """LIT as one would write it without litfast: two phases, sections trained, stem and head frozen."""
    ends = ("conv1", "bn1", "linear")
    with torch.no_grad():
        for name in ends:
            student.model.get_submodule(name).load_state_dict(teacher.model.get_submodule(name).state_dict())
    teacher.eval()
    student.eval()
    params = [p for section in student.sections for p in section.parameters()]
    for section in student.sections:
        section.train()
    for phase in ("sections", "finetune"):
        optimizer = OPTIMIZERS[kind](params)
        for epoch in range(EPOCHS):
            first = 0 if phase == "sections" else EPOCHS
            for step, batch in enumerate(data.batches(first + epoch)):
                progress = epoch + step / data.steps
                optimizer.param_groups[0]["lr"] = LR * (1 + math.cos(math.pi * progress / EPOCHS)) / 2
                with torch.no_grad():
                    irs, z_t = teacher.observe(batch.images)
                loss = distilled(student(batch.images), z_t, batch.target)  # the own path first
                if phase == "sections":
                    loss = beta * loss + (1 - beta) * torch.stack(section_losses(student, irs)).sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    student.eval()


@pytest.mark.parametrize(
    ("beta", "kind"), [(0.0, "sgd"), (0.75, "sgd"), (0.75, "adam"), (0.0, "adamw"), (0.75, "rmsprop")]
)
def test_the_engine_trains_what_a_plain_loop_trains(beta: float, kind: str, lit: Any, loader: Any) -> None:
    data = loader(dtype=torch.float64)
    by_hand = lit(dtype=torch.float64)
    ours = lit(dtype=torch.float64, beta=beta, schedule={"optimizer": kind, "lr": LR})
    start = ours.state()
    plain_lit(by_hand.teacher, by_hand.student, data, beta, kind)
    for _ in litfast.train(ours.phases, data):
        pass
    expected = by_hand.state()
    torch.testing.assert_close(ours.state(), expected, rtol=1e-7, atol=1e-9)
    moved = [
        key for key, value in expected.items() if not torch.allclose(value.double(), start[key].double())
    ]
    assert len(moved) > 40  # not a comparison of two untouched models


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_plain_phase_is_bit_equal_to_the_loop_with_the_same_optimizer(
    kind: str, toy: Any, phase: Any, data: ResidentLoader
) -> None:
    start = {key: value.clone() for key, value in toy.state_dict().items()}
    for _ in litfast.train([phase(toy, lr=LR, optimizer=kind)], data):
        pass
    ours = toy.linear.weight.clone()

    toy.load_state_dict(start)
    kernels = {kind: {"fused": True} for kind in OPTIMIZERS} | {"rmsprop": {"foreach": True}}
    optimizer = OPTIMIZERS[kind](toy.parameters(), **kernels[kind])
    for epoch in range(2):
        for batch in data.batches(epoch):
            optimizer.zero_grad()
            cross_entropy(toy(batch.images), batch.target).backward()
            optimizer.step()
    assert torch.equal(toy.linear.weight, ours)


def test_a_schedules_steps_reach_the_optimizer(toy: Any, phase: Any, data: ResidentLoader) -> None:
    """An lr of 0 from the first milestone on stops the training there."""
    words = {"lr": 0.1, "schedule": "steps", "milestones": (1,), "gamma": 0.0, "epochs": 3}
    weights = [
        toy.linear.weight.clone() for r in litfast.train([phase(toy, **words)], data) if r.kind == "epoch"
    ]
    assert torch.equal(weights[0], weights[2])
    assert Schedule(**words).lr_at(1.0) == 0.0
