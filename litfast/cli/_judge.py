"""Models on the test split: of every phase before its first step and after its last, and at the end."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator

import torch
from torch import nn

from litfast.data.loader import Loader
from litfast.engine import evaluate
from litfast.phase import Phase

Scores = dict[str, float]  # by the name of the metric


class Judge:
    """How models do on the test split; `found` by phase, each with "before" and "after".

    Shows what surgery costs and what training gives back. Weights that were judged before, such as those with
    which a phase begins and the one before it ended, are not judged again. Nothing is chosen by it, so the
    test split may be used. A resumed run finds the same scores: phases that are finished are loaded one by
    one, and surgery is deterministic.
    """

    def __init__(self, test: Loader, device: str, *, labelled: bool = True) -> None:
        self.test, self.device, self.labelled = test, device, labelled
        self.found: dict[str, dict[str, Scores]] = {}
        self._seconds = 0.0
        self._known: dict[str, Scores] = {}  # by what `_digest` says of a model

    def watch(self, phases: Iterable[Phase]) -> Iterator[Phase]:
        """The same phases, judged around the training that happens while each is out."""
        for phase in phases:
            self.found[phase.name] = {"before": self.scores(phase.model)}
            yield phase
            self.found[phase.name]["after"] = self.scores(phase.model)

    def spent(self) -> float:
        """Seconds of judging since the last call: no part of the training."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def scores(self, model: nn.Module) -> Scores:
        """Accuracy, or agreement with the teacher, and perplexity, by the name of the metric."""
        started = time.perf_counter()
        digest = _digest(model.to(self.device))
        if digest not in self._known:
            found = evaluate(model, self.test)
            scores = {"accuracy" if self.labelled else "agreement": found.accuracy}
            if found.perplexity is not None:
                scores["perplexity"] = found.perplexity
            self._known[digest] = scores
        self._seconds += time.perf_counter() - started
        return self._known[digest]


def _digest(model: nn.Module) -> str:
    """Of the layers and every bit of the weights."""
    content = hashlib.sha256(repr(model).encode())
    for name, value in model.state_dict().items():
        content.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        content.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return content.hexdigest()
