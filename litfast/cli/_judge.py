"""The model of every phase on the test split, before the phase's first step and after its last."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from litfast.data.loader import Loader
from litfast.engine import evaluate
from litfast.phase import Phase

Scores = dict[str, float]  # by the name of the metric


class Judge:
    """What surgery costs and what training gives back: `found` by phase, each with "before" and "after".

    A phase that begins as the one before it ended is not judged again. Nothing is chosen by it, so the test
    split may be used. A resumed run finds the same scores: phases that
    are finished are loaded one by one, and surgery is deterministic.
    """

    def __init__(self, test: Loader, device: str, *, labelled: bool = True) -> None:
        self.test, self.device, self.labelled = test, device, labelled
        self.found: dict[str, dict[str, Scores]] = {}
        self._seconds = 0.0
        self._last: tuple[dict[str, Tensor], Scores] | None = None  # weights, and how they do

    def watch(self, phases: Iterable[Phase]) -> Iterator[Phase]:
        """The same phases, judged around the training that happens while each is out."""
        for phase in phases:
            self.found[phase.name] = {"before": self._scores(phase.model)}
            yield phase
            self.found[phase.name]["after"] = self._scores(phase.model)

    def spent(self) -> float:
        """Seconds of judging since the last call: no part of the training."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def _scores(self, model: nn.Module) -> Scores:
        started = time.perf_counter()
        weights = {key: value.detach().clone() for key, value in model.to(self.device).state_dict().items()}
        if self._last is None or not _same(weights, self._last[0]):
            found = evaluate(model, self.test)
            scores = {"accuracy" if self.labelled else "agreement": found.accuracy}
            if found.perplexity is not None:
                scores["perplexity"] = found.perplexity
            self._last = weights, scores
        self._seconds += time.perf_counter() - started
        return self._last[1]


def _same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
