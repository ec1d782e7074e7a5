"""MetaDistiller (Liu, Rao, Lu, Zhou, Hsieh; ECCV 2020): a network distilled into its own shallow sections."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from litfast.data.loader import IGNORED, Batch
from litfast.fields import rows
from litfast.methods._draws import outside
from litfast.methods._virtual_step import Theta, after_virtual_step
from litfast.models.auxiliary import Exits, LabelGenerator, Outputs, SelfTaught, feature_shapes
from litfast.models.inputs import Input
from litfast.models.sectioned import SectionedModel
from litfast.ops import kd_loss
from litfast.phase import Branch, Losses, Phase, Schedule

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def metadistiller(
    student: SectionedModel,
    *,
    train: Schedule,
    input: Input,
    alpha: float = 0.5,
    tau: float = 3.0,
    weights: Sequence[float] | None = None,
    width: int = 64,
    eta: float = 0.1,
    every: int = 1,
    second_order: bool = True,
    generator_lr: float = 1e-3,
) -> Iterator[Phase]:
    """Train one network with soft targets that its deeper sections make for its shallower ones.

    theta are the parameters of the network and of an auxiliary head behind each section but the last, phi
    those of the label generator, which fuses the deeper sections' feature maps top-down into one target q_i
    for each head (`litfast.models.auxiliary` draws both). With the exits' logits z_1 .. z_S, z_S the
    network's own, and the labels y:

        L(theta, q) = CE(y, z_S) + sum_{i<S} w_i [ alpha CE(y, z_i) + (1 - alpha) tau^2 CE(q_i/tau, z_i/tau) ]

    (mean over the batch; softmaxes left out). A step has two branches:

        generator   theta'(phi) = theta - eta dL(theta, q(phi)) / dtheta        on the first half of the batch
                    phi <- Adam on dL_out/dphi,  L_out = CE(y, z_S) at theta'   on the second half
        student     theta <- a step on L(theta, q(phi)), q detached             on the whole batch

    q reads feature maps that are held constant, in both. Heads and generator live in the phase's model, so
    checkpoints have them; the student has neither, before and after.

    The reading: of the paper only the abstract was at hand (better targets by a label generator that fuses
    deeper feature maps top-down, optimised by meta-learning). Chosen here are: the heads' layers; targets
    that correct z_S; a virtual step of plain gradient descent, on one half of the batch and judged on the
    other, so that a target is worth what it does for samples that it was not made for, at half the cost; and
    an outer loss of what is kept, the network's own logits. In the virtual step batch norm uses the
    statistics of the half batch, and the running ones do not move: only the student's branch moves them. With
    `accumulate` each part of the batch is halved.

    Args:
        student: any network of two or more sections that give feature maps [B, C, H, W]; all of it trains.
        train: schedule of the only phase; the generator follows its epochs and its shape, by Adam without
            weight decay.
        input: what the student reads.
        alpha: weight of the hard-label term of the auxiliary heads; at 1 they learn from labels alone.
        tau: temperature.
        weights: one factor w_i an auxiliary head; None: all 1.
        width: channels of the label generator.
        eta: step size of the virtual step.
        every: the generator trains at every n-th step, the first included.
        second_order: the exact gradient, through the inner gradient; False: first derivatives only, a
            difference along the outer gradient, of which `after_virtual_step` says what it drops.
        generator_lr: peak learning rate of the generator.

    Raises:
        ValueError: an option out of its range, a student without auxiliary heads, a batch of one.

    Source: Liu et al., "MetaDistiller: Network Self-Boosting via Meta-Learned Top-Down Distillation", ECCV
    2020, abstract.
    """
    shapes, classes = feature_shapes(student, input)
    factors = (1.0,) * (len(shapes) - 1) if weights is None else tuple(weights)
    _check(student, alpha, tau, factors, len(shapes) - 1, width, eta, every, second_order)
    step = _Step(
        exits=Exits(student, shapes, classes).to(next(student.parameters())),
        generator=LabelGenerator(shapes, classes, width).to(next(student.parameters())),
        alpha=alpha,
        tau=tau,
        weights=factors,
        eta=eta,
        second_order=second_order,
    )
    meta = Branch(
        name="generator",
        params=tuple(step.generator.parameters()),
        loss=outside(step.generator_loss),  # compiled code cannot be differentiated twice
        schedule=replace(train, optimizer="adam", lr=generator_lr, weight_decay=0.0, clip=None),
        every=every,
    )
    plain = Branch(
        name="student",
        params=tuple(step.exits.parameters()),
        loss=step.student_loss,
        schedule=train,
        after=("generator",),
    )
    yield Phase(
        name="train",
        model=SelfTaught(step.exits, step.generator),
        observe=lambda batch: batch,
        branches=(meta, plain),
        trains=(step.exits, step.generator),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Step:
    """The losses of both branches; options as in `metadistiller`."""

    exits: Exits
    generator: LabelGenerator
    alpha: float
    tau: float
    weights: tuple[float, ...]
    eta: float
    second_order: bool

    def generator_loss(self, batch: Batch) -> Losses:
        """L_out at theta', a function of phi."""
        if len(batch.target) < 2:
            raise ValueError(
                f"metadistiller: batch must hold 2 or more samples (one half teaches, one judges), "
                f"got {len(batch.target)}"
            )
        size = len(batch.target)
        taught, judged = Batch(*rows(batch, 0, -(-size // 2))), Batch(*rows(batch, -(-size // 2), size))
        loss = after_virtual_step(
            dict(self.exits.named_parameters()),
            run=lambda theta: self._virtual(theta, taught.images),
            teach=self._targets,
            inner=lambda seen, targets: self._loss(seen, targets, taught.target, backend="reference")[0],
            outer=lambda theta: _hard(self._virtual(theta, judged.images).logits[-1], judged.target),
            eta=self.eta,
            second_order=self.second_order,
        )
        return {"loss": loss}

    def student_loss(self, batch: Batch) -> Losses:
        """L(theta, q), q detached."""
        seen = self.exits(batch.images)
        with torch.no_grad():
            targets = self._targets(seen)
        total, hard, auxiliary = self._loss(seen, targets, batch.target, backend="auto")
        correct = (seen.logits[-1].detach().argmax(-1) == batch.target).sum()
        names = self.exits.student.names
        parts = {f"auxiliary.{n}": loss.detach() for n, loss in zip(names, auxiliary, strict=False)}
        return {"loss": total, "hard": hard.detach(), **parts, "correct": correct}

    def _targets(self, seen: Outputs) -> list[Tensor]:
        targets: list[Tensor] = self.generator([ir.detach() for ir in seen.irs], seen.logits[-1].detach())
        return targets

    def _virtual(self, theta: Theta, images: Tensor) -> Outputs:
        """All exits at theta, with batch statistics; the running ones move on copies."""
        buffers = {name: buffer.clone() for name, buffer in self.exits.named_buffers()}
        seen: Outputs = functional_call(self.exits, theta | buffers, (images,))
        return seen

    def _loss(
        self, seen: Outputs, targets: Sequence[Tensor], labels: Tensor, *, backend: str
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """L, its first term, and the terms of the auxiliary heads."""
        hard = _hard(seen.logits[-1], labels)
        auxiliary = [
            kd_loss(z, q, labels, tau=self.tau, alpha=self.alpha, scale=weight, backend=backend)
            for z, q, weight in zip(seen.logits, targets, self.weights, strict=False)
        ]
        return hard + sum(auxiliary), hard, auxiliary


def _hard(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy, the mean over the samples that are no padding; 0 where all are."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    total = cross_entropy(wide, target, ignore_index=IGNORED, reduction="sum")
    return total / (target != IGNORED).sum().clamp_min(1)


def _check(
    student: SectionedModel,
    alpha: float,
    tau: float,
    weights: tuple[float, ...],
    heads: int,
    width: int,
    eta: float,
    every: int,
    second_order: bool,
) -> None:
    if not 0 <= alpha <= 1:
        raise ValueError(f"metadistiller: alpha must lie between 0 and 1, got {alpha}")
    for name, number in {"tau": tau, "eta": eta}.items():
        if not (number > 0 and math.isfinite(number)):
            raise ValueError(f"metadistiller: {name} must be positive and finite, got {number}")
    for name, count in {"width": width, "every": every}.items():
        if count < 1:
            raise ValueError(f"metadistiller: {name} must be at least 1, got {count}")
    if len(weights) != heads or not all(w >= 0 and math.isfinite(w) for w in weights):
        raise ValueError(
            f"metadistiller: weights must hold one number of 0 or more an auxiliary head ({heads}), "
            f"got {list(weights)}"
        )
    if not second_order and any(isinstance(module, DROPOUTS) for module in student.modules()):
        raise ValueError(
            "metadistiller: second_order must be true for a student with dropout, whose two runs differ by "
            "their random numbers, got false"
        )
