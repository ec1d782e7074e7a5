"""Cut a model's forward pass at named submodules with torch.fx: the mechanics behind `sectioned`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from torch import Tensor, fx, nn

from litfast.models._modes import evaluating


class Part(nn.Module):
    """One piece of a model's forward pass: a view that reads the model's own submodules when called.

    Its children and direct parameters are the model's, under the model's names; `state_keys` are the entries
    of the model's state dict that it reads. A buffer that the forward pass reads directly stays with the
    model alone: `.to()` replaces buffers, so a second holder would go stale. Train or eval mode is a matter
    of the submodules; a part's own flag decides nothing.
    """

    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        super().__init__()
        reads = [str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr")]
        targets = tuple(dict.fromkeys(reads))
        self.__dict__["_model"] = model  # past nn.Module's __setattr__: the part does not own the model
        # the compiled function alone; called with the model as self, it looks everything up in the model
        self._run = type(fx.GraphModule(model, graph)).forward
        self.state_keys = tuple(key for key in model.state_dict() if _is_under(key, targets))
        for target in targets:
            _share(model, self, target)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self._run(self._model, x)
        return out


def split(model: nn.Module, names: Sequence[str]) -> tuple[Part, ...]:
    """The stem, one part for each name, and the head, in the order of the forward pass.

    Raises:
        ValueError: the forward pass cannot be traced, depends on the mode in a functional call, or does
            not run through the named submodules one after the other.
    """
    _check_names(model, names)
    graph = _trace(model, names)
    cuts = _cuts(graph, names)
    nodes = list(graph.nodes)
    (placeholder,) = (node for node in nodes if node.op == "placeholder")
    (output,) = nodes[-1].args
    if not isinstance(output, fx.Node):
        raise ValueError(f"sectioned: forward must return one tensor, got {type(output).__name__}")
    entry = _only_input(cuts[0], names[0])
    starts = [0, nodes.index(cuts[0]), *(nodes.index(cut) + 1 for cut in cuts)]
    stops = [*starts[1:], len(nodes) - 1]
    inputs = [placeholder, entry, *cuts]
    outputs = [entry, *cuts, output]
    labels = ["the stem", *(f"section {name!r}" for name in names), "the head"]
    return tuple(
        Part(model, _subgraph(nodes[start:stop], source, result, label))
        for start, stop, source, result, label in zip(starts, stops, inputs, outputs, labels, strict=True)
    )


class _Tracer(fx.Tracer):
    """Descends only where it must, so whatever a section does inside needs no tracing."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = names

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not any(name.startswith(f"{module_qualified_name}.") for name in self.names)


def _trace(model: nn.Module, names: Sequence[str]) -> fx.Graph:
    who = f"sectioned: forward of {type(model).__name__}"
    try:
        with evaluating(model):
            in_eval = _Tracer(names).trace(model)
            training = _Tracer(names).trace(model.train())
    except Exception as error:  # tracing runs the user's forward: anything may be raised
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{who} must be traceable by torch.fx, got {reason}") from error
    if str(in_eval) != str(training):
        raise ValueError(f"{who} must not read self.training in a functional call; use nn.Dropout instead")
    placeholders = [node.name for node in training.nodes if node.op == "placeholder"]
    if len(placeholders) != 1:
        raise ValueError(f"sectioned: forward must take one tensor, got {', '.join(placeholders) or 'none'}")
    return training


def _check_names(model: nn.Module, names: Sequence[str]) -> None:
    known = [name for name, _ in model.named_modules() if name]
    if not names:
        raise ValueError("sectioned: names must hold at least one submodule, got none")
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.0)
            hint = f"; the nearest is {near[0]!r}" if near else ""
            raise ValueError(f"sectioned: names must be submodules of the model, got {name!r}{hint}")
        outer = [other for other in names if name.startswith(f"{other}.")]
        if outer:
            raise ValueError(f"sectioned: names must not be nested, got {name!r} inside {outer[0]!r}")


def _cuts(graph: fx.Graph, names: Sequence[str]) -> list[fx.Node]:
    """The call of each named submodule, checked to come once each and in order."""
    calls = [node for node in graph.nodes if node.op == "call_module" and node.target in names]
    targets = [str(node.target) for node in calls]
    for name in names:
        if targets.count(name) != 1:
            calls_found = targets.count(name)
            raise ValueError(f"sectioned: forward must call {name!r} exactly once, got {calls_found} calls")
    if targets != list(names):
        order = ", ".join(targets)
        raise ValueError(
            f"sectioned: names must be in the forward pass's order {order}, got {', '.join(names)}"
        )
    return calls


def _only_input(call: fx.Node, name: str) -> fx.Node:
    if len(call.all_input_nodes) != 1:
        got = ", ".join(node.name for node in call.all_input_nodes) or "none"
        raise ValueError(f"sectioned: section {name!r} must read one tensor, got {got}")
    return call.all_input_nodes[0]


def _subgraph(nodes: Iterable[fx.Node], source: fx.Node, result: fx.Node, label: str) -> fx.Graph:
    graph = fx.Graph()
    copies = {source: graph.placeholder("x")}

    def copied(node: fx.Node) -> fx.Node:
        # fx reads an attribute once, at its first use; each part must read it for itself
        if node not in copies and node.op == "get_attr":
            copies[node] = graph.node_copy(node)
        if node not in copies:
            raise ValueError(
                f"sectioned: {label} must read nothing from before it but {source.name!r}, "
                f"got {node.name!r} as well; no value may bypass a boundary between sections"
            )
        return copies[node]

    for node in nodes:
        if node.op not in ("placeholder", "get_attr"):
            copies[node] = graph.node_copy(node, copied)
    graph.output(copied(result))
    return graph


def _share(model: nn.Module, part: nn.Module, target: str) -> None:
    """Register model.<target> in `part` under the same name, through empty containers where it is nested."""
    *path, last = target.split(".")
    value: Any = model.get_submodule(".".join(path))
    value = getattr(value, last)
    if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        return
    for name in path:
        if name not in part._modules:
            part.add_module(name, nn.Module())
        part = part.get_submodule(name)
    setattr(part, last, value)


def _is_under(key: str, targets: Iterable[str]) -> bool:
    return any(key == target or key.startswith(f"{target}.") for target in targets)
