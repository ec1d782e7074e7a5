"""What an image set is: its splits, and how its images are cut, normalised and augmented."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor

from litfast.data.sets.items import Items


@dataclass(frozen=True, kw_only=True)
class Images:
    """Decoded samples, all in memory and of one shape."""

    images: Tensor  # [N, C, H, W] uint8
    labels: Tensor  # [N] int64, or [N, A] for A attributes

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, indices: Tensor) -> Images:
        return Images(images=self.images[indices], labels=self.labels[indices])


@dataclass(frozen=True, kw_only=True)
class Files:
    """Encoded samples (JPEG, PNG), a file each."""

    root: Path
    paths: tuple[str, ...]  # below root
    labels: Tensor  # [N] int64, or [N, A] for A attributes

    def __len__(self) -> int:
        return len(self.paths)

    def at(self, indices: Tensor) -> Files:
        chosen = tuple(self.paths[i] for i in indices.tolist())
        return replace(self, paths=chosen, labels=self.labels[indices])

    def name(self, i: int) -> str:
        """The file, for messages."""
        return os.path.join(self.root, self.paths[i])

    def read(self, i: int) -> bytes:
        """The encoded image."""
        with open(self.name(i), "rb") as file:
            return file.read()


@dataclass(frozen=True, kw_only=True)
class Members:
    """Encoded samples within uncompressed tar archives (webdataset shards)."""

    tars: tuple[Path, ...]
    tar: Tensor  # [N] int64, into tars
    offset: Tensor  # [N] int64, of the image's first byte within its tar
    size: Tensor  # [N] int64, bytes
    keys: tuple[str, ...]
    labels: Tensor  # [N] int64, or [N, A] for A attributes

    def __len__(self) -> int:
        return len(self.keys)

    def at(self, indices: Tensor) -> Members:
        chosen = {name: getattr(self, name)[indices] for name in ("tar", "offset", "size", "labels")}
        return replace(self, keys=tuple(self.keys[i] for i in indices.tolist()), **chosen)

    def name(self, i: int) -> str:
        """The archive and the sample's key, for messages."""
        return f"{self.tars[int(self.tar[i])]}:{self.keys[i]}"

    def read(self, i: int) -> bytes:
        """The encoded image; EOFError where the archive ends before."""
        size = int(self.size[i])
        with self.tars[int(self.tar[i])].open("rb") as file:
            file.seek(int(self.offset[i]))
            data = file.read(size)
        if len(data) < size:
            raise EOFError(f"{len(data)} of {size} bytes: the archive is truncated")
        return data


Encoded = Files | Members
Samples = Images | Encoded
Source = Samples | Items


class Choosable(Protocol):
    """Samples of which some can be chosen by their indices."""

    def __len__(self) -> int: ...

    def at(self, indices: Tensor) -> Self: ...


AnySamples = TypeVar("AnySamples", bound=Choosable)


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Splits with the set's usual normalisation (of pixels scaled to 0..1) and augmentation.

    An encoded image is decoded to RGB, cut to its middle `centre_crop` square, resized so that its shorter
    side is `size` and cut to the middle square. In training any image is then padded by `crop`, cut at random
    to its size and, with `flip`, mirrored with probability 1/2. At last it is normalised.
    """

    name: str
    train: Source
    test: Source
    val: Source | None
    classes: tuple[str, ...]
    mean: tuple[float, ...]  # one a channel
    std: tuple[float, ...]
    crop: int  # padding of the random crop, in pixels
    flip: bool
    centre_crop: int | None = None  # pixels; None takes the image whole
    size: int | None = None  # pixels; None: all images have one size already
    attributes: tuple[str, ...] = ()  # names of the A columns of labels [N, A]
    labelled: bool = True  # False: every label is UNLABELLED, and the classes are the teacher's


def hold_out(samples: AnySamples, count: int, seed: int) -> tuple[AnySamples, AnySamples]:
    """Hold `count` samples out, chosen by a seeded permutation of all (not stratified by class).

    Returns:
        (rest, held_out), each in the original order.

    Raises:
        ValueError: count does not leave at least one sample on each side.
    """
    if not 0 < count < len(samples):
        raise ValueError(f"hold_out: count must be between 1 and {len(samples) - 1}, got {count}")
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))
    return samples.at(order[count:].sort().values), samples.at(order[:count].sort().values)
