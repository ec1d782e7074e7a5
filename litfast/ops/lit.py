"""`lit_loss`: every section's IR term and the KD term in one call."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from . import reference
from ._autograd import fused
from ._checks import check_fraction, check_scale, check_target_range
from ._dispatch import Call, choose
from .ir import check_irs, weights_or_ones
from .kd import check_logits, check_rows
from .reference import Coefficient, LITLoss


def lit_loss(
    student_irs: Sequence[Tensor],  # S of any shape
    teacher_irs: Sequence[Tensor],  # S, pairwise the student's shapes
    student_logits: Tensor,  # [..., K]
    teacher_logits: Tensor,  # [..., K]
    target: Tensor | None = None,  # [...] int64
    *,
    alpha: Coefficient,
    beta: Coefficient,
    tau: Coefficient,
    penalty: str = "l2",
    weights: Sequence[float] | None = None,
    soft: str = "ce",
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    scale: Coefficient = 1.0,
    backend: str = "auto",
) -> LITLoss:
    """Every section's IR term and the knowledge distillation of the logits, in one pass.

        total = scale * (beta * KD + (1 - beta) * sum_i weights_i * mean penalty(student_i - teacher_i))
        KD    = mean_rows( alpha * CE(target, p_S(1)) + (1 - alpha) * tau^2 * CE(p_T(tau), p_S(tau)) )

    `student_irs` are section outputs S_i(irs[i-1]), computed from the TEACHER's representations;
    `student_logits` come from the student's own path. Only `total` carries gradient.

    Args:
        student_irs, teacher_irs, penalty, weights: as in `ir_loss`; `[]` and `[]` leave the KD term.
        student_logits, teacher_logits, target: as in `kd_loss`.
        alpha, tau, soft, label_smoothing, ignore_index: as in `kd_loss`.
        beta: weight of the KD term in [0, 1], 1 - beta that of the IR terms; a number or a 0-d tensor.
        scale: multiplies the total (the released LIT code uses 1/2 on CIFAR).
        backend: "auto", or one of `litfast.ops.backends()`.

    Returns:
        LITLoss(total [], ir [S], soft [], hard [], correct [] int64), fp64 when an input is, fp32 otherwise.

    Raises:
        ValueError, TypeError: a shape, dtype, device, option or target is not as above.
        RuntimeError: the named backend is not installed, or a fused backend is differentiated twice.

    Source: Koratana et al., ICML 2019, section 3.
    """
    check_scale("lit_loss", scale)
    check_fraction("lit_loss", "beta", beta)
    check_irs("lit_loss", student_irs, teacher_irs, penalty, weights)
    check_rows("lit_loss", student_logits, teacher_logits)
    check_logits("lit_loss", student_logits, target, tau, alpha, soft, label_smoothing, ignore_index)
    weights = weights_or_ones(weights, student_irs)
    call = Call(
        "lit_loss",
        student_irs,
        teacher_irs,
        student_logits,
        teacher_logits,
        target,
        penalty=penalty,
        weights=weights,
        soft=soft,
        label_smoothing=label_smoothing,
        ignore_index=ignore_index,
        tau=tau,
        alpha=alpha,
        beta=beta,
        scale=scale,
    )
    if served_by := choose(backend, call):
        total, parts, correct = fused(served_by, call)
        return LITLoss(total, parts[2:], parts[0], parts[1], correct)
    check_target_range("lit_loss", target, student_logits.shape[-1], ignore_index)
    return reference.lit_loss(
        student_irs,
        teacher_irs,
        student_logits,
        teacher_logits,
        target,
        alpha=alpha,
        beta=beta,
        tau=tau,
        penalty=penalty,
        weights=weights,
        soft=soft,
        label_smoothing=label_smoothing,
        ignore_index=ignore_index,
        scale=scale,
    )
