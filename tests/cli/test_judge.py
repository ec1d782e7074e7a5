"""The scores around every phase: those of the weights that the phase got, and those that it left."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from torch import nn

from litfast.cli._judge import Judge
from litfast.data.resident import ResidentLoader
from litfast.phase import Branch, Phase, Schedule


class Model(nn.Module):
    """Answers class 0 for `known` of ten images whose brightness counts up, class 1 for the others."""

    def __init__(self) -> None:
        super().__init__()
        self.known = nn.Parameter(torch.zeros(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        place = images.mean((1, 2, 3))
        return torch.stack([self.known - 0.5 - place, place - self.known + 0.5], 1)


def loader() -> ResidentLoader:
    """Ten images of brightness 0 to 9, all of class 0."""
    pixels = torch.arange(10, dtype=torch.uint8).reshape(10, 1, 1, 1).expand(10, 1, 2, 2).contiguous()
    labels = torch.zeros(10, dtype=torch.int64)
    std = (1 / 255,)  # the model sees the brightness itself
    return ResidentLoader(pixels, labels, batch=4, mean=(0.0,), std=std, train=False)


def phases(model: Model) -> Iterator[Phase]:
    schedule = Schedule(epochs=1, lr=0.1)
    branch = Branch(name="all", params=(model.known,), loss=lambda batch: {}, schedule=schedule)
    for name in ("first", "second"):
        yield Phase(name=name, model=model, observe=lambda batch: batch, branches=(branch,), trains=(model,))
        model.known.data -= 3  # surgery


def test_surgery_between_two_phases_is_seen() -> None:
    model = Model()
    model.known.data += 2
    judge = Judge(loader(), "cpu")
    for phase in judge.watch(phases(model)):
        model.known.data += 5  # training
        assert "after" not in judge.found[phase.name]
    found = {
        name: (given["before"]["accuracy"], given["after"]["accuracy"]) for name, given in judge.found.items()
    }
    assert found == {"first": (20.0, 70.0), "second": (40.0, 90.0)}


def test_judging_is_told_apart_from_training() -> None:
    judge = Judge(loader(), "cpu")
    started = time.perf_counter()
    for _ in judge.watch(phases(Model())):
        pass
    assert 0 < judge.spent() <= time.perf_counter() - started
    assert judge.spent() == 0
