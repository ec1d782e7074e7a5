"""What a text set is: texts as rows of character ids with a class each, and a corpus of word ids."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Texts of one window, memory-mapped: only the rows that are asked for are read."""

    tokens: Tensor  # [M, L] uint8, 0 behind a text's end
    labels: Tensor  # [N] int64
    rows: Tensor  # [N] int64, the samples' rows in tokens

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, indices: Tensor) -> Texts:
        return replace(self, labels=self.labels[indices], rows=self.rows[indices])


class Counts(NamedTuple):
    """What a file held."""

    texts: int
    empty: int  # texts without a character
    longer: int  # texts cut at the window's end
    characters: int  # within the windows
    unknown: int  # of these, outside the table

    def line(self, length: int) -> str:
        """One line for a report."""
        share = 100 * self.unknown / max(self.characters, 1)
        return (
            f"{self.texts} texts, {self.empty} empty, {self.longer} cut at {length} characters; "
            f"{self.unknown} of {self.characters} characters ({share:.2f} %) unknown"
        )


@dataclass(frozen=True, kw_only=True)
class TextSet:
    """Splits of texts with a class each."""

    name: str
    train: Texts
    test: Texts
    val: Texts | None
    classes: tuple[str, ...]
    length: int  # characters of the window, L
    alphabet: int  # ids are below it: padding, unknown and the table's characters
    counts: dict[str, Counts]  # of the train and the test file


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A language model's text: word ids of the splits, in the order of the text.

    Word 0 is the most frequent one of the training split, and so on; ties are ordered by word.
    """

    name: str
    train: Tensor  # [N] int32
    val: Tensor
    test: Tensor
    words: tuple[str, ...]  # V words, <eos> and <unk> among them
    counts: Tensor  # [V] int64, of the words in train, falling
    length: int  # words of a window, T
    eos: int  # ends every line
    unknown: int  # stands for every word outside the vocabulary
