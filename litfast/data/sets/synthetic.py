"""A small made-up set for tests: a pattern for each class, under noise."""

from __future__ import annotations

import torch
from torch import Tensor

from litfast.data.sets.image_set import Images, ImageSet

MOST_PIXELS = 1 << 28


def synthetic(
    *,
    classes: int = 4,
    size: int = 16,
    channels: int = 3,
    train: int = 256,
    val: int = 64,
    test: int = 64,
    noise: float = 48.0,
    seed: int = 0,
) -> ImageSet:
    """Images of one seeded random pattern a class plus Gaussian noise; a few epochs learn them.

    Args:
        classes, size, channels: K classes of [channels, size, size] images.
        train, val, test: images in each split, the classes in turn.
        noise: standard deviation in grey levels of 0..255.
        seed: decides patterns and noise.

    Raises:
        ValueError: no class, pixel or channel, a split below 0, or more than 2^28 pixels in all.
    """
    for what, number in {"classes": classes, "size": size, "channels": channels}.items():
        if number < 1:
            raise ValueError(f"synthetic: {what} must be at least 1, got {number}")
    if min(train, val, test) < 0:
        raise ValueError(f"synthetic: train, val and test must be at least 0, got {(train, val, test)}")
    pixels = (classes + train + val + test) * channels * size * size
    if pixels > MOST_PIXELS:
        raise ValueError(f"synthetic: all images must hold at most {MOST_PIXELS} pixels, got {pixels}")
    generator = torch.Generator().manual_seed(seed)
    patterns = 64 + 128 * torch.rand(classes, channels, size, size, generator=generator)

    def draw(count: int) -> Images:
        labels = torch.arange(count) % classes
        shift: Tensor = noise * torch.randn(count, channels, size, size, generator=generator)
        pixels = (patterns[labels] + shift).round().clamp(0, 255)
        return Images(images=pixels.to(torch.uint8), labels=labels)

    return ImageSet(
        name="synthetic",
        train=draw(train),
        val=draw(val),
        test=draw(test),
        classes=tuple(f"pattern {label}" for label in range(classes)),
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        crop=1,
        flip=False,
    )
