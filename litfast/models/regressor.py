"""What joins a thin layer to a wide one: FitNets' regressor, its kernel derived from two outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from litfast.models._modes import evaluating
from litfast.models.inputs import Input
from litfast.models.maxout import PIECES, Maxout
from litfast.models.sectioned import SectionedModel
from litfast.registry import unknown

CONVOLUTIONS: Mapping[int, Callable[..., nn.Module]] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}  # by ndim

# By the names that torch has for them as modules, functions and methods, in small letters without underscores
# (nn.LeakyReLU and F.leaky_relu are "leakyrelu").
NONLINEARITIES: Mapping[str, Callable[[], nn.Module]] = {
    "linear": nn.Identity,
    "relu": nn.ReLU,
    "maxout": lambda: Maxout(PIECES),
    "leakyrelu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}
# Sums, after which there is no non-linearity; and what may stand behind one and only selects or averages.
SUMS = (
    "linear",
    "conv1d",
    "conv2d",
    "conv3d",
    "batchnorm1d",
    "batchnorm2d",
    "batchnorm3d",
    "layernorm",
    "add",
    "iadd",
)
SELECTIONS = (
    *("maxpool1d", "maxpool2d", "maxpool3d", "avgpool1d", "avgpool2d", "avgpool3d", "adaptiveavgpool2d"),
    *("identity", "dropout", "dropout1d", "dropout2d", "dropout3d", "flatten", "contiguous"),
)


def regressor(
    hint: Tensor,  # [B, C_h, *N_h] or [B, C_h]
    guided: Tensor,  # [B, C_g, *N_g] or [B, C_g]
    nonlinearity: nn.Module,
    *,
    who: str = "regressor: guided",
) -> nn.Module:
    """The module that maps an output like `guided` to one like `hint`, freshly initialised.

    A convolution without padding from C_g to C_h channels, with a kernel of N_guided - N_hint + 1 in every
    direction, and the hint layer's non-linearity; for flat outputs a linear layer and the non-linearity; for
    equal shapes nothing at all.

    Args:
        hint, guided: outputs of the two layers; only their shapes count, dtype and device are `guided`'s.
        nonlinearity: of the hint layer, e.g. `nonlinearity(section)`.
        who: opens the error.

    Raises:
        ValueError: outputs of different dimensions, or a guided one that is smaller than the hint.

    Source: Romero et al., FitNets (2015), section 2.2 and equation 3.
    """
    wanted, given = list(hint.shape[1:]), list(guided.shape[1:])
    if hint.ndim != guided.ndim or not (hint.ndim == 2 or hint.ndim in CONVOLUTIONS):
        raise ValueError(
            f"{who} must have the hint's kind of output, [C] or [C, ...], for a regressor to join them: "
            f"{wanted}, got {given}"
        )
    if wanted == given:
        return nn.Identity()
    if any(n < goal for n, goal in zip(given[1:], wanted[1:], strict=True)):
        raise ValueError(
            f"{who} must be at least as large as the hint in every direction, {wanted[1:]}, got {given[1:]}; "
            "take a later hint section or an earlier guided one"
        )
    pieces = nonlinearity.pieces if isinstance(nonlinearity, Maxout) else 1
    kernel = [n - goal + 1 for n, goal in zip(given[1:], wanted[1:], strict=True)]
    sizes: tuple[Any, ...] = (given[0], pieces * wanted[0])
    linear = CONVOLUTIONS[hint.ndim](*sizes, kernel) if kernel else nn.Linear(*sizes)
    return nn.Sequential(linear, nonlinearity).to(guided.device, guided.dtype)


def output(model: SectionedModel, section: int, x: Any) -> Tensor:
    """The output of a section, counted from 1, without what comes after it: irs[section] of `observe`."""
    ir = model.enter(x)
    for part in model.sections[:section]:
        ir = part(ir, x)
    return ir


@torch.no_grad()
def example(model: SectionedModel, section: int, input: Input) -> Tensor:
    """The output of a section for one random sample, in eval mode; draws nothing from torch's generator."""
    like = next(model.parameters())
    sample = input.example(1, generator=torch.Generator(), device=like.device, dtype=like.dtype)
    with evaluating(model):
        return output(model, section, sample)


def nonlinearity(section: nn.Module, name: str = "hint") -> nn.Module:
    """The non-linearity at the end of a section, or the one of a name, as a new module.

    Pools and dropout behind it do not matter; a section that ends with a convolution, a linear layer, a batch
    norm or a sum has none, which is "linear".

    Args:
        section: part of a model, as in `SectionedModel.sections`.
        name: one of NONLINEARITIES, or "hint" to find it in the section.

    Raises:
        ValueError: an unknown name, or a section whose end cannot be read.
    """
    if name != "hint":
        if name not in NONLINEARITIES:
            raise ValueError(f"nonlinearity: {unknown('name', name, ('hint', *NONLINEARITIES))}")
        return NONLINEARITIES[name]()
    last, module = _last(section)
    if last in SUMS:
        return nn.Identity()
    if last not in NONLINEARITIES:
        known = ", ".join(NONLINEARITIES)
        raise ValueError(
            f"nonlinearity: the end of the hint section must be one of {known}, "
            f"got {last or 'what torch.fx cannot trace'}; name one"
        )
    return Maxout(module.pieces) if isinstance(module, Maxout) else NONLINEARITIES[last]()


class _Tracer(fx.Tracer):
    """Stops at a maxout, which would otherwise look like a reshape and a maximum."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Maxout) or super().is_leaf_module(m, module_qualified_name)


def _last(section: nn.Module) -> tuple[str, nn.Module | None]:
    """Name and module of the last operation that is no selection; "" where there is none to be seen."""
    try:
        graph = _Tracer().trace(section)
    except Exception:  # tracing runs the user's forward: anything may be raised
        return "", None
    (node,) = next(iter(reversed(graph.nodes))).all_input_nodes
    while node is not None:
        module = section.get_submodule(str(node.target)) if node.op == "call_module" else None
        name = _plain(node, module)
        if name not in SELECTIONS:
            return name, module
        node = next(iter(node.all_input_nodes), None)
    return "", None


def _plain(node: fx.Node, module: nn.Module | None) -> str:
    if module is not None:
        name = type(module).__name__
    elif node.op == "call_function":
        name = getattr(node.target, "__name__", "")
    else:
        name = str(node.target)
    return name.lower().replace("_", "")
