"""An update that is not finite is left out, on the device: nobody waits to hear of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from litfast.carried import Carried
from litfast.phase import Branch, Phase

METRIC = "nonfinite"  # of a branch at a step: 1 where its update was left out, else 0

Place = tuple[nn.Module, str]  # of a buffer: its tensor may be another one at the next step


class Guard:
    """Finds losses and gradients that are not finite; such a branch leaves no trace at this step.

    Its parameters and optimizer state are not touched (the fused optimizers read on the device whether to),
    the buffers of its modules are put back: a batch norm has seen the bad batch before the loss has. Buffers
    that no single branch owns are put back where any branch was left out.
    """

    def __init__(self, phase: Phase) -> None:
        self._own = _places(phase)
        self._before: dict[str, list[Tensor]] = {}
        self._bad: list[Tensor] = []

    def begin(self) -> None:
        """The step starts: keep all buffers as they are."""
        self._bad = []
        self._before = {
            name: [getattr(module, key).clone() for module, key in places]
            for name, places in self._own.items()
        }

    def check(
        self, branch: Branch, losses: Sequence[Tensor], optimizer: torch.optim.Optimizer, *, scaled: bool
    ) -> Tensor:
        """1. where a loss or gradient is not finite, else 0.; tells the optimizer.

        Where gradients carry a loss scale they may well overflow, and its scaler tells the optimizer.
        """
        finite = torch.stack([loss.isfinite() for loss in losses]).all()
        if not scaled:
            gradients = [p.grad for p in branch.params if p.grad is not None]
            finite &= nn.utils.get_total_norm(gradients, float("inf")).isfinite().to(finite.device)
        bad = (~finite).float()
        if not scaled:
            optimizer.found_inf = bad  # type: ignore[attr-defined]  # as torch's GradScaler does
        return bad

    def undo(self, name: str, bad: Tensor) -> None:
        """Put the branch's buffers back where its update was left out."""
        self._bad.append(bad)
        self._put_back(name, bad)

    def end(self) -> None:
        """All branches have run: the buffers that they share."""
        if self._bad:
            self._put_back("", torch.stack(self._bad).amax())

    @torch.no_grad()
    def _put_back(self, name: str, bad: Tensor) -> None:
        for (module, key), before in zip(self._own[name], self._before[name], strict=True):
            now = getattr(module, key)
            # what is carried from batch to batch begins anew where the batch has another size
            then = before if before.shape == now.shape else torch.zeros_like(now)
            now.copy_(torch.where(bad.bool(), then, now))


def _places(phase: Phase) -> dict[str, list[Place]]:
    """The buffers that a step may change, by the branch that owns their module; "" of no single one."""
    owners: dict[int, set[str]] = {}
    for branch in phase.branches:
        for parameter in branch.params:
            owners.setdefault(id(parameter), set()).add(branch.name)
    found: dict[str, list[Place]] = {"": [], **{branch.name: [] for branch in phase.branches}}
    states = [branch.state for branch in phase.branches if branch.state is not None]
    for module in _unique([phase.model, *phase.frozen, *states]):
        if not (module.training or isinstance(module, Carried)):
            continue
        of = set().union(*(owners.get(id(p), set()) for p in module.parameters(recurse=False)))
        owner = of.pop() if len(of) == 1 else ""
        found[owner] += [(module, key) for key, _ in module.named_buffers(recurse=False)]
    return found


def _unique(models: Iterable[nn.Module]) -> list[nn.Module]:
    return list(dict.fromkeys(module for model in models for module in model.modules()))
