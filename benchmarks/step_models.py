"""The models that bench_step.py trains: how they are made, what they read, and their plain torch parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from litfast.models import SectionedModel, create
from litfast.models.pairing import copy_ends

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
CHARACTERS, ALPHABET = 1014, 69
DOMAINS, PIXELS = 5, 128

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Family:
    """Models of one kind by depth.

    `inputs(batch)` draws what they read. `parts` cuts a model as a plain loop would: stem, the modules and
    the function of every section, head.
    """

    title: str
    make: Callable[[int], SectionedModel]
    inputs: Callable[[int], Tensor]
    parts: Callable[[Any], tuple[Function, Sequence[tuple[nn.Module, Function]], Function]]


def _resnet(depth: int) -> SectionedModel:
    return create("resnet20", blocks=[(depth - 2) // 6] * 3)


def _resnet_parts(model: Any) -> tuple[Function, Sequence[tuple[nn.Module, Function]], Function]:
    sections = [model.layer1, model.layer2, model.layer3]
    return (
        lambda x: F.relu(model.bn1(model.conv1(x))),
        [(section, section) for section in sections],
        lambda x: model.linear(x.mean((2, 3))),
    )


def _vdcnn_parts(model: Any) -> tuple[Function, Sequence[tuple[nn.Module, Function]], Function]:
    def pooled(section: nn.Module, x: Tensor) -> Tensor:
        out: Tensor = section(model.pool(x))
        return out

    later = [model.section2, model.section3, model.section4]
    return (
        lambda ids: model.conv1(model.embedding(ids).transpose(1, 2)),
        [(model.section1, model.section1), *((section, partial(pooled, section)) for section in later)],
        lambda x: model.fc3(F.relu(model.fc2(F.relu(model.fc1(model.kmax(x).flatten(1)))))),
    )


FAMILIES = {
    "resnet": Family(
        title="ResNet", make=_resnet, inputs=lambda b: torch.randn(b, 3, 32, 32), parts=_resnet_parts
    ),
    "vdcnn": Family(
        title="VDCNN",
        make=lambda layers: create(f"vdcnn{layers}"),
        inputs=lambda b: torch.randint(ALPHABET, (b, CHARACTERS)),
        parts=_vdcnn_parts,
    ),
    "stargan": Family(
        title="StarGAN",
        make=lambda blocks: create(f"stargan{blocks}", classes=DOMAINS),
        inputs=lambda b: torch.randn(b, 3 + DOMAINS, PIXELS, PIXELS),
        parts=lambda model: (model.down, [(model.bottleneck, model.bottleneck)], model.up),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where every contender begins, on copies: the models, and the batch that all train on."""

    family: Family
    teacher: nn.Module
    student: nn.Module
    images: Tensor  # or ids [B, L]
    target: Tensor


def make(family: Family, teacher: int, student: int, batch: int, device: torch.device) -> Start:
    """Random models, the teacher's batch norms with the statistics of random inputs, and a random batch."""
    torch.manual_seed(0)
    taught, learner = family.make(teacher), family.make(student)
    norms = [module for module in taught.modules() if isinstance(module, BATCH_NORMS)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # the plain mean over all passes
    taught.train()
    with torch.no_grad():
        for _ in range(3 if norms else 0):
            taught(family.inputs(min(32, batch)))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    copy_ends(taught, learner)
    images, target = family.inputs(batch), torch.randint(10, (batch,))
    return Start(
        family=family,
        teacher=taught.eval().to(device),
        student=learner.eval().to(device),
        images=images.to(device),
        target=target.to(device),
    )


def laid_out(images: Tensor, layout: torch.memory_format) -> Tensor:
    """Images in a memory layout; ids have none."""
    return images.contiguous(memory_format=layout) if images.ndim == 4 else images
