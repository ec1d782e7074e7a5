"""IR loss in Triton: one grid over the elements of all sections, and the first of two launches for every op.

Traffic of a section of n elements: student and teacher read once, gradient written once. A section gets
programs in proportion to its size; a program walks every programs-th block and leaves one partial sum. Where
it is asked, the last programs count the valid rows, by which the gradient of the logits is divided.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from .._dispatch import Call
from .._layout import same_layout
from ._reduce import COUNTERS, Workspace, clear_ticket, coefficients_of

BLOCK = 4096  # elements: 16 a thread, in fp32 eight loads of 16 bytes in flight
OPTIONS: dict[str, Any] = {"num_warps": 8, "enable_fp_fusion": True}  # Triton versions differ in the latter
PROGRAMS = 2048  # aimed at in all: above 15 on each of an H200's 132 multiprocessors
LIMIT = 32  # sections of one launch; more are split
_COUNTERS = tl.constexpr(COUNTERS)
_BLOCK = tl.constexpr(BLOCK)


@triton.jit
def _penalise(
    student: tl.tensor,
    teacher: tl.tensor,
    gradient: tl.tensor,
    i: tl.tensor,  # [BLOCK] offsets
    inside: tl.tensor,  # [BLOCK] or None: all are
    wanted: tl.tensor,
    factor: tl.tensor,
    PENALTY: tl.constexpr,
) -> tl.tensor:
    """The penalties of one block; writes its gradient where it is wanted."""
    s = tl.load(student + i, inside).to(tl.float32)
    d = s - tl.load(teacher + i, inside).to(tl.float32)
    sign = (d > 0).to(tl.float32) - (d < 0).to(tl.float32)
    if PENALTY == "l2":
        value = d * d
        slope = 2 * d
    elif PENALTY == "l1":
        value = tl.abs(d)
        slope = sign
    else:
        value = tl.where(tl.abs(d) < 1, 0.5 * d * d, tl.abs(d) - 0.5)
        slope = tl.where((d >= 1) | (d <= -1), sign, d)
    if wanted != 0:
        tl.store(gradient + i, (factor * slope).to(gradient.dtype.element_ty), inside)
    return value


@triton.jit
def _section(
    student: tl.tensor,
    teacher: tl.tensor,
    gradient: tl.tensor,
    n: tl.tensor,
    program: tl.tensor,
    programs: tl.tensor,
    wanted: tl.tensor,
    factor: tl.tensor,
    PENALTY: tl.constexpr,
) -> tl.tensor:
    """The sum of the penalties of this program's blocks."""
    lane = tl.arange(0, _BLOCK)
    sums = tl.zeros((_BLOCK,), tl.float32)
    full = n // _BLOCK
    first = program.to(tl.int64) * _BLOCK
    for begin in range(first, full * _BLOCK, programs.to(tl.int64) * _BLOCK):
        sums += _penalise(student, teacher, gradient, begin + lane, None, wanted, factor, PENALTY)
    if program == full % programs:  # whose turn the block that is not full would be
        i = full * _BLOCK + lane
        value = _penalise(student, teacher, gradient, i, i < n, wanted, factor, PENALTY)
        sums += tl.where(i < n, value, 0.0)
    return tl.sum(sums)


@triton.jit
def _count(
    target: tl.tensor, B: tl.tensor, ignore_index: tl.tensor, counter: tl.tensor, counters: tl.tensor
) -> tl.tensor:
    """How many rows of this counter's blocks are not ignored."""
    lane = tl.arange(0, _BLOCK)
    found = tl.zeros((_BLOCK,), tl.int32)
    for begin in range(counter * _BLOCK, B, counters * _BLOCK):
        i = begin + lane
        found += (tl.load(target + i, i < B, ignore_index) != ignore_index).to(tl.int32)
    return tl.sum(found)


@triton.jit(
    do_not_specialize=["sizes", "programs", "wanted", "B", "counters", "first", "S", "P", "ignore_index"]
)
def first_pass(
    students: tl.tuple,  # each [n_i], dense
    teachers: tl.tuple,  # each [n_i], the student's layout
    gradients: tl.tuple,  # each [n_i], the student's layout; not written where `wanted` has no bit
    sizes: tl.tuple,
    programs: tl.tuple,  # how many share section i
    weights: tl.tuple,
    wanted: tl.int64,  # bit i: gradient i is
    target: tl.tensor,  # [B] int64, or None: nothing to count
    B: tl.int64,
    ignore_index: tl.int64,
    counters: tl.int32,
    work: tl.tensor,
    beta: tl.float64,
    scale: tl.float64,
    coefficients: tl.tensor,
    first: tl.int32,  # which section of the call is the first one here
    S: tl.int32,
    P: tl.int32,
    SECTIONS: tl.constexpr,
    PENALTY: tl.constexpr,
) -> None:
    """One partial sum and the gradients of each program's blocks; then the programs that count."""
    program = tl.program_id(0)
    _, _, beta, scale = coefficients_of(1.0, 0.0, beta, scale, coefficients)
    table = work + 1 + _COUNTERS
    for i in tl.static_range(SECTIONS):
        if (program >= 0) & (program < programs[i]):
            n = sizes[i].to(tl.int64)
            share = 1.0 / tl.maximum(n, 1).to(tl.float64)
            weight = tl.full((), weights[i], tl.float64)
            factor = (scale * (1 - beta) * weight * share).to(tl.float32)
            bit = (wanted >> i) & 1
            total = _section(
                students[i], teachers[i], gradients[i], n, program, programs[i], bit, factor, PENALTY
            )
            tl.store(table + 2 * S + (first + i) * P + program, total.to(tl.float64) * share)
            if program == 0:
                tl.store(table + 2 * (first + i), weight)
                tl.store(table + 2 * (first + i) + 1, programs[i].to(tl.float64))
        program -= programs[i]
    if program >= 0:
        if program == 0:
            clear_ticket(work)
        if target is not None:
            found = _count(target, B, ignore_index, program, counters)
            tl.store(work + 1 + program, found.to(tl.float64))


class Sections:
    """All pairs of one call as `first_pass` takes them."""

    def __init__(self, call: Call, gradients: Sequence[Tensor]) -> None:
        self.call = call
        pairs = [same_layout(s, t) for s, t in zip(call.student_irs, call.teacher_irs, strict=True)]
        self.students, self.teachers = (tuple(pair[who] for pair in pairs) for who in (0, 1))
        # A gradient that is not needed holds nothing; the student keeps its place and is not written.
        self.gradients = tuple(
            g if need else s for g, s, need in zip(gradients, self.students, call.needs, strict=False)
        )
        self.sizes = tuple(s.numel() for s in self.students)
        self.weights = tuple(call.weights)
        self.programs = share_out(self.sizes)

    def run(self, work: Workspace, target: Tensor | None, counters: int) -> None:
        """The first launch: partial sums and gradients; `counters` programs clear the ticket and count."""
        call = self.call
        for first in range(0, max(len(self.sizes), 1), LIMIT):
            part = slice(first, first + LIMIT)
            programs, extra = self.programs[part], counters if first == 0 else 0
            first_pass[(sum(programs) + extra,)](
                self.students[part],
                self.teachers[part],
                self.gradients[part],
                self.sizes[part],
                programs,
                self.weights[part],
                sum(1 << bit for bit, need in enumerate(call.needs[part][: len(programs)]) if need),
                target,
                0 if target is None else target.numel(),
                call.ignore_index,
                counters,
                work.memory,
                call.beta,
                call.scale,
                call.coefficients,
                first,
                len(self.sizes),
                work.P,
                SECTIONS=len(programs),
                PENALTY=call.penalty,
                **OPTIONS,
            )


def share_out(sizes: Sequence[int]) -> tuple[int, ...]:
    """Programs of each section: at most one a block, at least one, about PROGRAMS in all."""
    blocks = [triton.cdiv(n, BLOCK) for n in sizes]
    total = max(sum(blocks), 1)
    return tuple(max(1, min(b, triton.cdiv(PROGRAMS * b, total))) for b in blocks)
