"""Plain-text corpora for language models: word ids, vocabulary and frequencies from training data only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from litfast.data.cache import Writer, cached
from litfast.data.sets._source import find, not_utf8, pieces
from litfast.data.sets.text_set import Corpus

EOS, UNKNOWN = "<eos>", "<unk>"
_PIECE = 1 << 22  # bytes that are split at once


def text(
    root: str | Path,
    *,
    min_count: int = 1,
    max_size: int | None = None,
    cache: str | Path | None = None,
) -> Corpus:
    """A corpus from `train.txt`, `valid.txt` and `test.txt`, or `.gz` of them, in UTF-8.

    Words are what white space separates, as they are; every line ends in <eos>, an empty one too. Words of
    valid and test that the vocabulary lacks are <unk>. The word ids lie in the cache folder; a changed
    source rebuilds them.

    Args:
        root: the folder.
        min_count: a rarer word of the training split is <unk>.
        max_size: words of the vocabulary at most, <eos> and <unk> among them; the most frequent ones stay.
        cache: the cache folder; None takes the user's ($XDG_CACHE_HOME/litfast).

    Raises:
        ValueError: a file that is missing, empty, cut short or not UTF-8 (with the line), a min_count below
            1, a max_size below 2.
    """
    if min_count < 1:
        raise ValueError(f"text: min_count must be at least 1, got {min_count}")
    if max_size is not None and max_size < 2:
        raise ValueError(f"text: max_size must be at least 2, <eos> and <unk>, got {max_size}")
    splits = {split: _words(Path(root), split, cache) for split in ("train", "valid", "test")}
    types, counts = splits["train"][1:]
    kept = _kept(types, counts, min_count, max_size)
    counted = Counter({types[i]: int(counts[i]) for i in kept})
    counted[UNKNOWN] = int(counts.sum()) - counted.total()
    vocabulary = sorted(counted.items(), key=_by_frequency)
    ids = {word: i for i, (word, _) in enumerate(vocabulary)}
    train, val, test = (_renumbered(*splits[split][:2], ids) for split in ("train", "valid", "test"))
    return Corpus(
        name="text",
        train=train,
        val=val,
        test=test,
        words=tuple(ids),
        frequencies=torch.tensor([count for _, count in vocabulary]),
        eos=ids[EOS],
        unknown=ids[UNKNOWN],
    )


def _by_frequency(item: tuple[str, int]) -> tuple[int, str]:
    word, count = item
    return -count, word


def _kept(types: list[str], counts: np.ndarray, min_count: int, max_size: int | None) -> list[int]:
    """The vocabulary's words, without <unk>; types come by falling frequency, ties by word."""
    eos = types.index(EOS)
    frequent = [i for i, word in enumerate(types) if counts[i] >= min_count and word not in (EOS, UNKNOWN)]
    return [eos, *frequent[: None if max_size is None else max_size - 2]]


def _renumbered(old: Tensor, types: list[str], ids: Mapping[str, int]) -> Tensor:
    new = torch.tensor([ids.get(word, ids[UNKNOWN]) for word in types], dtype=torch.int32)
    return new[old]


def _words(root: Path, split: str, cache: str | Path | None) -> tuple[Tensor, list[str], np.ndarray]:
    """A split's words by number: ([N] int32, the words, their counts), by falling frequency, ties by word."""
    file = find("text", root, f"{split}.txt")
    found = cached("text", file, partial(_build, file), where=cache)
    types = bytes(found.arrays["types"].numpy()).decode().split("\n")
    return found.arrays["ids"], types, found.arrays["counts"].numpy()


def _build(file: Path, writer: Writer) -> Mapping[str, Any]:
    counter: Counter[str] = Counter()
    for words in _chunks(file):
        counter.update(words)
    if not counter:
        raise ValueError(f"text: {file} must hold words, got an empty file")
    ranked = sorted(counter.items(), key=_by_frequency)
    number = {word: i for i, (word, _) in enumerate(ranked)}
    for words in _chunks(file):
        writer.append("ids", np.fromiter(map(number.__getitem__, words), np.int32))
    writer.append("counts", np.array([count for _, count in ranked], np.int64))
    writer.append("types", np.frombuffer("\n".join(number).encode(), np.uint8))
    return {}


def _chunks(file: Path) -> Iterator[list[str]]:
    """The words, some at a time, <eos> behind each line."""
    rest, line, ended = b"", 1, True
    for piece in pieces(file, _PIECE, who=f"text: {file}"):
        rest += piece
        end = max(rest.rfind(b"\n"), rest.rfind(b" ")) + 1
        yield _tokens(rest[:end], file, line)
        line += rest.count(b"\n", 0, end)
        rest, ended = rest[end:], piece.endswith(b"\n")
    if not ended:
        yield _tokens(rest + b"\n", file, line)


def _tokens(part: bytes, file: Path, first: int) -> list[str]:
    try:
        return part.decode().replace("\n", f" {EOS} ").split()
    except UnicodeDecodeError as error:
        line = first + part.count(b"\n", 0, error.start)
        raise ValueError(f"text: {file} line {line} must {not_utf8(error)}") from None
