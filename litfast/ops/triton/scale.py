"""Backward in Triton: gradients times the incoming scale, in one launch that leaves at once where it is 1."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .ir import BLOCK, LIMIT, OPTIONS, share_out

_BLOCK = tl.constexpr(BLOCK)


@triton.jit(do_not_specialize=["sizes", "programs"])
def _multiply(
    gradients: tl.tuple,  # each [n_i], dense
    out: tl.tuple,  # each [n_i], the gradient's layout
    sizes: tl.tuple,
    programs: tl.tuple,
    scale: tl.tensor,  # []
    in_place: tl.int64,  # bit i: out_i is gradient_i
    COUNT: tl.constexpr,
) -> None:
    """out_i = scale * gradient_i."""
    program = tl.program_id(0)
    factor = tl.load(scale).to(tl.float32)
    lane = tl.arange(0, _BLOCK)
    for j in tl.static_range(COUNT):
        idle = (((in_place >> j) & 1) == 1) & (factor == 1)
        if (program >= 0) & (program < programs[j]) & (idle == 0):
            n = sizes[j].to(tl.int64)
            full = (n // _BLOCK) * _BLOCK
            first = program.to(tl.int64) * _BLOCK
            step = programs[j].to(tl.int64) * _BLOCK
            for begin in range(first, full, step):
                i = begin + lane
                value = factor * tl.load(gradients[j] + i).to(tl.float32)
                tl.store(out[j] + i, value.to(out[j].dtype.element_ty))
            if program == (n // _BLOCK) % programs[j]:
                i = full + lane
                value = factor * tl.load(gradients[j] + i, i < n).to(tl.float32)
                tl.store(out[j] + i, value.to(out[j].dtype.element_ty), i < n)
        program -= programs[j]


def scale_into(gradients: Sequence[Tensor], scale: Tensor, out: Sequence[Tensor]) -> None:
    """out_i = scale * gradient_i for dense tensors of equal layouts; out_i may be gradient_i."""
    with torch.cuda.device_of(scale):
        for begin in range(0, len(gradients), LIMIT):
            part = slice(begin, begin + LIMIT)
            pairs = list(zip(gradients[part], out[part], strict=True))
            sizes = tuple(gradient.numel() for gradient, _ in pairs)
            programs = share_out(sizes)
            _multiply[(sum(programs),)](
                tuple(gradient for gradient, _ in pairs),
                tuple(result for _, result in pairs),
                sizes,
                programs,
                scale,
                sum(1 << bit for bit, (gradient, result) in enumerate(pairs) if gradient is result),
                COUNT=len(pairs),
                **OPTIONS,
            )
