"""The softmaxes of some rows, block after block of classes: student at 1 and at tau, teacher at tau.

A row's state is ten numbers:
- s_max, t_max: the maxima so far; s_first, t_first: those of the first block that is not -inf;
- student, student_tau, teacher_tau: sums of e^(s - s_max), e^((s - s_max) / tau), e^((t - t_max) / tau);
- cross: sum of e^((t - t_max) / tau) (s - s_first), for KL with t - t_first taken off the second factor;
- shift: sum of s - s_first. Both are measured from the first block so that a new maximum moves neither;
- beaten: whether a class comes before the label in torch.argmax: greater, or equal and further left, or NaN.
"""

from __future__ import annotations

import triton
import triton.language as tl

_INF = tl.constexpr(float("inf"))
_NAN = tl.constexpr(float("nan"))


@triton.jit
def _finite(x: tl.tensor) -> tl.tensor:
    """A maximum to subtract; 0 where everything so far was -inf."""
    return tl.where(x == -_INF, 0.0, x)


@triton.jit
def add_block(
    state: tl.tuple,  # each [ROWS]
    s: tl.tensor,  # [ROWS, WIDTH]
    t: tl.tensor,  # [ROWS, WIDTH]
    k: tl.tensor,  # [1, WIDTH]
    label: tl.tensor,  # [ROWS]
    picked: tl.tensor,  # [ROWS] the student's logit at the label
    per_tau: tl.tensor,
    K: tl.constexpr,
    HARD: tl.constexpr,
    SMOOTH: tl.constexpr,
    KL: tl.constexpr,
) -> tl.tuple:
    """The state of each row after one more block of its classes."""
    s_max, t_max, s_first, t_first, student, student_tau, teacher_tau, cross, shift, beaten = state
    # tl.max passes over a NaN, which then spoils the sums, as it should.
    s_new = tl.maximum(s_max, tl.max(s, 1))
    t_new = tl.maximum(t_max, tl.max(t, 1))
    s_first = tl.where(s_first == -_INF, s_new, s_first)
    t_first = tl.where(t_first == -_INF, t_new, t_first)
    x = s - _finite(s_new)[:, None]
    y = (t - _finite(t_new)[:, None]) * per_tau
    e = tl.exp(y)
    s_old = s_max - _finite(s_new)
    t_old = tl.exp((t_max - _finite(t_new)) * per_tau)
    student_tau = student_tau * tl.exp(s_old * per_tau) + tl.sum(tl.exp(x * per_tau), 1)
    teacher_tau = teacher_tau * t_old + tl.sum(e, 1)
    # Measured from maxima that stay: the first block's.
    gap = s - _finite(s_first)[:, None]
    if HARD:
        student = student * tl.exp(s_old) + tl.sum(tl.exp(x), 1)
        p = picked[:, None]
        ahead = (s > p) | ((s == p) & (k < label[:, None])) | ((s != s) & (p == p))
        ahead = (ahead | ((s != s) & (k < label[:, None]))) & (k < K)
        beaten = tl.maximum(beaten, tl.max(ahead.to(tl.int32), 1))
    if SMOOTH:
        shift += tl.sum(tl.where(k < K, gap, 0.0), 1)
    if KL:
        gap = gap - (t - _finite(t_first)[:, None])
    cross = cross * t_old + tl.sum(tl.where(k < K, e * gap, 0.0), 1)
    return s_new, t_new, s_first, t_first, student, student_tau, teacher_tau, cross, shift, beaten


@triton.jit
def row_losses(
    state: tl.tuple,
    picked: tl.tensor,
    tau: tl.tensor,
    slopes: tl.tuple,
    K: tl.constexpr,
    HARD: tl.constexpr,
    SMOOTH: tl.constexpr,
    KL: tl.constexpr,
) -> tl.tuple:
    """Soft term (with tau^2), hard term and whether the label was the first maximum, of each row."""
    s_max, t_max, s_first, t_first, student, student_tau, teacher_tau, cross, shift, beaten = state
    per_tau, _, _, smoothing = slopes
    rise = s_max - s_first
    if KL:  # one logarithm of a ratio: the difference of two large ones would be mostly rounding
        soft = tl.log(student_tau / teacher_tau) + (rise - (t_max - t_first)) * per_tau
    else:
        soft = tl.log(student_tau) + rise * per_tau
    soft = tau * tau * (soft - cross / teacher_tau * per_tau)
    hard = tl.zeros_like(soft)
    if HARD:
        lse = tl.log(student)
        hard = lse - (picked - s_max)
        if SMOOTH:
            spread = lse - (shift / K - rise)
            hard = (1 - smoothing) * hard + smoothing * spread
    return soft, hard, (1 - beaten) if HARD else beaten


@triton.jit
def store_gradient(
    gradient: tl.tensor,  # [ROWS, 1] where the rows begin
    k: tl.tensor,  # [1, WIDTH]
    s: tl.tensor,  # [ROWS, WIDTH]
    t: tl.tensor,  # [ROWS, WIDTH]
    state: tl.tuple,
    labels: tl.tuple,
    slopes: tl.tuple,
    K: tl.constexpr,
    HARD: tl.constexpr,
) -> None:
    """to_soft (p_S(tau) - p_T(tau)) + to_hard (p_S(1) - q), q the smoothed one-hot label; 0 where ignored."""
    per_tau, to_soft, to_hard, smoothing = slopes
    label, _, valid, inside = labels
    s_max, t_max, _, _, student, student_tau, teacher_tau, _, _, _ = state
    x = s - _finite(s_max)[:, None]
    y = (t - _finite(t_max)[:, None]) * per_tau
    p = tl.exp(x * per_tau) * (1 / student_tau)[:, None]
    slope = to_soft * (p - tl.exp(y) * (1 / teacher_tau)[:, None])
    if HARD:
        q = tl.where(k == label[:, None], 1 - smoothing, 0.0) + smoothing / K
        slope += to_hard * (tl.exp(x) * (1 / student)[:, None] - q)
    slope = tl.where(valid[:, None], slope, 0.0)
    tl.store(gradient + k, slope.to(gradient.dtype.element_ty), inside[:, None] & (k < K))


@triton.jit
def labels_of(
    student: tl.tensor,
    target: tl.tensor,
    row: tl.tensor,
    B: tl.tensor,
    ignore_index: tl.tensor,
    K: tl.constexpr,
    ROWS: tl.constexpr,
) -> tl.tuple:
    """Label, the student's logit there, whether the row counts, whether it exists; each [ROWS]."""
    inside = row < B
    if target is None:
        return tl.full((ROWS,), -1, tl.int64), tl.full((ROWS,), _NAN, tl.float32), inside, inside
    label = tl.load(target + row, inside, ignore_index)
    known = (label >= 0) & (label < K)
    tl.device_assert(known | (label == ignore_index), "litfast: target must be a class or ignore_index")
    valid = inside & (label != ignore_index)
    return label, tl.load(student + row * K + label, valid & known, _NAN).to(tl.float32), valid, inside


@triton.jit
def start(ROWS: tl.constexpr) -> tl.tuple:
    """The state of rows of which no class was seen."""
    low = tl.full((ROWS,), -_INF, tl.float32)
    none = tl.zeros((ROWS,), tl.float32)
    return low, low, low, low, none, none, none, none, none, tl.zeros((ROWS,), tl.int32)
