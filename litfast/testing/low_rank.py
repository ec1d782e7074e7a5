"""Samples of the low-rank ops for `litfast.testing`: name -> positional arguments."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

REGULAR = ((5, 16), (16, 4), (43, 2))  # (n, r) of each block, the first dense at a width of 16
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
Named = tuple[str, tuple[Any, ...]]


def embedding_samples() -> Iterator[Named]:
    """(ids, factors, bases, place) of every shape and dtype."""
    for name, table, generator in _tables():
        words = len(table[2])
        yield name, (torch.randint(words, (3, 7), generator=generator), *table)
    name, table, generator = _table("repeated, strides", REGULAR, 16)
    ids = torch.tensor([[0, 63, 63], [1, 0, 5]]).t()
    yield name, (ids, *table)
    yield "no token", (torch.empty(0, 3, dtype=torch.int64), *table)
    yield "one token", (torch.tensor(7), *table)


def softmax_samples() -> Iterator[Named]:
    """(hidden, factors, bases, place, bias) of every shape and dtype."""
    for name, table, generator in _tables():
        factors, _, place = table
        width = table[1][0].shape[1]
        hidden, bias = (
            torch.randn(shape, generator=generator).to(factors[0]) for shape in ((7, width), (len(place),))
        )
        yield name, (hidden, *table, bias)
    name, table, generator = _table("sequence, no bias, strides", REGULAR, 16)
    wide = torch.randn(32, 3, 2, generator=generator)
    yield name, (wide.permute(2, 1, 0)[..., ::2], *table, None)
    yield "no row", (wide.new_empty(0, 16), *table, None)
    yield "one row", (wide[:16, 0, 0], *table, None)


def _tables() -> Iterator[tuple[str, tuple[list[Tensor], list[Tensor], Tensor], torch.Generator]]:
    for dtype in DTYPES:
        yield _table(str(dtype), REGULAR, 16, dtype=dtype)
    yield _table("odd", ((1, 1), (41, 41), (401, 7), (3, 2)), 41)
    yield _table("one block", ((1271, 5),), 33)
    yield _table("width 1", ((3, 1), (2, 1)), 1)
    yield _table("dense alone", ((9, 24),), 24)
    yield _table("huge", REGULAR, 16, spread=1e15)


def _table(
    name: str,
    groups: Sequence[tuple[int, int]],
    width: int,
    *,
    dtype: torch.dtype = torch.float32,
    spread: float = 1.0,
) -> tuple[str, tuple[list[Tensor], list[Tensor], Tensor], torch.Generator]:
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    factors = [torch.randn(n, r, generator=generator) * spread for n, r in groups]
    bases = [torch.randn(0 if r == width else r, width, generator=generator) for _, r in groups]
    place = torch.randperm(sum(n for n, _ in groups), generator=generator)
    table = [factor.to(dtype) for factor in factors], [basis.to(dtype) for basis in bases], place
    return name, table, generator


SAMPLES: dict[str, Callable[[], Iterator[Named]]] = {
    "low_rank_embedding": embedding_samples,
    "low_rank_softmax": softmax_samples,
}
# of what gets a gradient among the arguments
PLACES: dict[str, tuple[int, ...]] = {"low_rank_embedding": (1, 2), "low_rank_softmax": (0, 1, 2, 4)}
