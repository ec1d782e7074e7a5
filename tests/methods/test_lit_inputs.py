"""LIT of a model with two inputs, one of which is a mask that every layer reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from litfast.data.loader import Batch
from litfast.methods import lit
from litfast.models import SectionedModel
from litfast.phase import Phase, Schedule

SCHEDULE = Schedule(epochs=1, lr=0.1)


class Masked(nn.Module):
    def __init__(self, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(layers))
        self.head = nn.Linear(4, 3)

    def forward(self, ids: Tensor, mask: Tensor, scale: float = 0.5) -> Tensor:
        kept = mask.unsqueeze(-1) * scale
        x = self.embedding(ids)
        for layer in self.layers:
            x = torch.tanh(layer(x)) * kept
        return self.head(x.sum(1))


def model(layers: int, *cuts: int) -> SectionedModel:
    torch.manual_seed(layers)
    names = [f"layers[{start}:{stop}]" for start, stop in zip((0, *cuts), (*cuts, layers), strict=True)]
    return SectionedModel(Masked(layers), names, inputs=("ids", "mask")).double().eval()


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_every_section_of_the_student_sees_the_mask(
    beta: float, ready: Callable[..., Phase], seen: Callable[[Phase, Batch], Any]
) -> None:
    teacher, student = model(4, 2), model(2, 1)
    ids = torch.tensor([[0, 1, 2], [3, 4, 5]])
    mask = torch.tensor([[1.0, 1, 1], [1, 0, 0]], dtype=torch.float64)
    inputs: Any = {"ids": ids, "mask": mask}
    phases = lit(teacher, student, sections=SCHEDULE, finetune=SCHEDULE, beta=beta, alpha=0.0, tau=2.0)
    phase = ready(phases)
    observed = seen(phase, Batch(inputs, torch.tensor([0, 1])))
    losses = {branch.name: branch.loss(observed) for branch in phase.branches}
    irs, _ = teacher.observe(inputs)
    parts: dict[str, Tensor] = (
        losses["student"]
        if beta
        else {  # type: ignore[assignment]
            f"ir.{name}": one["ir"] for name, one in losses.items()
        }
    )
    for i, name in enumerate(student.names):
        expected = (student.sections[i](irs[i], inputs) - irs[i + 1]).square().mean()
        torch.testing.assert_close(parts[f"ir.{name}"].double(), expected.detach(), rtol=1e-6, atol=0)
    next(iter(losses.values()))["loss"].backward()
    assert all(p.grad is not None for p in phase.branches[0].params)
