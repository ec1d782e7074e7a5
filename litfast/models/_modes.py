"""Look at a model in eval mode and leave it as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from litfast.carried import anew


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Inside, the models are in eval mode and carry no state yet; afterwards all is as it was before."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    with anew(*models):
        try:
            for model in models:
                model.eval()
            yield
        finally:
            for module, mode in modes:
                module.training = mode
