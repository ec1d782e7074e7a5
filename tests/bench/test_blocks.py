"""Costs from latencies, and the choice of blocks, against what is known of both."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from litfast import create, sectioned
from litfast.bench.blocks import Blocks, Costs, choose, counts, fit, probes

TRUE = Costs(shallowest_ms=2.0, per_block_ms=(0.5, 0.25, 0.125), error=0.0)


@pytest.mark.parametrize("most", [(9, 9, 9), (5, 5, 2, 2), (6,), (2, 1, 3), (1, 2)])
def test_latencies_that_are_linear_give_back_their_costs(most: Blocks) -> None:
    slopes = tuple(0.5 / (i + 1) if count > 1 else 0.0 for i, count in enumerate(most))
    true = Costs(shallowest_ms=3.0, per_block_ms=slopes, error=0.0)
    found = fit({blocks: true.predict(blocks) for blocks in probes(most)})
    assert found.shallowest_ms == pytest.approx(3.0)
    assert found.per_block_ms == pytest.approx(slopes)
    assert found.error < 1e-9


def test_probes_are_few_and_lie_between_one_block_and_all() -> None:
    found = probes((9, 7, 5))
    assert len(found) == 6 and found[0] == (1, 1, 1) and found[-1] == (9, 7, 5)
    assert (5, 4, 3) in found
    assert probes((6,)) == [(1,), (6,), (3,)]
    assert probes((1, 1)) == [(1, 1)]


def test_noise_moves_the_costs_little_and_is_told() -> None:
    generator = torch.Generator().manual_seed(0)
    times = {
        b: TRUE.predict(b) * (1 + 0.02 * torch.randn((), generator=generator).item())
        for b in probes((9, 9, 9))
    }
    found = fit(times)
    assert found.predict((4, 4, 4)) == pytest.approx(TRUE.predict((4, 4, 4)), rel=0.03)
    assert 0 < found.error < 0.06


def test_no_block_costs_less_than_nothing() -> None:
    found = fit({(1, 1): 2.0, (3, 1): 1.8, (1, 3): 4.0, (3, 3): 3.8})
    assert found.per_block_ms[0] == 0.0 and found.per_block_ms[1] > 0


def test_latencies_that_do_not_tell_sections_apart_are_refused() -> None:
    with pytest.raises(ValueError, match="fit: latencies must vary each section by itself"):
        fit({(1, 1): 1.0, (2, 2): 2.0, (3, 3): 3.0})


@pytest.mark.parametrize("target", [2.0, 3.1, 4.0, 6.7, 100.0])
def test_the_choice_is_the_best_of_all(target: float) -> None:
    most = (5, 4, 3)
    best = max(
        (b for b in product(range(1, 6), range(1, 5), range(1, 4)) if TRUE.predict(b) <= target),
        key=lambda b: sum(n * math.log(k / n) for k, n in zip(b, most, strict=True)),
    )
    assert choose(TRUE, most, target) == best


def test_sections_of_equal_cost_keep_equal_shares() -> None:
    alike = Costs(shallowest_ms=3.0, per_block_ms=(1.0, 1.0, 1.0), error=0.0)
    assert choose(alike, (9, 9, 9), 3.0 + 12) == (5, 5, 5)
    four = Costs(shallowest_ms=4.0, per_block_ms=(1.0,) * 4, error=0.0)
    assert choose(four, (8, 8, 4, 4), 4.0 + 8) == (4, 4, 2, 2)


def test_a_dear_section_gives_way_and_a_free_one_is_kept_whole() -> None:
    uneven = Costs(shallowest_ms=1.0, per_block_ms=(2.0, 0.0), error=0.0)
    assert choose(uneven, (5, 5), 5.5) == (3, 5)


def test_a_target_below_one_block_a_section_is_refused() -> None:
    with pytest.raises(
        ValueError, match="target must be at least 2 ms, which one block a section takes, got 1 ms"
    ):
        choose(TRUE, (3, 3, 3), 1.0)


def test_blocks_are_counted_in_sections_that_are_sequences() -> None:
    assert counts(create("resnet14", blocks=[1, 2, 3])) == (1, 2, 3)
    block = torch.nn.Sequential()
    block.add_module("first", torch.nn.Linear(3, 3))
    with pytest.raises(
        ValueError, match=r"blocks: section 'first' must be an nn\.Sequential of blocks, got Linear"
    ):
        counts(sectioned(block, ["first"]))
