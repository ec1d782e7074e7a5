"""A user's own Dataset as samples: whatever torch.utils.data would take, checked item by item."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

CHANNELS = ((1, 3), (2, 4))  # the likelier ones first


class MapStyle(Protocol):
    """What torch calls a map-style Dataset; an item is (image, label)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Items:
    """Samples of a map-style Dataset.

    An image is a PIL image, or a tensor or array [C, H, W] or [H, W, C] of uint8, or of floats that are taken
    as they are. It has 1 to 4 channels; where both places would do, a tensor has them first, an array last.
    A label is a whole number, or a vector of A.
    """

    dataset: MapStyle
    classes: int | None = None  # labels are below it; None: not checked
    indices: Tensor | None = None  # into the dataset, [N] int64; None: all

    def __len__(self) -> int:
        return len(self.dataset) if self.indices is None else len(self.indices)

    def at(self, indices: Tensor) -> Items:
        return replace(self, indices=indices if self.indices is None else self.indices[indices])

    def name(self, i: int) -> str:
        """Which sample of which Dataset, for messages."""
        return f"sample {self._index(i)} of {type(self.dataset).__name__}"

    def read(self, i: int, seed: str = "") -> tuple[Tensor, Tensor]:
        """The pixels [H, W, C], uint8 or float32, and the label, int64 [] or [A].

        Args:
            seed: decides what the Dataset draws from the generators of torch, numpy and Python, which are
                given back as they were.

        Raises:
            ValueError, TypeError: the item is not as the class says; one line names the sample. What the
                Dataset itself raises is passed on.
        """
        with _seeded(f"{seed}/{self._index(i)}"):
            item = self.dataset[self._index(i)]
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise TypeError(f"data: {self.name(i)} must be (image, label), got {_described(item)}")
        return _pixels(item[0], self.name(i)), self._label(item[1], self.name(i))

    def _index(self, i: int) -> int:
        return i if self.indices is None else int(self.indices[i])

    def _label(self, given: Any, name: str) -> Tensor:
        label = torch.as_tensor(given) if _is_numbers(given) else None
        if label is None or label.is_floating_point() or label.is_complex() or label.dim() > 1:
            raise TypeError(f"data: the label of {name} must be a whole number, got {_described(given)}")
        label = label.to(torch.int64)
        if self.classes is not None and not bool(((label >= 0) & (label < self.classes)).all()):
            raise ValueError(
                f"data: the label of {name} must be from 0 to {self.classes - 1}, got {label.tolist()}"
            )
        return label


def _pixels(image: Any, name: str) -> Tensor:
    pil = sys.modules.get("PIL.Image")  # a PIL image can only come where PIL has been imported
    if pil is not None and isinstance(image, pil.Image):
        array = np.array(image if image.mode in ("L", "RGB") else image.convert("RGB"))
        return torch.from_numpy(array if array.ndim == 3 else array[:, :, None])
    if not isinstance(image, (Tensor, np.ndarray)):
        raise TypeError(
            f"data: the image of {name} must be a PIL image, a tensor or an array, got {_described(image)}"
        )
    pixels = image.detach() if isinstance(image, Tensor) else torch.from_numpy(np.array(image))
    if not (pixels.dtype == torch.uint8 or pixels.is_floating_point()):
        raise TypeError(f"data: the image of {name} must be uint8 or floats, got {pixels.dtype}")
    places = (0, 2) if isinstance(image, Tensor) else (2, 0)
    if pixels.dim() == 3 and min(pixels.shape) > 0:
        found = [place for known in CHANNELS for place in places if pixels.shape[place] in known]
        if found:
            pixels = pixels.permute(1, 2, 0) if found[0] == 0 else pixels
            return pixels if pixels.dtype == torch.uint8 else pixels.to(torch.float32)
    raise ValueError(
        f"data: the image of {name} must be [C, H, W] or [H, W, C] with 1 to 4 channels, "
        f"got {list(pixels.shape)}"
    )


def _is_numbers(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return bool(value) and all(isinstance(part, int) for part in value)
    if isinstance(value, (np.ndarray, np.generic)):
        return value.dtype.kind in "biuf"
    return isinstance(value, (int, float, Tensor))


def _described(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"{type(value).__name__} of {len(value)}"
    if isinstance(value, (int, float, str)):
        return repr(value)
    return type(value).__name__


@contextmanager
def _seeded(seed: str) -> Iterator[None]:
    """Every generator that a Dataset may draw from, seeded here and given back; in any process the same."""
    key = random.Random(seed).getrandbits(63)
    theirs, numpy, python = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.default_generator.manual_seed(key)
    np.random.seed(key % 2**32)
    random.seed(key)
    try:
        yield
    finally:
        torch.set_rng_state(theirs)
        np.random.set_state(numpy)
        random.setstate(python)
