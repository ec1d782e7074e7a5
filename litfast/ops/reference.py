"""The definition of every op, in plain torch on one page: losses are differentiable twice, any float dtype.

Half precision is computed in fp32, fp64 in fp64. The teacher may require grad here. Nothing is checked: the
public functions of kd.py, ir.py, lit.py, channel_l1.py, augment.py and low_rank.py do that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Coefficient = float | Tensor  # a number, or a 0-d tensor on the device (a schedule inside a captured graph)


class LITLoss(NamedTuple):
    """What `lit_loss` returns; only `total` carries gradient. fp64 for fp64 inputs, fp32 otherwise."""

    total: Tensor  # [] scale * (beta * KD + (1 - beta) * sum_i weights_i * ir_i)
    ir: Tensor  # [S] mean penalty of each section, unweighted
    soft: Tensor  # [] mean over valid rows, with tau^2, without alpha and beta
    hard: Tensor  # [] mean over valid rows; 0 without a target
    correct: Tensor  # [] int64, top-1 hits on the valid rows; 0 without a target


class KDRows(NamedTuple):
    """The two terms of knowledge distillation, one number a row; rows that are ignored hold 0."""

    soft: Tensor  # [...] with tau^2
    hard: Tensor  # [...]
    valid: Tensor  # [...] bool


_PENALTIES = {"l2": F.mse_loss, "l1": F.l1_loss, "smooth_l1": F.smooth_l1_loss}


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
    scale: Coefficient = 1.0,
) -> Tensor:
    """alpha * CE(target, p_S) + (1 - alpha) * tau^2 * CE(p_T(tau), p_S(tau)), reduced over the valid rows."""
    rows = kd_rows(student_logits, teacher_logits, target, tau, soft, label_smoothing, ignore_index)
    loss = scale * (alpha * rows.hard + (1 - alpha) * rows.soft)
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else _mean(loss, rows.valid)


def kd_rows(
    student_logits: Tensor,  # [..., K]
    teacher_logits: Tensor,  # [..., K]
    target: Tensor | None,  # [...] int64
    tau: Coefficient,
    soft: str,
    label_smoothing: float,
    ignore_index: int,
) -> KDRows:
    """Soft term `tau^2 CE(p_T(tau), p_S(tau))` (or KL) and hard term `CE(target, p_S)` of each row."""
    dtype = _maths_dtype(student_logits, teacher_logits)
    z_s, z_t = student_logits.to(dtype), teacher_logits.to(dtype)
    if target is None:
        valid = torch.ones_like(z_s[..., 0], dtype=torch.bool)
        hard = torch.zeros_like(z_s[..., 0])
    else:
        valid = target != ignore_index
        # Filled before any arithmetic: an ignored row gives exactly 0 and gradient 0 even when it holds NaN.
        ignored = ~valid.unsqueeze(-1)
        z_s, z_t = z_s.masked_fill(ignored, 0), z_t.masked_fill(ignored, 0)
        hard = F.cross_entropy(
            z_s.flatten(0, -2),
            target.flatten(),
            reduction="none",
            label_smoothing=label_smoothing,
            ignore_index=ignore_index,
        ).view_as(target)
    log_p, log_q = F.log_softmax(z_s / tau, -1), F.log_softmax(z_t / tau, -1)
    gap = log_q - log_p if soft == "kl" else -log_p
    soft_rows = tau**2 * (log_q.exp() * gap).sum(-1)
    return KDRows(soft_rows.masked_fill(~valid, 0), hard, valid)


def ir_loss(
    student_irs: Sequence[Tensor],  # S of any shape
    teacher_irs: Sequence[Tensor],  # S, pairwise the student's shapes
    *,
    penalty: str = "l2",
    weights: Sequence[float] | None = None,
    scale: Coefficient = 1.0,
) -> Tensor:
    """scale * sum_i weights_i * mean(penalty(student_i - teacher_i))."""
    terms = ir_terms(student_irs, teacher_irs, penalty)
    return (scale * _weighted(terms, weights)).to(terms.dtype)  # which a coefficient in fp64 would widen


def ir_terms(student_irs: Sequence[Tensor], teacher_irs: Sequence[Tensor], penalty: str) -> Tensor:
    """[S], the mean penalty of each section; 0 for a section without elements."""
    dtype = _maths_dtype(*student_irs, *teacher_irs)
    return torch.stack(
        [
            (_PENALTIES[penalty](_wide(s, t), _wide(t, s), reduction="sum") / max(s.numel(), 1)).to(dtype)
            for s, t in zip(student_irs, teacher_irs, strict=True)
        ]
    )


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
) -> LITLoss:
    """scale * (beta * KD + (1 - beta) * sum_i weights_i * mean(penalty(student_i - teacher_i)))."""
    dtype = _maths_dtype(*student_irs, *teacher_irs, student_logits, teacher_logits)
    ir = student_logits.new_empty(0, dtype=dtype)
    if student_irs:
        ir = ir_terms(student_irs, teacher_irs, penalty).to(dtype)
    rows = kd_rows(student_logits, teacher_logits, target, tau, soft, label_smoothing, ignore_index)
    soft_term, hard_term = (_mean(row, rows.valid).to(dtype) for row in (rows.soft, rows.hard))
    kd = alpha * hard_term + (1 - alpha) * soft_term
    total = (scale * (beta * kd + (1 - beta) * _weighted(ir, weights))).to(dtype)
    correct = _correct(student_logits, target, rows.valid)
    return LITLoss(total, ir.detach(), soft_term.detach(), hard_term.detach(), correct)


def channel_l1(scales: Sequence[Tensor], *, strength: Coefficient) -> Tensor:
    """strength * sum_i sum |scales_i|."""
    dtype = _maths_dtype(*scales)
    return (strength * torch.stack([scale.to(dtype).abs().sum() for scale in scales]).sum()).to(dtype)


def augment(
    images: Tensor,  # [N, H, W, C] uint8
    index: Tensor,  # [B] int64
    top: Tensor,  # [B] int64
    left: Tensor,  # [B] int64
    mirrored: Tensor,  # [B] bool
    table: Tensor,  # [C, 256]
    crop: int,
) -> Tensor:  # [B, C, H, W]
    """table[c, v] of the raw pixels v of each crop, mirrored or not; NaN for a sample out of range."""
    _, H, W, C = images.shape
    known = inside(images, index, top, left, crop)
    b, y, x, c = (torch.arange(n, device=images.device) for n in (len(index), H, W, C))
    padded = F.pad(images[index * known], (0, 0, crop, crop, crop, crop))  # [B, H + 2 crop, W + 2 crop, C]
    rows = (top * known)[:, None] + y
    columns = (left * known)[:, None] + torch.where(mirrored[:, None], W - 1 - x, x)
    raw = padded[b[:, None, None], rows[:, :, None], columns[:, None, :]]  # [B, H, W, C]
    values = table[c, raw.long()].masked_fill(~known[:, None, None, None], torch.nan)
    return values.permute(0, 3, 1, 2)


def inside(images: Tensor, index: Tensor, top: Tensor, left: Tensor, crop: int) -> Tensor:
    """[B] bool: whether index is one of the N images, and top and left are offsets in 0..2 crop."""
    ends = ((index, len(images)), (top, 2 * crop + 1), (left, 2 * crop + 1))
    return torch.stack([(value >= 0) & (value < end) for value, end in ends]).all(0)


def low_rank_embedding(
    ids: Tensor,  # [...] int64
    factors: Sequence[Tensor],  # P of [n_p, r_p]
    bases: Sequence[Tensor],  # P of [r_p, d]; [0, d]: the factor's rows are the vectors
    place: Tensor,  # [N] int64
) -> Tensor:  # [..., d]
    """factors_p[j] @ bases_p of each word, the j-th of block p; NaN for an id out of range."""
    dtype = _maths_dtype(*factors)
    known = (ids >= 0) & (ids < len(place))
    at = place[ids * known]
    vectors = factors[0].new_full((*ids.shape, bases[0].shape[1]), torch.nan, dtype=dtype)
    for factor, basis in zip(factors, bases, strict=True):
        inside = known & (at >= 0) & (at < len(factor))
        rows = F.embedding(at * inside, factor).to(dtype)
        found = rows @ basis.to(dtype) if len(basis) else rows
        vectors = torch.where(inside[..., None], found, vectors)
        at = at - len(factor)
    return vectors.to(factors[0].dtype)


def low_rank_softmax(
    hidden: Tensor,  # [..., d]
    factors: Sequence[Tensor],  # P of [n_p, r_p]
    bases: Sequence[Tensor],  # P of [r_p, d]; [0, d]: the factor's rows are the vectors
    place: Tensor,  # [N] int64
    bias: Tensor | None = None,  # [N]
) -> Tensor:  # [..., N]
    """factors_p @ (bases_p @ hidden) of all blocks, in the vocabulary's order, plus bias."""
    dtype = _maths_dtype(hidden, *factors)
    x = hidden.to(dtype)
    scores = [
        F.linear(F.linear(x, basis.to(dtype)) if len(basis) else x, factor.to(dtype))
        for factor, basis in zip(factors, bases, strict=True)
    ]
    logits = torch.cat(scores, -1)[..., place]
    return (logits if bias is None else logits + bias.to(dtype)).to(hidden.dtype)


def _maths_dtype(*tensors: Tensor) -> torch.dtype:
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def _wide(tensor: Tensor, other: Tensor) -> Tensor:
    return tensor.to(_maths_dtype(tensor, other))


def _mean(rows: Tensor, valid: Tensor) -> Tensor:
    """Mean over the valid rows, 0 when there is none."""
    return rows.sum() / valid.sum().clamp(min=1)


def _weighted(ir: Tensor, weights: Sequence[float] | None) -> Tensor:
    """sum_i weights_i ir_i, without a host-to-device copy of the weights."""
    if not weights:
        return ir.sum()
    return torch.stack([w * term for w, term in zip(weights, ir, strict=True)]).sum()


def _correct(student_logits: Tensor, target: Tensor | None, valid: Tensor) -> Tensor:
    if target is None or not student_logits.numel():
        return torch.zeros((), dtype=torch.int64, device=student_logits.device)
    return ((student_logits.argmax(-1) == target) & valid).sum()
