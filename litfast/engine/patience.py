"""When a branch has learnt what it can: its loss on validation samples, epoch by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch

from litfast.data.loader import Loader
from litfast.engine.evaluate import evaluating
from litfast.engine.ranks import ALONE, Ranks
from litfast.engine.step import Step, autocast
from litfast.phase import Branch, Phase

Waits = dict[str, list[float]]  # branch -> best validation loss so far, epochs since then


def validation_losses(
    step: Step, branches: Sequence[Branch], loader: Loader, *, ranks: Ranks = ALONE
) -> dict[str, float]:
    """Mean loss of every branch over the batches of all ranks, in eval mode; nothing is left changed.

    Noise in a loss is drawn from one seed, so that epochs can be compared.
    """
    cuda = [step.device] if step.device.type == "cuda" else []
    states = [(b.state, deepcopy(b.state.state_dict())) for b in branches if b.state is not None]
    totals = torch.zeros(len(branches), dtype=torch.float64, device=step.device)
    models = (step.phase.model, *step.phase.frozen)
    with torch.random.fork_rng(cuda), evaluating(*models), torch.no_grad():
        torch.manual_seed(0)
        for batch in loader.batches(0):
            with autocast(step.device, step.precision):
                seen = step.phase.observe(batch)
                totals += torch.stack([branch.loss(seen)["loss"].double() for branch in branches])
    for module, state in states:
        module.load_state_dict(state)
    ranks.mean([totals])
    means = (totals / loader.steps).tolist()
    return {branch.name: mean for branch, mean in zip(branches, means, strict=True)}


def updated(waits: Waits, losses: dict[str, float]) -> Waits:
    """The waits after one more epoch; a loss that is no number is no improvement."""
    after = dict(waits)
    for name, loss in losses.items():
        best, since = waits.get(name, [float("inf"), 0.0])
        after[name] = [loss, 0.0] if loss < best else [best, since + 1]
    return after


def exhausted(branches: Sequence[Branch], waits: Waits) -> list[str]:
    """Names of the branches that have waited as long as their schedule allows."""
    return [
        b.name
        for b in branches
        if b.schedule.patience and waits.get(b.name, [0.0, 0.0])[1] >= b.schedule.patience
    ]


def check(phase: Phase, val: Loader | None) -> None:
    """Raises ValueError where a branch would wait on validation losses that nobody can measure."""
    for branch in phase.branches:
        if branch.schedule.patience and val is None:
            raise ValueError(
                f"train: patience of branch {branch.name!r} must be 0 without a validation loader, "
                f"got {branch.schedule.patience}"
            )
