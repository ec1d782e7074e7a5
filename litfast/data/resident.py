"""A whole image set on the device as uint8; one op a batch gathers, crops, flips and normalises."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from litfast.data._checks import check_arrays, check_batches, check_channels, check_labels
from litfast.data.draws import draws, steps
from litfast.data.loader import IGNORED, Batch
from litfast.ops import augment, augment_table

WHO = "ResidentLoader"


class ResidentLoader:
    """Batches from uint8 images that stay on the device, whole and unnormalised.

    image = (flip(crop(raw)) / 255 - mean) / std, the crop taken from the raw image padded with zeros by
    `crop` pixels a side, at offsets uniform over 0..2 crop; a flip has probability 1/2. What is random is
    drawn as `litfast.data.draws` says, so every device sees the same epoch, bit for bit.

    Args:
        images: [N, C, H, W] uint8.
        labels: [N] int64, or [N, A] for A attributes.
        batch: samples a step, B.
        mean, std: one number a channel, of images scaled to 0..1.
        crop: padding of the random crop in pixels; 0 takes the image whole.
        flip: mirror half of the images, left to right.
        train: True shuffles, augments and drops the last partial batch; False keeps the order, augments
            nothing and fills the last batch up with samples whose target is -100.
        seed: with the epoch's number, decides all that is random.
        channels_last, dtype: memory format and type of the batches.
        shard_id, num_shards: which part of every epoch this loader delivers, of how many.

    Raises:
        TypeError: images or labels of another dtype.
        ValueError: shapes that disagree, an empty set, fewer training samples than one batch a shard.
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
        shard_id: int = 0,
        num_shards: int = 1,
    ) -> None:
        check_arrays(WHO, images)
        check_labels(WHO, labels, len(images))
        check_channels(WHO, images.shape[1], mean, std)
        shard = {"shard_id": shard_id, "num_shards": num_shards}
        check_batches(WHO, len(images), train=train, batch=batch, crop=crop, **shard)
        self.samples = len(images)
        self.batch = batch
        self.steps = steps(self.samples, batch, train=train, num_shards=num_shards)
        self.device = torch.device(device)
        self._train, self._crop = train, crop if train else 0
        self._draws = partial(
            draws,
            self.samples,
            batch=batch,
            train=train,
            seed=seed,
            crop=self._crop,
            flip=flip,
            **shard,
        )
        self._images = images.permute(0, 2, 3, 1).to(self.device).contiguous()  # [N, H, W, C]
        self._labels = labels.to(self.device).contiguous()
        self._table = augment_table(mean, std, dtype).to(self.device)
        _, H, W, C = self._images.shape
        self._shapes = (batch, C, H, W), (batch, *labels.shape[1:])  # of a batch
        self._layout = torch.channels_last if channels_last else torch.contiguous_format

    def __len__(self) -> int:
        return self.samples

    def batches(self, epoch: int, start: int = 0, *, copy_into: Batch | None = None) -> Iterator[Batch]:
        """The epoch's batches from step `start` on; the same (seed, epoch) gives the same batches.

        Args:
            copy_into: tensors that every batch is written to, and that are yielded each time.

        Raises:
            ValueError: a tensor of copy_into has another shape, dtype, device or layout than a batch.
        """
        if copy_into is not None:
            self._check_static(copy_into)
        return self._deliver(epoch, start, copy_into)

    def names(self, epoch: int, step: int) -> list[str]:
        """What messages call the samples of batch `step`: "image 17", counted in this set."""
        return [f"image {i}" for i in self._draws(epoch=epoch).index.split(self.batch)[step].tolist()]

    def state(self) -> dict[str, Any]:
        """Nothing: epoch and step say all."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Nothing to take up."""

    def _new(self) -> Batch:
        """Room for a batch."""
        images = torch.empty(
            self._shapes[0], dtype=self._table.dtype, device=self.device, memory_format=self._layout
        )
        return Batch(images, self._labels.new_empty(self._shapes[1]))

    def _check_static(self, copy_into: Batch) -> None:
        for what, tensor, like, shape in zip(
            Batch._fields, copy_into, (self._table, self._labels), self._shapes, strict=True
        ):
            wanted, got = (
                f"{t.dtype} {list(size)} on {t.device}" for t, size in ((like, shape), (tensor, tensor.shape))
            )
            if got != wanted:
                raise ValueError(f"{WHO}: copy_into.{what} must be {wanted}, got {got}")
            layout = self._layout if what == "images" else torch.contiguous_format
            if not tensor.is_contiguous(memory_format=layout):
                rule = f"be dense in {layout}"
                raise ValueError(f"{WHO}: copy_into.{what} must {rule}, got strides {tensor.stride()}")

    def _deliver(self, epoch: int, start: int, copy_into: Batch | None) -> Iterator[Batch]:
        drawn = (draw.to(self.device).split(self.batch) for draw in self._draws(epoch=epoch))
        for index, top, left, mirrored, filler in islice(zip(*drawn, strict=True), start, None):
            batch = copy_into or self._new()
            augment(
                self._images,
                index,
                top,
                left,
                mirrored,
                table=self._table,
                crop=self._crop,
                channels_last=self._layout is torch.channels_last,
                out=batch.images,
            )
            torch.index_select(self._labels, 0, index, out=batch.target)
            if not self._train:
                batch.target.masked_fill_(filler.view(-1, *[1] * (self._labels.dim() - 1)), IGNORED)
            yield batch
