"""Plain-text corpora for language models: word ids, vocabulary and counts from training data only."""

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
SPLITS = ("train", "valid", "test")
LAYOUTS = ("{}.txt", "ptb.{}.txt", "wiki.{}.tokens")  # plain, Penn Treebank, WikiText
_PIECE = 1 << 22  # bytes that are split at once
_LONGEST = 64 << 20  # bytes of a word


def text(
    root: str | Path,
    *,
    min_count: int = 1,
    vocabulary: int | None = None,
    length: int = 35,
    cache: str | Path | None = None,
) -> Corpus:
    """A corpus from `train.txt`, `valid.txt` and `test.txt`, or `.gz` of them, in UTF-8.

    The names of the Penn Treebank (`ptb.train.txt`) and of WikiText (`wiki.train.tokens`) do as well.

    Words are what white space separates, as they are; every line ends in <eos>, an empty one too. Words of
    valid and test that the vocabulary lacks are <unk>. The word ids lie in the cache folder; a changed
    source rebuilds them.

    Args:
        root: the folder.
        min_count: a rarer word of the training split is <unk>.
        vocabulary: words at most, <eos> and <unk> among them; the most frequent ones stay.
        length: words of a window, T, which is a sample: back-propagation is truncated there.
        cache: the cache folder; None takes the user's ($XDG_CACHE_HOME/litfast).

    Raises:
        ValueError: a file that is missing, empty, cut short or not UTF-8 (with the line), a min_count or
            length below 1, a vocabulary below 2.
    """
    for what, number in (("min_count", min_count), ("length", length)):
        if number < 1:
            raise ValueError(f"text: {what} must be at least 1, got {number}")
    if vocabulary is not None and vocabulary < 2:
        raise ValueError(f"text: vocabulary must be at least 2, <eos> and <unk>, got {vocabulary}")
    files = _files(Path(root))
    splits = {split: _words(files[split], cache) for split in SPLITS}
    types, counts = splits["train"][1:]
    kept = _kept(types, counts, min_count, vocabulary)
    counted = Counter({types[i]: int(counts[i]) for i in kept})
    counted[UNKNOWN] = int(counts.sum()) - counted.total()
    ranked = sorted(counted.items(), key=_by_frequency)
    ids = {word: i for i, (word, _) in enumerate(ranked)}
    train, val, test = (_renumbered(*splits[split][:2], ids) for split in SPLITS)
    return Corpus(
        name=Path(root).resolve().name,
        train=train,
        val=val,
        test=test,
        words=tuple(ids),
        counts=torch.tensor([count for _, count in ranked]),
        length=length,
        eos=ids[EOS],
        unknown=ids[UNKNOWN],
    )


def _files(root: Path) -> dict[str, Path]:
    """The splits' files in the first layout of which one is there."""
    for layout in LAYOUTS:
        names = {split: layout.format(split) for split in SPLITS}
        if any((root / f"{name}{end}").is_file() for name in names.values() for end in ("", ".gz")):
            return {split: find("text", root, name) for split, name in names.items()}
    listed = ", ".join(layout.format("train") for layout in LAYOUTS)
    raise ValueError(f"text: {root} must hold one of {listed} (or .gz of it) with valid and test, got none")


def _by_frequency(item: tuple[str, int]) -> tuple[int, str]:
    word, count = item
    return -count, word


def _kept(types: list[str], counts: np.ndarray, min_count: int, vocabulary: int | None) -> list[int]:
    """The vocabulary's words, without <unk>; types come by falling frequency, ties by word."""
    eos = types.index(EOS)
    frequent = [i for i, word in enumerate(types) if counts[i] >= min_count and word not in (EOS, UNKNOWN)]
    return [eos, *frequent[: None if vocabulary is None else vocabulary - 2]]


def _renumbered(old: Tensor, types: list[str], ids: Mapping[str, int]) -> Tensor:
    new = torch.tensor([ids.get(word, ids[UNKNOWN]) for word in types], dtype=torch.int32)
    return new[old]


def _words(file: Path, cache: str | Path | None) -> tuple[Tensor, list[str], np.ndarray]:
    """A split's words by number: ([N] int32, the words, their counts), by falling frequency, ties by word."""
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
        if len(rest) > _LONGEST:
            raise ValueError(f"text: {file} line {line} must hold words, got one beyond {_LONGEST} bytes")
    if not ended:
        yield _tokens(rest + b"\n", file, line)


def _tokens(part: bytes, file: Path, first: int) -> list[str]:
    try:
        return part.decode().replace("\n", f" {EOS} ").split()
    except UnicodeDecodeError as error:
        line = first + part.count(b"\n", 0, error.start)
        raise ValueError(f"text: {file} line {line} must {not_utf8(error)}") from None
