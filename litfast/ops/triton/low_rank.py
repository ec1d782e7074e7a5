"""The low-rank ops in Triton: one launch a block for the look-up, two for the scores.

The scores are products of rows with rows: first the hidden states with a block's basis, once, in fp32; then
those with the block's factor, written where the vocabulary has its words. All products are in full fp32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._low_rank import Call, new_logits, new_vectors

WIDE = 128  # columns of a vector that a program holds at once
ROWS, COLUMNS, DEPTH = 32, 64, 32  # of a product that a program holds at once


@triton.jit(do_not_specialize=["N", "first", "n", "r", "d"])
def gather(
    ids: tl.tensor,  # [T]
    place: tl.tensor,  # [N]
    factor: tl.tensor,  # [n, r]
    basis: tl.tensor,  # [r, d]; None: a dense block
    out: tl.tensor,  # [T, d]
    N: tl.int64,
    first: tl.int64,
    n: tl.int64,
    r: tl.int64,
    d: tl.int64,
    BLOCK: tl.constexpr,
) -> None:
    """A run of one token's vector, where its word lies in this block; NaN for an id that is no word."""
    token, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    word = tl.load(ids + token)
    known = (word >= 0) & (word < N)
    row = tl.load(place + word, known, other=-1) - first
    wanted = column < d
    to = out + token * d + column
    if known & (row >= 0) & (row < n):
        if basis is None:
            tl.store(to, tl.load(factor + row * r + column, wanted), wanted)
        else:
            total = tl.zeros((BLOCK,), tl.float32)
            for k in range(r):
                weight = tl.load(factor + row * r + k).to(tl.float32)
                total += weight * tl.load(basis + k * d + column, wanted, other=0.0).to(tl.float32)
            tl.store(to, total.to(out.dtype.element_ty), wanted)
    if (known == 0) & (first == 0):
        nan = tl.full((BLOCK,), float("nan"), tl.float32)
        tl.store(to, nan.to(out.dtype.element_ty), wanted)


@triton.jit(do_not_specialize=["B", "n", "K", "stride"])
def multiply(
    x: tl.tensor,  # [B, K]
    rows: tl.tensor,  # [n, K]
    words: tl.tensor,  # [n] where each row's product goes; None: to its own place
    bias: tl.tensor,  # by word; None: none
    out: tl.tensor,  # [B, stride]
    B: tl.int64,
    n: tl.int64,
    K: tl.int64,
    stride: tl.int64,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
) -> None:
    """out[b, words_j] = sum_k x[b, k] rows[j, k] + bias[words_j]."""
    j = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    b = tl.program_id(1).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for begin in range(0, K, DEPTH):
        k = begin + tl.arange(0, DEPTH)
        left = tl.load(x + b[:, None] * K + k[None, :], (b[:, None] < B) & (k[None, :] < K), other=0.0)
        right = tl.load(rows + j[None, :] * K + k[:, None], (j[None, :] < n) & (k[:, None] < K), other=0.0)
        total += tl.dot(left.to(tl.float32), right.to(tl.float32), input_precision="ieee")
    to = j
    if words is not None:
        to = tl.load(words + j, j < n, other=0)
    if bias is not None:
        total += tl.load(bias + to, j < n, other=0.0).to(tl.float32)[None, :]
    wanted = (b[:, None] < B) & (j[None, :] < n)
    tl.store(out + b[:, None] * stride + to[None, :], total.to(out.dtype.element_ty), wanted)


def look_up(call: Call) -> Tensor:
    """The vectors, [..., d]."""
    ids, place = call.x.contiguous(), call.place.contiguous()
    out = new_vectors(ids, call.factors, call.bases)
    d, first = out.shape[-1], 0
    programs = (ids.numel(), triton.cdiv(d, WIDE))
    if not ids.numel():
        return out
    with torch.cuda.device_of(out):
        for factor, basis in zip(call.factors, call.bases, strict=True):
            n, r = factor.shape
            dense = None if not len(basis) else basis.contiguous()
            gather[programs](
                ids, place, factor.contiguous(), dense, out, len(place), first, n, r, d, BLOCK=WIDE
            )
            first += n
    return out


def score(call: Call) -> Tensor:
    """The logits, [..., N]."""
    hidden, place = call.x.contiguous(), call.place
    out = new_logits(hidden, place)
    if not out.numel():
        return out
    N, d = len(place), hidden.shape[-1]
    B, first = hidden.numel() // d, 0
    bias = None if call.bias is None else call.bias.contiguous()
    with torch.cuda.device_of(out):
        words = torch.zeros_like(place).scatter_(0, place, torch.arange(N, device=place.device))
        for factor, basis in zip(call.factors, call.bases, strict=True):
            n, r = factor.shape
            x = hidden
            if len(basis):
                x = hidden.new_empty((B, r), dtype=torch.float32)
                _launch(hidden, basis.contiguous(), None, None, x, B, r, d, r)
            _launch(x, factor.contiguous(), words[first : first + n], bias, out, B, n, r, N)
            first += n
    return out


def _launch(
    x: Tensor,
    rows: Tensor,
    words: Tensor | None,
    bias: Tensor | None,
    out: Tensor,
    B: int,
    n: int,
    K: int,
    stride: int,
) -> None:
    grid = (triton.cdiv(n, COLUMNS), triton.cdiv(B, ROWS))
    multiply[grid](x, rows, words, bias, out, B, n, K, stride, ROWS=ROWS, COLUMNS=COLUMNS, DEPTH=DEPTH)
