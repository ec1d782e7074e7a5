"""FitNets (Romero, Ballas, Kahou, Chassang, Gatta, Bengio; ICLR 2015): hints for thin deep nets."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite

import torch
from torch import nn

from litfast.methods._kd import Seen, watch
from litfast.models.inference import Observer
from litfast.models.inputs import Input
from litfast.models.regressor import example, output, regressor
from litfast.models.regressor import nonlinearity as nonlinearity_of
from litfast.models.sectioned import SectionedModel, check_sections
from litfast.ops import ir_loss, lit_loss
from litfast.phase import Branch, Coefficient, Losses, Phase, Schedule
from litfast.registry import unknown


def fitnets(
    teacher: SectionedModel,
    student: SectionedModel,
    *,
    hint: Schedule,
    distill: Schedule,
    input: Input,
    hint_section: str | int | None = None,
    guided_section: str | int | None = None,
    nonlinearity: str = "hint",
    tau: float = 3.0,
    lambda_first: float = 4.0,
    lambda_last: float = 1.0,
    observer: Observer | None = None,
) -> Iterator[Phase]:
    """Train a student up to its middle by a hint of the teacher, then whole on labels and softened logits.

    Phase "hint": h is the output of the teacher's hint section, g that of the student's guided section, r a
    regressor from the one's shape to the other's (`litfast.models.regressor`), which is trained along and
    thrown away afterwards. The student up to its guided section learns, the rest stays as it is.

        L = mean_batch 1/2 sum_elements (h - r(g))^2

    (The released code sums over one axis and takes the mean over all others, a constant factor.)

    Phase "distill": the whole student, with lambda falling from the first value to the last in a straight
    line, and no tau^2.

        L = mean_batch [ CE(target, softmax(z_S)) + lambda CE(softmax(z_T/tau), softmax(z_S/tau)) ]

    (The released code lets lambda fall by whole epochs, from the 5th to the 400th of 500.)

    Args:
        teacher: frozen; a network of any sections.
        student: with the teacher's classes, of any other depth and width.
        hint, distill: schedules of the two phases; in the paper RMSProp with a learning rate of .005, of
            which the released code's convolutions take .05.
        input: what both models read: the shapes of the two outputs are found on an example.
        hint_section, guided_section: sections by name or by number (from 1); None: the middle one, of four
            the second.
        nonlinearity: of the regressor: that of the "hint" section, or one by name (linear, relu, maxout ...).
        tau: temperature.
        lambda_first, lambda_last: weight of the teacher's term at the beginning and the end of "distill".
        observer: how the teacher is run, e.g. `Inference(teacher)`; None: as it is.

    Raises:
        ValueError: an unknown section, an option out of its range, a pair that no regressor can join.

    Source: FitNets: Hints for Thin Deep Nets, algorithm 1 and equations 2 to 4.
    """
    for name, value in (("lambda_first", lambda_first), ("lambda_last", lambda_last)):
        if not (value >= 0 and isfinite(value)):
            raise ValueError(f"fitnets: {name} must be 0 or more and finite, got {value}")
    observer = observer or teacher
    check_sections("fitnets", teacher=teacher, student=student)
    wanted = _place(teacher, "hint_section", hint_section)
    guided = _place(student, "guided_section", guided_section)
    goal, learned = example(teacher, wanted, input), example(student, guided, input)
    needed = goal.shape != learned.shape
    last = nonlinearity_of(teacher.sections[wanted - 1], nonlinearity) if needed else nn.Identity()
    who = f"fitnets: guided section {student.names[guided - 1]!r}"
    yield _hint_phase(
        teacher, student, hint, observer, regressor(goal, learned, last, who=who), wanted, guided
    )
    falling = Coefficient(lambda_first, lambda_last, epochs=distill.epochs)
    yield _distill_phase(teacher, student, distill, observer, falling, tau)


def _hint_phase(
    teacher: SectionedModel,
    student: SectionedModel,
    schedule: Schedule,
    observer: Observer,
    joint: nn.Module,
    wanted: int,
    guided: int,
) -> Phase:
    """Stage 1: section `guided` of the student behind the regressor `joint`, against section `wanted`."""

    def loss(seen: Seen) -> Losses:
        goal = seen.irs[wanted]
        learned = joint(output(student, guided, seen.images))
        return {"loss": ir_loss([learned], [goal], scale=0.5 * goal[0].numel())}

    trains = (student.stem, *student.sections[:guided], joint)
    params = tuple(nn.ModuleList(trains).parameters())
    return Phase(
        name="hint",
        model=student,
        observe=lambda batch: watch(observer, batch),
        branches=(Branch(name="guided", params=params, loss=loss, schedule=schedule, state=joint),),
        trains=trains,
        frozen=(teacher,),
        scored=False,
    )


def _distill_phase(
    teacher: SectionedModel,
    student: SectionedModel,
    schedule: Schedule,
    observer: Observer,
    falling: Coefficient,
    tau: float,
) -> Phase:
    """Stage 2: everything, with `falling` as lambda."""

    def loss(seen: Seen) -> Losses:
        logits = student(seen.images)
        wide = torch.promote_types(logits.dtype, torch.float32)
        # lit_loss weighs its two terms by alpha scale = 1 and (1 - alpha) scale = lambda / tau^2
        scale = 1 + falling.value.to(wide) / tau**2
        parts = lit_loss(
            [], [], logits, seen.logits, seen.target, alpha=1 / scale, beta=1.0, tau=tau, scale=scale
        )
        soft = parts.soft / tau**2
        return {"loss": parts.total, "soft": soft, "hard": parts.hard, "correct": parts.correct}

    params = tuple(student.parameters())
    branch = Branch(name="student", params=params, loss=loss, schedule=schedule, coefficients=(falling,))
    return Phase(
        name="distill",
        model=student,
        observe=lambda batch: watch(observer, batch),
        branches=(branch,),
        trains=(student,),
        frozen=(teacher,),
    )


def _place(model: SectionedModel, option: str, section: str | int | None) -> int:
    """The number of a section, from 1."""
    count = len(model.names)
    if section is None:
        return (count + 1) // 2
    if isinstance(section, str):
        if section not in model.names:
            raise ValueError(f"fitnets: {unknown(option, section, model.names)}")
        return model.names.index(section) + 1
    if not 1 <= section <= count:
        raise ValueError(f"fitnets: {option} must be from 1 to {count}, got {section}")
    return section
