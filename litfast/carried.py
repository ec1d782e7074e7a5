"""State that a layer carries from one batch to the next, such as an LSTM's between windows of a text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Carried(nn.Module):
    """Tensors that a layer leaves behind for the next batch of the same B streams: zeros at first.

    They are buffers, so they move and are copied with the model, but no weights: a state dict of the model
    lacks them, `States` has them. A batch of another size begins anew. Gradients end here.

    Args:
        widths: features of each tensor by name, e.g. h=200, c=200.
    """

    part: int  # of the batch, where one is computed in several parts

    def __init__(self, **widths: int) -> None:
        super().__init__()
        self.part = 0
        for name, width in widths.items():
            self.register_buffer(name, torch.zeros(1, 0, width), persistent=False)  # [parts, B, width]

    def take(self, rows: int) -> tuple[Tensor, ...]:
        """What the last batch left, one copy [rows, width] a tensor."""
        for name, kept in list(self.named_buffers()):
            if kept.shape[1] != rows or len(kept) <= self.part:
                with torch.inference_mode(False):  # a later training step may save them for its backward
                    zeros = kept.new_zeros(self.part + 1, rows, kept.shape[2])
                if kept.shape[1] == rows:
                    zeros[: len(kept)] = kept
                setattr(self, name, zeros)
        return tuple(kept[self.part].clone() for kept in self.buffers())

    @torch.no_grad()
    def leave(self, *tensors: Tensor) -> None:
        """Keep one tensor [B, width] each for the next batch, in place: a captured step finds them there."""
        for kept, tensor in zip(self.buffers(), tensors, strict=True):
            kept[self.part].copy_(tensor)


class States(nn.Module):
    """All that some models carry, with a state dict: what a checkpoint needs besides their weights."""

    def __init__(self, layers: Iterable[Carried]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def turn(self, part: int) -> None:
        """The next batch is this part of a larger one, with streams of its own."""
        for layer in _layers([self]):
            layer.part = part

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        return dict(self.named_buffers())

    @torch.no_grad()
    def load_state_dict(self, state_dict: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> None:
        for name, kept in list(self.named_buffers()):
            value = state_dict[name].to(kept)
            if value.shape == kept.shape:
                kept.copy_(value)
            else:
                path, _, key = name.rpartition(".")
                setattr(self.get_submodule(path), key, value.clone())


def carried(*models: nn.Module) -> States | None:
    """What the models carry, for `Branch(state=...)`; None where they carry nothing."""
    layers = list(_layers(models))
    return States(layers) if layers else None


def reset(*models: nn.Module) -> None:
    """Zeros everywhere, in the same memory: the streams begin anew."""
    for layer in _layers(models):
        for kept in layer.buffers():
            kept.zero_()


def lasting(model: nn.Module) -> list[Tensor]:
    """The model's buffers but for what it carries."""
    passing = {id(kept) for layer in _layers([model]) for kept in layer.buffers()}
    return [buffer for buffer in model.buffers() if id(buffer) not in passing]


@contextmanager
def anew(*models: nn.Module) -> Iterator[None]:
    """Inside, the models carry nothing yet; afterwards what they carried before, in the same memory."""
    kept = [(layer, layer.part, dict(layer.named_buffers())) for layer in _layers(models)]
    for layer, _, tensors in kept:
        _put(layer, 0, {name: tensor.new_zeros(1, 0, tensor.shape[2]) for name, tensor in tensors.items()})
    try:
        yield
    finally:
        for layer, part, tensors in kept:
            _put(layer, part, tensors)


def _layers(models: Iterable[nn.Module]) -> Iterator[Carried]:
    found = (module for model in models for module in model.modules() if isinstance(module, Carried))
    return iter(dict.fromkeys(found))


def _put(layer: Carried, part: int, tensors: Mapping[str, Tensor]) -> None:
    layer.part = part
    for name, tensor in tensors.items():
        setattr(layer, name, tensor)
