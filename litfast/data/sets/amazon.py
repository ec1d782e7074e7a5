"""Amazon reviews, polarity and full, in the official CSV layout: characters for VDCNN, quantised once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from litfast.data.cache import Writer, cached
from litfast.data.sets._reviews import ALPHABET, Block, Quantised, quantise
from litfast.data.sets._source import Progress, find, pieces
from litfast.data.sets.text_set import Counts, Texts, TextSet

_BLOCK = 1 << 20  # bytes of text that a thread takes at once
_LONGEST = 64 << 20  # bytes of one row: more than that is a quote that is never closed


def amazon_polarity(
    root: str | Path,
    *,
    length: int = 1014,
    cache: str | Path | None = None,
    progress: Progress | None = None,
) -> TextSet:
    """Amazon reviews of two classes, from `train.csv` and `test.csv` or `.gz` of them.

    The character ids are built once, on all cores, and lie in the cache folder; a changed source rebuilds
    them. See `_reviews.quantise` for the ids.

    Args:
        root: the folder `amazon_review_polarity_csv`.
        length: characters of a review that count.
        cache: the cache folder; None takes the user's ($XDG_CACHE_HOME/litfast).
        progress: called with the bytes read and all bytes of a file that is being built.

    Raises:
        ValueError: a file that is missing, empty or cut short; a ragged row, a class out of range or bytes
            that are not UTF-8, with file and line.
    """
    return _text_set("amazon_polarity", root, ("negative", "positive"), length, cache, progress)


def amazon_full(
    root: str | Path,
    *,
    length: int = 1014,
    cache: str | Path | None = None,
    progress: Progress | None = None,
) -> TextSet:
    """Amazon reviews of five classes, one to five stars; otherwise like `amazon_polarity`.

    Args:
        root: the folder `amazon_review_full_csv`. A class may be absent from it.
    """
    return _text_set("amazon_full", root, ("1", "2", "3", "4", "5"), length, cache, progress)


def _text_set(
    name: str,
    root: str | Path,
    classes: tuple[str, ...],
    length: int,
    cache: str | Path | None,
    progress: Progress | None,
) -> TextSet:
    if length < 1:
        raise ValueError(f"{name}: length must be at least 1, got {length}")
    splits, counts = {}, {}
    for split in ("train", "test"):
        file = find(name, Path(root), f"{split}.csv")
        build = partial(_build, file, name=name, classes=len(classes), length=length, progress=progress)
        found = cached(name, file, build, where=cache, length=length)
        labels = found.arrays["labels"].long()
        splits[split] = Texts(tokens=found.arrays["tokens"], labels=labels, rows=torch.arange(len(labels)))
        counts[split] = Counts(**found.facts)
    return TextSet(
        name=name, **splits, val=None, classes=classes, length=length, alphabet=len(ALPHABET), counts=counts
    )


def _build(
    file: Path, writer: Writer, *, name: str, classes: int, length: int, progress: Progress | None
) -> Mapping[str, Any]:
    """Append tokens and labels of the whole file; the counts."""
    who = f"{name}: {file}"
    labels, counts = [], []
    work = partial(quantise, classes=classes, length=length, who=who)
    for done in _in_order(work, blocks(file, _BLOCK, who=who, progress=progress)):
        writer.append("tokens", done.tokens)
        labels.append(done.labels)
        counts.append(done.counts)
    if not counts:
        raise ValueError(f"{who} must hold reviews, got an empty file")
    writer.append("labels", np.concatenate(labels))
    return Counts(*map(sum, zip(*counts, strict=True)))._asdict()


def _in_order(work: Callable[[Block], Quantised], given: Iterator[Block]) -> Iterator[Quantised]:
    """`work` on every block, on all cores, with a few blocks under way at a time."""
    threads = torch.get_num_threads()
    under_way: deque[Future[Quantised]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for block in given:
            under_way.append(pool.submit(work, block))
            if len(under_way) > threads:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


def blocks(file: Path, size: int, *, who: str, progress: Progress | None = None) -> Iterator[Block]:
    """A file, gzip or not, cut into blocks of about `size` bytes where rows end.

    Raises:
        ValueError: a damaged or truncated archive, a row of more than 64 MB.
    """
    rest, line = b"", 1
    for piece in pieces(file, size, who=who, progress=progress):
        rest += piece
        end = _last_row_end(rest)
        if end:
            yield _block(rest[:end], line)
            line += _count(rest[:end], b"\n")
            rest = rest[end:]
        elif len(rest) > _LONGEST:
            raise ValueError(f"{who} line {line} must close every quote, got a row beyond {_LONGEST} bytes")
    if rest:
        yield _block(rest.removesuffix(b"\n") + b"\n", line)


def _block(text: bytes, line: int) -> Block:
    return Block(text.replace(b"\r\n", b"\n") if b"\r" in text else text, line)


def _count(text: bytes, byte: bytes) -> int:
    """text.count(byte), several times as fast where there are many."""
    return int(np.count_nonzero(np.frombuffer(text, np.uint8) == byte[0]))


def _last_row_end(text: bytes) -> int:
    """The bytes up to the last new line outside of quotes, 0 where there is none."""
    end = text.rfind(b"\n") + 1
    if _count(text[:end], b'"') % 2 == 0:
        return end
    data = np.frombuffer(text, np.uint8)
    lines, quotes = (np.flatnonzero(data == ord(mark)) for mark in '\n"')
    outside = lines[np.searchsorted(quotes, lines) % 2 == 0]
    return int(outside[-1]) + 1 if len(outside) else 0
