"""Random numbers that compiled code draws as eager code does."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


# to be called: given to torch.compile by itself, a disabled function is compiled all the same
@torch.compiler.disable(reason="a compiler draws numbers of its own")
def uniform(shape: Sequence[int], device: torch.device) -> Tensor:
    """Numbers in [0, 1), fp32, from torch's generator on the device."""
    return torch.rand(shape, device=device)
