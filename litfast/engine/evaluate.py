"""Accuracy and loss of a model on a loader."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from litfast.data.loader import Loader
from litfast.engine.step import autocast


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Top-1 accuracy in percent and mean cross-entropy over `samples` labelled samples."""

    accuracy: float
    loss: float
    samples: int


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside, the model is in eval mode; afterwards each of its modules is back in its own."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def evaluate(model: nn.Module, loader: Loader, *, precision: str = "fp32") -> Evaluation:
    """Evaluate in eval mode, batch by batch, reading the device once at the end.

    Padding (target -100) is masked. Train and eval flags of every submodule are given back as they were.
    """
    device = next(model.parameters()).device
    totals = torch.zeros(3, dtype=torch.float64, device=device)  # correct, loss, samples
    with evaluating(model), torch.inference_mode(), autocast(device, precision):
        for batch in loader.batches(0):
            logits = model(batch.images).float()
            loss = cross_entropy(logits, batch.target, ignore_index=-100, reduction="sum")
            totals += torch.stack(
                [(logits.argmax(-1) == batch.target).sum(), loss, (batch.target >= 0).sum()]
            )
    correct, loss_sum, samples = totals.tolist()
    if not samples:
        raise ValueError("evaluate: loader must hold at least one labelled sample, got none")
    return Evaluation(accuracy=100 * correct / samples, loss=loss_sum / samples, samples=int(samples))
