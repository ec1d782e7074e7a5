"""Accuracy, loss and perplexity of a model on a loader."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from litfast.carried import anew
from litfast.data.loader import Loader
from litfast.engine.ranks import ALONE, Ranks
from litfast.engine.step import autocast


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Top-1 accuracy in percent and mean cross-entropy over `samples` labelled samples.

    Of a language model the samples are the predicted words, and it has a perplexity, exp(loss).
    """

    accuracy: float
    loss: float
    samples: int
    perplexity: float | None = None

    def beats(self, other: Evaluation) -> bool:
        """Whether the perplexity is lower or, where there is none, the accuracy higher."""
        if self.perplexity is None or other.perplexity is None:
            return self.accuracy > other.accuracy
        return self.perplexity < other.perplexity


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Inside, the models are in eval mode and carry no state yet; afterwards all is as it was before."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    with anew(*models):
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode


def evaluate(
    model: nn.Module, loader: Loader, *, precision: str = "fp32", ranks: Ranks = ALONE
) -> Evaluation:
    """Evaluate in eval mode, batch by batch, reading the device once at the end.

    Padding (target -100) is masked. Train and eval flags of every submodule are given back as they were, and
    so is what the model carries from batch to batch: here it begins with nothing and goes on to the end.

    Args:
        model: gives logits [B, K], or [B, T, K] where the target is words [B, T].
        loader: one over evaluation samples.
        precision: "fp32", or "bf16" or "fp16" (autocast).
        ranks: who evaluates together, each with a shard of the loader; all get the numbers of the whole.

    Raises:
        ValueError: no labelled sample.
    """
    device = next(model.parameters()).device
    totals = torch.zeros(3, dtype=torch.float64, device=device)  # correct, loss, samples
    words = False
    with evaluating(model), torch.inference_mode(), autocast(device, precision):
        for batch in loader.batches(0):
            logits, target = model(batch.images).float().flatten(0, -2), batch.target.flatten()
            loss = cross_entropy(logits, target, ignore_index=-100, reduction="sum")
            totals += torch.stack([(logits.argmax(-1) == target).sum(), loss, (target >= 0).sum()])
            words = batch.target.dim() == 2
    ranks.mean([totals])
    correct, loss_sum, samples = (totals * ranks.world).tolist()
    if not samples:
        raise ValueError("evaluate: loader must hold at least one labelled sample, got none")
    loss = loss_sum / samples
    return Evaluation(
        accuracy=100 * correct / samples,
        loss=loss,
        samples=round(samples),
        perplexity=_exp(loss) if words else None,
    )


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
