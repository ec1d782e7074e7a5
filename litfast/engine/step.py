"""One training step of any phase: observe without gradient, then every branch's loss, backward and update."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from litfast.data.loader import Batch
from litfast.engine import optim
from litfast.phase import Branch, Phase


class Step:
    """The eager step. Branches run one by one: a branch's activations are freed before the next starts.

    Args:
        phase: what trains.
        precision: "fp32", or "bf16" (autocast; losses, batch-norm statistics and optimizer state stay fp32).
        device: where the model lives.
    """

    def __init__(self, phase: Phase, *, precision: str, device: torch.device) -> None:
        self.phase = phase
        self.precision = precision
        self.device = device
        self.optimizers = {
            branch.name: optim.make(branch.params, branch.schedule) for branch in phase.branches
        }

    def __call__(self, batch: Batch, *, step: int, progress: float) -> dict[str, Tensor]:
        """Train on one batch, at the learning rates of `progress` epochs. Metrics stay on the device."""
        with torch.no_grad(), autocast(self.device, self.precision):
            observation = self.phase.observe(batch)
        metrics: dict[str, Tensor] = {}
        for branch in self.phase.branches:
            if step % branch.every == 0:
                metrics.update(self._train(branch, observation, progress))
        return metrics

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs besides the model: optimizers and the branches' own state."""
        return {
            "kinds": self._kinds,
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "branches": {b.name: b.state.state_dict() for b in self.phase.branches if b.state is not None},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave.

        Raises:
            ValueError: the state of other branches, or of other optimizers.
        """
        if state["kinds"] != self._kinds:
            ours, theirs = _listed(self._kinds), _listed(state["kinds"])
            raise ValueError(f"train: the checkpoint must be of branches {ours}, got {theirs}")
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        for branch in self.phase.branches:
            if branch.state is not None:
                branch.state.load_state_dict(state["branches"][branch.name])

    @property
    def _kinds(self) -> dict[str, str]:
        return {branch.name: branch.schedule.optimizer for branch in self.phase.branches}

    def _train(self, branch: Branch, observation: Any, progress: float) -> dict[str, Tensor]:
        optimizer = self.optimizers[branch.name]
        optim.set_lr(optimizer, branch.schedule.lr_at(progress))
        with autocast(self.device, self.precision):
            losses = branch.loss(observation)
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        optimizer.step()
        return {f"{branch.name}.{name}": value.detach() for name, value in losses.items()}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """bf16 autocast where `precision` says so, else nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def prepared(phase: Phase, device: torch.device) -> Iterator[None]:
    """Put modules on the device, set train and eval modes, let only the branches' parameters take a gradient.

    The flags are given back afterwards, and everything is left in eval mode.
    """
    modules = (phase.model, *phase.frozen)
    for module in modules:
        module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's gap
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


def _listed(kinds: dict[str, str]) -> str:
    return ", ".join(f"{name} ({optimizer})" for name, optimizer in kinds.items())


def _release(modules: tuple[nn.Module, ...], flags: list[tuple[nn.Parameter, bool]]) -> None:
    for module in modules:
        module.eval()
    for parameter, flag in flags:
        parameter.requires_grad_(flag)
        parameter.grad = None
