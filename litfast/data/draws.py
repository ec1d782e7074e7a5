"""What is random in an epoch: the order of the samples, crops and flips."""

from __future__ import annotations

import random
from typing import NamedTuple

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio: the step of splitmix64


class Draws(NamedTuple):
    """One entry a sample of one shard's epoch, [steps * batch] in the order of delivery."""

    index: Tensor  # type: ignore[assignment]  # int64, into the whole set
    top: Tensor  # int64 in 0..2 crop, the crop's offset in the padded image
    left: Tensor
    mirrored: Tensor  # bool
    filler: Tensor  # bool: only fills up the last evaluation batch


def steps(samples: int, batch: int, *, train: bool, num_shards: int = 1) -> int:
    """Batches an epoch of each shard: training drops a partial batch, evaluation fills it up."""
    whole = batch * num_shards
    return samples // whole if train else -(-samples // whole)


def draws(
    samples: int,
    *,
    batch: int,
    train: bool,
    seed: int,
    epoch: int,
    crop: int = 0,
    flip: bool = False,
    shard_id: int = 0,
    num_shards: int = 1,
) -> Draws:
    """A shard's epoch, on the CPU: the same on every device, for every batch size and number of shards.

    Training: a permutation of all samples, of which shard r of R takes every R-th from the r-th on. Crop
    offsets are uniform over the whole numbers 0..2 crop, a flip has probability 1/2; both follow from (seed,
    epoch, sample) alone. Evaluation keeps the order of the set and augments nothing.
    """
    count = steps(samples, batch, train=train, num_shards=num_shards) * batch
    place = torch.arange(count) * num_shards + shard_id
    if not train:
        still = torch.zeros_like(place)
        filler = place >= samples
        return Draws(place.clamp(max=samples - 1), still, still, still.bool(), filler)
    # a string seeds Python's generator through SHA-512, so neighbouring epochs and seeds share nothing
    mixed = random.Random(f"{seed}/{epoch}")
    generator = torch.Generator().manual_seed(mixed.getrandbits(32))
    index = torch.randperm(samples, generator=generator)[place]
    key = mixed.getrandbits(63)
    top, left = (_hashed(key + which, index) % (2 * crop + 1) for which in (0, 1))
    mirrored = (_hashed(key + 2, index) % 2).bool() if flip else torch.zeros(count, dtype=torch.bool)
    return Draws(index, top, left, mirrored, torch.zeros(count, dtype=torch.bool))


def _hashed(key: int, index: Tensor) -> Tensor:
    """63 random bits a sample: splitmix64 (Steele, Lea, Flood, OOPSLA 2014), from `key` on."""
    x = _mixed(torch.tensor(_signed(key % 2**64))) + index * _signed(_GOLDEN)
    return _mixed(x) & 0x7FFFFFFFFFFFFFFF


def _mixed(x: Tensor) -> Tensor:
    x = (x ^ _shifted(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shifted(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """A logical shift to the right; that of int64 keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(number: int) -> int:
    """The int64 of the same 64 bits: torch's integers wrap around."""
    return number - (1 << 64) if number >= 1 << 63 else number
