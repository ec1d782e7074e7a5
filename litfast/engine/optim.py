"""From a schedule in words to a torch optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from litfast.phase import Schedule


def make(params: Sequence[nn.Parameter], schedule: Schedule) -> torch.optim.Optimizer:
    """The optimizer of a branch, fused: one pass over parameter, gradient and state."""
    common: dict[str, Any] = {"lr": schedule.lr, "weight_decay": schedule.weight_decay}
    match schedule.optimizer:
        case "adam":
            return torch.optim.Adam(params, betas=schedule.betas, fused=True, **common)
        case "adamw":
            return torch.optim.AdamW(params, betas=schedule.betas, fused=True, **common)
        case "rmsprop":  # torch has no fused RMSprop
            return torch.optim.RMSprop(params, momentum=schedule.momentum, foreach=True, **common)
    assert schedule.optimizer == "sgd", schedule.optimizer
    return torch.optim.SGD(params, momentum=schedule.momentum, fused=True, **common)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The learning rate of every parameter from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = lr
