"""What stands for a CUDA graph without a GPU: a tape of torch's ops, replayed on the memory they used.

Like a graph it knows nothing of Python: host numbers are frozen, Python's own effects do not happen again,
and reading a value back to the host while it records is an error. Unlike a graph it runs what it records.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

HOST_READS = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero")


class Tape(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self._ops: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in HOST_READS:
            callers = {frame.filename for frame in traceback.extract_stack()}
            if not any(file.endswith("litfast/ops/_autograd.py") for file in callers):  # on the CPU alone
                raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        inputs = {_storage(leaf) for leaf in _tensors((args, kwargs))}
        out = func(*args, **(kwargs or {}))
        made = [leaf if _storage(leaf) not in inputs else None for leaf in _tensors(out)]
        self._ops.append((func, args, kwargs or {}, made))
        return out

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, made in self._ops:
            for place, value in zip(made, _tensors(func(*args, **kwargs)), strict=True):
                if place is not None:
                    place.copy_(value)


class TapeCapture:
    """A Capture, and how often it was asked for what."""

    def __init__(self) -> None:
        self.runs = 0
        self.records = 0
        self.replays = 0

    def run(self, work: Callable[[], None]) -> None:
        self.runs += 1
        work()

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        self.records += 1
        tape = Tape()
        with tape:
            work()

        def replay() -> None:
            self.replays += 1
            tape.replay()

        return replay


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
