"""What a model reads: the shape of one sample, floats or ids; of several inputs each with its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

MASK = 2  # the alphabet of a mask


@dataclass(frozen=True, slots=True)
class Input:
    """One sample as a model reads it.

    Attributes:
        shape: without the batch dimension: [C, H, W] of an image, [L] of a text.
        alphabet: ids are int64 below it; None: floats.
        name: the parameter of the model's forward pass, where there are several.
        beside: the others.
    """

    shape: tuple[int, ...]
    alphabet: int | None = None
    name: str = ""
    beside: tuple[Input, ...] = ()

    @classmethod
    def of(cls, listed: Sequence[Mapping[str, Any]]) -> Self:
        """What `listed` gave."""
        first, *others = (cls(tuple(one["shape"]), one["alphabet"], one["name"]) for one in listed)
        return cls(first.shape, first.alphabet, first.name, tuple(others))

    @property
    def listed(self) -> list[dict[str, Any]]:
        """Several inputs in values that JSON has; [] of one alone."""
        if not self.beside:
            return []
        return [
            {"name": one.name, "shape": list(one.shape), "alphabet": one.alphabet}
            for one in (self, *self.beside)
        ]

    def example(
        self,
        batch: int,
        *,
        generator: torch.Generator | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Any:
        """A batch of random samples [B, ...]: normal floats in `dtype`, or uniform ids in int64.

        Of several inputs they come by name. A mask among them, ids of 0 and 1 behind the first input, hides
        nothing: it is 1 everywhere.
        """
        drawn = self._drawn(batch, generator, dtype).to(device)
        if not self.beside:
            return drawn
        found = {self.name: drawn}
        for one in self.beside:
            found[one.name] = (
                torch.ones((batch, *one.shape), dtype=torch.int64)
                if one.alphabet == MASK
                else one._drawn(batch, generator, dtype)
            ).to(device)
        return found

    def _drawn(self, batch: int, generator: torch.Generator | None, dtype: torch.dtype) -> Tensor:
        size = (batch, *self.shape)
        if self.alphabet is None:
            return torch.randn(size, generator=generator).to(dtype)
        return torch.randint(self.alphabet, size, generator=generator)
