"""One pass through a section where a method asks for two: what a batch norm must do, and when it is exact."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

from litfast.models._modes import evaluating

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
AGREEMENT = 0.02  # relative; two passes and one differ by rounding, bf16 included, or by much more


@contextmanager
def statistics_held(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Inside, batch norms in train mode normalise as ever and leave their running statistics alone."""
    held = [norm for norm in _norms(modules) if norm.track_running_stats]
    for norm in held:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in held:
            norm.track_running_stats = True


@contextmanager
def counted_twice(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Inside, one pass moves the statistics of batch norms in train mode as two passes on its batch would.

    Two moving averages of one value v, r <- (1 - m) r + m v, are one of momentum 1 - (1 - m)^2.
    """
    norms = [norm for norm in _norms(modules) if norm.training and norm.track_running_stats]
    counted = [(norm, norm.momentum) for norm in norms]
    for norm, momentum in counted:
        norm.momentum = momentum * (2 - momentum)
    try:
        yield
        for norm in norms:
            norm.num_batches_tracked.add_(1)
    finally:
        for norm, momentum in counted:
            norm.momentum = momentum


@contextmanager
def in_halves(modules: Sequence[nn.Module], *, moved: tuple[bool, bool]) -> Iterator[None]:
    """Inside, batch norms in train mode take their input [2 B, ...] for two batches, one after the other.

    Each half is normalised by its own statistics, and moves the running ones where `moved` says so.
    """
    norms = [norm for norm in _norms(modules) if norm.training]
    for norm in norms:
        # The instance's own attribute hides the method of its class, and is deleted afterwards.
        norm.__dict__["forward"] = partial(_forward_in_halves, norm, type(norm).forward, moved)
    try:
        yield
    finally:
        for norm in norms:
            del norm.__dict__["forward"]


def twin_pass(
    section: nn.Module, first: Tensor, second: Tensor, *, moved: tuple[bool, bool] = (True, True)
) -> tuple[Tensor, Tensor]:
    """`section(first)` and `section(second)`, in this order, in one pass on the two side by side.

    Args:
        section: every sample's output depends on that sample alone, but for batch norms (`is_per_sample`).
        first, second: of one shape and dtype, [B, ...].
        moved: whether each of the two moves the batch norms' running statistics.
    """
    with in_halves([section], moved=moved):
        ours, theirs = section(torch.cat([first, second])).chunk(2)
    return ours, theirs


def is_repeatable(section: nn.Module, x: Tensor) -> bool:
    """Whether a second pass on `x` repeats the first: same output, and no state moves but plain batch norms'.

    Batch norms with a cumulative average (momentum None) and modules with buffers of their own do not count
    as plain. Runs the section once without gradient and moves nothing.
    """
    for module in section.modules():
        if isinstance(module, BATCH_NORMS):
            if type(module) not in BATCH_NORMS or (module.track_running_stats and module.momentum is None):
                return False
        elif next(module.buffers(recurse=False), None) is not None:
            return False
    devices = [x.device] if x.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.no_grad(), statistics_held([section]), _Draws() as draws:
        section(x)
    return not draws.any


def is_per_sample(section: nn.Module, first: Tensor, second: Tensor) -> bool:
    """Whether `twin_pass` gives what two passes give on these inputs; moves nothing. Reads the device."""
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    with torch.no_grad(), statistics_held([section]):
        apart = [section(first), section(second)]
        together = twin_pass(section, first, second, moved=(False, False))
    gaps = [(ours - theirs).norm() for ours, theirs in zip(together, apart, strict=True)]
    return all(bool(gap <= AGREEMENT * one.norm()) for gap, one in zip(gaps, apart, strict=True))


def is_same(first: nn.Module, second: nn.Module) -> bool:
    """Whether two modules in eval mode compute the same, to the bit: equal code, settings and tensors.

    A module that torch.fx cannot trace is the same as no other.
    """
    try:
        with evaluating(first, second):
            one, other = (fx.GraphModule(module, fx.Tracer().trace(module)) for module in (first, second))
    except Exception:  # tracing runs the user's forward: anything may be raised
        return False
    if [_written(node) for node in one.graph.nodes] != [_written(node) for node in other.graph.nodes]:
        return False
    pairs = zip(one.modules(), other.modules(), strict=True)
    if not all(_settings(ours) == _settings(theirs) for ours, theirs in list(pairs)[1:]):
        return False
    tensors = zip(_tensors(one), _tensors(other), strict=True)
    return all(a.device == b.device and torch.equal(a, b) for a, b in tensors)


def _written(node: fx.Node) -> tuple[Any, ...]:
    return node.name, node.op, node.target, str(node.args), str(node.kwargs)


def _settings(module: nn.Module) -> tuple[type, dict[str, Any]]:
    plain = (bool, int, float, str, tuple, type(None))
    settings = {key: value for key, value in vars(module).items() if isinstance(value, plain)}
    return type(module), {**settings, "training": False}


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


class _Draws(TorchDispatchMode):
    """Watches for ops that draw random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.any = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.any |= torch.Tag.nondeterministic_seeded in func.tags
        return func(*args, **(kwargs or {}))


def _norms(modules: Sequence[nn.Module]) -> list[Any]:
    return [
        m for module in modules for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)
    ]


def _forward_in_halves(
    norm: nn.Module, forward: Callable[..., Tensor], moved: tuple[bool, bool], x: Tensor
) -> Tensor:
    outputs = []
    for half, moves in zip(x.chunk(2), moved, strict=True):
        with ExitStack() as stack:
            if not moves:
                stack.enter_context(statistics_held([norm]))
            outputs.append(forward(norm, half))
    return torch.cat(outputs)
