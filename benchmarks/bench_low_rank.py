"""A language model's ends in blocks of low rank against the dense layers and a plain SVD of the same bytes.

10,000 words of 200 numbers at 10x: five blocks of words whose counts fall as Zipf's law has them, at the
ranks of `ops.factorise`. Contenders: "dense", torch's own layer; "svd", one block in the same bytes, in plain
torch; "reference", the blocks in plain torch. A backend that breaks the accuracy rule of `litfast.testing` is
not timed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch.nn import functional as F

from litfast import ops, testing
from litfast.bench.interleave import interleave
from litfast.testing import Sample

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BACKEND = {"cpu": "cpp", "cuda": "triton"}[DEVICE.type]
WORDS, WIDTH, COMPRESSION, BLOCKS = 10_000, 200, 10, 5
ROWS = (1, 20, 128, 700)  # a word of one text, a step of 20 texts, a short and a whole batch of 20 x 35
SECONDS = 4.0

Run = Callable[[], Tensor]


@cache
def table(blocks: int) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:
    """The dense matrix [N, d], and its factors, bases and places."""
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(WORDS, WIDTH, generator=generator)
    counts = (100_000 / torch.arange(1, WORDS + 1)).long()
    budget = 4 * dense.numel() // COMPRESSION
    group, factors, bases = ops.factorise(dense, counts, budget=budget, blocks=blocks, refine=False)
    order = group.long().argsort(stable=True)
    place = torch.empty_like(order).scatter_(0, order, torch.arange(WORDS))
    factors, bases = ([one.to(DEVICE) for one in side] for side in (factors, bases))
    return dense.to(DEVICE), factors, bases, place.to(DEVICE)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("op", ["softmax", "embedding"])
def test_low_rank(request: pytest.FixtureRequest, op: str, rows: int) -> None:
    if missing := dict(ops.backends())[BACKEND]:
        pytest.skip(f"{BACKEND}: {missing}")
    dense, factors, bases, place = table(BLOCKS)
    _, (factor,), (basis,), _ = table(1)
    torch.manual_seed(0)
    ids = torch.randint(WORDS, (rows,), device=DEVICE)
    hidden = torch.randn(rows, WIDTH, device=DEVICE)
    bias = torch.randn(WORDS, device=DEVICE)
    if op == "softmax":
        args = (hidden, factors, bases, place, bias)
        runs: dict[str, Run] = {
            "dense": lambda: F.linear(hidden, dense, bias),
            "svd": lambda: F.linear(F.linear(hidden, basis), factor, bias),
        }
    else:
        args = (ids, factors, bases, place)
        runs = {"dense": lambda: F.embedding(ids, dense), "svd": lambda: F.embedding(ids, factor) @ basis}
    function = getattr(ops, f"low_rank_{op}")
    runs["reference"] = partial(function, *args, backend="reference")
    sample = Sample(op=f"low_rank_{op}", name=f"{rows} rows", args=args, options={})
    wrong = testing.misses(sample, BACKEND)
    assert not wrong, "; ".join(wrong)
    benchmark: BenchmarkFixture = request.getfixturevalue("benchmark")  # unused, it would complain
    benchmark.group = f"low_rank_{op} {rows} rows"
    benchmark.extra_info.update(contender=BACKEND, threads=torch.get_num_threads())
    ranks = [list(factor.shape) for factor in factors]
    benchmark.extra_info.update(blocks=ranks, svd_rank=factor.shape[1])
    with torch.inference_mode():
        benchmark.extra_info["against"] = interleave(
            benchmark, partial(function, *args, backend=BACKEND), runs, device=DEVICE, seconds=SECONDS
        )
