"""Network slimming (Liu, Li, Shen, Huang, Yan, Zhang; ICCV 2017)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

from torch import Tensor

from litfast.methods._kd import distill_phase
from litfast.methods._scratch import scratch
from litfast.models import _slim
from litfast.models.inference import Observer
from litfast.models.sectioned import SectionedModel
from litfast.ops import channel_l1
from litfast.phase import Losses, Phase, Schedule


def slimming(
    teacher: SectionedModel,
    student: SectionedModel,
    *,
    sparse: Schedule,
    finetune: Schedule,
    removed: float = 0.4,
    strength: float = 1e-4,
    multiple: int = 1,
    alpha: float = 1.0,
    tau: float = 4.0,
    observer: Observer | None = None,
    rehearsal: bool = False,
) -> Iterator[Phase]:
    """Remove the channels whose batch-norm scales training has made small.

    The student begins as a copy of the teacher. With g the scales of the batch norms that choose channels:

        sparse     L = task + strength * sum |g|
        surgery    one threshold over all |g|; the fraction `removed` goes; a smaller dense network is built
        finetune   L = task

        task = alpha CE(target, softmax(z_S)) + (1 - alpha) tau^2 CE(softmax(z_T/tau), softmax(z_S/tau))

    The paper has no teacher (alpha = 1) and begins the sparse phase from random weights; here the network
    that is compressed is a model of its own, so that it stands beside the small one in every result. `chain`
    makes the paper's passes: each student is the teacher of the next.

    Args:
        teacher: the network before compression, frozen: a ResNet, PreResNet or VGG made by `create`.
        student: the same network; it becomes the small one.
        sparse: schedule of the training with the penalty; 0 epochs skip it.
        finetune: schedule of the small network.
        removed: fraction of the channels that go, at least 0 and below 1.
        strength: s, of the penalty; 1e-4 for VGG, 1e-5 for ResNets in the paper.
        multiple: every layer keeps a multiple of this many channels, or all of them: 8 suits the vectors of
            AVX2, 16 those of AVX-512; 1 is the paper's choice by single channels.
        alpha: weight of the hard-label term; 1 leaves the teacher out, 0 needs no label.
        tau: temperature.
        observer: how the teacher is run, e.g. `Inference(teacher)`; None: as it is.
        rehearsal: the phases are only tried, and the scales are not those that training will give: every
            layer then loses the same fraction.

    Raises:
        ValueError: `removed` or `alpha` out of range, another network as the student, a network that cannot
            be slimmed; after the sparse phase, a fraction that would empty a layer.

    Source: Learning Efficient Convolutional Networks through Network Slimming, section 3 and equation 1.
    """
    _check(teacher, student, removed, strength, alpha)
    if multiple < 1:
        raise ValueError(f"slimming: multiple must be at least 1, got {multiple}")

    def task(name: str, schedule: Schedule) -> Phase:
        if alpha == 1:
            return replace(next(scratch(student, train=schedule, name=name)), frozen=(teacher,))
        options: dict[str, Any] = {"soft": "ce", "label_smoothing": 0.0, "loss_scale": 1.0}
        watched = {"alpha": alpha, "tau": tau, "observer": observer or teacher, **options}
        return distill_phase(name, teacher, student, (student,), schedule, **watched)

    student.become(deepcopy(teacher))
    yield _penalised(task("sparse", sparse), _slim.scales(student), strength)
    kept = (_slim.evenly if rehearsal else _slim.chosen)(student, removed, multiple)
    student.become(_slim.slimmed(student, kept))
    yield task("finetune", finetune)


def _penalised(phase: Phase, scales: Sequence[Tensor], strength: float) -> Phase:
    """The phase with the penalty on top of its loss."""
    (branch,) = phase.branches

    def loss(seen: Any) -> Losses:
        losses = branch.loss(seen)
        penalty = channel_l1(scales, strength=strength)
        return {**losses, "loss": losses["loss"] + penalty, "penalty": penalty.detach()}

    return replace(phase, branches=(replace(branch, loss=loss),))


def _check(
    teacher: SectionedModel, student: SectionedModel, removed: float, strength: float, alpha: float
) -> None:
    if not 0 <= removed < 1:
        raise ValueError(f"slimming: removed must be at least 0 and below 1, got {removed}")
    if not 0 <= strength < math.inf:
        raise ValueError(f"slimming: strength must be 0 or more and finite, got {strength}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"slimming: alpha must lie in [0, 1], got {alpha}")
    if teacher.state_dict().keys() != student.state_dict().keys():
        names = [(model.spec or {}).get("name", type(model.model).__name__) for model in (teacher, student)]
        raise ValueError("slimming: student must be the teacher's network, {}, got {}".format(*names))
    _slim.cuts(teacher.model)
