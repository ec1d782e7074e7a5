"""What goes into a file: a copy of the model that computes and does nothing else, traced."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from litfast.carried import Carried
from litfast.errors import typed
from litfast.models import Input, SectionedModel

TRACED = 2  # samples: torch.export makes a constant of a size of 1


def plain(model: nn.Module) -> nn.Module:
    """A copy in eval mode and fp32 on the CPU, without sections; an LSTM's state is zero at every call."""
    made = copy.deepcopy(inner(model)).cpu().float().eval().requires_grad_(False)
    for name, module in list(made.named_modules()):
        if isinstance(module, Carried):
            parent, _, key = name.rpartition(".")
            setattr(made.get_submodule(parent), key, _Zeros(module))
    return made


def inner(model: nn.Module) -> nn.Module:
    """The model under its own keys: what a SectionedModel was made of."""
    return model.model if isinstance(model, SectionedModel) else model


def traced(model: nn.Module, input: Input) -> torch.export.ExportedProgram:
    """`plain(model)` as torch.export sees it on a batch of random samples; it takes any number of them.

    Raises:
        ValueError: a model that torch.export cannot trace.
    """
    any_size = {0: torch.export.Dim("batch")}
    given = input.example(TRACED)
    args, kwargs = ((), given) if isinstance(given, dict) else ((given,), {})
    sizes: Any = dict.fromkeys(kwargs, any_size) if kwargs else (any_size,)
    try:
        with torch.no_grad(), _quiet():
            made = torch.export.export(plain(model), args, kwargs, dynamic_shapes=sizes)
    except Exception as error:  # tracing runs the user's forward: anything may be raised
        raise ValueError(
            f"export: model must be one that torch.export can trace, got {typed(error)}"
        ) from error
    for module in made.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # this machine's paths
    return made


def called(model: Any, x: Any) -> Any:
    """What a model that is no SectionedModel makes of a batch, as `Input.example` draws it."""
    return model(**x) if isinstance(x, dict) else model(x)


class _Zeros(nn.Module):
    """In place of a `Carried`: no batch finds anything, and none leaves anything."""

    def __init__(self, carried: Carried) -> None:
        super().__init__()
        self.widths = [kept.shape[2] for kept in carried.buffers()]

    def take(self, rows: int) -> tuple[Tensor, ...]:
        return tuple(torch.zeros(rows, width) for width in self.widths)

    def leave(self, *tensors: Tensor) -> None:
        pass


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's word that an LSTM lists its weights a second time while it is traced."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The tensor attributes? .*_flat_weights", UserWarning)
        yield
