"""GroupReduce's mathematics: every check of the specification, on matrices that a hand could follow."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from litfast.ops import LowRank, factorise, quantise
from litfast.ops.factorise import ranks_for, split, stored_bytes

N, D = 300, 12


def words(n: int = N, d: int = D, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Vectors with directions of falling size, and Zipf's counts in no order of the words."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(n, d, generator=generator, dtype=torch.float64) / torch.arange(1, d + 1)
    mixed = vectors @ torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64)).Q
    counts = (2000 / torch.arange(1, n + 1)).long()
    return mixed, counts[torch.randperm(n, generator=generator)]


def rebuilt(found: LowRank) -> Tensor:
    matrix = torch.empty(len(found.group), found.bases[0].shape[1], dtype=found.bases[0].dtype)
    for p, (factor, basis) in enumerate(zip(found.factors, found.bases, strict=True)):
        matrix[found.group == p] = factor @ basis if len(basis) else factor
    return matrix


def error(found: LowRank, vectors: Tensor, q: Tensor) -> float:
    return float((q * (vectors - rebuilt(found)).square().sum(1)).sum())


def bytes_of(found: LowRank) -> int:
    numbers = sum(table.numel() for table in (*found.factors, *found.bases))
    return 4 * numbers + (len(found.group) if len(found.factors) > 1 else 0)


def rank_bytes(n: int, d: int, rank: int) -> int:
    return 4 * rank * (n + d)


@pytest.mark.parametrize("rank", [1, 5, 11])
def test_uniform_counts_and_one_block_are_the_truncated_svd(rank: int) -> None:
    vectors, counts = words()
    u, s, v = torch.linalg.svd(vectors, full_matrices=False)
    wanted = u[:, :rank] * s[:rank] @ v[:rank]
    for options in ({"counts": counts, "weighted": False}, {"counts": torch.full((N,), 7), "weighted": True}):
        found = factorise(vectors, budget=rank_bytes(N, D, rank), blocks=1, **options)  # type: ignore[arg-type]
        assert [tuple(table.shape) for table in (*found.factors, *found.bases)] == [(N, rank), (rank, D)]
        torch.testing.assert_close(rebuilt(found), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rank", [1, 5, 11])
def test_the_weighted_squared_error_is_the_sum_of_the_dropped_squared_singular_values(rank: int) -> None:
    vectors, counts = words()
    found = factorise(vectors, counts, budget=rank_bytes(N, D, rank), blocks=1)
    q = counts.clamp(min=1).double()
    u, s, v = torch.linalg.svd(q.sqrt()[:, None] * vectors, full_matrices=False)
    assert error(found, vectors, q) == pytest.approx(float(s[rank:].square().sum()), rel=1e-10)
    by_the_book = (u[:, :rank] * s[:rank]) / q.sqrt()[:, None] @ v[:rank]
    torch.testing.assert_close(rebuilt(found), by_the_book, rtol=0, atol=1e-11)


def test_rank_d_is_exact() -> None:
    vectors, counts = words(20)
    found = factorise(vectors, counts, budget=4 * 20 * D + 20, blocks=3)
    assert torch.equal(rebuilt(found), vectors)
    assert all(not len(basis) for basis in found.bases)  # stored dense: r (n + d) >= n d


@pytest.mark.parametrize("blocks", [1, 2, 5, 256])
def test_blocks_partition_the_vocabulary_by_falling_counts(blocks: int) -> None:
    _, counts = words()
    group = split(counts, blocks)
    assert sorted(group.unique().tolist()) == list(range(blocks))
    for p in range(blocks - 1):
        assert counts[group == p].min() >= counts[group == p + 1].max()


def test_blocks_have_equal_shares_of_the_text() -> None:
    group = split(torch.tensor([1, 8, 4, 1, 1, 1, 8]), 3)
    assert group.tolist() == [2, 0, 2, 2, 2, 2, 1]


@pytest.mark.parametrize("refine", [False, True])
@pytest.mark.parametrize("compression", [1.5, 3.0, 4.5])
def test_the_tables_are_a_partition_within_the_budget(compression: float, refine: bool) -> None:
    vectors, counts = words()
    budget = int(4 * N * D / compression)
    found = factorise(vectors, counts, budget=budget, blocks=4, refine=refine)
    assert found.group.bincount(minlength=4).tolist() == [len(factor) for factor in found.factors]
    assert sum(len(factor) for factor in found.factors) == N
    ranks = [D if not len(basis) else len(basis) for basis in found.bases]
    sizes = [len(factor) for factor in found.factors]
    assert bytes_of(found) == stored_bytes(sizes, ranks, D) <= budget


@pytest.mark.parametrize("seed", range(4))
def test_refinement_never_raises_the_error_and_can_lower_it(seed: int) -> None:
    """Words of two subspaces, cut by counts that know nothing of them: refinement finds the subspaces."""
    generator = torch.Generator().manual_seed(seed)
    vectors, counts = torch.zeros(2000, D, dtype=torch.float64), torch.full((2000,), 10)
    vectors[:1000, :3] = torch.randn(1000, 3, generator=generator, dtype=torch.float64)
    vectors[1000:, 3:6] = torch.randn(1000, 3, generator=generator, dtype=torch.float64)
    counts[torch.randperm(2000, generator=generator)[:1000]] = 11
    q, budget = counts.double(), 4 * 3 * (2000 + 2 * D) + 2000
    plain, refined = (
        factorise(vectors, counts, budget=budget, blocks=2, refine=refine) for refine in (False, True)
    )
    assert error(refined, vectors, q) < error(plain, vectors, q)
    assert bytes_of(refined) <= budget


def test_a_round_that_would_raise_the_error_is_not_taken() -> None:
    vectors, counts = words()
    for compression in (2.0, 4.0):
        budget = int(4 * N * D / compression)
        plain, refined = (
            factorise(vectors, counts, budget=budget, blocks=3, refine=refine) for refine in (False, True)
        )
        q = counts.clamp(min=1).double()
        assert error(refined, vectors, q) <= error(plain, vectors, q) * (1 + 1e-12)


def test_fewer_than_100_candidates_end_the_refinement() -> None:
    vectors, counts = words(99)
    plain, refined = (
        factorise(vectors, counts, budget=2000, blocks=2, refine=refine) for refine in (False, True)
    )
    assert torch.equal(plain.group, refined.group)


def test_ranks_grow_as_the_mean_counts_up_to_the_width_and_the_words() -> None:
    """Mean counts 10000, 100, 10 and 1: at r_min = 5.4 ranks 3 and 40 (all words: dense), 54 and 5."""
    sizes, totals, width = [3, 40, 400, 1000], [30_000, 4000, 4000, 1000], 64
    dense = 43 * 64
    assert ranks_for(sizes, totals, width, 4 * (dense + 54 * 464 + 5 * 1064) + 1443) == [64, 64, 54, 5]
    assert ranks_for(sizes, totals, width, 4 * (dense + 54 * 464 + 5 * 1064) + 1442) == [64, 64, 53, 5]


def test_the_largest_r_min_is_found() -> None:
    sizes, totals, width = [40, 400, 1000], [4000, 4000, 1000], 64
    for budget in (35_000, 50_000, 90_000, 160_000):
        ranks = ranks_for(sizes, totals, width, budget)
        found = stored_bytes(sizes, ranks, width)
        grid = [1 + i / 200 for i in range(12_600)]
        floors = (
            [min(n, width, int(r * t / n + 1e-9)) for n, t in zip(sizes, totals, strict=True)] for r in grid
        )
        dense = (
            [width if r * (n + width) >= n * width else r for r, n in zip(row, sizes, strict=True)]
            for row in floors
        )
        costs = (stored_bytes(sizes, row, width) for row in dense)
        assert found == max(cost for cost in costs if cost <= budget)


def test_eight_bits_err_by_half_a_step_in_each_direction() -> None:
    generator = torch.Generator().manual_seed(0)
    factor, basis = torch.randn(50, 4, generator=generator), torch.randn(4, 12, generator=generator)
    factor[:, 2] *= 100
    rows, across, scale = quantise(factor, basis)
    assert (rows.dtype, across.dtype, scale.shape) == (torch.int8, torch.int8, (4,))
    assert rows.abs().amax(0).tolist() == across.abs().amax(1).tolist() == [127] * 4
    steps = factor.abs().amax(0) / 127
    assert ((rows * steps - factor).abs() <= 0.5001 * steps).all()
    torch.testing.assert_close(rows * scale @ across.float(), factor @ basis, rtol=0, atol=4.0)
    rows, across, scale = quantise(factor, basis[:0])
    assert across.shape == (0, 12)
    assert ((rows * scale - factor).abs() <= 0.5001 * scale).all()


def test_zeros_in_eight_bits_are_zeros() -> None:
    rows, across, scale = quantise(torch.zeros(3, 2), torch.zeros(2, 5))
    assert not rows.any() and not across.any() and scale.isfinite().all()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"blocks": 301}, "blocks must be from 1 to 256, got 301"),
        ({"blocks": 0}, "blocks must be from 1 to 256, got 0"),
        ({"budget": 99}, "budget must be at least 2876 bytes for these blocks, got 99"),
        (
            {"counts": torch.ones(3, dtype=torch.int64)},
            "counts must be one whole number a word [300], got torch",
        ),
        ({"counts": torch.ones(N)}, "counts must be one whole number a word [300], got torch.float32 [300]"),
        ({"weight": torch.ones(N)}, "weight must be [N, d] with d > 0, got [300]"),
        (
            {"weight": torch.ones(3, 4), "counts": torch.tensor([3, 2, 1])},
            "the vocabulary must hold a word for each of 4 blocks, got 3",
        ),
    ],
)
def test_a_mistake_gets_one_line(changes: dict[str, object], line: str) -> None:
    vectors, counts = words()
    options = {"weight": vectors, "counts": counts, "budget": 4000, "blocks": 4} | changes
    with pytest.raises(ValueError, match=rf"\Afactorise: {re.escape(line)}[^\n]*\Z"):
        factorise(**options)  # type: ignore[arg-type]
