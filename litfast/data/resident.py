"""A whole image set on the device: gather, crop, flip and normalise in plain torch."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from litfast.data.loader import IGNORED, Batch


class ResidentLoader:
    """Batches from uint8 images that stay on the device, whole and unnormalised.

    image = (flip(crop(raw)) / 255 - mean) / std, the crop taken from the raw image padded with zeros by
    `crop` pixels a side, at offsets uniform over 0..2 crop; a flip has probability 1/2. Order, offsets and
    flips are drawn on the CPU from (seed, epoch), so every device sees the same epoch.

    Args:
        images: [N, C, H, W] uint8.
        labels: [N] int64.
        batch: samples a step, B.
        mean, std: one number a channel, of images scaled to 0..1.
        crop: padding of the random crop in pixels; 0 takes the image whole.
        flip: mirror half of the images, left to right.
        train: True shuffles, augments and drops the last partial batch; False keeps the order, augments
            nothing and fills the last batch up with samples whose target is -100.
        seed: with the epoch's number, decides all that is random.
        channels_last, dtype: memory format and type of the batches.

    Raises:
        TypeError: images or labels of another dtype.
        ValueError: shapes that disagree, an empty set, fewer training samples than one batch.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        batch: int,
        mean: Sequence[float],
        std: Sequence[float],
        train: bool,
        crop: int = 0,
        flip: bool = False,
        seed: int = 0,
        device: str | torch.device = "cpu",
        channels_last: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        _check(images, labels, batch=batch, mean=mean, std=std, train=train, crop=crop)
        self.samples = len(images)
        self.batch = batch
        self.steps = self.samples // batch if train else -(-self.samples // batch)
        self.device = torch.device(device)
        self._train, self._seed = train, seed
        self._crop, self._flip = (crop, flip) if train else (0, False)
        self._windows = _windows(images.to(self.device), self._crop)
        self._labels = labels.to(self.device)
        self._mean = torch.tensor(mean, device=self.device)
        self._std = torch.tensor(std, device=self.device)
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self._dtype = dtype

    def __len__(self) -> int:
        return self.samples

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The epoch's batches from step `start` on; the same (seed, epoch) gives the same batches."""
        draws = self._training_draws(epoch) if self._train else self._evaluation_draws()
        order, top, left, mirrored, filler = (draw.to(self.device) for draw in draws)
        for step in range(start, self.steps):
            at = slice(step * self.batch, (step + 1) * self.batch)
            chosen = order[at]
            raw = self._windows[chosen, top[at], left[at]]  # [B, H, W, C] uint8
            if self._flip:
                raw = torch.where(mirrored[at, None, None, None], raw.flip(2), raw)
            target = self._labels[chosen].masked_fill_(filler[at], IGNORED)
            yield Batch(self._normalised(raw), target)

    def _normalised(self, raw: Tensor) -> Tensor:
        values = raw.to(torch.float32).div_(255).sub_(self._mean).div_(self._std)
        return values.to(self._dtype).permute(0, 3, 1, 2).contiguous(memory_format=self._format)

    def _training_draws(self, epoch: int) -> tuple[Tensor, ...]:
        # a string seeds Python's generator through SHA-512, so neighbouring epochs and seeds share nothing
        mixed = random.Random(f"{self._seed}/{epoch}").getrandbits(32)
        generator = torch.Generator().manual_seed(mixed)
        n = self.samples
        order = torch.randperm(n, generator=generator)
        top, left = torch.randint(0, 2 * self._crop + 1, (2, n), generator=generator)
        mirrored = torch.rand(n, generator=generator) < 0.5
        return order, top, left, mirrored, torch.zeros(n, dtype=torch.bool)

    def _evaluation_draws(self) -> tuple[Tensor, ...]:
        order = torch.arange(self.steps * self.batch)
        still = torch.zeros_like(order)
        filler = order >= self.samples
        return order.clamp(max=self.samples - 1), still, still, filler, filler


def _windows(images: Tensor, crop: int) -> Tensor:
    """Every crop of every padded image as one view, [N, 2 crop + 1, 2 crop + 1, H, W, C]."""
    height, width = images.shape[2:]
    padded = F.pad(images, (crop,) * 4).permute(0, 2, 3, 1).contiguous()
    return padded.unfold(1, height, 1).unfold(2, width, 1).permute(0, 1, 2, 4, 5, 3)


def _check(
    images: Tensor,
    labels: Tensor,
    *,
    batch: int,
    mean: Sequence[float],
    std: Sequence[float],
    train: bool,
    crop: int,
) -> None:
    who = "ResidentLoader"
    if images.dtype != torch.uint8:
        raise TypeError(f"{who}: images must be uint8, got {images.dtype}")
    if labels.dtype != torch.int64:
        raise TypeError(f"{who}: labels must be int64, got {labels.dtype}")
    if images.dim() != 4 or len(images) == 0:
        raise ValueError(f"{who}: images must be [N, C, H, W] with N at least 1, got {list(images.shape)}")
    if labels.shape != images.shape[:1]:
        raise ValueError(f"{who}: labels must be [{len(images)}], one an image, got {list(labels.shape)}")
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != images.shape[1]:
            raise ValueError(
                f"{who}: {name} must hold {images.shape[1]} numbers, one a channel, got {len(values)}"
            )
    if batch < 1 or crop < 0:
        raise ValueError(f"{who}: batch must be at least 1 and crop at least 0, got {batch} and {crop}")
    if train and len(images) < batch:
        raise ValueError(f"{who}: batch must be at most the {len(images)} training samples, got {batch}")
