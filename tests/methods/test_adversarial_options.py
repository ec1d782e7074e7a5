"""What StarGAN's training refuses: options out of range, targets, logits and labels of other domains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from litfast.methods import adversarial, check_labels
from litfast.methods._adversarial import Translation
from litfast.models import SectionedModel
from litfast.phase import Schedule

SCHEDULE = Schedule(epochs=1, lr=1e-3, optimizer="adam")
Translator = Callable[..., SectionedModel]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"critic_steps": 0}, "adversarial: critic_steps must be at least 1, got 0"),
        ({"domains": 0}, "adversarial: domains must be at least 1, got 0"),
        ({"lambda_rec": -1.0}, "adversarial: lambda_rec must be 0 or more and finite, got -1.0"),
        ({"lambda_gp": float("inf")}, "adversarial: lambda_gp must be 0 or more and finite, got inf"),
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, Any], message: str, critic: nn.Module) -> None:
    with pytest.raises(ValueError, match=message):
        next(adversarial(nn.Linear(1, 1), critic, train=SCHEDULE, **{"domains": 4, **options}))


def test_targets_and_logits_of_other_domains_are_refused_by_their_shapes(
    translator: Translator, critic: nn.Module
) -> None:
    images = torch.zeros(2, 3, 8, 8, dtype=torch.float64)

    def loss(domains: int, target: Tensor) -> None:
        phase = next(adversarial(translator(1), critic, train=SCHEDULE, domains=domains))
        phase.branches[0].loss(Translation(images, target, target))

    with pytest.raises(ValueError, match=r"discriminator must return domain logits \[2, 3\], got \[2, 4\]"):
        loss(3, torch.tensor([0, 2]))
    with pytest.raises(ValueError, match=r"classes \[B\] or attributes \[B, 4\], got \[2, 5\]"):
        loss(4, torch.zeros(2, 5))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 4], "labels must be classes from 0 to 3, got 4"),
        ([0, -100], "labels must be classes from 0 to 3, got -100"),
        ([0, 2, 0], r"labels must have a sample of every domain, got none of \[1, 3\]"),
        ([[0, 1, 1, -1]], "labels must be attributes of 0 or 1, got -1"),
        ([[0, 1, 1, 1], [0, 1, 0, 0]], r"a sample of every domain, got none of \[0\]"),
        ([[0, 1]], r"target must be classes \[B\] or attributes \[B, 4\], got \[1, 2\]"),
    ],
)
def test_labels_of_a_data_set_that_do_not_fit_are_refused_before_training(labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"adversarial: {message}" if "a sample" not in message else message):
        check_labels(torch.tensor(labels), 4)


def test_labels_of_every_domain_are_accepted() -> None:
    check_labels(torch.tensor([3, 1, 0, 2]), 4)
    check_labels(torch.tensor([[0, 1], [1, 0]]), 2)
