"""Augmentation in Triton: one launch, a program for each run of a sample's elements in the output's order.

Traffic of n elements: n bytes and n values; the table stays in the cache. A sample out of range becomes NaN.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .._augment import Augment, dense

BLOCK = 1024  # elements: 8 a thread, in fp32 two stores of 16 bytes, in half precision one
OPTIONS = {"num_warps": 4}
_BLOCK = tl.constexpr(BLOCK)


@triton.jit(do_not_specialize=["N", "crop"])
def gather(
    images: tl.tensor,  # [N, H, W, C] uint8
    index: tl.tensor,  # [B]
    top: tl.tensor,  # [B]
    left: tl.tensor,  # [B]
    mirrored: tl.tensor,  # [B]
    table: tl.tensor,  # [C, 256]
    out: tl.tensor,  # [B, H, W, C] with LAST, else [B, C, H, W]
    N: tl.int64,
    crop: tl.int64,
    H: tl.constexpr,
    W: tl.constexpr,
    C: tl.constexpr,
    LAST: tl.constexpr,
) -> None:
    """Each element of the output: where it comes from, the raw pixel there, its value."""
    SIZE: tl.constexpr = H * W * C
    RUNS: tl.constexpr = (SIZE + _BLOCK - 1) // _BLOCK
    program = tl.program_id(0)
    b = (program // RUNS).to(tl.int64)
    i = (program % RUNS) * _BLOCK + tl.arange(0, _BLOCK)  # within the sample
    image, y0, x0 = tl.load(index + b), tl.load(top + b), tl.load(left + b)
    known = (image >= 0) & (image < N) & (y0 >= 0) & (y0 <= 2 * crop) & (x0 >= 0) & (x0 <= 2 * crop)
    if known:
        if LAST:
            c, x, y = i % C, i // C % W, i // (C * W)
        else:
            c, x, y = i // (W * H), i % W, i // W % H
        x = tl.where(tl.load(mirrored + b) != 0, W - 1 - x, x)
        row, column = y + (y0 - crop).to(tl.int32), x + (x0 - crop).to(tl.int32)
        inside = (row >= 0) & (row < H) & (column >= 0) & (column < W) & (i < SIZE)
        raw = tl.load(images + image * SIZE + (row * W + column) * C + c, inside, 0)
        value = tl.load(table + c * 256 + raw, i < SIZE)
        tl.store(out + b * SIZE + i, value, i < SIZE)
    else:
        nan = tl.full((_BLOCK,), float("nan"), tl.float32)
        tl.store(out + b * SIZE + i, nan.to(out.dtype.element_ty), i < SIZE)


def augment_into(call: Augment) -> None:
    """Writes the batch to `call.out`."""
    N, H, W, C = call.images.shape
    programs = call.chosen.shape[0] * triton.cdiv(H * W * C, BLOCK)
    if not programs:
        return
    with torch.cuda.device_of(call.images):
        gather[(programs,)](
            *dense(call),
            N,
            call.crop,
            H=H,
            W=W,
            C=C,
            LAST=call.channels_last,
            **OPTIONS,
        )
