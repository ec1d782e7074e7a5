"""The data of an experiment: its splits, what a sample is, and a loader for each split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from litfast.data.loader import Loader
from litfast.models import Input


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """One set, cut, split and served as a config says.

    Attributes:
        name: the set's.
        unit: "images", "texts" or "words".
        classes: their names; of a set with attributes these; of a corpus the vocabulary.
        attributes: whether a label is a vector of 0 and 1, one a class.
        input: one sample as the loaders deliver it.
        form: how the set's own samples become that input, in plain values, for `model.json`.
        loaded: one line: which loader serves and why.
        notes: a line each of what a user should know: samples left out, characters unknown.
        left_out: the images that cannot be decoded.
        advice: the share of the time that a step waited -> a line of what may help, or nothing.
        labelled: whether samples have labels; else a teacher says what they are.
        counts: of a corpus how often each class, a word, occurs in the training split, [V] int64; else None.
    """

    name: str
    unit: str
    classes: tuple[str, ...]
    attributes: bool
    input: Input
    form: Mapping[str, Any]
    loaded: str
    notes: tuple[str, ...]
    left_out: tuple[str, ...]
    advice: Callable[[float], str]
    splits: Mapping[str, Any]  # "train", "val" and "test" samples
    serve: Callable[..., Loader]  # (samples, train=, shared=): shared among the ranks, else whole on each
    labelled: bool = True
    counts: Tensor | None = None

    def loader(self, split: str, *, whole: bool = False) -> Loader | None:
        """A loader over "train" (shuffled, augmented), "val" or "test"; None where there is no such split.

        Several ranks have a shard each of the first two, or every one the `whole`. The first one tests alone.
        """
        samples = self.splits[split]
        if samples is None:
            return None
        return self.serve(samples, train=split == "train", shared=split != "test" and not whole)

    def size(self, split: str) -> int:
        """How many images, texts or words a split holds."""
        return len(self.splits[split])

    @property
    def test(self) -> Loader:
        loader = self.loader("test")
        assert loader is not None
        return loader
