"""Auxiliary heads behind a network's shallower sections, and a generator of soft targets for them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from litfast.models._modes import evaluating
from litfast.models.inputs import Input
from litfast.models.sectioned import SectionedModel

Shape = tuple[int, int, int]  # [C, H, W] of a feature map


class Outputs(NamedTuple):
    """What all exits of a network of S sections make of a batch."""

    irs: list[Tensor]  # S + 1 feature maps, irs[i] the output of section i
    logits: list[Tensor]  # S times [B, K]: of the auxiliary heads 1 .. S-1, then the network's own


class Exits(nn.Module):
    """A network with an auxiliary head behind each section but the last: S exits in one pass.

    The head of section i brings the feature map to the size and width of each deeper section's in turn, by a
    3x3 convolution, batch norm and ReLU, then pools it and classifies. It owns nothing of the network, whose
    weights and keys are those that it has without heads.

    Args:
        student: the network; its section outputs are feature maps.
        shapes: of its section outputs, as `feature_shapes` says.
        classes: width of the logits, K.
    """

    def __init__(self, student: SectionedModel, shapes: Sequence[Shape], classes: int) -> None:
        super().__init__()
        self.student = student
        self.heads = nn.ModuleList(_head(shapes[i:], classes) for i in range(len(shapes) - 1))

    def forward(self, x: Tensor) -> Outputs:
        irs, logits = self.student.observe(x)
        auxiliary = [head(ir) for head, ir in zip(self.heads, irs[1:-1], strict=True)]
        return Outputs(irs, [*auxiliary, logits])


class LabelGenerator(nn.Module):
    """Soft targets for every auxiliary head, from the feature maps of the sections deeper than it, top-down.

        p_S = lateral_S(irs[S])
        p_j = lateral_j(irs[j]) + upsample(p_{j+1})                     j = S-1 .. 2
        q_i = z_S + linear_i(pool(relu(p_{i+1})))                       i = 1 .. S-1

    with 1x1 convolutions as laterals, the nearest pixel for upsampling, and the network's own logits z_S,
    which the maps correct: linear_i starts from 0, so the first targets are z_S itself. No batch norm: it has
    no state but its parameters.

    Args:
        shapes: of the network's S section outputs, as `feature_shapes` says.
        classes: width of the logits, K.
        width: channels of all p_j.
    """

    def __init__(self, shapes: Sequence[Shape], classes: int, width: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(shape[0], width, 1) for shape in shapes[1:])
        linears = [nn.Linear(width, classes) for _ in shapes[1:]]
        for linear in linears:
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        self.linears = nn.ModuleList(linears)

    def forward(self, irs: Sequence[Tensor], logits: Tensor) -> list[Tensor]:
        """The targets of the auxiliary heads, in their order.

        Args:
            irs: S + 1 feature maps; the stem's and the first section's are not read.
            logits: [B, K], the network's own.

        Returns:
            S - 1 times [B, K] logits, at least fp32.
        """
        # a half-precision target would add up its gradients in half precision
        own = logits.to(torch.promote_types(logits.dtype, torch.float32))
        targets: list[Tensor] = []
        above: Tensor | None = None
        for lateral, linear, ir in reversed(list(zip(self.laterals, self.linears, irs[2:], strict=True))):
            here = lateral(ir)
            above = here if above is None else here + F.interpolate(above, size=here.shape[-2:])
            targets.insert(0, own + linear(F.relu(above).mean((2, 3))))
        return targets


class SelfTaught(nn.Module):
    """A network in training with its heads and their label generator; called, it is the network alone."""

    def __init__(self, exits: Exits, generator: LabelGenerator) -> None:
        super().__init__()
        self.exits = exits
        self.generator = generator

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.exits.student(x)
        return logits


@torch.no_grad()
def feature_shapes(student: SectionedModel, input: Input) -> tuple[list[Shape], int]:
    """The shapes [C, H, W] of all S section outputs, and the number of classes; nothing is left changed.

    Args:
        input: what the network reads.

    Raises:
        ValueError: fewer than two sections, an output that is no feature map, or logits that are not [B, K].
    """
    if len(student.names) < 2:
        raise ValueError(
            "auxiliary: student must have at least 2 sections (no head stands behind the last), "
            f"got {len(student.names)}"
        )
    like = next(student.parameters())
    with evaluating(student):
        irs, logits = student.observe(
            input.example(2, generator=torch.Generator(), device=like.device, dtype=like.dtype)
        )
    for name, ir in zip(student.names, irs[1:], strict=True):
        if ir.dim() != 4:
            raise ValueError(
                f"auxiliary: student section {name!r} must give feature maps [B, C, H, W], "
                f"got {list(ir.shape)}"
            )
    if logits.dim() != 2:
        raise ValueError(f"auxiliary: student must return logits [B, K], got {list(logits.shape)}")
    return [(ir.shape[1], ir.shape[2], ir.shape[3]) for ir in irs[1:]], logits.shape[1]


def _head(shapes: Sequence[Shape], classes: int) -> nn.Sequential:
    """From a map of shapes[0] through maps of the others to logits."""
    layers: list[nn.Module] = []
    for (C, H, W), (deeper, h, w) in pairwise(shapes):
        stride = (max(H // h, 1), max(W // w, 1))
        layers += [
            nn.Conv2d(C, deeper, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(deeper),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(shapes[-1][0], classes))
