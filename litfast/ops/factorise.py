"""GroupReduce: a matrix of word vectors in blocks of low rank, fitted to how often each word is used.

A block of n words with the vectors A [n, d] and the counts q has the weighted singular value decomposition

    diag(sqrt q) A = U S V^T,     A ~ (diag(1 / sqrt q) U_r S_r) V_r^T = (A V_r) V_r^T,

so V_r, the r leading eigenvectors of A^T diag(q) A, is all that has to be found: diag(1 / sqrt q) U S is A V.
It minimises sum_i q_i |a_i - a'_i|^2 among the matrices of rank r. All of it runs in fp64.

Source: Chen, Si, Li, Chelba, Hsieh, "GroupReduce: block-wise low-rank approximation for neural language model
shrinking", NeurIPS 2018, section 3.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ._checks import check_finite

WHO = "factorise"
ROUNDS, FEWEST, SHARE = 10, 100, 0.1  # of the refinement: at most, candidates at least, of them moved
FLOAT, INDEX = 4, 1  # bytes of a number and of a word's block
MOST_BLOCKS = 256  # that a byte tells apart
WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class BudgetError(ValueError):
    """A budget below the `least` bytes that blocks take, each of the lowest rank that its counts allow."""

    def __init__(self, budget: int, least: int) -> None:
        super().__init__(f"{WHO}: budget must be at least {least} bytes for these blocks, got {budget}")
        self.least = least


class LowRank(NamedTuple):
    """A matrix [N, d] as P blocks of words."""

    group: Tensor  # [N] uint8, the block of each word
    factors: list[Tensor]  # [n_p, r_p], a row a word of the block, by ascending word
    bases: list[
        Tensor
    ]  # [r_p, d]; [0, d] where the block is dense and its factor holds the vectors themselves


class _Fit(NamedTuple):
    """A grouping of the words with the best bases that its ranks allow."""

    group: Tensor  # [N] int64
    bases: list[Tensor | None]  # [r_p, d], orthonormal rows; None: dense
    residual: Tensor  # [N, P] squared error of each word if block p held it; infinite for a dense block
    error: float  # sum_i q_i |a_i - a'_i|^2


def factorise(
    weight: Tensor,  # [N, d]
    counts: Tensor,  # [N]
    *,
    budget: int,
    blocks: int = 5,
    weighted: bool = True,
    refine: bool = True,
) -> LowRank:
    """Blocks of words of similar frequency, each of the rank that its mean count earns, in `budget` bytes.

        r_p = min(n_p, d, floor(r_min f_p / f_min)),     f_p the mean count of block p,

    with the largest r_min that meets the budget; a block for which r_p (n_p + d) >= n_p d is stored dense.
    The refinement moves the best 10 % of the words that another block would reconstruct better, and fits
    anew; a round that breaks the budget or raises the error is not taken, and ends it, as do 10 rounds and
    fewer than 100 such words. Nothing moves into a dense block or out of it.

    Args:
        weight: the vectors of N words.
        counts: how often each word is in the training text, whole numbers; what is below 1 counts as 1.
        budget: bytes of all factors and bases in fp32, and, where there are several blocks, a byte a word
            that says which is its.
        blocks: P, before the refinement and after it; the words, most frequent first, are cut where each
            block has its share of the text. 1, with `weighted=False`, is the truncated singular value
            decomposition.
        weighted: whether a word's error counts as often as the word; False: all equally.
        refine: whether words move between blocks afterwards.

    Returns:
        LowRank(group [N], factors, bases) in the dtype of `weight`.

    Raises:
        ValueError: fewer words than blocks.
        BudgetError: a budget below that of rank 1 for the rarest block.
    """
    _check(weight, counts, blocks, budget)
    vectors = weight.detach().double().cpu()
    uses = counts.detach().cpu().clamp(min=1).long()
    q = uses.double() if weighted else torch.ones(len(uses), dtype=torch.float64)
    best = _fit(vectors, q, uses, split(uses, blocks), blocks, budget)
    for _ in range(ROUNDS if refine and blocks > 1 else 0):
        group = _moved(best, q)
        if group is None:
            break
        try:
            fit = _fit(vectors, q, uses, group, blocks, budget)
        except BudgetError:
            break
        if fit.error > best.error:
            break
        best = fit
    factors, bases = [], []
    for p, basis in enumerate(best.bases):
        rows = vectors[best.group == p]
        factors.append((rows if basis is None else rows @ basis.T).to(weight))
        bases.append((rows[:0] if basis is None else basis).to(weight))
    return LowRank(best.group.to(torch.uint8), factors, bases)


def split(counts: Tensor, blocks: int) -> Tensor:
    """[N] int64: the block of each word, 0 that of the most frequent ones.

    Words by falling count are cut into `blocks` runs of as equal a sum of counts as can be, at least a word
    each: with ranks that grow as the mean count, all blocks that are not dense then take about equal room.
    """
    order = counts.argsort(descending=True, stable=True)
    before = counts[order].cumsum(0) - counts[order]
    shares = torch.arange(1, blocks, dtype=torch.float64) * int(counts.sum()) / blocks
    ends = torch.searchsorted(before.double(), shares).tolist()
    bounds = [0]
    for p, end in enumerate(ends, 1):
        bounds.append(min(max(end, bounds[-1] + 1), len(counts) - blocks + p))
    group = torch.empty_like(order)
    for p, (begin, end) in enumerate(pairwise([*bounds, len(counts)])):
        group[order[begin:end]] = p
    return group


def stored_bytes(sizes: Sequence[int], ranks: Sequence[int], width: int) -> int:
    """Bytes in fp32 of blocks of `sizes` words, dense where the rank is `width`, and of each word's block."""
    pairs = zip(sizes, ranks, strict=True)
    numbers = sum(n * width if r == width else r * (n + width) for n, r in pairs)
    return FLOAT * numbers + (INDEX * sum(sizes) if len(sizes) > 1 else 0)


def ranks_for(
    sizes: Sequence[int], totals: Sequence[int], width: int, budget: int
) -> list[int]:  # r_p; `width` where the block is dense
    """The ranks of `factorise`, exact in rational numbers.

    Args:
        sizes: words of each block.
        totals: sum of each block's counts.
        width: d.
        budget: bytes.

    Raises:
        BudgetError: a budget below that of r_min = 1.
    """
    means = [Fraction(total, n) for total, n in zip(totals, sizes, strict=True)]
    ratios = [mean / min(means) for mean in means]

    def ranks(r_min: Fraction) -> list[int]:
        found = [min(n, width, int(r_min * ratio)) for n, ratio in zip(sizes, ratios, strict=True)]
        return [width if r * (n + width) >= n * width else r for r, n in zip(found, sizes, strict=True)]

    def cost(r_min: Fraction) -> int:
        return stored_bytes(sizes, ranks(r_min), width)

    # the values of r_min at which a rank grows by one: between them nothing changes
    steps = {r / ratio for n, ratio in zip(sizes, ratios, strict=True) for r in range(1, min(n, width) + 1)}
    grid = sorted(step for step in steps if step >= 1)
    meeting = bisect_right(grid, budget, key=cost)
    if not meeting:
        raise BudgetError(budget, cost(Fraction(1)))
    return ranks(grid[meeting - 1])


def quantise(factor: Tensor, basis: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A block in 8 bits: one scale a direction k, for column k of the factor and row k of the basis together.

        factor[:, k] basis[k] ~ scale_k factor8[:, k] basis8[k],
        factor8[:, k] = round(factor[:, k] / max|factor[:, k]| * 127),     basis8 likewise by rows

    Args:
        factor: [n, r].
        basis: [r, d]; [0, d] of a dense block, whose directions are the columns of its factor.

    Returns:
        factor8 [n, r] int8, basis8 [r, d] or [0, d] int8, scale [r] in the dtype of `factor`.

    Raises:
        ValueError, TypeError: no factor or basis of such a shape, or numbers that are not finite.
    """
    for what, tensor in (("factor", factor), ("basis", basis)):
        check_finite("quantise", what, tensor)
        if tensor.ndim != 2:
            raise ValueError(f"quantise: {what} must have two dimensions, got {list(tensor.shape)}")
    if not factor.numel() or len(basis) not in (0, factor.shape[1]) or (len(basis) and not basis.numel()):
        got = f"{list(factor.shape)} and {list(basis.shape)}"
        raise ValueError(f"quantise: factor and basis must be [n, r] and [r, d] or [0, d], got {got}")
    steps = factor.detach().abs().amax(0).clamp(min=torch.finfo(factor.dtype).tiny) / 127  # [r]
    rows = (factor.detach() / steps).round().to(torch.int8)
    if not len(basis):
        return rows, basis.detach().to(torch.int8), steps
    across = basis.detach().abs().amax(1).clamp(min=torch.finfo(basis.dtype).tiny) / 127  # [r]
    return rows, (basis.detach() / across[:, None]).round().to(torch.int8), steps * across


def _fit(vectors: Tensor, q: Tensor, uses: Tensor, group: Tensor, blocks: int, budget: int) -> _Fit:
    """The ranks that the budget allows this grouping, and the best bases of these ranks."""
    width = vectors.shape[1]
    sizes = group.bincount(minlength=blocks).tolist()
    totals = [int(uses[group == p].sum()) for p in range(blocks)]
    norms = vectors.square().sum(1)
    bases: list[Tensor | None] = []
    residual = torch.full((len(vectors), blocks), torch.inf, dtype=torch.float64)
    error = 0.0
    for p, rank in enumerate(ranks_for(sizes, totals, width, budget)):
        if rank == width:
            bases.append(None)
            continue
        inside = group == p
        basis = _basis(vectors[inside], q[inside], rank)
        bases.append(basis)
        residual[:, p] = (norms - (vectors @ basis.T).square().sum(1)).clamp(min=0)
        error += float(q[inside] @ residual[inside, p])
    return _Fit(group, bases, residual, error)


def _basis(rows: Tensor, q: Tensor, rank: int) -> Tensor:
    """[rank, d]: the leading right singular vectors of diag(sqrt q) rows."""
    vectors = torch.linalg.eigh(rows.T @ (q[:, None] * rows)).eigenvectors  # [d, d], by rising eigenvalue
    return vectors.flip(1)[:, :rank].T.contiguous()


def _moved(fit: _Fit, q: Tensor) -> Tensor | None:
    """The grouping after one round; None where too few words would gain, or a block would be left empty."""
    least, best = fit.residual.min(1)
    own = fit.residual.gather(1, fit.group[:, None])[:, 0]
    gain = torch.where(own.isfinite(), q * (own - least), 0)  # a word of a dense block stays
    candidates = int((gain > 0).sum())
    if candidates < FEWEST:
        return None
    movers = gain.argsort(descending=True, stable=True)[: int(SHARE * candidates)]
    group = fit.group.clone()
    group[movers] = best[movers]
    emptied = len(group.unique()) < len(fit.bases)
    return None if emptied else group


def _check(weight: Tensor, counts: Tensor, blocks: int, budget: int) -> None:
    check_finite(WHO, "weight", weight)
    if weight.ndim != 2 or not weight.shape[1]:
        raise ValueError(f"{WHO}: weight must be [N, d] with d > 0, got {list(weight.shape)}")
    if not isinstance(counts, Tensor):
        raise TypeError(f"{WHO}: counts must be a tensor, got {type(counts).__name__}")
    for what, number in (("blocks", blocks), ("budget", budget)):
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError(f"{WHO}: {what} must be a whole number, got {type(number).__name__}")
    if counts.shape != weight.shape[:1] or counts.dtype not in WHOLE:
        rule = f"be one whole number a word [{len(weight)}]"
        raise ValueError(f"{WHO}: counts must {rule}, got {counts.dtype} {list(counts.shape)}")
    if not 1 <= blocks <= MOST_BLOCKS:
        raise ValueError(f"{WHO}: blocks must be from 1 to {MOST_BLOCKS}, got {blocks}")
    if len(weight) < blocks:
        raise ValueError(
            f"{WHO}: the vocabulary must hold a word for each of {blocks} blocks, got {len(weight)}"
        )
