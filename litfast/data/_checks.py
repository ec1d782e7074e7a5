"""What every loader refuses, in one line that begins with `who`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LARGEST = 2**31  # samples of a step, of all ranks: places are counted in 64 bits


def check_batches(
    who: str, samples: int, *, train: bool, batch: int, shard_id: int, num_shards: int, crop: int = 0
) -> None:
    """Raises ValueError where the numbers cannot be, or an epoch of training has not one batch a shard."""
    if samples < 1:
        raise ValueError(f"{who}: samples must hold at least one sample, got none")
    if batch < 1:
        raise ValueError(f"{who}: batch must be at least 1, got {batch}")
    if crop < 0:
        raise ValueError(f"{who}: crop must be at least 0, got {crop}")
    if not 0 <= shard_id < num_shards:
        raise ValueError(f"{who}: shard_id must lie in [0, {num_shards}), the shards, got {shard_id}")
    if batch * num_shards > LARGEST:
        raise ValueError(
            f"{who}: batch must make at most {LARGEST:,} samples over {num_shards} shards, got {batch}"
        )
    if train and samples < batch * num_shards:
        each = "" if num_shards == 1 else f" over {num_shards} shards"
        raise ValueError(f"{who}: batch must be at most the {samples} training samples{each}, got {batch}")


def check_arrays(who: str, images: Tensor) -> None:
    """Raises TypeError or ValueError for what are no decoded images."""
    if images.dtype != torch.uint8:
        raise TypeError(f"{who}: images must be uint8, got {images.dtype}")
    if images.dim() != 4 or len(images) == 0:
        raise ValueError(f"{who}: images must be [N, C, H, W] with N at least 1, got {list(images.shape)}")


def check_labels(who: str, labels: Tensor, samples: int) -> None:
    """Raises TypeError or ValueError for what are no labels of so many samples."""
    if labels.dtype != torch.int64:
        raise TypeError(f"{who}: labels must be int64, got {labels.dtype}")
    if labels.dim() not in (1, 2) or len(labels) != samples:
        rule = f"be [{samples}] or [{samples}, A], one an image"
        raise ValueError(f"{who}: labels must {rule}, got {list(labels.shape)}")


def check_channels(who: str, channels: int, mean: Sequence[float], std: Sequence[float]) -> None:
    """Raises ValueError where mean or std has not one number a channel."""
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != channels:
            raise ValueError(f"{who}: {name} must hold {channels} numbers, one a channel, got {len(values)}")
