from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from litfast.engine import optim
from litfast.phase import OPTIMIZERS, Schedule


def update(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, steps: int = 4) -> torch.Tensor:
    for step in range(steps):
        parameter.grad = torch.linspace(-1, 1, 5, dtype=torch.float64) * (step + 1)
        optimizer.step()
    return parameter.detach()


@pytest.mark.parametrize(
    ("words", "plain"),
    [
        ({"optimizer": "sgd", "momentum": 0.8}, (torch.optim.SGD, {"momentum": 0.8})),
        ({"optimizer": "sgd", "momentum": 0.0}, (torch.optim.SGD, {})),
        ({"optimizer": "adam", "betas": (0.5, 0.99)}, (torch.optim.Adam, {"betas": (0.5, 0.99)})),
        ({"optimizer": "adamw", "betas": (0.5, 0.99)}, (torch.optim.AdamW, {"betas": (0.5, 0.99)})),
        ({"optimizer": "rmsprop", "momentum": 0.7}, (torch.optim.RMSprop, {"momentum": 0.7})),
    ],
)
def test_a_schedules_words_make_the_optimizer_that_they_name(
    words: dict[str, Any], plain: tuple[Any, dict[str, Any]]
) -> None:
    ours, theirs = (nn.Parameter(torch.arange(5, dtype=torch.float64)) for _ in range(2))
    schedule = Schedule(epochs=1, lr=0.03, weight_decay=0.01, **words)
    cls, options = plain
    expected = update(cls([theirs], lr=0.03, weight_decay=0.01, foreach=False, **options), theirs)
    torch.testing.assert_close(update(optim.make([ours], schedule), ours), expected, rtol=1e-12, atol=1e-14)


def test_every_known_optimizer_can_be_made() -> None:
    made = [
        optim.make([nn.Parameter(torch.zeros(1))], Schedule(epochs=1, lr=0.1, optimizer=name))
        for name in OPTIMIZERS
    ]
    assert len({type(optimizer) for optimizer in made}) == len(OPTIMIZERS)


def test_set_lr_changes_the_next_update() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = optim.make([parameter], Schedule(epochs=1, lr=1.0, momentum=0.0, weight_decay=0.0))
    optim.set_lr(optimizer, 0.25)
    parameter.grad = torch.ones(1)
    optimizer.step()
    assert parameter.item() == -0.25


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_numbers_of_the_recipe_stay_the_optimizers_own_when_state_is_loaded(name: str) -> None:
    def made(lr: float, weight_decay: float) -> tuple[torch.optim.Optimizer, nn.Parameter]:
        parameter = nn.Parameter(torch.arange(5, dtype=torch.float64))
        words = {"optimizer": name, "lr": lr, "weight_decay": weight_decay}
        return optim.make([parameter], Schedule(epochs=1, **words)), parameter

    (old, before), (new, after) = made(0.03, 0.01), made(0.02, 0.0)
    update(old, before)
    optim.load(new, old.state_dict())
    (group,) = new.param_groups
    assert (group["lr"], group["weight_decay"]) == (0.02, 0.0)
    ours, theirs = new.state[after], old.state[before]
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_captured_learning_rate_is_a_tensor_that_set_lr_fills() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    words = {"lr": 1.0, "momentum": 0.0, "weight_decay": 0.0}
    optimizer = optim.make([parameter], Schedule(epochs=1, **words), captured=True)
    lr = optimizer.param_groups[0]["lr"]
    optim.set_lr(optimizer, 0.25)
    assert optimizer.param_groups[0]["lr"] is lr
    parameter.grad = torch.ones(1)
    optimizer.step()
    assert parameter.item() == -0.25
