"""Samples of several inputs by their names, such as a text's ids and its mask: all in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from litfast.data.sets.items import MapStyle


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Samples: [N, ...] int64 or float32 of every input, and a label each."""

    inputs: dict[str, Tensor]
    labels: Tensor  # [N] int64

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, indices: Tensor) -> Fields:
        return Fields(
            inputs={name: value[indices] for name, value in self.inputs.items()}, labels=self.labels[indices]
        )


@dataclass(frozen=True, kw_only=True)
class FieldSet:
    """Splits of such samples."""

    name: str
    train: Fields
    test: Fields
    val: Fields | None
    classes: tuple[str, ...]
    alphabets: Mapping[str, int] = field(default_factory=dict)  # of the inputs that are ids

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every input of a sample."""
        return {name: tuple(value.shape[1:]) for name, value in self.train.inputs.items()}


def is_fields(dataset: MapStyle) -> bool:
    """Whether the first item of a Dataset is ({name: tensor, ...}, label)."""
    item = dataset[0] if len(dataset) else None
    return isinstance(item, (tuple, list)) and len(item) == 2 and isinstance(item[0], Mapping)


def read(dataset: MapStyle, classes: int) -> Fields:
    """All items of a Dataset: ({name: tensor, array or numbers}, label), whole numbers or floats.

    Raises:
        TypeError, ValueError: an item that is none, or of other names or shapes than the first, or a label
            that is not from 0 to classes - 1; the line names the sample.
    """
    kind = type(dataset).__name__
    rows: list[dict[str, Tensor]] = []
    labels: list[int] = []
    for i in range(len(dataset)):
        who = f"data: sample {i} of {kind}"
        item: Any = dataset[i]
        if not isinstance(item, (tuple, list)) or len(item) != 2 or not isinstance(item[0], Mapping):
            raise TypeError(f"{who} must be (inputs by name, label), got {type(item).__name__}")
        row = {str(name): _tensor(value, f"{who}: input {name!r}") for name, value in item[0].items()}
        shapes = {name: list(value.shape) for name, value in row.items()}
        expected = {name: list(value.shape) for name, value in rows[0].items()} if rows else shapes
        if shapes != expected or not shapes:
            raise ValueError(f"{who} must have inputs {expected} as the first one has, got {shapes}")
        label = _label(item[1])
        if label is None or not 0 <= label < classes:
            raise ValueError(f"{who}: label must be a whole number from 0 to {classes - 1}, got {item[1]!r}")
        rows.append(row)
        labels.append(label)
    if not rows:
        raise ValueError(f"data: {kind} must hold at least one sample, got none")
    return Fields(
        inputs={name: torch.stack([row[name] for row in rows]) for name in rows[0]},
        labels=torch.tensor(labels),
    )


def alphabets(*splits: Fields) -> dict[str, int]:
    """One above the largest id of every input of whole numbers, over all splits; 2 at least.

    Raises:
        ValueError: an id below 0.
    """
    found: dict[str, int] = {}
    for name, value in splits[0].inputs.items():
        if not value.is_floating_point():
            lowest = min(int(split.inputs[name].min()) for split in splits)
            if lowest < 0:
                raise ValueError(f"data: ids of input {name!r} must be 0 or more, got {lowest}")
            found[name] = max(2, *(int(split.inputs[name].max()) + 1 for split in splits))
    return found


def _tensor(value: Any, who: str) -> Tensor:
    try:
        found = value.detach() if isinstance(value, Tensor) else torch.from_numpy(np.asarray(value))
    except (TypeError, ValueError):
        raise TypeError(f"{who} must be numbers, got {type(value).__name__}") from None
    if found.is_complex() or not found.numel():
        raise ValueError(f"{who} must be real numbers, got {found.dtype} {list(found.shape)}")
    return found.to(torch.float32 if found.is_floating_point() else torch.int64)


def _label(value: Any) -> int | None:
    try:
        number = int(value)
        return number if number == value else None
    except (TypeError, ValueError):
        return None
