"""Cut a model's forward pass at named submodules with torch.fx: the mechanics behind `sectioned`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from torch import Tensor, fx, nn

from litfast.models._trace import input_names, main_path, trace_both, value_of
from litfast.models.blocks import SLICE, members


class Part(nn.Module):
    """One piece of a model's forward pass: a view that reads the model's own submodules when called.

    Its children and direct parameters are the model's, under the model's names; `state_keys` are the entries
    of the model's state dict that it reads. A buffer that the forward pass reads directly stays with the
    model alone: `.to()` replaces buffers, so a second holder would go stale. Train or eval mode is a matter
    of the submodules; a part's own flag decides nothing.

    Attributes:
        inputs: the model's inputs by name.
        needs: those of them, but for the first, that the part reads beside what the part before it gave.
    """

    def __init__(self, model: nn.Module, graph: fx.Graph, inputs: tuple[str, ...]) -> None:
        super().__init__()
        reads = [str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr")]
        targets = tuple(dict.fromkeys(reads))
        self.inputs = inputs
        self.needs = tuple(str(n.target) for n in graph.nodes if n.op == "placeholder")[1:]
        self.__dict__["_model"] = model  # past nn.Module's __setattr__: the part does not own the model
        # the compiled function alone; called with the model as self, it looks everything up in the model
        self._run = type(fx.GraphModule(model, graph)).forward
        self.state_keys = tuple(key for key in model.state_dict() if _is_under(key, targets))
        for target in targets:
            _share(model, self, target)

    def forward(self, x: Tensor, batch: Any = None) -> Tensor:
        """What the part makes of the tensor `x`; `batch`, all inputs of the model, where it has `needs`."""
        if not self.needs:
            out: Tensor = self._run(self._model, x)
            return out
        given = named(batch, self.inputs)
        out = self._run(self._model, x, *(given[name] for name in self.needs))
        return out


def named(batch: Any, inputs: Sequence[str]) -> dict[str, Any]:
    """A batch of several inputs by their names: a mapping has them, a tuple is in their order."""
    if isinstance(batch, Mapping):
        return dict(batch)
    values = batch if isinstance(batch, (tuple, list)) else (batch,)
    if len(values) != len(inputs):
        raise ValueError(f"sectioned: a batch must hold {', '.join(inputs)}, got {len(values)} values")
    return dict(zip(inputs, values, strict=True))


def split(model: nn.Module, names: Sequence[str], inputs: Sequence[str] | None = None) -> tuple[Part, ...]:
    """The stem, one part for each name, and the head, in the order of the forward pass.

    Raises:
        ValueError: the forward pass cannot be traced, depends on the mode in a functional call, or does
            not run through the named submodules one after the other.
    """
    _check_names(model, names)
    held = [members(model, name) for name in names]
    flat = [member for section in held for member in section]
    given = input_names(model, inputs)
    graph = trace_both(model, given, lambda module: any(name.startswith(f"{module}.") for name in flat))
    path = main_path(graph)
    calls = _calls(graph, flat)
    cuts = [value_of(calls[section[-1]]) for section in held]
    nodes = list(graph.nodes)
    placeholder = next(node for node in nodes if node.op == "placeholder")
    (output,) = nodes[-1].args
    if not isinstance(output, fx.Node):
        raise ValueError(f"sectioned: forward must return one tensor, got {type(output).__name__}")
    first = calls[flat[0]]
    entry = _only_input(first, names[0], path)
    starts = [0, nodes.index(first), *(nodes.index(cut) + 1 for cut in cuts)]
    stops = [*starts[1:], len(nodes) - 1]
    sources = [placeholder, entry, *cuts]
    outputs = [entry, *cuts, output]
    labels = ["the stem", *(f"section {name!r}" for name in names), "the head"]
    return tuple(
        Part(model, _subgraph(nodes[start:stop], source, result, label, path), given)
        for start, stop, source, result, label in zip(starts, stops, sources, outputs, labels, strict=True)
    )


def _check_names(model: nn.Module, names: Sequence[str]) -> None:
    known = [name for name, _ in model.named_modules() if name]
    if not names:
        raise ValueError("sectioned: names must hold at least one submodule, got none")
    for name in names:
        found = SLICE.fullmatch(name)
        path = name if found is None else found[1]
        if path not in known:
            near = get_close_matches(path, known, n=1, cutoff=0.0)
            hint = f"; the nearest is {near[0]!r}" if near else ""
            raise ValueError(f"sectioned: names must be submodules of the model, got {name!r}{hint}")
    whole = [member for name in names for member in members(model, name)]
    for name in whole:
        outer = [other for other in whole if name.startswith(f"{other}.")]
        if outer:
            raise ValueError(f"sectioned: names must not be nested, got {name!r} inside {outer[0]!r}")


def _calls(graph: fx.Graph, names: Sequence[str]) -> dict[str, fx.Node]:
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
    return dict(zip(targets, calls, strict=True))


def _only_input(call: fx.Node, name: str, path: set[fx.Node]) -> fx.Node:
    reads = [node for node in call.all_input_nodes if node in path]
    if len(reads) != 1:
        got = ", ".join(node.name for node in reads) or "none"
        raise ValueError(f"sectioned: section {name!r} must read one tensor, got {got}")
    return reads[0]


def _subgraph(
    nodes: Iterable[fx.Node], source: fx.Node, result: fx.Node, label: str, path: set[fx.Node]
) -> fx.Graph:
    """The part from `source` to `result`; what does not depend on the first input it computes for itself."""
    nodes = [node for node in nodes if node.op not in ("placeholder", "get_attr")]
    graph = fx.Graph()
    copies = {source: graph.placeholder("x")}
    for node in _side_inputs([*nodes, result], path):
        copies[node] = graph.placeholder(str(node.target), default_value=None)

    def copied(node: fx.Node) -> fx.Node:
        # fx reads an attribute once, at its first use; each part must read it for itself
        if node not in copies and (node.op == "get_attr" or _is_beside(node, path)):
            copies[node] = graph.node_copy(node, copied)
        if node not in copies:
            raise ValueError(
                f"sectioned: {label} must read nothing from before it but {source.name!r}, "
                f"got {node.name!r} as well; no value may bypass a boundary between sections"
            )
        return copies[node]

    for node in nodes:
        copies[node] = graph.node_copy(node, copied)
    graph.output(copied(result))
    return graph


def _is_beside(node: fx.Node, path: set[fx.Node]) -> bool:
    """Whether it is computed from the other inputs alone, and without weights: a mask, say."""
    return node not in path and node.op in ("call_function", "call_method")


def _side_inputs(nodes: Sequence[fx.Node], path: set[fx.Node]) -> list[fx.Node]:
    """The placeholders off the main path that the nodes read, or that what they read follows from."""
    found, waiting, seen = [], list(nodes), set(nodes)
    while waiting:
        node = waiting.pop()
        for read in node.all_input_nodes:
            if read in seen or read in path:
                continue
            seen.add(read)
            waiting.append(read)
            if read.op == "placeholder":
                found.append(read)
    return sorted(found, key=lambda node: node.name)


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
