"""Small models of every kind that reads something else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from litfast.models import Input, SectionedModel, create

GROUPS = {"embedding": [[10, 8], [20, 2]], "softmax": [[12, 8], [18, 3]]}
FAMILIES: dict[str, tuple[dict[str, Any], Input]] = {
    "resnet": (dict(name="resnet8", width=4), Input((3, 8, 8))),
    "vdcnn": (dict(name="vdcnn9", classes=2), Input((57,), alphabet=69)),
    "stargan": (dict(name="stargan1", classes=3, width=4), Input((6, 8, 8))),
    "words": (dict(name="lstm_lm", classes=30, width=8, tied=True, dropout=0.5), Input((6,), alphabet=30)),
    "low rank": (
        dict(name="lstm_lm", classes=30, width=8, layers=1, groups=GROUPS),
        Input((6,), alphabet=30),
    ),
}


@pytest.fixture
def family(request: pytest.FixtureRequest) -> tuple[SectionedModel, Input]:
    """A model in train mode and what it reads; `request.param` is its name."""
    spec, input = FAMILIES[request.param]
    torch.manual_seed(0)
    return create(**spec), input


class Foreign(nn.Module):
    """A network as a third party writes one: no sections, no spec, a layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.again = nn.Conv2d(4, 4, 1)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.first(x)))
        out: torch.Tensor = self.fc(self.again(self.again(x)).mean((2, 3)))
        return out


@pytest.fixture
def foreign() -> nn.Module:
    """It has seen batches, so that its batch norm does something."""
    torch.manual_seed(0)
    model = Foreign()
    for _ in range(3):
        model(torch.randn(8, 3, 8, 8) * 2 + 1)
    return model
