"""What is random in an epoch: uniform, a sample's own, and the same however the epoch is cut up."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from litfast.data.draws import Draws, draws, steps

N, CROP = 50_000, 4
SEEDS = [(seed, epoch) for seed in (0, 1, 2**31) for epoch in (0, 1, 299)]


def epoch_of(seed: int = 0, epoch: int = 0, **options: int) -> Draws:
    plain = {"samples": N, "batch": 1, "train": True, "crop": CROP, "flip": True}
    return draws(**{**plain, **options}, seed=seed, epoch=epoch)


def by_sample(drawn: Draws) -> dict[int, tuple[int, int, bool]]:
    """Each sample's crop and flip."""
    drawn_of = zip(drawn.top.tolist(), drawn.left.tolist(), drawn.mirrored.tolist(), strict=True)
    return dict(zip(drawn.index.tolist(), drawn_of, strict=True))


def in_order_of_the_set(drawn: Draws, values: Tensor) -> Tensor:
    return values[drawn.index.argsort()]


def chi_square(cells: Tensor, count: int) -> float:
    """sum (seen - expected)^2 / expected, of count - 1 degrees of freedom."""
    seen = cells.bincount(minlength=count).double()
    assert len(seen) == count
    expected = len(cells) / count
    return float(((seen - expected) ** 2 / expected).sum())


def is_likely(statistic: float, freedom: int) -> bool:
    """Within 4 standard deviations (Wilson and Hilferty): neither uneven nor too even to be random."""
    spread = 2 / (9 * freedom)
    return abs((statistic / freedom) ** (1 / 3) - (1 - spread)) < 4 * spread**0.5


@pytest.mark.parametrize(("seed", "epoch"), SEEDS)
def test_all_81_offsets_are_equally_likely_with_and_without_a_flip(seed: int, epoch: int) -> None:
    drawn = epoch_of(seed, epoch)
    pair = drawn.top * 9 + drawn.left
    assert is_likely(chi_square(pair, 81), 80)
    assert is_likely(chi_square(pair * 2 + drawn.mirrored, 162), 161)
    assert is_likely(chi_square(drawn.mirrored.long(), 2), 1)


def test_one_sample_meets_all_offsets_over_the_epochs() -> None:
    epochs = [epoch_of(epoch=epoch, samples=1) for epoch in range(3000)]
    top, left, mirrored = (torch.cat([getattr(e, name) for e in epochs]) for name in Draws._fields[1:4])
    assert is_likely(chi_square(top * 9 + left, 81), 80)
    assert is_likely(chi_square(mirrored.long(), 2), 1)


def test_neighbouring_samples_draw_apart() -> None:
    drawn = epoch_of()
    pair = in_order_of_the_set(drawn, drawn.top * 9 + drawn.left)
    assert is_likely(chi_square(pair[:-1] * 81 + pair[1:], 81**2), 81**2 - 1)


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations([(0, 0), (0, 1), (1, 0), (1, 1)], 2)))
def test_neighbouring_seeds_and_epochs_share_no_draw(one: tuple[int, int], other: tuple[int, int]) -> None:
    a, b = epoch_of(*one), epoch_of(*other)
    assert (a.index == b.index).sum() < 20  # 1 expected
    first, second = (in_order_of_the_set(d, d.top * 9 + d.left) for d in (a, b))
    assert is_likely(chi_square(first * 81 + second, 81**2), 81**2 - 1)
    agree = in_order_of_the_set(a, a.mirrored) == in_order_of_the_set(b, b.mirrored)
    assert is_likely(chi_square(agree.long(), 2), 1)


@pytest.mark.parametrize(("batch", "num_shards"), [(1, 2), (8, 1), (7, 3), (100, 4)])
def test_a_samples_crop_and_flip_do_not_know_batch_or_shards(batch: int, num_shards: int) -> None:
    whole = by_sample(epoch_of(3, 5, samples=1000))
    for shard_id in range(num_shards):
        options = {"batch": batch, "shard_id": shard_id, "num_shards": num_shards}
        part = by_sample(epoch_of(3, 5, samples=1000, **options))
        assert part == {sample: whole[sample] for sample in part}


def test_order_and_flips_do_not_depend_on_the_crop() -> None:
    one, other = epoch_of(crop=0), epoch_of(crop=4)
    assert torch.equal(one.index, other.index) and torch.equal(one.mirrored, other.mirrored)
    assert not one.top.any() and not one.left.any()
    assert not epoch_of(flip=False).mirrored.any()


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(("batch", "num_shards"), [(8, 1), (8, 3), (10, 10), (1, 7)])
def test_shards_are_disjoint_complete_and_of_equal_length(train: bool, batch: int, num_shards: int) -> None:
    options = {"batch": batch, "num_shards": num_shards, "train": train, "samples": 101}
    parts = [epoch_of(shard_id=shard_id, **options) for shard_id in range(num_shards)]
    count = steps(101, batch, train=train, num_shards=num_shards)
    assert {len(part.index) for part in parts} == {count * batch}
    delivered = torch.cat([part.index[~part.filler] for part in parts])
    assert len(delivered.unique()) == len(delivered)
    left_out = 101 - len(delivered)
    assert left_out == 101 % (batch * num_shards) if train else left_out == 0


def test_shards_together_see_the_same_samples_at_a_step_as_one_loader_of_their_batches() -> None:
    whole = epoch_of(samples=1000, batch=12).index.view(-1, 12)
    shards = [epoch_of(samples=1000, batch=4, num_shards=3, shard_id=r).index.view(-1, 4) for r in range(3)]
    assert torch.equal(torch.stack(shards, 2).flatten(1), whole)


def test_evaluation_keeps_the_order_and_fills_up() -> None:
    drawn = epoch_of(samples=10, batch=8, train=False)
    assert drawn.index.tolist() == [*range(10), *[9] * 6]
    assert drawn.filler.tolist() == [False] * 10 + [True] * 6
    assert not (drawn.top.any() or drawn.left.any() or drawn.mirrored.any())


def test_drawing_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    epoch_of()
    assert torch.equal(torch.get_rng_state(), before)
