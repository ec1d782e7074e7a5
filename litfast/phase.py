"""The words that a method says and the engine hears: Schedule, Coefficient, Branch, Phase."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop")
SCHEDULES = ("constant", "steps", "cosine", "linear")


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """How long and how fast a branch trains, in words; the engine makes the optimizer.

    The learning rate at training progress t (epochs, fractional) of E epochs is `lr` times

        constant  1
        steps     gamma ** (number of milestones <= floor(t))
        cosine    (1 + cos(pi t / E)) / 2
        linear    1 - max(t - hold, 0) / (E - hold)

    and during the first `warmup` epochs `lr * warmup_factor` (ResNet-110: lr .01 in the first epoch).

    Args:
        epochs: passes over the training samples; 0 skips the training of the phase.
        lr: peak learning rate.
        optimizer: sgd (with `momentum`), adam, adamw (with `betas`) or rmsprop.
        milestones: whole epochs at which `steps` multiplies the learning rate by `gamma`.
        hold: whole epochs before `linear` begins to fall (StarGAN: half of all).
        clip: largest 2-norm of the branch's gradients taken as one vector; None leaves them as they are.
        patience: early stop: a branch is frozen and leaves the step when its loss on the validation samples
            has not improved for this many epochs; 0 never does. A phase is over when all its branches are.
    """

    epochs: int
    lr: float
    optimizer: str = "sgd"
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-4
    schedule: str = "constant"
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    hold: int = 0
    warmup: int = 0
    warmup_factor: float = 0.1
    clip: float | None = None
    patience: int = 0

    def __post_init__(self) -> None:
        _one_of("optimizer", self.optimizer, OPTIMIZERS)
        _one_of("schedule", self.schedule, SCHEDULES)
        for what in ("epochs", "hold", "patience"):
            if getattr(self, what) < 0:
                raise ValueError(f"Schedule: {what} must be 0 or more, got {getattr(self, what)}")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise ValueError(f"Schedule: lr must be positive and finite, got {self.lr}")
        if self.clip is not None and not (self.clip > 0 and math.isfinite(self.clip)):
            raise ValueError(f"Schedule: clip must be positive and finite, got {self.clip}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"Schedule: momentum must be at least 0 and below 1, got {self.momentum}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"Schedule: betas must be two numbers from 0 to below 1, got {list(self.betas)}")
        if not (self.weight_decay >= 0 and math.isfinite(self.weight_decay)):
            raise ValueError(f"Schedule: weight_decay must be 0 or more and finite, got {self.weight_decay}")
        if bool(self.milestones) != (self.schedule == "steps"):
            raise ValueError(
                "Schedule: milestones must be given with schedule 'steps' and only there, "
                f"got schedule {self.schedule!r} and milestones {list(self.milestones)}"
            )
        if self.hold and self.schedule != "linear":
            raise ValueError(
                f"Schedule: hold must be 0 but for schedule 'linear', got {self.hold} with {self.schedule!r}"
            )
        if list(self.milestones) != sorted(self.milestones):
            raise ValueError(f"Schedule: milestones must ascend, got {list(self.milestones)}")

    def lr_at(self, progress: float) -> float:
        """The learning rate at `progress` epochs."""
        if progress < self.warmup:
            return self.lr * self.warmup_factor
        fraction = progress / max(self.epochs, 1)
        match self.schedule:
            case "steps":
                return self.lr * self.gamma ** bisect_right(self.milestones, int(progress))
            case "cosine":
                return self.lr * 0.5 * (1 + math.cos(math.pi * fraction))
            case "linear":
                return self.lr * (1 - max(progress - self.hold, 0.0) / max(self.epochs - self.hold, 1))
        return self.lr


def _one_of(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"Schedule: {what} must be one of {', '.join(known)}, got {value!r}")


class Coefficient:
    """A factor in a loss that moves in a straight line while a phase trains, such as FitNets' lambda.

        at training progress t (epochs, fractional) of E epochs: first + (last - first) min(t / E, 1)

    The step sets it together with the learning rates, so a resumed run has the value of its place.

    Attributes:
        value: [] fp64 on the phase's device, `first` before the first step. A loss reads it at every call;
            it stays the same memory, which a captured step reads afresh.
    """

    def __init__(self, first: float, last: float, *, epochs: int) -> None:
        self.first, self.last, self.epochs = first, last, epochs
        self.value = torch.tensor(first, dtype=torch.float64)

    def at(self, progress: float) -> float:
        """The factor at `progress` epochs."""
        return self.first + (self.last - self.first) * min(progress / max(self.epochs, 1), 1.0)

    def set(self, value: float) -> None:
        """Write a number to `value`, in place."""
        self.value.fill_(value)

    def to(self, device: torch.device) -> None:
        """Move `value` to a device, before anything is captured."""
        self.value = self.value.to(device)


# A loss reads what was observed and answers named 0-d tensors: "loss" carries the gradient, all others are
# detached metrics; none of them ever leaves the device here.
Losses = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Branch:
    """Parameters that train by one loss. Branches that name no `after` own disjoint parameters.

    Args:
        name: unique within the phase.
        params: what this branch alone updates.
        loss: observation -> Losses.
        schedule: optimizer and learning rate in words.
        every: train at every n-th step only (a GAN's generator: 5).
        after: names of branches that must have been updated before this one's loss is computed.
        state: module that travels with the branch and its checkpoints but is no part of the phase's model:
            an LSTM's hidden state, a regressor that is thrown away at the end of the phase.
        coefficients: of the loss; they follow the progress as the learning rate does.
        needs: the module within `observe` after whose forward all is there that this branch reads and all is
            done that touches its parameters and buffers (a teacher's section); None: all of `observe`.
    """

    name: str
    params: tuple[nn.Parameter, ...]
    loss: Callable[[Any], Losses]
    schedule: Schedule
    every: int = 1
    after: tuple[str, ...] = ()
    state: nn.Module | None = None
    coefficients: tuple[Coefficient, ...] = ()
    needs: nn.Module | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """`observe` in pieces: a teacher's sections one after another, of which every branch needs but one.

    Several ranks can then share the branches out, each running no more of the teacher than its own need.

    Args:
        count: sections.
        of: the section, from 0, whose input and output a branch reads, by the branch's name.
        run: (batch, first, last, ir) -> an observation for the branches of sections `first` to `last`; `ir`
            is the input of section `first`, or None: the batch, and all that comes before is run as well.
        output: (observation, i) -> what section i gave, the input of the next one.
    """

    count: int
    of: Mapping[str, int]
    run: Callable[[Any, int, int, Tensor | None], Any]
    output: Callable[[Any, int], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """One stretch of training.

    Args:
        name: as in the recipe's table.
        model: what trains, is evaluated and checkpointed. Only the branches' parameters get a gradient.
        observe: batch -> observation, run without gradient (the teacher's forward).
        branches: what trains; all schedules of a phase have the same number of epochs.
        trains: modules put into train mode; the rest of `model` stays in eval mode.
        frozen: modules that `observe` uses (the teacher): eval mode, no gradient, never changed.
        scored: whether the accuracy of `model` on validation samples is measured, and the best weights kept
            by it where that is asked for; False while its head is still random, which says nothing.
        line: how `observe` can be run in pieces; None where a branch needs all of it.
    """

    name: str
    model: nn.Module
    observe: Callable[[Any], Any]
    branches: tuple[Branch, ...]
    trains: tuple[nn.Module, ...]
    frozen: tuple[nn.Module, ...] = ()
    scored: bool = True
    line: Line | None = None

    def __post_init__(self) -> None:
        names = [branch.name for branch in self.branches]
        assert names and len(set(names)) == len(names), f"phase {self.name}: branch names {names}"
        assert len({branch.schedule.epochs for branch in self.branches}) == 1, (
            f"phase {self.name}: epochs differ"
        )
        for place, branch in enumerate(self.branches):
            assert set(branch.after) <= set(names[:place]), (
                f"phase {self.name}: {branch.name} after {branch.after}"
            )
        _check_disjoint(self)

    @property
    def epochs(self) -> int:
        return self.branches[0].schedule.epochs


def _check_disjoint(phase: Phase) -> None:
    owner: dict[int, str] = {}
    for branch in phase.branches:
        if not branch.params:
            raise ValueError(
                f"phase {phase.name!r}: branch {branch.name!r} must own at least one parameter, got none"
            )
        for parameter in branch.params:
            other = owner.setdefault(id(parameter), branch.name)
            if other != branch.name and other not in branch.after:
                raise ValueError(
                    f"phase {phase.name!r}: branches {other!r} and {branch.name!r} "
                    f"must own disjoint parameters, got a shared one of shape {list(parameter.shape)}"
                )
