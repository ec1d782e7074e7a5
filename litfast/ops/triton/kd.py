"""Knowledge distillation of logits in Triton: the second of two launches, which also adds everything up.

Traffic of N logits: 3 N elements. A row of at most RESIDENT classes stays in registers between sums and
gradient; a longer one takes an online softmax and is read again, then from the L2 cache. Rows of few classes
share a program. The program that draws the last ticket adds up the partial sums.

Nothing on the host reads a target on a GPU. One that is out of range makes the loss NaN and reads nothing
outside the logits; with TRITON_DEBUG=1 it stops the kernel.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._checks import check_target_range
from .._library import new_gradients
from ._reduce import COUNTERS, Workspace, coefficients_of, draw_ticket, finish, row_share, store_row_sums
from ._softmax import add_block, labels_of, row_losses, start, store_gradient
from .ir import BLOCK, OPTIONS, Sections

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
    NUMBERS: tl.constexpr,
    HARD: tl.constexpr,
    MEAN: tl.constexpr,
) -> tl.tuple:
    """1 / tau, what the gradients of the soft and of the hard term are multiplied by, and the smoothing."""
    tau, alpha, beta, scale = numbers
    tau, alpha, beta, scale = coefficients_of(tau, alpha, beta, scale, coefficients, NUMBERS)
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
    parts: tl.tuple,  # ir [S], soft [], hard [] fp32 and correct [] int64, or nothing
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
    NUMBERS: tl.constexpr,
    SECTIONS: tl.constexpr,
    SMOOTH: tl.constexpr,
    KL: tl.constexpr,
    MEAN: tl.constexpr,
) -> None:
    """Losses and gradients of ROWS rows; the last program of the grid finishes the call."""
    HARD: tl.constexpr = target is not None
    numbers = (tau, alpha, beta, scale)
    slopes = _slopes(work, numbers, coefficients, smoothing, counters, B, NUMBERS, HARD, MEAN)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    labels = labels_of(student, target, row, B, ignore_index, K, ROWS)
    if WIDTH >= K:
        state = _resident(student, teacher, gradient, row, labels, slopes, K, ROWS, WIDTH, HARD, SMOOTH, KL)
    else:
        state = _streamed(student, teacher, gradient, row, labels, slopes, K, ROWS, WIDTH, HARD, SMOOTH, KL)
    # Read once more rather than kept in registers through the loops.
    tau, alpha, beta, scale = coefficients_of(tau, alpha, beta, scale, coefficients, NUMBERS)
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
            finish(work, total, parts, alpha, beta, scale, share, S, P, R, SECTIONS)


class Logits:
    """The logits of one call as `rows` takes them: contiguous, cut into programs."""

    def __init__(
        self, who: str, student: Tensor, teacher: Tensor, target: Tensor | None, ignore_index: int, mean: bool
    ) -> None:
        self.K = student.shape[-1]
        check_target_range(who, target, self.K, ignore_index)
        self.student, self.teacher = student.contiguous(), teacher.contiguous()
        self.target = None if target is None else target.contiguous()
        self.ignore_index, self.mean = ignore_index, mean
        self.B = student.numel() // self.K
        self.ROWS, self.WIDTH, self.options = _tile(self.B, self.K)
        self.programs = triton.cdiv(self.B, self.ROWS) or 1  # without a row there are still losses to store
        self.counted = self.target if mean else None  # what the first launch has to count
        self.counters = 1 if self.counted is None else min(COUNTERS, triton.cdiv(self.B, 4 * BLOCK) or 1)

    def run(
        self,
        gradient: Tensor,
        needed: bool,
        total: Tensor,
        parts: tuple[Tensor, ...],
        work: Workspace,
        soft: str,
        label_smoothing: float,
        numbers: tuple[float, float, float, float],  # tau, alpha, beta, scale
        coefficients: Tensor | None,
    ) -> None:
        """The last launch: gradient, and losses to `total`; each row's where `total` has the rows' shape."""
        # Strides that are not those of rows: the kernel writes rows, a copy brings them into the layout.
        into = gradient if gradient.is_contiguous() else gradient.new_empty(gradient.shape)
        rows[(self.programs,)](
            self.student,
            self.teacher,
            self.target,
            into if needed else None,
            total if total.ndim else None,
            total,
            parts,
            work.memory,
            *numbers,
            coefficients,
            label_smoothing,
            self.ignore_index,
            self.B,
            self.counters,
            work.S,
            work.P,
            K=self.K,
            ROWS=self.ROWS,
            WIDTH=self.WIDTH,
            NUMBERS=0 if coefficients is None else coefficients.numel(),
            SECTIONS=triton.next_power_of_2(work.S) if work.S else 0,
            SMOOTH=label_smoothing > 0,
            KL=soft == "kl",
            MEAN=self.mean,
            **self.options,
        )
        if into is not gradient:
            gradient.copy_(into)


def kd(
    student: Tensor,
    teacher: Tensor,
    target: Tensor | None,
    soft: str,
    label_smoothing: float,
    ignore_index: int,
    reduction: str,
    tau: float,
    alpha: float,
    scale: float,
    coefficients: Tensor | None,
    needs: list[bool],
) -> tuple[Tensor, list[Tensor]]:
    """The op `kd` of _library.py: two launches, one where no loss is summed up."""
    gradients = new_gradients([student], needs)
    by_row = reduction == "none"
    loss = student.new_empty(student.shape[:-1] if by_row else (), dtype=torch.float32)
    with torch.cuda.device_of(student):
        logits = Logits("kd_loss", student, teacher, target, ignore_index, reduction == "mean")
        work = Workspace(student.device, sections=0, programs=0, rows=logits.programs)
        if not by_row:
            clear_and_count(logits, work)
        numbers = (tau, alpha, 1.0, scale)
        logits.run(gradients[0], needs[0], loss, (), work, soft, label_smoothing, numbers, coefficients)
    return loss, gradients


def clear_and_count(logits: Logits, work: Workspace) -> None:
    """The first launch of a call without sections."""
    Sections([], [], [], [], []).run(
        work,
        "l2",
        0.0,
        1.0,
        None,
        target=logits.counted,
        ignore_index=logits.ignore_index,
        counters=logits.counters,
    )


def _tile(B: int, K: int) -> tuple[int, int, dict[str, Any]]:
    """Rows and classes that a program holds at once, and how it is compiled."""
    width = triton.next_power_of_2(K)
    if width > RESIDENT:
        return 1, LONG, OPTIONS
    # Few rows are spread over more programs, many over fuller ones.
    size = 1024 if B * width < 1 << 20 else 2048
    rows = max(size // width, 1)
    return rows, width, OPTIONS | {"num_warps": min(max(4, rows * width // 256), 16)}
