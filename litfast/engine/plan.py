"""What a run would do: phases, branches, parameters and memory, found by one step on the real models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from litfast.data.loader import Loader
from litfast.engine import optim
from litfast.engine.parts import parts
from litfast.engine.prepare import prepared
from litfast.engine.step import autocast
from litfast.phase import Branch, Phase, Schedule

STATES = {"sgd": 1, "adam": 2, "adamw": 2, "rmsprop": 2}  # tensors an optimizer keeps for a parameter


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchPlan:
    """A branch: `activation_bytes` are saved for its backward at one part of the training batch."""

    phase: str
    branch: str
    schedule: Schedule
    steps: int
    parameters: int
    weight_bytes: int
    activation_bytes: int

    @property
    def memory_bytes(self) -> int:
        """Weights of all models, this branch's gradients and optimizer state, its activations."""
        return (
            self.weight_bytes
            + 4 * self.parameters * (1 + STATES[self.schedule.optimizer])
            + self.activation_bytes
        )


def plan(
    phases: Iterable[Phase],
    data: Loader,
    *,
    device: torch.device,
    precision: str,
    accumulate: int = 1,
    on_nan: str = "raise",
) -> Iterator[BranchPlan]:
    """Walk through the phases without training; each branch's loss is computed once, on a part of a batch."""
    skips = precision == "fp16" or on_nan == "skip"
    batch = parts(next(iter(data.batches(0))), accumulate)[0]
    for phase in phases:
        with prepared(phase, device):
            with torch.no_grad(), autocast(device, precision):
                observation = phase.observe(batch)
            for branch in phase.branches:
                with autocast(device, precision), _Saved() as saved:
                    branch.loss(observation)
                yield _branch(phase, branch, skips, data.steps, saved.bytes)


def _branch(phase: Phase, branch: Branch, skips: bool, steps: int, activation_bytes: int) -> BranchPlan:
    models = {id(p): p for module in (phase.model, *phase.frozen) for p in module.parameters()}
    # a wrong schedule is found here and not after the first phase
    optim.make(branch.params, branch.schedule, skips=skips)
    return BranchPlan(
        phase=phase.name,
        branch=branch.name,
        schedule=branch.schedule,
        steps=-(-steps * phase.epochs // branch.every),
        parameters=sum(p.numel() for p in branch.params),
        weight_bytes=sum(p.numel() * p.element_size() for p in models.values()),
        activation_bytes=activation_bytes,
    )


class _Saved:
    """Counts the bytes of the distinct storages that autograd keeps for the backward."""

    def __init__(self) -> None:
        self._storages: dict[int, int] = {}
        self._hooks = saved_tensors_hooks(self._note, lambda tensor: tensor)

    @property
    def bytes(self) -> int:
        return sum(self._storages.values())

    def __enter__(self) -> _Saved:
        self._hooks.__enter__()
        return self

    def __exit__(self, *args: object) -> None:
        self._hooks.__exit__(*args)

    def _note(self, tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            self._storages[storage.data_ptr()] = storage.nbytes()
        return tensor
