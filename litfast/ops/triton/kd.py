"""Knowledge distillation of logits in Triton: the second of two launches, which also adds everything up.

Traffic of N logits: 3 N elements. A row of at most RESIDENT classes stays in registers between sums and
gradient; a longer one takes an online softmax and is read again, then from the L2 cache. Rows of few classes
share a program. The program that draws the last ticket adds up the partial sums.

Nothing on the host reads a target on a GPU. One that is out of range makes the loss NaN and reads nothing
outside the logits; with TRITON_DEBUG=1 it stops the kernel.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from .._checks import check_target_range
from .._dispatch import Call
from .._layout import contiguous_like
from .._library import Results
from ._reduce import COUNTERS, Workspace, coefficients_of, draw_ticket, finish, row_share, store_row_sums
from ._softmax import add_block, labels_of, row_losses, start, store_gradient
from .ir import BLOCK, OPTIONS

RESIDENT = 8192  # classes that stay in registers: 16 a thread of 16 warps
LONG = 2048  # classes of a longer row that are in registers at once: few, so that programs share a processor
_INF = tl.constexpr(float("inf"))


@triton.jit
def _resident(
    student: tl.tensor,
    teacher: tl.tensor,
    gradient: tl.tensor,
    row: tl.tensor,
    labels: tl.tuple,
    slopes: tl.tuple,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    HARD: tl.constexpr,
    SMOOTH: tl.constexpr,
    KL: tl.constexpr,
) -> tl.tuple:
    """Rows that are read once."""
    begin = row[:, None] * K
    students, teachers = student + begin, teacher + begin
    k = tl.arange(0, WIDTH)[None, :]
    wanted = labels[2][:, None] & (k < K)
    s = tl.load(students + k, wanted, -_INF).to(tl.float32)
    t = tl.load(teachers + k, wanted, -_INF).to(tl.float32)
    state = add_block(start(ROWS), s, t, k, labels[0], labels[1], slopes[0], K, HARD, SMOOTH, KL)
    if gradient is not None:
        store_gradient(gradient + begin, k, s, t, state, labels, slopes, K, HARD)
    return state


@triton.jit
def _streamed(
    student: tl.tensor,
    teacher: tl.tensor,
    gradient: tl.tensor,
    row: tl.tensor,
    labels: tl.tuple,
    slopes: tl.tuple,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    HARD: tl.constexpr,
    SMOOTH: tl.constexpr,
    KL: tl.constexpr,
) -> tl.tuple:
    """Rows that are read twice, soon after one another: they should outlive what is read and written once."""
    begin = row[:, None] * K
    students, teachers = student + begin, teacher + begin
    state = start(ROWS)
    for first in range(0, K, WIDTH):
        k = first + tl.arange(0, WIDTH)[None, :]
        wanted = labels[2][:, None] & (k < K)
        s = tl.load(students + k, wanted, -_INF, eviction_policy="evict_last").to(tl.float32)
        t = tl.load(teachers + k, wanted, -_INF, eviction_policy="evict_last").to(tl.float32)
        state = add_block(state, s, t, k, labels[0], labels[1], slopes[0], K, HARD, SMOOTH, KL)
    if gradient is not None:
        for first in range(0, K, WIDTH):
            k = first + tl.arange(0, WIDTH)[None, :]
            wanted = labels[2][:, None] & (k < K)
            s = tl.load(students + k, wanted, -_INF, eviction_policy="evict_first").to(tl.float32)
            t = tl.load(teachers + k, wanted, -_INF, eviction_policy="evict_first").to(tl.float32)
            store_gradient(gradient + begin, k, s, t, state, labels, slopes, K, HARD)
    return state


@triton.jit
def _slopes(
    work: tl.tensor,
    numbers: tl.tuple,  # tau, alpha, beta, scale
    coefficients: tl.tensor,
    smoothing: tl.tensor,
    counters: tl.tensor,
    B: tl.tensor,
    HARD: tl.constexpr,
    MEAN: tl.constexpr,
) -> tl.tuple:
    """1 / tau, what the gradients of the soft and of the hard term are multiplied by, and the smoothing."""
    tau, alpha, beta, scale = numbers
    tau, alpha, beta, scale = coefficients_of(tau, alpha, beta, scale, coefficients)
    factor = scale * beta * row_share(work, counters, B, HARD, MEAN)
    to_soft = factor * (1 - alpha) * tau
    to_hard = factor * alpha
    smoothing = tl.full((), smoothing, tl.float64)
    return (
        (1 / tau).to(tl.float32),
        to_soft.to(tl.float32),
        to_hard.to(tl.float32),
        smoothing.to(tl.float32),
    )


@triton.jit(do_not_specialize=["B", "ignore_index", "counters", "S", "P"])
def rows(
    student: tl.tensor,  # [B, K]
    teacher: tl.tensor,  # [B, K]
    target: tl.tensor,  # [B] int64, or None: no hard term, every row is valid
    gradient: tl.tensor,  # [B, K], or None: not wanted
    losses: tl.tensor,  # [B] fp32, or None: summed up
    total: tl.tensor,  # [] fp32
    parts: tl.tensor,  # [2 + S] fp32: soft, hard, each section's mean
    correct: tl.tensor,  # [] int64
    work: tl.tensor,
    tau: tl.float64,
    alpha: tl.float64,
    beta: tl.float64,
    scale: tl.float64,
    coefficients: tl.tensor,
    smoothing: tl.float64,
    ignore_index: tl.int64,
    B: tl.int64,
    counters: tl.int32,
    S: tl.int32,
    P: tl.int32,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    SECTIONS: tl.constexpr,
    SMOOTH: tl.constexpr,
    KL: tl.constexpr,
    MEAN: tl.constexpr,
) -> None:
    """Losses and gradients of ROWS rows; the last program of the grid finishes the call."""
    HARD: tl.constexpr = target is not None
    numbers = (tau, alpha, beta, scale)
    slopes = _slopes(work, numbers, coefficients, smoothing, counters, B, HARD, MEAN)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    labels = labels_of(student, target, row, B, ignore_index, K, ROWS)
    if WIDTH >= K:
        state = _resident(student, teacher, gradient, row, labels, slopes, K, ROWS, WIDTH, HARD, SMOOTH, KL)
    else:
        state = _streamed(student, teacher, gradient, row, labels, slopes, K, ROWS, WIDTH, HARD, SMOOTH, KL)
    # Read once more rather than kept in registers through the loops.
    tau, alpha, beta, scale = coefficients_of(tau, alpha, beta, scale, coefficients)
    soft, hard, hit = row_losses(state, labels[1], tau.to(tl.float32), slopes, K, HARD, SMOOTH, KL)
    valid = labels[2]
    soft = tl.where(valid, soft, 0.0).to(tl.float64)
    hard = tl.where(valid, hard, 0.0).to(tl.float64)
    if losses is not None:
        tl.store(losses + row, (scale * (alpha * hard + (1 - alpha) * soft)).to(tl.float32), labels[3])
    else:
        R = tl.num_programs(0)
        store_row_sums(work, S, P, tl.sum(soft), tl.sum(hard), tl.sum(tl.where(valid, hit, 0)))
        if draw_ticket(work) == R - 1:
            share = row_share(work, counters, B, HARD, MEAN)
            finish(work, total, parts, correct, alpha, beta, scale, share, S, P, R, SECTIONS)


class Logits:
    """The logits of one call as `rows` takes them: contiguous, cut into programs."""

    def __init__(self, call: Call, student: Tensor, teacher: Tensor) -> None:
        self.call = call
        self.K = student.shape[-1]
        check_target_range(call.who, call.target, self.K, call.ignore_index)
        self.student, self.teacher = student.contiguous(), teacher.contiguous()
        self.target = None if call.target is None else call.target.contiguous()
        self.mean = call.reduction == "mean"
        self.B = student.numel() // self.K
        self.ROWS, self.WIDTH, self.options = _tile(self.B, self.K)
        self.programs = triton.cdiv(self.B, self.ROWS) or 1  # without a row there are still losses to store
        self.counted = self.target if self.mean else None  # what the first launch has to count
        self.counters = 1 if self.counted is None else min(COUNTERS, triton.cdiv(self.B, 4 * BLOCK) or 1)

    def run(self, work: Workspace, results: Results) -> None:
        """The last launch: gradient, and losses; each row's where they are not reduced."""
        call, (total, parts, correct, gradients) = self.call, results
        gradient = contiguous_like(gradients[-1])  # the kernel writes rows
        rows[(self.programs,)](
            self.student,
            self.teacher,
            self.target,
            gradient if call.needs[-1] else None,
            total if call.reduction == "none" else None,
            total,
            parts,
            correct,
            work.memory,
            call.tau,
            call.alpha,
            call.beta,
            call.scale,
            call.coefficients,
            call.label_smoothing,
            call.ignore_index,
            self.B,
            self.counters,
            work.S,
            work.P,
            K=self.K,
            ROWS=self.ROWS,
            WIDTH=self.WIDTH,
            SECTIONS=triton.next_power_of_2(work.S) if work.S else 0,
            SMOOTH=call.label_smoothing > 0,
            KL=call.soft == "kl",
            MEAN=self.mean,
            **self.options,
        )
        if gradient is not gradients[-1]:
            gradients[-1].copy_(gradient)


def _tile(B: int, K: int) -> tuple[int, int, dict[str, Any]]:
    """Rows and classes that a program holds at once, and how it is compiled."""
    width = triton.next_power_of_2(K)
    if width > RESIDENT:
        return 1, LONG, OPTIONS
    # Few rows are spread over more programs, many over fuller ones.
    size = 1024 if B * width < 1 << 20 else 2048
    rows = max(size // width, 1)
    return rows, width, OPTIONS | {"num_warps": min(max(4, rows * width // 256), 16)}
