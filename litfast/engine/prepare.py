"""The models of a phase made ready to train, and given back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from litfast.phase import Phase


@contextmanager
def prepared(
    phase: Phase, device: torch.device, *, memory_format: torch.memory_format = torch.channels_last
) -> Iterator[None]:
    """Put modules on the device, set train and eval modes, let only the branches' parameters take a gradient.

    The flags are given back afterwards, and everything is left in eval mode.
    """
    states = [branch.state for branch in phase.branches if branch.state is not None]
    modules = (phase.model, *phase.frozen, *states)
    for branch in phase.branches:
        for coefficient in branch.coefficients:
            coefficient.to(device)
    for module in modules:
        module.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]  # torch's gap
        module.eval()
    flags = [(parameter, parameter.requires_grad) for module in modules for parameter in module.parameters()]
    trained = {id(parameter) for branch in phase.branches for parameter in branch.params}
    for parameter, _ in flags:
        parameter.requires_grad_(id(parameter) in trained)
    for module in phase.trains:
        module.train()
    try:
        yield
    finally:
        _release(modules, flags)


def _release(modules: Sequence[nn.Module], flags: list[tuple[nn.Parameter, bool]]) -> None:
    for module in modules:
        module.eval()
    for parameter, flag in flags:
        parameter.requires_grad_(flag)
        parameter.grad = None
