"""What an image set is: its splits, and how to normalise and augment them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Images:
    images: Tensor  # [N, C, H, W] uint8
    labels: Tensor  # [N] int64

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, indices: Tensor) -> Images:
        return Images(images=self.images[indices], labels=self.labels[indices])


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Splits with the set's usual normalisation (of pixels scaled to 0..1) and augmentation."""

    name: str
    train: Images
    test: Images
    val: Images | None
    classes: tuple[str, ...]
    mean: tuple[float, ...]  # one a channel
    std: tuple[float, ...]
    crop: int  # padding of the random crop, in pixels
    flip: bool


def hold_out(images: Images, count: int, seed: int) -> tuple[Images, Images]:
    """Hold `count` images out, chosen by a seeded permutation of all (not stratified by class).

    Returns:
        (rest, held_out), each in the original order.

    Raises:
        ValueError: count does not leave at least one image on each side.
    """
    if not 0 < count < len(images):
        raise ValueError(f"hold_out: count must be between 1 and {len(images) - 1}, got {count}")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return images.at(order[count:].sort().values), images.at(order[:count].sort().values)
