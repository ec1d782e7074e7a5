"""A teacher's classes in place of labels: an accuracy is then the agreement with the teacher."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from litfast.data.loader import UNLABELLED, Batch, Loader
from litfast.engine.evaluate import evaluating


class Predicted:
    """An evaluation loader whose samples without a label have the teacher's most likely class as target.

    The teacher, in eval mode and in its own precision, sees every batch once; what it said is kept.

    Args:
        loader: one over evaluation samples, which come in a fixed order.
        teacher: gives logits [B, K]; it is moved to the batches' device.
    """

    def __init__(self, loader: Loader, teacher: nn.Module) -> None:
        self._loader, self._teacher = loader, teacher
        self.samples, self.batch, self.steps = loader.samples, loader.batch, loader.steps
        self._targets: dict[int, Tensor] = {}  # by step

    def __len__(self) -> int:
        return self.samples

    def batches(self, epoch: int, start: int = 0, *, copy_into: Batch | None = None) -> Iterator[Batch]:
        """The loader's batches from step `start` on, with the teacher's targets."""
        for step, batch in enumerate(self._loader.batches(epoch, start, copy_into=copy_into), start):
            if step not in self._targets:
                self._targets[step] = self._said(batch)
            yield Batch(batch.images, self._targets[step])

    def state(self) -> dict[str, Any]:
        """That of the loader."""
        return self._loader.state()

    def load_state(self, state: dict[str, Any]) -> None:
        """Take it up."""
        self._loader.load_state(state)

    @torch.no_grad()
    def _said(self, batch: Batch) -> Tensor:
        place = batch.target.device
        teacher = self._teacher.to(place)
        with evaluating(teacher), torch.autocast(place.type, enabled=False):
            said: Tensor = teacher(batch.images).argmax(-1)
        return torch.where(batch.target == UNLABELLED, said, batch.target)
