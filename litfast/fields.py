"""What a model reads of a batch: one tensor, or several by their names or in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor


def each(function: Callable[[Tensor], Any], x: Any) -> Any:
    """`function` of the tensor, or of every one of several, nested ones too, in their places."""
    if isinstance(x, Mapping):
        return {name: each(function, value) for name, value in x.items()}
    return tuple(each(function, value) for value in x) if isinstance(x, (tuple, list)) else function(x)


def tensors(x: Any) -> Iterator[Tensor]:
    """All tensors in their order, nested ones too."""
    if isinstance(x, Tensor):
        yield x
        return
    for value in x.values() if isinstance(x, Mapping) else x:
        yield from tensors(value)


def first(x: Any) -> Tensor:
    """The first tensor, which has the batch's size and device as all others have."""
    return next(tensors(x))


def rows(x: Any, start: int, stop: int) -> Any:
    """Samples `start` to `stop` of every tensor, as views."""
    return each(lambda tensor: tensor[start:stop], x)
