"""Where any model may be cut into sections: the submodules that its whole forward pass runs through."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, fx, nn

from litfast.errors import typed
from litfast.models._modes import evaluating
from litfast.models._split import named
from litfast.models._trace import input_names, line, trace, trace_both
from litfast.models.blocks import ROWS

ROUNDS = 5  # timed passes


@dataclass(frozen=True, kw_only=True, slots=True)
class Boundary:
    """A submodule that the whole forward pass runs through: a section may end with it.

    Attributes:
        name: the submodule's.
        kind: its class.
        shape: of its output for one sample.
        parameters: how many it holds.
        parameters_share, time_share: of the model's, from 0 to 1; what is nested is in what holds it.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    parameters_share: float
    time_share: float


def candidates(model: nn.Module, inputs: Sequence[str] | None = None) -> list[str]:
    """The submodules that the whole forward pass runs through once, those that hold others first.

    Modules within them are found as far as torch.fx can follow. Nothing is run.

    Args:
        model: traced in eval mode.
        inputs: as in `sectioned`.

    Raises:
        ValueError: the model's own forward pass cannot be traced.
    """
    given = input_names(model, inputs)
    found = _names(trace_both(model, given, lambda name: False))  # its refusal is one line
    entered: set[str] = set()
    with evaluating(model):
        fresh = [name for name in found if _may_enter(model.get_submodule(name))]
        while fresh:
            within = _within(model, given, entered, fresh)
            for name in within:
                place = found.index(name) + 1
                found[place:place] = within[name]
            entered.update(within)
            fresh = [n for inner in within.values() for n in inner if _may_enter(model.get_submodule(n))]
    return found


def measure(model: nn.Module, x: Any, inputs: Sequence[str] | None = None) -> list[Boundary]:
    """The candidates that have parameters, with their output and what they take of the model.

    Args:
        model: is run in eval mode, a few times.
        x: a batch as `SectionedModel.observe` takes it.
        inputs: as in `sectioned`.

    Raises:
        ValueError: as `candidates`.
    """
    names = candidates(model, inputs)
    shapes, seconds = run(model, names, x, input_names(model, inputs))
    total = sum(parameter.numel() for parameter in model.parameters())
    found = []
    for name in names:
        module = model.get_submodule(name)
        held = sum(parameter.numel() for parameter in module.parameters())
        if held and name in shapes:
            found.append(
                Boundary(
                    name=name,
                    kind=type(module).__name__,
                    shape=shapes[name],
                    parameters=held,
                    parameters_share=held / total,
                    time_share=seconds[name] / seconds[""],
                )
            )
    return found


def _within(
    model: nn.Module, inputs: Sequence[str], entered: set[str], fresh: Sequence[str]
) -> dict[str, list[str]]:
    """The line within each fresh module that torch.fx can follow and that has one."""
    try:
        lined = _names(trace(model, inputs, (entered | set(fresh)).__contains__))
    except Exception:  # tracing runs the user's forward: anything may be raised
        if len(fresh) == 1:
            return {}
        alone = (_within(model, inputs, entered, [name]) for name in fresh)
        return {name: inner for one in alone for name, inner in one.items()}
    within = {name: [inner for inner in lined if inner.startswith(f"{name}.")] for name in fresh}
    return {name: inner for name, inner in within.items() if inner}


def _names(graph: fx.Graph) -> list[str]:
    """The modules on the line; one that is called again is no place to cut."""
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    return [str(node.target) for node in line(graph) if calls[node.target] == 1]


def _may_enter(module: nn.Module) -> bool:
    """Not into torch's own layers, but for those that only call others one after the other."""
    if not module._modules:
        return False
    own = not type(module).__module__.startswith("torch.nn.")
    return own or isinstance(module, (*ROWS, nn.ModuleDict, nn.TransformerEncoder))


@torch.no_grad()
def run(
    model: nn.Module, names: Sequence[str], x: Any, inputs: Sequence[str], *, rounds: int = ROUNDS
) -> tuple[dict[str, tuple[int, ...]], dict[str, float]]:
    """Output shapes of one sample and median seconds by name, from passes in eval mode; "" is the model.

    A submodule that gives no tensor has no shape, one that is not called neither.

    Raises:
        ValueError: the model does not take the batch.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    times: dict[str, list[float]] = {name: [] for name in ("", *names)}
    given = named(x, inputs)
    with evaluating(model), _watched(model, ("", *names), shapes, times):
        for _ in range(rounds):
            try:
                model(**given)
            except Exception as error:  # the user's forward: anything may be raised
                batch = ", ".join(f"{key} {list(value.shape)}" for key, value in given.items())
                who = f"sections: {type(model).__name__}"
                raise ValueError(f"{who} must take {batch}, got {typed(error)}") from error
    return shapes, {name: median(seconds) for name, seconds in times.items() if seconds}


@contextmanager
def _watched(
    model: nn.Module,
    names: Sequence[str],
    shapes: dict[str, tuple[int, ...]],
    times: dict[str, list[float]],
) -> Iterator[None]:
    """Inside, every forward pass of the submodules notes the shape of its output and its seconds."""
    began: dict[str, float] = {}
    device = next(model.parameters()).device
    handles = []
    for name in names:

        def before(module: nn.Module, given: Any, name: str = name) -> None:
            began[name] = _now(device)

        def after(module: nn.Module, given: Any, output: Any, name: str = name) -> None:
            times[name].append(_now(device) - began[name])
            value = output[0] if isinstance(output, (tuple, list)) and output else output
            if isinstance(value, Tensor):
                shapes[name] = tuple(value.shape[1:])

        module = model.get_submodule(name)
        handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
