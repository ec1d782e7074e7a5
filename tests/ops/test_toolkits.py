"""The conventions against the toolkits themselves, where they are installed, in value and gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from litfast.ops import kd_loss

ALPHA, TAU = 0.3, 4.0
# Liger and torchdistill import what torch and Python call deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

Logits = tuple[Tensor, Tensor, Tensor]


@pytest.fixture
def logits() -> Logits:
    generator = torch.Generator().manual_seed(0)
    student, teacher = 3 * torch.randn(2, 17, 41, generator=generator)
    return student.requires_grad_(), teacher, torch.randint(41, (17,), generator=generator)


def agree(ours: Callable[[], Tensor], theirs: Callable[[], Tensor], student: Tensor) -> None:
    values = ours(), theirs()
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*(torch.autograd.grad(value, student)[0] for value in values))


@pytest.mark.parametrize("alpha", [ALPHA, 1.0, 0.0])
def test_torchdistill_has_our_value_and_gradient(alpha: float, backend: str, logits: Logits) -> None:
    pytest.importorskip("torchdistill")
    from torchdistill.losses.mid_level import KDLoss

    student, teacher, target = logits
    module = KDLoss("fc", "output", "fc", "output", temperature=TAU, alpha=alpha)
    options = {"tau": TAU, "alpha": alpha, "convention": "torchdistill", "backend": backend}
    agree(
        lambda: kd_loss(student, teacher, target, **options),
        lambda: module({"fc": {"output": student}}, {"fc": {"output": teacher}}, target),
        student,
    )


@pytest.mark.parametrize("masked", [False, True], ids=["all rows", "masked"])
def test_ligers_fused_linear_distillation_has_our_value_and_gradient(
    masked: bool, backend: str, logits: Logits
) -> None:
    """Its JSD at beta 0 is KL(teacher || student) without tau^2, weighted by two numbers of its own."""
    pytest.importorskip("liger_kernel")
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    student, teacher, target = logits
    if masked:
        target[::3] = -100
    module = LigerFusedLinearJSDLoss(ALPHA, (1 - ALPHA) * TAU**2, beta=0.0, temperature=TAU, compiled=False)
    one = torch.eye(41)
    options = {"tau": TAU, "alpha": ALPHA, "soft": "kl", "backend": backend}
    agree(
        lambda: kd_loss(student, teacher, target, **options),
        lambda: module(student, one, teacher, one, target),
        student,
    )


def test_ligers_pipeline_of_divergence_and_cross_entropy_has_our_value_and_gradient(
    triton: str, logits: Logits
) -> None:
    """Through Triton's interpreter, which cannot run LigerKLDIVLoss: its kernel calls a method of a float."""
    pytest.importorskip("liger_kernel")
    from liger_kernel.transformers import LigerJSD

    student, teacher, target = logits
    divergence = LigerJSD(beta=0.0)

    def theirs() -> Tensor:
        kl = divergence(F.log_softmax(student / TAU, -1), F.log_softmax(teacher / TAU, -1))
        return ALPHA * F.cross_entropy(student, target) + (1 - ALPHA) * TAU**2 * kl

    options = {"tau": TAU, "alpha": ALPHA, "convention": "torchdistill", "backend": triton}
    agree(lambda: kd_loss(student, teacher, target, **options), theirs, student)
