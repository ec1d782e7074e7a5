"""A loader of samples of several inputs: every batch is one gather of each, on the device."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from litfast.data._checks import check_batches
from litfast.data.draws import draws, steps
from litfast.data.loader import IGNORED, Batch
from litfast.data.sets.field_set import Fields


class FieldLoader:
    """Batches whose `images` are tensors [B, ...] by the names of the inputs.

    Args:
        samples: all in memory; they stay on the device.
        batch: samples a step, B.
        train: True shuffles and drops the last partial batch; False keeps the order and fills the last batch
            up with samples whose target is -100.
        seed: with the epoch's number, decides the order.
        shard_id, num_shards: the part of a data-parallel rank.

    Raises:
        ValueError: fewer training samples than one batch of each shard, a shard_id out of range.
    """

    def __init__(
        self,
        samples: Fields,
        *,
        batch: int,
        train: bool,
        seed: int = 0,
        device: str | torch.device = "cpu",
        shard_id: int = 0,
        num_shards: int = 1,
    ) -> None:
        shard = {"shard_id": shard_id, "num_shards": num_shards}
        check_batches("FieldLoader", len(samples), train=train, batch=batch, **shard)
        self.samples, self.batch = len(samples), batch
        self.steps = steps(self.samples, batch, train=train, num_shards=num_shards)
        self.device = torch.device(device)
        self._inputs = {name: value.to(self.device) for name, value in samples.inputs.items()}
        self._labels = samples.labels.to(self.device)
        self._draws = partial(
            draws,
            self.samples,
            batch=batch,
            train=train,
            seed=seed,
            shard_id=shard_id,
            num_shards=num_shards,
        )

    def __len__(self) -> int:
        return self.samples

    def batches(self, epoch: int, start: int = 0, *, copy_into: Batch | None = None) -> Iterator[Batch]:
        """The epoch's batches from step `start` on; the same (seed, epoch) gives the same batches."""
        drawn = self._draws(epoch=epoch)
        index, filler = drawn.index.to(self.device), drawn.filler.to(self.device)
        for step in range(start, self.steps):
            at = slice(step * self.batch, (step + 1) * self.batch)
            inputs = {name: value[index[at]] for name, value in self._inputs.items()}
            target = self._labels[index[at]].masked_fill_(filler[at], IGNORED)
            if copy_into is None:
                yield Batch(inputs, target)
                continue
            for name, value in inputs.items():
                copy_into.images[name].copy_(value)
            copy_into.target.copy_(target)
            yield copy_into

    def state(self) -> dict[str, Any]:
        """Nothing: seed, epoch and step decide."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Nothing to take up."""
