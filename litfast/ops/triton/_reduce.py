"""What the two launches of an op share: coefficients, room for partial sums, and the sum over them.

The first launch (`ir.first_pass`) leaves one partial sum a program and clears the ticket; the second one
(`kd.rows`, or `finish` alone) adds them all up, in fp64 and in an order that depends on shapes only.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

COUNTERS = 64  # at most as many programs count the valid rows
_COUNTERS = tl.constexpr(COUNTERS)
_TILE = tl.constexpr(1024)  # partial sums that the last program reads at once


class Workspace:
    """Room for the partial sums of one call, and where its parts begin; every address is of 8 bytes.

    [0] ticket (int64); [1, 65) valid rows found by each counter; then S x (weight, programs), S x P sums of
    sections divided by their size, R x (soft, hard, correct).
    """

    def __init__(self, device: torch.device, *, sections: int, programs: int, rows: int) -> None:
        self.S, self.P, self.R = sections, programs, rows
        size = 1 + COUNTERS + 2 * sections + sections * programs + 3 * rows
        self.memory = torch.empty(size, dtype=torch.float64, device=device)


@triton.jit
def coefficients_of(
    tau: tl.tensor,
    alpha: tl.tensor,
    beta: tl.tensor,
    scale: tl.tensor,
    coefficients: tl.tensor,  # [4] fp64 in their place, or None
) -> tl.tuple:
    """tau, alpha, beta and scale in fp64, from the host or from the device."""
    tau = tl.full((), tau, tl.float64)
    alpha = tl.full((), alpha, tl.float64)
    beta = tl.full((), beta, tl.float64)
    scale = tl.full((), scale, tl.float64)
    if coefficients is not None:
        tau = tl.load(coefficients)
        alpha = tl.load(coefficients + 1)
        beta = tl.load(coefficients + 2)
        scale = tl.load(coefficients + 3)
    return tau, alpha, beta, scale


@triton.jit
def clear_ticket(work: tl.tensor) -> None:
    """Makes the ticket 0."""
    tl.store(work.to(tl.pointer_type(tl.int64), bitcast=True), 0)


@triton.jit
def draw_ticket(work: tl.tensor) -> tl.tensor:
    """How many programs drew before this one; what they stored is then visible."""
    tl.debug_barrier()  # every thread of this program has stored before one of them draws
    return tl.atomic_add(work.to(tl.pointer_type(tl.int64), bitcast=True), 1, sem="acq_rel")


@triton.jit
def valid_rows(work: tl.tensor, counters: tl.tensor) -> tl.tensor:
    """The sum of what the counters of the first launch found."""
    i = tl.arange(0, _COUNTERS)
    return tl.sum(tl.load(work + 1 + i, i < counters, 0.0))


@triton.jit
def row_share(
    work: tl.tensor, counters: tl.tensor, B: tl.tensor, HARD: tl.constexpr, MEAN: tl.constexpr
) -> tl.tensor:
    """What a valid row's loss counts in the sum."""
    valid = tl.full((), 1.0, tl.float64)
    if MEAN:
        valid = valid_rows(work, counters) if HARD else tl.full((), B, tl.int64).to(tl.float64)
    return 1 / tl.maximum(valid, 1.0)


@triton.jit
def section_means(
    work: tl.tensor, ir: tl.tensor, S: tl.tensor, P: tl.tensor, SECTIONS: tl.constexpr
) -> tl.tensor:
    """Stores each section's mean to `ir` [S]; returns their weighted sum."""
    WIDTH: tl.constexpr = max(_TILE // SECTIONS, 1)
    i = tl.arange(0, SECTIONS)
    table = work + 1 + _COUNTERS + 2 * i
    weight = tl.load(table, i < S, 0.0)
    programs = tl.load(table + 1, i < S, 0.0).to(tl.int32)
    sums = tl.zeros((SECTIONS, WIDTH), tl.float64)
    for begin in range(0, P, WIDTH):
        p = begin + tl.arange(0, WIDTH)
        address = work + 1 + _COUNTERS + 2 * S + i[:, None] * P + p[None, :]
        sums += tl.load(address, p[None, :] < programs[:, None], 0.0)
    means = tl.sum(sums, 1)
    tl.store(ir + i, means.to(tl.float32), i < S)
    return tl.sum(tl.where(i < S, weight * means, 0.0))


@triton.jit
def row_sums(work: tl.tensor, S: tl.tensor, P: tl.tensor, R: tl.tensor) -> tl.tuple:
    """Soft, hard and correct of all rows."""
    first = work + 1 + _COUNTERS + 2 * S + S * P
    soft = tl.zeros((_TILE,), tl.float64)
    hard = tl.zeros((_TILE,), tl.float64)
    correct = tl.zeros((_TILE,), tl.float64)
    for begin in range(0, R, _TILE):
        p = begin + tl.arange(0, _TILE)
        soft += tl.load(first + 3 * p, p < R, 0.0)
        hard += tl.load(first + 3 * p + 1, p < R, 0.0)
        correct += tl.load(first + 3 * p + 2, p < R, 0.0)
    return tl.sum(soft), tl.sum(hard), tl.sum(correct)


@triton.jit
def store_row_sums(
    work: tl.tensor, S: tl.tensor, P: tl.tensor, soft: tl.tensor, hard: tl.tensor, correct: tl.tensor
) -> None:
    """What this program of the rows adds."""
    partial = work + 1 + _COUNTERS + 2 * S + S * P + 3 * tl.program_id(0)
    tl.store(partial, soft)
    tl.store(partial + 1, hard)
    tl.store(partial + 2, correct.to(tl.float64))


@triton.jit
def finish(
    work: tl.tensor,
    total: tl.tensor,
    parts: tl.tensor,  # [2 + S] soft, hard, each section's mean
    correct_rows: tl.tensor,  # []
    alpha: tl.tensor,
    beta: tl.tensor,
    scale: tl.tensor,
    share: tl.tensor,  # of one row in the mean
    S: tl.tensor,
    P: tl.tensor,
    R: tl.tensor,
    SECTIONS: tl.constexpr,
) -> None:
    """Adds up what all programs of both launches stored, and stores the losses."""
    soft, hard, correct = row_sums(work, S, P, R)
    soft *= share
    hard *= share
    loss = beta * (alpha * hard + (1 - alpha) * soft)
    if SECTIONS:
        loss += (1 - beta) * section_means(work, parts + 2, S, P, SECTIONS)
    tl.store(total, (scale * loss).to(tl.float32))
    tl.store(parts, soft.to(tl.float32))
    tl.store(parts + 1, hard.to(tl.float32))
    tl.store(correct_rows, correct.to(tl.int64))


@triton.jit(do_not_specialize=["S", "P"])
def finish_irs(
    work: tl.tensor,
    total: tl.tensor,  # [] fp32
    parts: tl.tensor,  # [2 + S] fp32
    correct_rows: tl.tensor,  # [] int64
    beta: tl.float64,
    scale: tl.float64,
    coefficients: tl.tensor,
    S: tl.int32,
    P: tl.int32,
    SECTIONS: tl.constexpr,
) -> None:
    """The second launch of a call without logits: one program."""
    _, _, beta, scale = coefficients_of(1.0, 0.0, beta, scale, coefficients)
    loss = scale * (1 - beta) * section_means(work, parts + 2, S, P, SECTIONS)
    tl.store(total, loss.to(tl.float32))
    tl.store(parts, 0.0)
    tl.store(parts + 1, 0.0)
    tl.store(correct_rows, 0)
