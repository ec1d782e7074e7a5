"""Trace a model's forward pass with torch.fx, no deeper than is asked for."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

from torch import Tensor, fx, nn

from litfast.errors import first_line
from litfast.models._modes import evaluating


def input_names(model: nn.Module, given: Sequence[str] | None) -> tuple[str, ...]:
    """The parameters of `forward` that a batch gives: those named, else the one that has no default.

    Raises:
        ValueError: several without a default and none named, or a name that `forward` does not take.
    """
    parameters = inspect.signature(model.forward).parameters.values()
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    known = [p.name for p in parameters if p.kind not in variadic]
    required = [p.name for p in parameters if p.name in known and p.default is p.empty]
    if given is None:
        if len(required) > 1 or not known:
            got = ", ".join(required) or "none"
            raise ValueError(f"sectioned: forward must take one tensor, got {got}; name them as `inputs`")
        return tuple(required) or (known[0],)
    if not given or not set(required) <= set(given) <= set(known):
        raise ValueError(
            f"sectioned: inputs must be among forward's {', '.join(known)}, all without a default included, "
            f"got {', '.join(given) or 'none'}"
        )
    return tuple(given)


def trace(model: nn.Module, inputs: Sequence[str], descends: Callable[[str], bool]) -> fx.Graph:
    """The graph of the model's forward pass, whose placeholders are `inputs`; all else takes its default.

    Args:
        model: traced in the mode that it is in.
        descends: whether the tracer goes into the submodule of a name, or leaves it as one call.
    """
    parameters = inspect.signature(model.forward).parameters.values()
    fixed = {p.name: p.default for p in parameters if p.name not in inputs and p.default is not p.empty}
    graph = _Tracer(descends).trace(model, fixed or None)
    _drop_placeholders(graph, inputs)
    return graph


def trace_both(model: nn.Module, inputs: Sequence[str], descends: Callable[[str], bool]) -> fx.Graph:
    """`trace` of a model whose forward pass is the same in train and in eval mode.

    Raises:
        ValueError: it cannot be traced, or its code asks for the mode.
    """
    who = f"sectioned: forward of {type(model).__name__}"
    try:
        with evaluating(model):
            in_eval = trace(model, inputs, descends)
            training = trace(model.train(), inputs, descends)
    except Exception as error:  # tracing runs the user's forward: anything may be raised
        raise ValueError(f"{who} must be traceable by torch.fx, got {first_line(error)}") from error
    if str(in_eval) != str(training):
        raise ValueError(f"{who} must not read self.training in a functional call; use nn.Dropout instead")
    return training


def main_path(graph: fx.Graph) -> set[fx.Node]:
    """What follows from the first input; what follows from others and from parameters alone does not."""
    found = {next(node for node in graph.nodes if node.op == "placeholder")}
    for node in graph.nodes:
        if not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found


def value_of(call: fx.Node) -> fx.Node:
    """The tensor that a module's call stands for: of one that returns a tuple its first entry, read alone."""
    users = list(call.users)
    firsts = [user for user in users if user.target is operator.getitem and user.args[1] == 0]
    return firsts[0] if len(users) == len(firsts) == 1 else call


def line(graph: fx.Graph) -> list[fx.Node]:
    """The module calls that the whole forward pass runs through, each alone: nothing bypasses them."""
    path = main_path(graph)
    place = {node: at for at, node in enumerate(graph.nodes)}
    found, read_until = [], -1  # the last place that reads a value from before the node at hand
    for at, node in enumerate(graph.nodes):
        if node not in path:
            continue
        if node.op == "call_module" and read_until <= at:
            found.append(node)
        read_until = max([read_until, *(place[user] for user in node.users)])
    return found


class _Tracer(fx.Tracer):
    """Descends only where it must, so whatever a section does inside needs no tracing."""

    def __init__(self, descends: Callable[[str], bool]) -> None:
        super().__init__()
        self.descends = descends

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not self.descends(module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if isinstance(m, nn.TransformerEncoder) and type(m).forward is nn.TransformerEncoder.forward:
            forward = partial(_encode, m)
        return super().call_module(m, forward, args, kwargs)


def _encode(
    encoder: nn.TransformerEncoder,
    src: Tensor,
    mask: Tensor | None = None,
    src_key_padding_mask: Tensor | None = None,
    is_causal: bool | None = None,
) -> Tensor:
    """What `nn.TransformerEncoder` computes, without its choice of a fast path, which asks for shapes."""
    for layer in encoder.layers:
        src = layer(src, src_mask=mask, is_causal=bool(is_causal), src_key_padding_mask=src_key_padding_mask)
    return src if encoder.norm is None else encoder.norm(src)


def _drop_placeholders(graph: fx.Graph, inputs: Collection[str]) -> None:
    """Leave the placeholders of `inputs`: fx keeps one for every fixed argument, and asserts its value."""
    others = [n for n in graph.nodes if n.op == "placeholder" and str(n.target) not in inputs]
    gone = dict.fromkeys(others)
    for node in graph.nodes:
        if node.all_input_nodes and set(node.all_input_nodes) <= set(gone):
            gone[node] = None
    for node in reversed(gone):
        graph.erase_node(node)
