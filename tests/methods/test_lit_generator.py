"""LIT for generators: the bottleneck from the teacher, then the ends against a fixed discriminator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import litfast
from litfast.data.loader import Batch
from litfast.data.resident import ResidentLoader
from litfast.methods import adversarial, lit_generator
from litfast.methods._adversarial import draw
from litfast.models import SectionedModel
from litfast.phase import Phase, Schedule

SCHEDULE = Schedule(
    epochs=1, lr=1e-3, optimizer="adam", betas=(0.5, 0.999), weight_decay=0.0, schedule="constant"
)
PHASES: dict[str, Any] = {"sections": SCHEDULE, "finetune": SCHEDULE, "domains": 4}
Translator = Callable[..., SectionedModel]
Ready = Callable[[Iterator[Phase]], Phase]
Seen = Callable[[Phase, Batch], Any]


def changed(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    """The model's children whose parameters or buffers are no longer the same, bit for bit."""
    now = model.state_dict()
    return {key.split(".")[0] for key in now if not torch.equal(now[key], before[key])}


@pytest.fixture
def pair(translator: Translator) -> tuple[SectionedModel, SectionedModel]:
    return translator(3, seed=0), translator(1, seed=1)


def test_a_student_that_is_the_teacher_has_no_ir_loss_at_all(
    translator: Translator, critic: nn.Module, faces: ResidentLoader, ready: Ready, seen: Seen
) -> None:
    teacher, student = translator(2, seed=0), translator(2, seed=1)
    phase = ready(lit_generator(teacher, student, critic, **PHASES, student_init="teacher"))
    (branch,) = phase.branches
    losses = branch.loss(seen(phase, next(faces.batches(0))))
    assert branch.name == "bottleneck" and losses["loss"].item() == losses["ir"].item() == 0


def test_the_sections_see_the_images_on_their_way_to_random_domains_of_the_batch(
    pair: tuple[SectionedModel, SectionedModel],
    critic: nn.Module,
    faces: ResidentLoader,
    ready: Ready,
    seen: Seen,
) -> None:
    phase = ready(lit_generator(*pair, critic, **PHASES))
    batch = next(faces.batches(0))
    torch.manual_seed(6)
    observation = seen(phase, batch)
    torch.manual_seed(6)
    goal = draw(batch).goal
    hot = nn.functional.one_hot(goal, 4) if goal.ndim == 1 else goal
    assert torch.equal(observation.images[:, :3], batch.images)
    assert torch.equal(observation.images[:, 3:], hot.double()[:, :, None, None].expand(-1, -1, 8, 8))
    irs, _ = pair[0].observe(observation.images)
    expected = (pair[1].sections[0](irs[0]) - irs[1]).square().mean()
    torch.testing.assert_close(phase.branches[0].loss(observation)["loss"], expected)


def test_each_phase_moves_its_own_part_of_the_student_and_nothing_else(
    pair: tuple[SectionedModel, SectionedModel], critic: nn.Module, faces: ResidentLoader
) -> None:
    teacher, student = pair
    kept = deepcopy((teacher.state_dict(), critic.state_dict()))
    start = deepcopy(student.state_dict())
    flags = [parameter.requires_grad for parameter in critic.parameters()]
    moved = {}
    for report in litfast.train(lit_generator(teacher, student, critic, **PHASES), faces):
        if report.kind == "phase":
            moved[report.phase] = changed(student, start)
            start = deepcopy(student.state_dict())
            if report.phase == "sections":
                ends = [key for key in start if key.startswith(("down.", "up."))]
                assert ends and all(torch.equal(start[key], kept[0][key]) for key in ends)
    assert moved == {"sections": {"down", "up", "bottleneck"}, "finetune": {"down", "up"}}
    assert (changed(teacher, kept[0]), changed(critic, kept[1])) == (set(), set())
    assert [parameter.requires_grad for parameter in critic.parameters()] == flags
    assert all(parameter.grad is None for parameter in critic.parameters())


def test_the_bottleneck_alone_has_a_gradient_in_sections_and_the_ends_alone_in_finetune(
    pair: tuple[SectionedModel, SectionedModel],
    critic: nn.Module,
    faces: ResidentLoader,
    ready: Ready,
    seen: Seen,
) -> None:
    phases, student = lit_generator(*pair, critic, **PHASES), pair[1]
    moved = []
    for _ in range(2):
        phase = ready(phases)
        student.zero_grad(set_to_none=True)
        phase.branches[0].loss(seen(phase, next(faces.batches(0))))["loss"].backward()
        named = student.model.named_parameters()
        moved.append({name.split(".")[0] for name, parameter in named if parameter.grad is not None})
        assert all(parameter.grad is None for parameter in critic.parameters())
    assert moved == [{"bottleneck"}, {"down", "up"}]


def test_the_finetuning_loss_is_the_generators_own(
    pair: tuple[SectionedModel, SectionedModel], critic: nn.Module, faces: ResidentLoader, seen: Seen
) -> None:
    lambdas = {"lambda_cls": 2.0, "lambda_rec": 5.0}
    phases = lit_generator(*pair, critic, **PHASES, **lambdas)
    next(phases)
    phase = next(phases)
    observation = seen(phase, next(faces.batches(0)))
    plain = next(adversarial(pair[1], critic, train=SCHEDULE, domains=4, **lambdas)).branches[1]
    torch.testing.assert_close(dict(phase.branches[0].loss(observation)), dict(plain.loss(observation)))


def test_the_sections_come_closer_to_the_teacher(
    pair: tuple[SectionedModel, SectionedModel], critic: nn.Module, faces: ResidentLoader
) -> None:
    schedule = Schedule(epochs=10, lr=1e-2, optimizer="adam")
    phases = lit_generator(*pair, critic, sections=schedule, finetune=SCHEDULE, domains=4)
    reports = litfast.train([next(phases)], faces)
    said = [report.metrics["bottleneck.ir"] for report in reports if report.kind == "epoch"]
    assert said[-1] < 0.7 * said[0]


@pytest.mark.parametrize("stop", [2, 6, 9, 13])
def test_a_stopped_run_resumes_to_the_bit(
    stop: int, translator: Translator, critic: nn.Module, faces: ResidentLoader, tmp_path: Path
) -> None:
    def train(name: str, **options: Any) -> tuple[SectionedModel, Any]:
        student = translator(1, seed=1)
        phases = lit_generator(translator(2), student, critic, **PHASES, noise=0.1)
        return student, litfast.train(phases, faces, out=tmp_path / name, **options)

    whole, reports = train("whole")
    list(reports)
    _, reports = train("parts")
    for _ in range(stop):
        next(reports)
    reports.close()
    last, reports = train("parts", resume=True)
    list(reports)
    assert changed(last, whole.state_dict()) == set()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"student_init": "zero"}, "lit_generator: student_init must be one of random, teacher, got 'zero'"),
        ({"noise": -1.0}, "lit_generator: noise must be 0 or more, got -1.0"),
        ({"domains": 0}, "lit_generator: domains must be at least 1, got 0"),
        ({"lambda_cls": -1.0}, "lit_generator: lambda_cls must be 0 or more and finite, got -1.0"),
    ],
)
def test_a_wrong_option_is_refused(
    options: dict[str, Any],
    message: str,
    pair: tuple[SectionedModel, SectionedModel],
    critic: nn.Module,
) -> None:
    with pytest.raises(ValueError, match=message):
        next(lit_generator(*pair, critic, **{**PHASES, **options}))
