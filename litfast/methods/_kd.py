"""Knowledge distillation (Hinton, Vinyals, Dean 2015): LIT with beta = 1 and everything trainable."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from litfast.carried import carried
from litfast.data.loader import UNLABELLED, Batch
from litfast.models.inference import Observer
from litfast.models.sectioned import SectionedModel
from litfast.ops import lit_loss
from litfast.phase import Branch, Losses, Phase, Schedule


class Seen(NamedTuple):
    """A batch and what the teacher makes of it."""

    images: Tensor  # [B, C, H, W]
    target: Tensor  # [B]
    irs: list[Tensor]  # S + 1: stem output, then every section's output
    logits: Tensor  # [B, K]


def kd(
    teacher: SectionedModel,
    student: SectionedModel,
    *,
    distill: Schedule,
    alpha: float = 0.95,
    tau: float = 6.0,
    soft: str = "ce",
    label_smoothing: float = 0.0,
    loss_scale: float = 1.0,
    observer: Observer | None = None,
) -> Iterator[Phase]:
    """Train the whole student on labels and on the teacher's softened logits.

        L = loss_scale * mean_batch[ alpha CE(target, softmax(z_S))
                                     + (1 - alpha) tau^2 CE(softmax(z_T/tau), softmax(z_S/tau)) ]

    Args:
        teacher: frozen; only its logits are used.
        student: any model with the teacher's classes, all of it trains.
        distill: schedule of the only phase.
        alpha: weight of the hard-label term (other papers put it on the soft one).
        tau: temperature.
        soft: "ce", or "kl" (differs by the teacher's entropy; same gradient).
        label_smoothing: of the hard-label term.
        loss_scale: factor on the whole loss.
        observer: how the teacher is run, e.g. `Inference(teacher)`; None: as it is.

    Source: Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", 2015, section 2.
    """
    yield distill_phase(
        "distill",
        teacher,
        student,
        (student,),
        distill,
        alpha=alpha,
        tau=tau,
        soft=soft,
        label_smoothing=label_smoothing,
        loss_scale=loss_scale,
        observer=observer or teacher,
    )


def watch(observer: Observer, batch: Batch) -> Seen:
    """The teacher's forward on a batch."""
    irs, logits = observer.observe(batch.images)
    return Seen(batch.images, batch.target, irs, logits)


def labels(seen: Seen) -> Tensor:
    """The target [B]; where a sample has none, the class that the teacher takes it for."""
    return torch.where(seen.target == UNLABELLED, seen.logits.argmax(-1), seen.target)


def distill_phase(
    name: str,
    teacher: SectionedModel,
    student: SectionedModel,
    trains: tuple[nn.Module, ...],
    schedule: Schedule,
    *,
    alpha: float,
    tau: float,
    soft: str,
    label_smoothing: float,
    loss_scale: float,
    observer: Observer,
) -> Phase:
    """KD end to end; only the parameters of the modules in `trains` move."""

    def loss(seen: Seen) -> Losses:
        parts = lit_loss(
            [],
            [],
            student(seen.images),
            seen.logits,
            labels(seen),
            alpha=alpha,
            beta=1.0,
            tau=tau,
            soft=soft,
            label_smoothing=label_smoothing,
            scale=loss_scale,
        )
        return {"loss": parts.total, "soft": parts.soft, "hard": parts.hard, "correct": parts.correct}

    params = tuple(parameter for module in trains for parameter in module.parameters())
    branch = Branch(
        name="student", params=params, loss=loss, schedule=schedule, state=carried(teacher, student)
    )
    return Phase(
        name=name,
        model=student,
        observe=lambda batch: watch(observer, batch),
        branches=(branch,),
        trains=trains,
        frozen=(teacher,),
    )
