"""Rewrite a traced part for inference: batch norms folded, on the CPU convolutions fused and prepacked."""

from __future__ import annotations

import copy
import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def fused(part: nn.Module, x: Tensor, dtype: torch.dtype) -> fx.GraphModule | None:
    """`part` for inference on inputs like `x`, with weights of its own; None where it cannot be traced.

    Args:
        part: in eval mode; its tensors are copied.
        dtype: of the convolutions' and linear layers' weights.
    """
    try:
        program = folded(part)
    except Exception:  # tracing runs the user's forward: anything may be raised
        return None
    for module in program.modules():
        if isinstance(module, (*CONVOLUTIONS, nn.Linear)):
            module.to(dtype)
    program.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's gap
    if _packs(x.device, dtype):
        ShapeProp(program).propagate(x)
        _pack(program, dtype)
    program.graph.lint()
    program.recompile()
    return program


def folded(part: nn.Module) -> fx.GraphModule:
    """`part`, in eval mode, as a program whose batch norms are folded where they follow a convolution.

    Raises:
        Exception: whatever tracing the forward pass raises.
    """
    program = copy.deepcopy(fx.GraphModule(part, fx.Tracer().trace(part)))
    _drop_identities(program)
    _fold(program)
    program.delete_all_unused_submodules()
    program.graph.lint()
    program.recompile()
    return program


def _drop_identities(program: fx.GraphModule) -> None:
    for node in list(program.graph.nodes):
        if isinstance(_module(program, node), nn.Identity):
            node.replace_all_uses_with(node.args[0])
            program.graph.erase_node(node)


def _fold(program: fx.GraphModule) -> None:
    """Batch norms into the convolutions before them, in fp64: rounding comes once, at the end."""
    for node in list(program.graph.nodes):
        source = node.args[0] if node.args else None
        if not (isinstance(source, fx.Node) and len(source.users) == 1):
            continue
        conv, norm = _module(program, source), _module(program, node)
        if type(conv) not in CONVOLUTIONS or type(norm) not in BATCH_NORMS or _calls(program, source) > 1:
            continue
        assert isinstance(conv, nn.Conv2d | nn.Conv1d | nn.Conv3d) and isinstance(norm, BATCH_NORMS)
        if norm.running_mean is None or norm.training:
            continue
        dtype = conv.weight.dtype
        exact = fuse_conv_bn_eval(copy.deepcopy(conv).eval().double(), copy.deepcopy(norm).double())
        _replace(program, str(source.target), exact.to(dtype))
        node.replace_all_uses_with(source)
        program.graph.erase_node(node)


def is_packed(part: nn.Module) -> bool:
    """Whether `part` holds weights in oneDNN's own layout."""
    return any(isinstance(module, _PackedConv) for module in part.modules())


def _packs(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN has convolutions fused with what follows."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


def _pack(program: fx.GraphModule, dtype: torch.dtype) -> None:
    """conv (+ tensor) (+ ReLU) to one node each."""
    graph = program.graph
    for node in list(graph.nodes):
        conv = _module(program, node)
        if type(conv) is not nn.Conv2d or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            continue
        last, other = node, None
        addition = _only_user(node)
        if addition is not None and (other := _added(addition, node)) is not None:
            last = addition
        after = _only_user(last)
        relu = after is not None and _is_relu(program, after)
        last = after if relu and after is not None else last
        name = f"packed_{node.name}"
        packed = _PackedConv(conv, tuple(node.args[0].meta["tensor_meta"].shape), dtype, relu=relu)
        program.add_submodule(name, packed)
        with graph.inserting_before(last):
            one = graph.call_module(name, (node.args[0], *([] if other is None else [other])))
        one.meta = dict(last.meta)
        last.replace_all_uses_with(one)
        for old in dict.fromkeys((last, addition if other is not None else last, node)):
            graph.erase_node(old)
    _reuse(program)
    program.delete_all_unused_submodules()


def _reuse(program: fx.GraphModule) -> None:
    """Write a sum over its tensor where nothing reads that one afterwards: one pass over memory less."""
    place = {node: i for i, node in enumerate(program.graph.nodes)}
    for node in program.graph.nodes:
        packed = _module(program, node)
        if not isinstance(packed, _PackedConv) or len(node.args) < 2:
            continue
        source, other = node.args
        fresh = isinstance(_module(program, other), _PackedConv)
        # other packed convolutions read it and make no view of it
        readers = all(isinstance(_module(program, user), _PackedConv) for user in other.users)
        packed.overwrites = (
            fresh
            and readers
            and other is not source
            and all(place[user] <= place[node] for user in other.users)
        )


class _PackedConv(nn.Module):
    """relu(conv(x) + other) by oneDNN, the weights in its own layout; ReLU and `other` where asked for.

    Args:
        input_shape: of x, for which oneDNN chooses the layout; other shapes are served as well.
    """

    overwrites = False  # the sum may be written over `other`

    def __init__(
        self, conv: nn.Conv2d, input_shape: tuple[int, ...], dtype: torch.dtype, *, relu: bool
    ) -> None:
        super().__init__()
        self.dtype = dtype
        self.relu = relu
        geometry = [list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups]
        weight = conv.weight.detach()
        packed = torch.ops.mkldnn._reorder_convolution_weight(weight, *geometry, list(input_shape))
        bias = None if conv.bias is None else conv.bias.detach()
        self.arguments = (packed, bias, *geometry)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        ops, x = torch.ops.mkldnn, x.to(self.dtype)
        out: Tensor
        if other is None:
            out = ops._convolution_pointwise(x, *self.arguments, "relu" if self.relu else "none", [], "")
            return out
        other = other.to(self.dtype)
        then: tuple[Any, ...] = ("add", 1.0, "relu" if self.relu else None, [], "")
        if self.overwrites:
            out = ops._convolution_pointwise_.binary(other, x, *self.arguments, *then)
        else:
            out = ops._convolution_pointwise.binary(x, other, *self.arguments, *then)
        return out


def _module(program: fx.GraphModule, node: Any) -> nn.Module | None:
    called = isinstance(node, fx.Node) and node.op == "call_module"
    return program.get_submodule(str(node.target)) if called else None


def _calls(program: fx.GraphModule, node: fx.Node) -> int:
    return sum(other.op == "call_module" and other.target == node.target for other in program.graph.nodes)


def _replace(program: fx.GraphModule, target: str, module: nn.Module) -> None:
    parent, _, name = target.rpartition(".")
    setattr(program.get_submodule(parent), name, module)


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _is_relu(program: fx.GraphModule, node: fx.Node) -> bool:
    functions = (F.relu, torch.relu, "relu", "relu_")
    return isinstance(_module(program, node), nn.ReLU) or node.target in functions


def _added(node: fx.Node, term: fx.Node) -> fx.Node | None:
    """The other term, of one shape and dtype, where `node` is a plain sum with `term`."""
    into_term = node.target in (operator.iadd, "add_") and node.args[:1] == (term,)
    if not into_term and node.target not in (operator.add, torch.add, "add"):
        return None
    others = [argument for argument in node.args if argument is not term]
    if node.kwargs or len(node.args) != 2 or len(others) != 1 or not isinstance(others[0], fx.Node):
        return None
    ours, theirs = term.meta["tensor_meta"], others[0].meta.get("tensor_meta")
    same = isinstance(theirs, type(ours)) and (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    return others[0] if same else None
