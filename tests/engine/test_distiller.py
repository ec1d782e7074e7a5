"""A method in a loop of one's own: the same gradients as the engine's step, and nothing but its own moves."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import litfast
from litfast.data.loader import Batch
from litfast.engine import Distiller
from litfast.engine.prepare import prepared
from litfast.engine.step import Step
from litfast.models import Input, SectionedModel, create
from litfast.phase import Branch, Phase, Schedule

LR = 0.05
LIT = {"student_init": "teacher", "tau": 4.0, "alpha": 0.0}
images, target = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 4
CPU = torch.device("cpu")


def pair() -> tuple[SectionedModel, SectionedModel]:
    torch.manual_seed(0)
    teacher, student = create("resnet14", classes=4), create("resnet8", classes=4)
    teacher(torch.randn(16, 3, 8, 8))
    return teacher.eval(), student


def method(name: str) -> tuple[Callable[..., Iterator[Phase]], dict[str, object], int]:
    """A method, its options, and how many of the models it takes."""
    known: dict[str, tuple[dict[str, object], int]] = {
        "scratch": ({}, 1),
        "kd": ({"alpha": 0.3, "tau": 2.0}, 2),
        "ban": ({"variant": "cwtm"}, 2),
        "lit": ({**LIT, "beta": 0.0}, 2),
        "fitnets": ({"input": Input((3, 8, 8))}, 2),
    }
    options, models = known[name]
    return litfast.methods.METHODS[name], options, models


def plain_loop(distiller: Distiller, steps: int = 2) -> list[dict[str, Tensor]]:
    """Every phase for some steps of plain SGD; the last losses of each phase."""
    found = []
    for _ in distiller.phases():
        optimizer = torch.optim.SGD(distiller.parameters(), lr=LR, momentum=0.9, weight_decay=1e-4)
        for _ in range(steps):
            losses = distiller(images, target)
            losses["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()
        found.append(losses)
    return found


@pytest.mark.parametrize("name", ["scratch", "kd", "ban", "lit", "fitnets"])
def test_a_plain_loop_trains_as_the_engine_does(name: str) -> None:
    function, options, models = method(name)
    ours, theirs = pair(), pair()
    losses = plain_loop(Distiller(function, *ours[-models:], **copy.deepcopy(options)))

    torch.manual_seed(0)
    hints = {key: Schedule(epochs=1, lr=LR) for key in ("train", "distill", "sections", "finetune", "hint")}
    schedules = {key: value for key, value in hints.items() if key in function.__annotations__}
    torch.manual_seed(0)
    pair()  # the regressor's weights are drawn at the same place of the stream
    for at, phase in enumerate(function(*theirs[-models:], **schedules, **options)):
        with prepared(phase, CPU):
            step = Step(phase, precision="fp32", device=CPU)
            for number in range(2):
                metrics = step(Batch(images, target), step=number, progress=0.0)
        for key, value in metrics.items():
            torch.testing.assert_close(losses[at][key], value.detach(), rtol=1e-4, atol=1e-6)
    for (key, mine), other in zip(ours[1].state_dict().items(), theirs[1].state_dict().values(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6, msg=key)


def test_only_the_phases_own_parts_train_and_the_teacher_is_never_changed() -> None:
    teacher, student = pair()
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    distiller = Distiller(litfast.methods.lit, teacher, student, beta=0.5, **LIT).train()
    layers = {name: module for name, module in student.model.named_modules() if not module._modules}
    training = {name for name, module in layers.items() if module.training}
    assert training == {name for name in layers if name.startswith("layer")} and not teacher.training
    assert not any(module.training for module in distiller.eval().modules() if module is not distiller)
    distiller.train()
    trained = {key for key, value in student.named_parameters() if value.requires_grad}
    assert trained and all(key.removeprefix("model.").startswith("layer") for key in trained)
    losses = plain_loop(distiller)
    assert [set(found) for found in losses] == [
        {"loss", "student.loss", *(f"student.{m}" for m in ("soft", "hard", "correct", *irs))}
        for irs in (["ir.layer1", "ir.layer2", "ir.layer3"], [])
    ]
    assert all(not value.requires_grad for found in losses for key, value in found.items() if key != "loss")
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())
    assert all(parameter.requires_grad for parameter in (*teacher.parameters(), *student.parameters()))
    with pytest.raises(ValueError, match="a phase must be under way, got none"):
        distiller(images, target)


def test_parameters_and_state_are_the_students_and_what_trains_along() -> None:
    teacher, student = pair()
    distiller = Distiller(litfast.methods.fitnets, teacher, student, input=Input((3, 8, 8)), guided_section=1)
    extra = sum(p.numel() for p in distiller.states.parameters())
    assert extra > 0
    count = sum(p.numel() for p in distiller.parameters())
    assert count == extra + sum(p.numel() for p in student.parameters())
    state = {key: value.clone() for key, value in distiller.state_dict().items()}
    assert {f"model.{key}" for key in student.state_dict()} < set(state)
    nn.init.zeros_(next(student.parameters()))
    nn.init.zeros_(next(distiller.states.parameters()))
    distiller.load_state_dict(state)
    assert all(torch.equal(value, state[key]) for key, value in distiller.state_dict().items())


def test_the_teacher_moves_along() -> None:
    teacher, student = pair()
    distiller = nn.ModuleList([Distiller(litfast.methods.kd, teacher, student)]).double()[0]
    assert next(teacher.parameters()).dtype == next(student.parameters()).dtype == torch.float64
    assert distiller(images.double(), target)["loss"].dtype == torch.float64


def test_in_eval_mode_it_gives_the_loss_and_the_logits() -> None:
    teacher, student = pair()
    distiller = Distiller(litfast.methods.kd, teacher, student).eval()
    with torch.no_grad():
        found = distiller(images, target)
        assert set(found) == {"loss", "logits"} and torch.equal(found["logits"], student(images))


def test_without_labels_the_teachers_class_stands_for_the_target() -> None:
    teacher, student = pair()
    with torch.no_grad():
        said = teacher(images).argmax(-1)
    distiller = Distiller(litfast.methods.kd, teacher, student, alpha=0.5)
    without, with_labels = distiller(images), distiller(images, said)
    assert all(torch.equal(value, with_labels[key]) for key, value in without.items())
    with pytest.raises(ValueError, match=r"Distiller: target must be given to phase 'train', got none"):
        Distiller(litfast.methods.scratch, student)(images)


def test_coefficients_follow_the_progress_that_the_loop_tells() -> None:
    teacher, student = pair()
    distiller = Distiller(
        litfast.methods.fitnets, teacher, student, input=Input((3, 8, 8)), lambda_first=4.0, lambda_last=1.0
    )
    phases = distiller.phases()
    assert [next(phases), next(phases)] == ["hint", "distill"]
    ((falling,),) = (branch.coefficients for branch in distiller.phase.branches)
    distiller.progress(0.5)
    assert falling.value.item() == 2.5


def test_a_step_of_several_updates_and_a_copy_are_refused() -> None:
    teacher, student = pair()

    def two(model: SectionedModel, *, train: Schedule) -> Iterator[Phase]:
        stem, head = ((*part.parameters(),) for part in (model.stem, model.head))
        loss = lambda seen: {"loss": model(seen.images).sum()}  # noqa: E731
        branches = (
            Branch(name="a", params=stem, loss=loss, schedule=train),
            Branch(name="b", params=head, loss=loss, schedule=train, after=("a",)),
        )
        yield Phase(name="two", model=model, observe=lambda b: b, branches=branches, trains=(model,))

    with pytest.raises(ValueError, match=r"one backward pass a step, got 'b', which trains after a; "):
        Distiller(two, student)
    with pytest.raises(TypeError, match=r"Distiller: a distiller must not be copied"):
        copy.deepcopy(Distiller(litfast.methods.kd, teacher, student))
