"""What a loader is: a pure function from an epoch's number to its batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from torch import Tensor

IGNORED = -100  # the target of a sample that only fills up the last evaluation batch


class Batch(NamedTuple):
    images: Tensor  # [B, C, H, W]
    target: Tensor  # [B] int64; IGNORED where the sample is padding


class Loader(Protocol):
    """Delivers an epoch's batches, all of one shape.

    A loader keeps no position: order, crops and flips follow from its seed and the epoch's number alone, so
    an epoch begun at step `start` delivers exactly the batches that an unbroken one delivers from there on.
    Training drops the last partial batch; evaluation keeps a fixed order and fills the last batch up with
    samples whose target is IGNORED.
    """

    @property
    def samples(self) -> int: ...

    @property
    def batch(self) -> int: ...

    @property
    def steps(self) -> int: ...

    def __len__(self) -> int: ...

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]: ...
