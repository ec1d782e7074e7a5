"""The random state of every library that a training may draw from: torch, Python and numpy."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

import numpy
import torch

from litfast.phase import Phase


def seed(number: int) -> None:
    """Begin all generators anew."""
    torch.manual_seed(number)
    random.seed(number)
    numpy.random.seed(number % 2**32)


def state(device: torch.device) -> dict[str, Any]:
    """Where all generators stand, that of a CUDA device included, in tensors and plain values."""
    version, words, gauss = random.getstate()
    _, key, *rest = numpy.random.get_state()
    found: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": [version, torch.tensor(words), gauss],
        "numpy": [torch.tensor([int(word) for word in key]), *rest],
    }
    if device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(device)
    return found


def restore(state: dict[str, Any] | torch.Tensor, device: torch.device) -> None:
    """Put all generators where they stood; those of which `state` says nothing stay as they are."""
    if isinstance(state, torch.Tensor):  # older checkpoints have torch's alone
        state = {"torch": state}
    torch.set_rng_state(state["torch"])
    if "python" in state:
        version, words, gauss = state["python"]
        random.setstate((version, tuple(words.tolist()), gauss))
        key, *rest = state["numpy"]
        numpy.random.set_state(("MT19937", key.numpy().astype(numpy.uint32), *rest))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def seeded(phases: Iterable[Phase], number: int) -> Iterator[Phase]:
    """The phases; what a method draws before one is the same where those before it are loaded."""
    found = iter(phases)
    for index in count():
        seed(number + index)
        phase = next(found, None)
        if phase is None:
            return
        yield phase
