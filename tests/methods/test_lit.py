"""The losses of LIT against formulas written out by hand, in value and gradient (SPEC 1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, l1_loss, mse_loss, smooth_l1_loss

from litfast.data.loader import Batch
from litfast.methods import kd, lit
from litfast.methods._kd import Seen as Observation
from litfast.models import SectionedModel
from litfast.ops import kd_loss, lit_loss
from litfast.phase import Branch, Phase, Schedule

SCHEDULE = Schedule(epochs=1, lr=0.1)
PHASES = {"sections": SCHEDULE, "finetune": SCHEDULE}
KD = {"alpha": 0.3, "tau": 4.0}

Ready = Callable[[Iterator[Phase]], Phase]
Seen = Callable[[Phase, Batch], Observation]
Gradients = Callable[..., dict[str, Tensor | None]]


def section_of(name: str) -> str:
    return name.split(".")[0]


def reached(gradients: dict[str, Tensor | None]) -> set[str]:
    """The model's children that any gradient reached; a gradient of zeros counts."""
    return {section_of(name) for name, gradient in gradients.items() if gradient is not None}


def ir_terms(student: SectionedModel, seen: Observation, penalty: Any = mse_loss) -> list[Tensor]:
    outputs = [section(seen.irs[i]) for i, section in enumerate(student.sections)]
    return [penalty(output, seen.irs[i + 1]) for i, output in enumerate(outputs)]


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_a_student_that_is_its_teacher_has_ir_losses_of_exactly_zero(
    beta: float, teacher: SectionedModel, batch: Batch, seen: Seen
) -> None:
    phase = next(lit(teacher, deepcopy(teacher), **PHASES, beta=beta))
    phase.model.eval()
    observation = seen(phase, batch)
    losses = [branch.loss(observation) for branch in phase.branches]
    irs = [value for loss in losses for name, value in loss.items() if name.startswith("ir")]
    assert [value.item() for value in irs] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("beta", [0.25, 0.75, 1.0])
@pytest.mark.parametrize("penalty", [mse_loss, l1_loss, smooth_l1_loss])
def test_the_joint_loss_is_the_papers_formula(
    beta: float,
    penalty: Any,
    teacher: SectionedModel,
    student: SectionedModel,
    batch: Batch,
    ready: Ready,
    seen: Seen,
    gradients: Gradients,
) -> None:
    name = {mse_loss: "l2", l1_loss: "l1", smooth_l1_loss: "smooth_l1"}[penalty]
    phase = ready(lit(teacher, student, **PHASES, **KD, beta=beta, penalty=name, weights=[1.0, 2.0, 0.5]))
    observation = seen(phase, batch)
    losses, ours = phase.branches[0].loss(observation), gradients(phase, observation)

    irs = ir_terms(student, observation, penalty)
    logits = student(batch.images)
    distilled = kd_loss(logits, teacher(batch.images), batch.target, **KD, backend="reference")
    total = beta * distilled + (1 - beta) * (irs[0] + 2 * irs[1] + 0.5 * irs[2])
    torch.testing.assert_close(losses["loss"], total, rtol=1e-12, atol=0)
    torch.testing.assert_close([losses[f"ir.layer{i}"] for i in (1, 2, 3)], [ir.detach() for ir in irs])
    trained = [p for p in student.parameters() if p.requires_grad]
    theirs = torch.autograd.grad(total, trained)
    got = [gradient for gradient in ours.values() if gradient is not None]
    torch.testing.assert_close(got, list(theirs), rtol=1e-10, atol=1e-12)


def test_the_loss_is_linear_in_beta(
    teacher: SectionedModel, student: SectionedModel, batch: Batch, ready: Ready, seen: Seen
) -> None:
    betas = (0.2, 0.4, 1.0)
    phases = [ready(lit(teacher, student, **PHASES, **KD, beta=beta)) for beta in betas]
    observation = seen(phases[0], batch)
    low, middle, whole = (phase.branches[0].loss(observation)["loss"] for phase in phases)
    torch.testing.assert_close(middle, 0.75 * low + 0.25 * whole, rtol=1e-12, atol=0)


def test_the_students_logits_are_of_its_own_path_and_not_of_the_teachers_irs(
    teacher: SectionedModel, student: SectionedModel, batch: Batch, ready: Ready, seen: Seen
) -> None:
    phase = ready(lit(teacher, student, **PHASES, alpha=1.0, beta=1.0))
    observation = seen(phase, batch)
    fed = student.head(student.sections[2](observation.irs[2]))
    own = cross_entropy(student(batch.images), batch.target)
    torch.testing.assert_close(phase.branches[0].loss(observation)["hard"], own.detach(), rtol=1e-12, atol=0)
    assert not torch.allclose(cross_entropy(fed, batch.target), own)


def test_beta_zero_trains_every_section_in_a_branch_of_its_own(
    teacher: SectionedModel,
    student: SectionedModel,
    batch: Batch,
    ready: Ready,
    seen: Seen,
    gradients: Gradients,
) -> None:
    phase = ready(lit(teacher, student, **PHASES, beta=0.0))
    observation = seen(phase, batch)
    assert [branch.name for branch in phase.branches] == ["layer1", "layer2", "layer3"]
    for branch in phase.branches:
        ours = gradients(phase, observation, branch)
        assert reached(ours) == {branch.name}
        assert all(
            ours[name] is not None
            for name, _ in student.model.named_parameters()
            if section_of(name) == branch.name
        )


def test_the_branches_together_have_the_gradient_of_the_joint_loss_at_beta_zero(
    teacher: SectionedModel,
    student: SectionedModel,
    batch: Batch,
    ready: Ready,
    seen: Seen,
    gradients: Gradients,
) -> None:
    weights = [1.0, 3.0, 0.5]
    phase = ready(lit(teacher, student, **PHASES, beta=0.0, weights=weights, loss_scale=0.5))
    observation = seen(phase, batch)
    apart = [gradients(phase, observation, branch) for branch in phase.branches]
    student.zero_grad()
    joint = lit_loss(
        [section(observation.irs[i]) for i, section in enumerate(student.sections)],
        observation.irs[1:],
        student(batch.images),
        observation.logits,
        batch.target,
        alpha=0.95,
        beta=0.0,
        tau=6.0,
        weights=weights,
        scale=0.5,
    )
    joint.total.backward()
    trained = {name: p.grad for name, p in student.model.named_parameters() if p.requires_grad}
    assert set(map(section_of, trained)) == {"layer1", "layer2", "layer3"}
    for name, gradient in trained.items():
        (ours,) = [given[name] for given in apart if given[name] is not None]
        torch.testing.assert_close(ours, gradient, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("section", [0, 1, 2])
def test_ir_term_i_gives_gradient_to_section_i_only(
    section: int,
    teacher: SectionedModel,
    student: SectionedModel,
    batch: Batch,
    ready: Ready,
    seen: Seen,
    gradients: Gradients,
) -> None:
    weights = [2.0 if i == section else 1.0 for i in range(3)]
    plain = ready(lit(teacher, student, **PHASES, beta=0.5))
    observation = seen(plain, batch)
    before = gradients(plain, observation)
    after = gradients(ready(lit(teacher, student, **PHASES, beta=0.5, weights=weights)), observation)
    moved = {
        section_of(name)
        for name, gradient in before.items()
        if gradient is not None and not torch.allclose(gradient, after[name], rtol=1e-9, atol=1e-14)
    }
    assert moved == {f"layer{section + 1}"}


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_beta_one_with_everything_trainable_is_plain_kd_and_with_alpha_one_plain_cross_entropy(
    alpha: float,
    teacher: SectionedModel,
    student: SectionedModel,
    batch: Batch,
    ready: Ready,
    seen: Seen,
    gradients: Gradients,
) -> None:
    ours = ready(lit(teacher, student, **PHASES, alpha=alpha, tau=4.0, beta=1.0))
    plain = ready(kd(teacher, student, distill=SCHEDULE, alpha=alpha, tau=4.0))  # lets every parameter train
    observation = seen(ours, batch)
    together, alone = gradients(ours, observation), gradients(plain, observation)
    assert reached(together) == {"conv1", "bn1", "layer1", "layer2", "layer3", "linear"}
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-15)
    if alpha == 1.0:
        theirs = torch.autograd.grad(cross_entropy(student(batch.images), batch.target), student.parameters())
        torch.testing.assert_close(list(together.values()), list(theirs), rtol=1e-10, atol=1e-12)


def test_the_students_first_section_sees_its_own_stems_output(
    teacher: SectionedModel, student: SectionedModel, batch: Batch, ready: Ready, seen: Seen
) -> None:
    phase = ready(lit(teacher, student, **PHASES))
    assert torch.equal(seen(phase, batch).irs[0], student.stem(batch.images))


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_loss_scale_scales_every_gradient_of_both_phases(
    beta: float,
    teacher: SectionedModel,
    student: SectionedModel,
    batch: Batch,
    seen: Seen,
    ready: Ready,
    gradients: Gradients,
) -> None:
    whole, half = (lit(teacher, student, **PHASES, beta=beta, loss_scale=scale) for scale in (1.0, 0.5))
    for _ in ("sections", "finetune"):
        phases = ready(whole), ready(half)
        observation = seen(phases[0], batch)
        for branches in zip(phases[0].branches, phases[1].branches, strict=True):
            full, halved = (gradients(p, observation, b) for p, b in zip(phases, branches, strict=True))
            expected = {name: None if g is None else 0.5 * g for name, g in full.items()}
            assert reached(full)
            torch.testing.assert_close(halved, expected, rtol=1e-12, atol=1e-15)


def test_only_the_sections_of_the_student_may_take_a_gradient_in_either_phase(
    teacher: SectionedModel,
    student: SectionedModel,
    batch: Batch,
    ready: Ready,
    seen: Seen,
    gradients: Gradients,
) -> None:
    phases = lit(teacher, student, **PHASES)
    for _ in ("sections", "finetune"):
        phase = ready(phases)
        assert reached(gradients(phase, seen(phase, batch))) == {"layer1", "layer2", "layer3"}
        assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())


def test_observing_keeps_no_graph(
    teacher: SectionedModel, student: SectionedModel, batch: Batch, ready: Ready, seen: Seen
) -> None:
    observation = seen(ready(lit(teacher, student, **PHASES, beta=0.0)), batch)
    assert not any(tensor.requires_grad for tensor in [*observation.irs, observation.logits])


def test_a_branch_owns_what_its_loss_trains(teacher: SectionedModel, student: SectionedModel) -> None:
    phase = next(lit(teacher, student, **PHASES, beta=0.0))
    owned: list[Branch] = list(phase.branches)
    for branch, section in zip(owned, student.sections, strict=True):
        assert {id(p) for p in branch.params} == {id(p) for p in section.parameters()}
