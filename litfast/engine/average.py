"""An exponential moving average of a model's weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """The average of a model's parameters and buffers, a <- decay a + (1 - decay) w after every step.

    It starts from the weights that the model has. Integer buffers (batch norm's counter) are copied. Nothing
    is read back to the host, so the update may be part of a captured graph.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._live = dict(model.state_dict())  # torch hands out views: always the current values
        self._mean = {name: value.clone() for name, value in self._live.items()}
        self._weight = 1 - decay
        self._floats = [name for name, value in self._live.items() if value.is_floating_point()]
        self._rest = [name for name in self._live if name not in self._floats]

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the model's weights."""
        means = [self._mean[name] for name in self._floats]
        torch._foreach_lerp_(means, [self._live[name] for name in self._floats], self._weight)
        for name in self._rest:
            self._mean[name].copy_(self._live[name])

    def of(self, tensors: Iterable[Tensor]) -> list[Tensor]:
        """The averages of some of the model's tensors."""
        wanted = {tensor.data_ptr() for tensor in tensors}
        return [self._mean[name] for name, value in self._live.items() if value.data_ptr() in wanted]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the model has the averaged weights; afterwards its own again, to the bit."""
        own = {name: value.clone() for name, value in self._live.items()}
        self.adopt()
        try:
            yield
        finally:
            _copy(own, self._live)

    def adopt(self) -> None:
        """Give the model the averaged weights for good."""
        _copy(self._mean, self._live)

    def state(self) -> dict[str, Tensor]:
        return dict(self._mean)

    def load_state(self, state: dict[str, Tensor]) -> None:
        _copy(state, self._mean)


@torch.no_grad()
def _copy(values: dict[str, Tensor], into: dict[str, Tensor]) -> None:
    for name, value in into.items():
        value.copy_(values[name])
