"""`kd_loss`: knowledge distillation on logits, hard and soft term."""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference
from ._autograd import fused
from ._checks import check_choice, check_fraction, check_pair, check_scale, check_target_range, check_tau
from ._dispatch import Call, choose
from .reference import Coefficient

SOFT = ("ce", "kl")
REDUCTIONS = ("mean", "sum", "none")
CONVENTIONS = ("lit", "hinton", "torchdistill", "mdistiller", "deit")


def kd_loss(
    student_logits: Tensor,  # [..., K]
    teacher_logits: Tensor,  # [..., K]
    target: Tensor | None = None,  # [...] int64
    *,
    tau: Coefficient,
    alpha: Coefficient,
    soft: str = "ce",
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: str = "mean",
    convention: str = "lit",
    scale: Coefficient = 1.0,
    backend: str = "auto",
) -> Tensor:
    """Knowledge distillation between two sets of logits.

        row  = alpha * CE(target, p_S(1)) + (1 - alpha) * tau^2 * CE(p_T(tau), p_S(tau))
        loss = scale * mean_rows(row),   p(tau) = softmax(logits / tau)

    alpha weights the HARD term (other papers flip it). A row whose target is `ignore_index` counts in neither
    term, gets gradient 0 and is no part of the mean; without a valid row the loss is 0.

    Args:
        student_logits: [..., K], float32, float64, bfloat16 or float16.
        teacher_logits: [..., K], any of these dtypes; served without gradient unless backend="reference".
        target: [...] int64 classes; may be None when alpha is the number 0. Out of range it is an error on
            the CPU. On a GPU nothing waits to look at it: a fused backend turns the row's loss and gradient
            to NaN (Triton stops the kernel under TRITON_DEBUG=1), the reference asserts on the device.
        tau: temperature, a positive number or a 0-d tensor. Tensors are not read, so not checked.
        alpha: weight of the hard term in [0, 1], a number or a 0-d tensor.
        soft: "ce", or "kl", which subtracts the teacher's entropy: another value, the same gradient. The
            other conventions are all "kl".
        label_smoothing: share of the hard target that is spread over all K classes.
        ignore_index: the target that masks a row.
        reduction: "mean" over the valid rows, "sum", or "none" for a loss of shape [...].
        convention: what alpha weights and how the soft term is scaled. With H the hard and S the soft (KL)
            term, each a mean over rows: "lit", the formula above; "hinton", (1 - alpha) H + alpha tau^2 S;
            "torchdistill", alpha H + (1 - alpha) tau^2 S, but S alone when alpha is the number 0 or target
            is None; "mdistiller", alpha H + (1 - alpha) tau^2 S; "deit", (1 - alpha) H + alpha tau^2 S / K.
        scale: multiplies the loss; costs nothing here, unlike a factor outside.
        backend: "auto", or one of `litfast.ops.backends()`.

    Returns:
        [] (or [...] for reduction="none"), fp64 when an input is fp64, fp32 otherwise.

    Raises:
        ValueError, TypeError: a shape, dtype, device, option or target is not as above.
        RuntimeError: the named backend is not installed, or a fused backend is differentiated twice.

    Source: Hinton et al. 2015; Koratana et al., ICML 2019, section 3.
    """
    check_choice("kd_loss", "convention", convention, CONVENTIONS)
    check_choice("kd_loss", "reduction", reduction, REDUCTIONS)
    check_scale("kd_loss", scale)
    check_fraction("kd_loss", "alpha", alpha)
    check_rows("kd_loss", student_logits, teacher_logits)
    if convention != "lit":
        check_tau("kd_loss", tau)
        alpha, factor = _as_lit(convention, alpha, tau, student_logits.shape[-1], target is None)
        soft, scale = "kl", scale * factor
    check_logits("kd_loss", student_logits, target, tau, alpha, soft, label_smoothing, ignore_index)
    call = Call(
        "kd_loss",
        (),
        (),
        student_logits,
        teacher_logits,
        target,
        soft=soft,
        label_smoothing=label_smoothing,
        ignore_index=ignore_index,
        reduction=reduction,
        tau=tau,
        alpha=alpha,
        beta=1.0,
        scale=scale,
    )
    if served_by := choose(backend, call):
        return fused(served_by, call)[0]
    check_target_range("kd_loss", target, student_logits.shape[-1], ignore_index)
    return reference.kd_loss(
        student_logits,
        teacher_logits,
        target,
        tau=tau,
        alpha=alpha,
        soft=soft,
        label_smoothing=label_smoothing,
        ignore_index=ignore_index,
        reduction=reduction,
        scale=scale,
    )


def _as_lit(
    convention: str, alpha: Coefficient, tau: Coefficient, K: int, unlabelled: bool
) -> tuple[Coefficient, Coefficient]:
    """alpha and scale with which the formula of "lit" gives that of another convention: its two weights a
    (hard) and b (soft, times tau^2) are a = alpha' scale' and b = (1 - alpha') scale'."""
    hard, soft = alpha, 1 - alpha
    if convention in ("hinton", "deit"):
        hard, soft = soft, hard
    if convention == "deit":  # its KL is a mean over all B K elements
        soft = soft / K
    if convention == "torchdistill" and (unlabelled or (not isinstance(alpha, Tensor) and alpha == 0)):
        hard, soft = 0.0, 1 / (tau * tau)
    return hard / (hard + soft), hard + soft


def check_rows(who: str, student_logits: Tensor, teacher_logits: Tensor) -> None:
    """Raises ValueError or TypeError unless both are logits of the same rows and classes."""
    names = ("student_logits", "teacher_logits")
    check_pair(who, names, student_logits, teacher_logits, "teacher and student need the same classes")
    if student_logits.ndim < 2 or not student_logits.shape[-1]:
        raise ValueError(
            f"{who}: student_logits must be [..., K] with K > 0, got {list(student_logits.shape)}"
        )


def check_logits(
    who: str,
    student_logits: Tensor,
    target: Tensor | None,
    tau: Coefficient,
    alpha: Coefficient,
    soft: str,
    label_smoothing: float,
    ignore_index: int,
) -> None:
    """Raises ValueError or TypeError for what `kd_loss` and `lit_loss` refuse about their KD term."""
    check_choice(who, "soft", soft, SOFT)
    check_tau(who, tau)
    check_fraction(who, "alpha", alpha)
    check_fraction(who, "label_smoothing", label_smoothing)
    if not isinstance(ignore_index, int) or isinstance(ignore_index, bool):
        raise TypeError(f"{who}: ignore_index must be an integer, got {type(ignore_index).__name__}")
    if ignore_index.bit_length() > 63:
        raise ValueError(f"{who}: ignore_index must fit into 64 bits, got {ignore_index.bit_length() + 1}")
    if target is not None:
        _check_target(who, target, student_logits)
    elif isinstance(alpha, Tensor) or alpha != 0:
        raise ValueError(f"{who}: target must be given unless alpha is the number 0, got alpha {alpha}")


def _check_target(who: str, target: Tensor, logits: Tensor) -> None:
    if not isinstance(target, Tensor):
        raise TypeError(f"{who}: target must be a tensor, got {type(target).__name__}")
    if target.dtype != torch.int64:
        raise TypeError(f"{who}: target must be int64 class indices, got {target.dtype}")
    if target.shape != logits.shape[:-1]:
        want, got = list(logits.shape[:-1]), list(target.shape)
        raise ValueError(f"{who}: target must have the logits' leading shape {want}, got {got}")
    if target.device != logits.device:
        raise ValueError(f"{who}: target must be on the logits' device {logits.device}, got {target.device}")
