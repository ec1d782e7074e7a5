"""A method's teacher, student and losses as one module, for training loops other than `litfast.train`."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, NoReturn, Self

import torch
from torch import Tensor, nn

from litfast.data.loader import UNLABELLED, Batch
from litfast.engine.prepare import prepared
from litfast.phase import Phase, Schedule


class Distiller(nn.Module):
    """The phases of a method one by one, each as a module that turns a batch into its loss.

        distiller = Distiller(litfast.methods.kd, teacher, student, tau=4.0, alpha=0.1)
        optimizer = torch.optim.SGD(distiller.parameters(), lr=0.1)
        loss = distiller(images, target)["loss"]          # in the loop

    The first phase has begun when the constructor is done; `phases` goes on to the others. While a phase is
    under way only what it trains takes a gradient, and `train` puts nothing else into train mode. Optimizers,
    learning rates, precision and devices are the loop's own; as phases differ in what they train, and surgery
    may replace parameters between them, each wants a new optimizer. The teacher moves along with the module
    but is no part of its parameters or its state dict. The trained student is the model that was given.

    Args:
        method: one of `litfast.methods`, whose branches must all train in every step by one backward pass
            (lit, kd, ban, fitnets, scratch, slimming, deep_compression; not those with an adversary).
        models: what the method takes first, such as teacher and student.
        options: the method's own. Its schedules may be left out.

    Raises:
        ValueError: a method whose phase needs more than one backward pass a step; what the method refuses.

    Attributes:
        phase: the one under way.
        model: what it trains, evaluates and saves.
        states: what else trains with it, such as FitNets' regressor.
    """

    def __init__(self, method: Callable[..., Iterator[Phase]], *models: Any, **options: Any) -> None:
        super().__init__()
        hints = typing.get_type_hints(method)
        schedules = [name for name, hint in hints.items() if hint is Schedule and name not in options]
        left_out = dict.fromkeys(schedules, Schedule(epochs=1, lr=1.0))
        self._phases = iter(method(*models, **left_out, **options))
        self._under_way = ExitStack()
        self._begin()

    def phases(self) -> Iterator[str]:
        """The names of this phase and of all that follow; asking for the next one ends the one before it."""
        while not self._is_over:
            yield self.phase.name
            self._begin()

    def progress(self, epochs: float) -> None:
        """Set coefficients that follow the training, such as FitNets' lambda, to where it stands.

        Args:
            epochs: since the phase began, of those of its schedule; the share of the phase that is done where
                the schedule was left out.
        """
        for branch in self.phase.branches:
            for coefficient in branch.coefficients:
                coefficient.set(coefficient.at(epochs))

    def forward(self, images: Any, target: Tensor | None = None) -> dict[str, Tensor]:
        """The losses of a batch.

        Args:
            images: what teacher and student read, [B, ...].
            target: [B] int64; None where there are no labels: of lit, kd and ban the teacher's most likely
                class then stands for the label, and "correct" counts agreements with the teacher.

        Returns:
            "loss", which carries the gradient, and every branch's metrics as "branch.metric", detached. In
            eval mode "loss" and the model's "logits" [B, K].

        Raises:
            ValueError: the phases are over; no target for a phase that learns from labels alone.
        """
        if self._is_over:
            raise ValueError("Distiller: a phase must be under way, got none: the method is done")
        place = next(self.model.parameters()).device
        none = torch.full((), UNLABELLED, device=place)
        batch = Batch(images, none if target is None else target)
        with torch.no_grad():
            seen = self.phase.observe(batch)
        if target is None and seen is batch:
            raise ValueError(f"Distiller: target must be given to phase {self.phase.name!r}, got none")
        losses = {branch.name: branch.loss(seen) for branch in self.phase.branches}
        first, *others = (found["loss"] for found in losses.values())
        total = sum(others, start=first)
        if not self.training:
            return {"loss": total, "logits": self.model(images)}
        metrics = {
            f"{branch}.{name}": value.detach()
            for branch, found in losses.items()
            for name, value in found.items()
        }
        return {"loss": total, **metrics}

    def train(self, mode: bool = True) -> Self:
        """Train mode for what the phase trains; all else stays in eval mode."""
        self.training = mode
        for module in (self.model, self.states, *self.phase.frozen):
            module.eval()
        for module in self.phase.trains:
            module.train(mode and not self._is_over)
        return self

    def _begin(self) -> None:
        """End the phase under way; begin the next one, if any."""
        self._under_way.close()
        phase = next(self._phases, None)
        self._is_over = phase is None
        if phase is None:
            return
        _check(phase)
        device = next(phase.model.parameters()).device
        # a loop may save with safetensors, which refuses channels-last weights
        self._under_way.enter_context(prepared(phase, device, memory_format=torch.preserve_format))
        self.phase, self.model = phase, phase.model
        self.states = nn.ModuleList(branch.state for branch in phase.branches if branch.state is not None)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # frozen models are no children, or they would be saved and counted as parameters
        super()._apply(fn, recurse)
        for module in self.phase.frozen:
            module._apply(fn, recurse)
        for branch in self.phase.branches:
            for coefficient in branch.coefficients:
                coefficient.to(next(self.model.parameters()).device)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        raise TypeError(
            "Distiller: a distiller must not be copied, as its losses hold these very models, "
            "got a deepcopy; copy distiller.model"
        )


def _check(phase: Phase) -> None:
    for branch in phase.branches:
        if branch.after or branch.every != 1:
            when = f"after {', '.join(branch.after)}" if branch.after else f"at every {branch.every}th step"
            raise ValueError(
                f"Distiller: branches of phase {phase.name!r} must all train by one backward pass a step, "
                f"got {branch.name!r}, which trains {when}; litfast.train runs it"
            )
