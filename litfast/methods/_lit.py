"""LIT: Learned Intermediate-representation Training (Koratana, Kang, Bailis, Zaharia; ICML 2019)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from litfast.data.loader import Batch
from litfast.methods._kd import Seen, distill_phase, labels, watch
from litfast.methods._line import teacher_line
from litfast.methods._paths import Paths
from litfast.models.inference import Observer
from litfast.models.pairing import copy_blocks, copy_ends, copy_sections
from litfast.models.sectioned import SectionedModel, check_sections
from litfast.ops import ir_loss, lit_loss
from litfast.phase import Branch, Line, Losses, Phase, Schedule
from litfast.registry import unknown


def lit(
    teacher: SectionedModel,
    student: SectionedModel,
    *,
    sections: Schedule,
    finetune: Schedule,
    alpha: float = 0.95,
    beta: float = 0.75,
    tau: float = 6.0,
    penalty: str = "l2",
    weights: Sequence[float] | None = None,
    soft: str = "ce",
    label_smoothing: float = 0.0,
    student_init: str = "random",
    train_sections: Sequence[str] | None = None,
    copy_sections: Sequence[str] = (),
    ir_input: str = "teacher",
    noise: float = 0.0,
    bn_stats: str = "both",
    unfreeze: str = "sections",
    loss_scale: float = 1.0,
    observer: Observer | None = None,
) -> Iterator[Phase]:
    """Train a shallow student of the teacher's width section by section, then fine-tune it with KD.

    Phase "sections" (stem and head are the teacher's, copied and frozen):

        L = loss_scale * ( beta * L_KD(z_S, z_T) + (1 - beta) * sum_i w_i mean((S_i(irs[i-1]) - irs[i])^2) )

    with irs the *teacher's* intermediate representations and z_S the student's own end-to-end path.
    beta = 0 makes the sections independent: one branch each. Phase "finetune": `loss_scale * L_KD`, end to
    end.

    Args:
        teacher, student: sectioned alike; equal IR shapes, equal classes. `litfast.models.adapted` makes a
            student of other widths fit.
        sections, finetune: schedules of the two phases.
        alpha: weight of the hard-label term within L_KD.
        beta: weight of the KD term; 1 - beta on the IR terms.
        tau: temperature.
        soft: "ce", or "kl" (differs by the teacher's entropy; same gradient).
        label_smoothing: of the hard-label term.
        loss_scale: factor on the whole loss of both phases (the released CIFAR code: 1/2).
        penalty: l2 | l1 | smooth_l1 between section outputs; `weights`: one factor a trained section.
        student_init: "random" (the paper's), or "teacher": evenly spaced blocks of each teacher section.
        train_sections: names of the sections to train; the others keep their start. None: all but those of
            `copy_sections`.
        copy_sections: names of sections as deep as the teacher's, which are copied and kept: only the others
            are compressed.
        ir_input: "teacher", or "student" (the paper's ablation: each section is fed the student's own IR).
        noise: standard deviation of Gaussian noise on the sections' IR input.
        bn_stats: which path moves batch-norm statistics: "both" (own first, then teacher-IR), "ir", "own".
        unfreeze: what the fine-tuning trains: "sections" (the released CIFAR code) or "all" (its VDCNN code).
        observer: how the teacher is run, e.g. `Inference(teacher)`; None: as it is.

    Raises:
        ValueError: an unknown option value, or models that do not pair up.

    Source: LIT paper, equations 1 to 3 and section 3; options of the released code
    (stanford-futuredata/lit-code).
    """
    _one_of("lit", "unfreeze", unfreeze, ("sections", "all"))
    observer = observer or teacher
    others = [name for name in student.names if name not in copy_sections]
    first = sections_phase(
        "lit",
        teacher,
        student,
        sections,
        names=tuple(others if train_sections is None else train_sections),
        copied=tuple(copy_sections),
        kd={"alpha": alpha, "beta": beta, "tau": tau, "soft": soft, "label_smoothing": label_smoothing},
        penalty=penalty,
        weights=weights,
        loss_scale=loss_scale,
        student_init=student_init,
        ir_input=ir_input,
        noise=noise,
        bn_stats=bn_stats,
        observer=observer,
    )
    yield first
    yield distill_phase(
        "finetune",
        teacher,
        student,
        (student,) if unfreeze == "all" else first.trains,
        finetune,
        alpha=alpha,
        tau=tau,
        soft=soft,
        label_smoothing=label_smoothing,
        loss_scale=loss_scale,
        observer=observer,
    )


def sections_phase(
    who: str,
    teacher: SectionedModel,
    student: SectionedModel,
    schedule: Schedule,
    *,
    names: tuple[str, ...],
    kd: dict[str, Any],
    observer: Observer,
    penalty: str = "l2",
    weights: Sequence[float] | None = None,
    loss_scale: float = 1.0,
    student_init: str = "random",
    copied: tuple[str, ...] = (),
    ir_input: str = "teacher",
    noise: float = 0.0,
    bn_stats: str = "both",
) -> Phase:
    """LIT's first phase for the method `who`, the student's start copied from the teacher.

    Options are as in `lit`: `names` are its train_sections, `copied` its copy_sections, `kd` its options of
    the KD term.
    """
    check_sections(who, teacher=teacher, student=student)
    _one_of(who, "student_init", student_init, ("random", "teacher"))
    _one_of(who, "ir_input", ir_input, ("teacher", "student"))
    _one_of(who, "bn_stats", bn_stats, ("both", "ir", "own"))
    _check_options(who, names, student.names, weights, noise, ir_input)
    for name in copied:
        if name not in student.names or name in names:
            others = [known for known in student.names if known not in names]
            raise ValueError(f"{who}: {unknown('copy_sections', name, others)}")
    copy_ends(teacher, student)
    if student_init == "teacher":
        copy_blocks(teacher, student)
    copy_sections(teacher, student, copied)
    step = _SectionStep(
        observer=observer,
        student=student,
        names=names,
        kd=kd,
        penalty=penalty,
        weights=weights,
        loss_scale=loss_scale,
        ir_input=ir_input,
        independent=kd["beta"] == 0 and ir_input == "teacher",
        paths=Paths(
            teacher,
            student,
            chosen=[student.names.index(name) for name in names],
            ir_input=ir_input,
            noise=noise,
            bn_stats=bn_stats,
        ),
    )
    return Phase(
        name="sections",
        model=student,
        observe=step.observe,
        branches=step.branches(schedule),
        trains=step.trained,
        frozen=(teacher,),
        line=step.line(),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _SectionStep:
    """The losses of phase "sections"; options as in `lit`."""

    observer: Observer
    student: SectionedModel
    names: tuple[str, ...]
    kd: dict[str, Any]
    penalty: str
    weights: Sequence[float] | None
    loss_scale: float
    ir_input: str
    independent: bool
    paths: Paths

    @property
    def trained(self) -> tuple[nn.Module, ...]:
        return tuple(self.student.sections[i] for i in self.paths.chosen)

    def branches(self, schedule: Schedule) -> tuple[Branch, ...]:
        """One branch a section where they are independent, else one for all."""
        if self.independent:
            return tuple(self._section_branch(position, schedule) for position in range(len(self.names)))
        params = tuple(parameter for section in self.trained for parameter in section.parameters())
        return (Branch(name="student", params=params, loss=self.joint_loss, schedule=schedule),)

    def observe(self, batch: Batch) -> Seen:
        seen = watch(self.observer, batch)
        if self.independent and self.paths.own_moves:
            self.paths.move_statistics(seen)  # no gradient is taken here
        return seen

    def line(self) -> Line | None:
        """The teacher in pieces; None where a loss, or the student's own statistics, take all of it."""
        if not self.independent or self.paths.own_moves:
            return None
        of = dict(zip(self.names, self.paths.chosen, strict=True))
        return teacher_line(self.observer, len(self.student.names), of)

    def joint_loss(self, seen: Seen) -> Losses:
        if self.ir_input == "student":
            irs, logits = self.paths.own(seen)
            outputs = [irs[i + 1] for i in self.paths.chosen]
        else:
            outputs, logits = self.paths.both(seen)
        parts = lit_loss(
            outputs,
            [seen.irs[i + 1] for i in self.paths.chosen],
            logits,
            seen.logits,
            labels(seen),
            penalty=self.penalty,
            weights=self.weights,
            scale=self.loss_scale,
            **self.kd,
        )
        ir = {f"ir.{name}": value for name, value in zip(self.names, parts.ir, strict=True)}
        return {"loss": parts.total, **ir, "soft": parts.soft, "hard": parts.hard, "correct": parts.correct}

    def _section_branch(self, position: int, schedule: Schedule) -> Branch:
        i = self.paths.chosen[position]
        factor = self.loss_scale * (1.0 if self.weights is None else self.weights[position])

        def loss(seen: Seen) -> Losses:
            student_irs, teacher_irs = [self.paths.on_teacher_ir(i, seen)], [seen.irs[i + 1]]
            scaled = ir_loss(student_irs, teacher_irs, penalty=self.penalty, scale=factor)
            return {"loss": scaled, "ir": scaled.detach() / (factor or 1.0)}

        params = tuple(self.student.sections[i].parameters())
        # own statistics move at the end of `observe`; without them a section may start once its IRs are there
        needs = None if self.paths.own_moves else self.observer.sections[i]
        return Branch(name=self.names[position], params=params, loss=loss, schedule=schedule, needs=needs)


def _one_of(who: str, option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{who}: {unknown(option, value, known)}")


def _check_options(
    who: str,
    trained: tuple[str, ...],
    names: tuple[str, ...],
    weights: Sequence[float] | None,
    noise: float,
    ir_input: str,
) -> None:
    for name in trained:
        if name not in names:
            raise ValueError(f"{who}: {unknown('train_sections', name, names)}")
    if not trained or len(set(trained)) < len(trained):
        raise ValueError(
            f"{who}: train_sections must name at least one section, each once, got {list(trained)}"
        )
    if weights is not None and len(weights) != len(trained):
        raise ValueError(
            f"{who}: weights must hold one number a trained section ({len(trained)}), got {list(weights)}"
        )
    if noise < 0:
        raise ValueError(f"{who}: noise must be 0 or more, got {noise}")
    if noise and ir_input == "student":
        raise ValueError(
            f"{who}: noise must be 0 with ir_input 'student', which feeds no teacher IR, got {noise}"
        )
