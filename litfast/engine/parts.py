"""A batch computed in several parts, and the metrics of the whole."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from litfast.data.loader import Batch
from litfast.fields import rows


def parts(batch: Batch, count: int) -> list[Batch]:
    """A batch in `count` equal parts, as views."""
    if count == 1:
        return [batch]
    if len(batch.target) % count:
        raise ValueError(f"train: accumulate must divide the batch of {len(batch.target)}, got {count}")
    size = len(batch.target) // count
    return [Batch(*rows(batch, size * at, size * (at + 1))) for at in range(count)]


def combined(name: str, parts: Sequence[Tensor]) -> Tensor:
    """A metric of the whole batch: counts add up, all else is a mean."""
    if len(parts) == 1:
        return parts[0]
    stacked = torch.stack(list(parts))
    return stacked.sum(0) if name == "correct" else stacked.mean(0)
