"""Several classifiers as one: the mean of their probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Ensemble(nn.Module):
    """log( mean_m softmax(z_m) ): log-probabilities, which are logits of themselves.

    Args:
        models: classifiers of one input and of the same K classes.

    Raises:
        ValueError: no model.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        if not models:
            raise ValueError("Ensemble: models must hold at least one, got none")
        self.models = nn.ModuleList(models)

    def forward(self, x: Tensor) -> Tensor:
        """The log-probabilities [..., K] of a batch, at least fp32."""
        logits = torch.stack([model(x) for model in self.models])
        wide = torch.promote_types(logits.dtype, torch.float32)
        return logits.log_softmax(-1, dtype=wide).logsumexp(0) - math.log(len(self.models))
