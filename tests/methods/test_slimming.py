from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import litfast
from litfast.data.loader import Batch
from litfast.data.resident import ResidentLoader
from litfast.methods import chain, kd, scratch, slimming
from litfast.models import SectionedModel, create
from litfast.models._slim import chosen, scales, slimmed
from litfast.phase import Phase, Schedule

SCHEDULE = Schedule(epochs=1, lr=0.05)
SKIPPED = Schedule(epochs=0, lr=0.05)
PHASES = {"sparse": SCHEDULE, "finetune": SCHEDULE}

Ready = Callable[[Iterator[Phase]], Phase]
Seen = Callable[[Phase, Batch], Any]
Gradients = Callable[..., dict[str, Tensor | None]]
Make = Callable[[str, int], SectionedModel]


@pytest.fixture
def teacher(make: Make) -> SectionedModel:
    """With scales that differ, as training leaves them."""
    model = make("resnet8", 0)
    for scale in scales(model):
        torch.nn.init.uniform_(scale, 0.1, 1.0)
    return model


@pytest.fixture
def student(make: Make) -> SectionedModel:
    return make("resnet8", 1)


def state(model: SectionedModel) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_the_student_begins_as_a_copy_of_the_teacher(
    teacher: SectionedModel, student: SectionedModel
) -> None:
    next(slimming(teacher, student, **PHASES))
    assert same(state(student), state(teacher))
    assert not {id(p) for p in student.parameters()} & {id(p) for p in teacher.parameters()}


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_the_penalty_adds_strength_times_sign_to_the_choosing_scales_alone(
    alpha: float,
    teacher: SectionedModel,
    student: SectionedModel,
    batch: Batch,
    ready: Ready,
    seen: Seen,
    gradients: Gradients,
) -> None:
    found = []
    for strength in (0.0, 0.25):
        phase = ready(slimming(teacher, student, strength=strength, alpha=alpha, **PHASES))
        torch.manual_seed(0)
        found.append(gradients(phase, seen(phase, batch)))
    plain, penalised = found
    for name, gradient in plain.items():
        parameter = student.model.get_parameter(name)
        pulled = 0.25 * parameter.detach().sign() if name.endswith(".bn1.weight") else torch.zeros(())
        assert gradient is not None
        expected = gradient + pulled if "layer" in name else gradient
        torch.testing.assert_close(penalised[name], expected, rtol=1e-12, atol=1e-14)


def test_alpha_one_is_plain_cross_entropy_and_less_is_distillation(
    teacher: SectionedModel, student: SectionedModel, batch: Batch, ready: Ready, seen: Seen
) -> None:
    for alpha, other in (
        (1.0, lambda: scratch(student, train=SCHEDULE)),
        (0.3, lambda: kd(teacher, student, distill=SCHEDULE, alpha=0.3, tau=2.0)),
    ):
        phase = ready(slimming(teacher, student, strength=0.0, alpha=alpha, tau=2.0, **PHASES))
        plain = ready(other())
        ours = phase.branches[0].loss(seen(phase, batch))
        assert torch.equal(ours["loss"], plain.branches[0].loss(seen(plain, batch))["loss"])
        assert ours["penalty"] == 0


def test_the_surgery_between_the_phases_is_that_of_the_trained_scales(
    teacher: SectionedModel, student: SectionedModel
) -> None:
    phases = slimming(teacher, student, removed=0.4, **PHASES)
    next(phases)
    with torch.no_grad():
        for scale in scales(student):
            scale.mul_(torch.linspace(2, 0.1, len(scale)))
    expected = slimmed(student, chosen(student, 0.4))
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    finetune = next(phases)
    assert finetune.model is student
    assert student.spec == expected.spec
    assert torch.equal(student(images), expected(images))
    assert {id(p) for p in finetune.branches[0].params} == {id(p) for p in student.parameters()}


def test_training_leaves_the_teacher_and_makes_the_student_smaller(
    teacher: SectionedModel, student: SectionedModel, data: ResidentLoader
) -> None:
    before = state(teacher)
    reports = list(litfast.train(slimming(teacher, student, removed=0.5, **PHASES), data))
    assert same(state(teacher), before)
    assert [report.phase for report in reports if report.kind == "phase"] == ["sparse", "finetune"]
    assert student.spec is not None and sum(student.spec["inner"]) == (16 + 32 + 64) // 2
    assert "student.penalty" in next(r for r in reports if r.kind == "epoch").metrics


def test_no_epochs_skip_the_sparse_phase(
    teacher: SectionedModel, student: SectionedModel, data: ResidentLoader
) -> None:
    phases = slimming(teacher, student, sparse=SKIPPED, finetune=SKIPPED, removed=0.4)
    for _ in litfast.train(phases, data):
        pass
    assert same(state(student), state(slimmed(teacher, chosen(teacher, 0.4))))


@pytest.mark.parametrize("phase", ["sparse", "finetune"])
def test_a_resumed_run_is_bit_identical(
    phase: str, make: Make, teacher: SectionedModel, data: ResidentLoader, tmp_path: Path
) -> None:
    def run(student: SectionedModel, **options: Any) -> Any:
        return litfast.train(slimming(teacher, student, removed=0.4, **PHASES), data, **options)

    whole, begun, resumed = (make("resnet8", seed) for seed in (1, 2, 3))
    for _ in run(whole):
        pass
    reports = run(begun, out=tmp_path)
    for report in reports:
        if report.phase == phase and report.step == 2:
            reports.close()
            break
    for _ in run(resumed, out=tmp_path, resume=True):
        pass
    assert same(state(resumed), state(whole))
    assert resumed.spec == whole.spec


def test_a_chain_slims_in_passes(make: Make, teacher: SectionedModel, data: ResidentLoader) -> None:
    students = [make("resnet8", seed) for seed in (1, 2)]
    phases = chain(slimming, teacher, students, removed=0.25, sparse=SKIPPED, finetune=SKIPPED)
    for _ in litfast.train(phases, data):
        pass
    assert [sum(s.spec["inner"]) for s in students if s.spec] == [84, 63]


def test_a_rehearsal_takes_the_same_fraction_of_every_layer(make: Make, student: SectionedModel) -> None:
    *_, _ = slimming(make("resnet8", 0), student, removed=0.5, rehearsal=True, **PHASES)
    assert student.spec is not None and student.spec["inner"] == [8, 16, 32]


def test_an_emptied_layer_gets_one_line(teacher: SectionedModel, student: SectionedModel) -> None:
    with torch.no_grad():
        scales(teacher)[1].mul_(1e-3)
    with pytest.raises(
        ValueError, match=r"removed must leave every layer a channel, got 0\.5, .* layer2\.0\.bn1"
    ):
        list(slimming(teacher, student, removed=0.5, **PHASES))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"removed": 1.0}, "removed must be at least 0 and below 1, got 1.0"),
        ({"removed": -0.1}, "removed must be at least 0 and below 1, got -0.1"),
        ({"alpha": 1.5}, r"alpha must lie in \[0, 1\], got 1.5"),
        ({"multiple": 0}, "multiple must be at least 1, got 0"),
        ({"strength": -1.0}, "strength must be 0 or more and finite, got -1.0"),
    ],
)
def test_a_mistake_gets_one_line_before_any_training(
    options: dict[str, float], message: str, teacher: SectionedModel, student: SectionedModel
) -> None:
    with pytest.raises(ValueError, match=f"^slimming: {message}"):
        next(slimming(teacher, student, **PHASES, **options))


def test_another_network_is_refused(teacher: SectionedModel, make: Make) -> None:
    with pytest.raises(
        ValueError, match=r"^slimming: student must be the teacher's network, resnet8, got resnet14"
    ):
        next(slimming(teacher, make("resnet14", 1), **PHASES))
    with torch.device("meta"):
        pair = create("resnext20"), create("resnext20")
    with pytest.raises(ValueError, match="convolutions must not be in groups"):
        next(slimming(*pair, **PHASES))
