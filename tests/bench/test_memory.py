"""bench/memory.py: what a call allocates at its worst moment."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from litfast.bench.memory import peak_bytes

SIZE = 4 * 1000 * 1000
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("run", "tensors"),
    [
        (lambda x: x.add_(1), 0),
        (lambda x: x + 1, 1),
        (lambda x: [x + 1, x + 1, x + 1], 3),
        (lambda x: ((x + 1) + 1) + 1, 2),  # the first is free when the third is made
    ],
    ids=["in place", "one", "three kept", "one after another"],
)
def test_the_peak_counts_what_is_alive_at_once(
    run: Callable[[Tensor], object], tensors: int, device: str
) -> None:
    x = torch.zeros(1000, 1000, device=device)
    assert peak_bytes(lambda: run(x), torch.device(device)) == pytest.approx(tensors * SIZE, abs=4096)
