"""What a loader is: a function from an epoch's number to its batches, all of one shape, on the device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

IGNORED = -100  # the target of a sample that only fills up the last evaluation batch
UNLABELLED = -1  # the target of a sample that has no label


class Batch(NamedTuple):
    images: Any  # [B, C, H, W]; of a model with several inputs tensors [B, ...] by their names
    target: Tensor  # [B] int64, or [B, A] for A attributes; IGNORED for padding, UNLABELLED without a label


class Loader(Protocol):
    """Delivers an epoch's batches, all of one shape, on the device.

    Order, crops and flips follow from the loader's seed and the epoch's number, so an epoch begun at step
    `start` delivers exactly the batches that an unbroken one delivers from there on. A loader that reaches
    a position faster with what it was doing before says so in `state`; `load_state` before `batches` takes it
    up. Training drops the last partial batch; evaluation keeps a fixed order and fills the last batch up with
    samples whose target is IGNORED.

    With `num_shards` loaders of one seed, each with a `shard_id` of its own, every sample of an epoch goes to
    one of them, and all have the same number of steps: training leaves out what does not divide, evaluation
    fills up.
    """

    @property
    def samples(self) -> int:
        """Of the whole set, all shards together."""
        ...

    @property
    def batch(self) -> int: ...

    @property
    def steps(self) -> int:
        """Batches an epoch, of this shard."""
        ...

    def __len__(self) -> int:
        """The samples."""
        ...

    def batches(self, epoch: int, start: int = 0, *, copy_into: Batch | None = None) -> Iterator[Batch]:
        """The epoch's batches from step `start` on.

        Args:
            copy_into: tensors that every batch is written to, and that are yielded each time (a captured
                step reads from one place); None makes new ones.
        """
        ...

    def state(self) -> dict[str, Any]:
        """Tensors and plain values for a checkpoint, after the batch yielded last; {} where none are due."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave, of this class or (then without use) of another."""
        ...


@runtime_checkable
class Named(Protocol):
    """A loader that can say which samples are in a batch."""

    def names(self, epoch: int, step: int) -> list[str]:
        """What messages call the samples of batch `step` of an epoch, in order."""
        ...
