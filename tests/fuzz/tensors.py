"""Strategies: tensors and numbers as an op may be given them, and things that are neither."""

from __future__ import annotations

import math
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from .spoil import HUGE

FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
DTYPES = [*FLOATS, torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64]
FILLS = [math.nan, math.inf, -math.inf, 1e38, -1e38, 1e-45, 0.0]
sizes = st.sampled_from([0, 1, 2, 3, 5, 16, 17, 41])
shapes = st.lists(sizes, max_size=3)
numbers = st.one_of(
    st.floats(0, 1),
    st.sampled_from(
        [0, 1, 1.0, 4.0, 0.5, 20, 1e-30, 1e30, -1, -0.5, math.nan, math.inf, HUGE, -HUGE, None, "1", True]
    ),
    st.sampled_from(
        [torch.tensor(0.5), torch.tensor(0.5, dtype=torch.float64), torch.ones(1), torch.tensor(1)]
    ),
)
strange = st.one_of(
    st.none(),
    st.sampled_from(
        [0, 1.5, "x", [], [1.0], [[1.0]], (), {}, torch.empty(0), torch.tensor(1.0), torch.eye(3).to_sparse()]
    ),
    st.sampled_from(
        [torch.ones(2, 3, device="meta"), torch.ones(2, 3, dtype=torch.complex64), [None], [torch.ones(2)]]
    ),
)


@st.composite
def tensors(draw: st.DrawFn, shape: Any = shapes, dtypes: Any = FLOATS) -> Tensor:
    """Of a shape, in any layout and dtype, with or without grad; NaN and the like at times."""
    size = draw(shape) if isinstance(shape, st.SearchStrategy) else list(shape)
    dtype = draw(st.sampled_from(dtypes))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9)))
    match draw(st.sampled_from(["dense", "dense", "transposed", "strided", "expanded"])):
        case "transposed" if size:
            made = torch.randn(size[::-1], generator=generator).permute(*range(len(size))[::-1])
        case "strided" if size:
            made = torch.randn([*size[:-1], 2 * size[-1]], generator=generator)[..., ::2]
        case "expanded" if size:
            made = torch.randn([1, *size[1:]], generator=generator).expand(size)
        case _:
            made = torch.randn(size, generator=generator)
    made = made.to(dtype) if dtype in FLOATS else (made * 3).to(dtype)
    if made.numel() and dtype in FLOATS and not draw(st.integers(0, 4)):
        made = made.clone()
        made[(0,) * made.ndim] = draw(st.sampled_from(FILLS))
    return made.requires_grad_(dtype in FLOATS and draw(st.booleans()))
