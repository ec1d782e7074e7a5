"""What a step changes, kept so that it can be put back: a trial then leaves no trace."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from litfast.carried import carried, lasting
from litfast.engine import rng
from litfast.engine.step import Step


class Snapshot:
    """Parameters, buffers, optimizer state, loss scales, averaged weights and random state of a step, now."""

    def __init__(self, step: Step) -> None:
        self._step = step
        # with the tensor itself: one that has gone could leave its id to another
        self._values = {id(tensor): (tensor, tensor.detach().clone()) for tensor in changed(step)}
        self._scales = {name: scaler.state_dict() for name, scaler in step.scalers.items()}
        self._rng = rng.state(step.device)

    @torch.no_grad()
    def restore(self) -> None:
        """Put every value back, in place.

        Optimizer state that did not exist then is zeroed, which every optimizer of ours takes for its start;
        so is what a model carries from batch to batch, where the batches had another size then.
        """
        for tensor in changed(self._step):
            before = self._values.get(id(tensor))
            if before is None:
                tensor.zero_()
            else:
                tensor.copy_(before[1])
        for name, scaler in self._step.scalers.items():
            scaler.load_state_dict(self._scales[name])
        rng.restore(self._rng, self._step.device)


def changed(step: Step) -> Iterator[Tensor]:
    """Every tensor that a step may change, each once."""
    seen: set[int] = set()
    for tensor in _all(step):
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield tensor


def weights(step: Step) -> tuple[list[Tensor], list[Tensor]]:
    """The branches' parameters, and the buffers of the phase's model that last."""
    return [p for branch in step.phase.branches for p in branch.params], lasting(step.phase.model)


def _all(step: Step) -> Iterator[Tensor]:
    parameters, buffers = weights(step)
    yield from parameters
    yield from buffers
    if (states := carried(step.phase.model, *step.phase.frozen)) is not None:
        yield from states.buffers()
    for branch in step.phase.branches:
        if branch.state is not None:
            yield from branch.state.buffers()
    for optimizer in step.optimizers.values():
        for slots in optimizer.state.values():
            yield from (value for value in slots.values() if isinstance(value, Tensor))
    if step.average is not None:
        yield from step.average.state().values()
