"""From a schedule in words to a torch optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from litfast.phase import Schedule


def make(
    params: Sequence[nn.Parameter], schedule: Schedule, *, captured: bool = False, skips: bool = False
) -> torch.optim.Optimizer:
    """The optimizer of a branch, fused: one pass over parameter, gradient and state.

    Args:
        captured: the update will be part of a captured graph: the learning rate is a tensor on the device of
            the parameters, so that a replay reads it afresh, and nothing is counted on the host.
        skips: an update may be left out (a gradient with a loss scale that overflowed, or one that is not
            finite): the fused kernel reads on the device whether to. The host is not asked.

    Raises:
        ValueError: `skips` for an optimizer that torch has no fused kernel of.
    """
    if skips and schedule.optimizer == "rmsprop":
        rule = "be sgd, adam or adamw with precision fp16 or on_nan skip"
        raise ValueError(f"train: optimizer must {rule}, got rmsprop")
    device = params[0].device
    lr: float | Tensor = torch.tensor(schedule.lr, device=device) if captured else schedule.lr
    common: dict[str, Any] = {"lr": lr, "weight_decay": schedule.weight_decay}
    counted = {"capturable": captured and device.type == "cuda"}  # torch knows no captured CPU
    match schedule.optimizer:
        case "adam":
            return torch.optim.Adam(params, betas=schedule.betas, fused=True, **counted, **common)
        case "adamw":
            return torch.optim.AdamW(params, betas=schedule.betas, fused=True, **counted, **common)
        case "rmsprop":  # torch has no fused RMSprop
            return torch.optim.RMSprop(params, momentum=schedule.momentum, foreach=True, **counted, **common)
    assert schedule.optimizer == "sgd", schedule.optimizer
    optimizer = torch.optim.SGD(params, momentum=schedule.momentum, fused=True, **common)
    if skips and schedule.momentum:
        # torch allocates momentum in the first step and leaves it unwritten where that step is skipped
        for parameter in params:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The learning rate of every parameter from the next step on."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def load(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Take up momentum and the like from `state`; the numbers of the recipe stay the optimizer's own."""
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state["state"], "param_groups": groups})
