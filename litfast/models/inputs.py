"""What a model reads: the shape of one sample, floats or ids."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Input:
    """One sample as a model reads it.

    Attributes:
        shape: without the batch dimension: [C, H, W] of an image, [L] of a text.
        alphabet: ids are int64 below it; None: floats.
    """

    shape: tuple[int, ...]
    alphabet: int | None = None

    def example(
        self,
        batch: int,
        *,
        generator: torch.Generator | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """A batch of random samples [B, ...]: normal floats in `dtype`, or uniform ids in int64."""
        size = (batch, *self.shape)
        if self.alphabet is None:
            return torch.randn(size, generator=generator).to(device, dtype)
        return torch.randint(self.alphabet, size, generator=generator).to(device)
