"""A block of an Amazon CSV to character ids, by whole-array operations that give up the interpreter's lock.

The layout (readme of the official archives): rows of `"class","title","text"` without a header, fields in
double quotes, a quote within them doubled, a new line within them escaped as a backslash and an n. Fields
without quotes and new lines as they are within quotes are taken too.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from litfast.data.sets._source import not_utf8
from litfast.data.sets.text_set import Counts

LETTERS, DIGITS = "abcdefghijklmnopqrstuvwxyz", "0123456789"
SYMBOLS = "-,;.!?:'\"/|_#$%^&*~`+=<>()[]{} "
PADDING, UNKNOWN = 0, 1
# Zhang, Zhao, LeCun (NIPS 2015), the quantisation, and Conneau et al. (EACL 2017), section 4.2: 69 symbols,
# with the space, a special padding and a special unknown one; 1014 characters
ALPHABET = ("", "", *LETTERS, *DIGITS, *SYMBOLS)

_SPACE = ALPHABET.index(" ")
_NEWLINE, _QUOTE, _COMMA, _BACKSLASH, _N = b'\n",\\n'


def _table() -> bytes:
    """The id of every byte: a capital letter has its small one's, and a lead byte of UTF-8 is unknown."""
    ids = bytearray([UNKNOWN] * 256)
    for i, character in enumerate(ALPHABET[2:], start=2):
        ids[ord(character)] = ids[ord(character.upper())] = i
    return bytes(ids)


_IDS = _table()


class Block(NamedTuple):
    """Whole rows of a file."""

    text: bytes  # ends in a new line
    line: int  # of the file, from 1 on, that the text begins with


class Fault(NamedTuple):
    at: int  # the offending byte of the block
    what: str


class Quantised(NamedTuple):
    tokens: np.ndarray  # [n, L] uint8
    labels: np.ndarray  # [n] uint8, class - 1
    counts: Counts


def quantise(block: Block, *, classes: int, length: int, who: str) -> Quantised:
    """Character ids of every review: the title, a space, the text (a space only between two that are there).

    A character is a Unicode one. A to Z count as a to z; whatever the table lacks is UNKNOWN, an escaped new
    line too. What is longer than `length` is cut at its end, what is shorter is padded there.

    Args:
        classes: class numbers go from 1 to this.
        who: begins the messages, the file's name in it.

    Raises:
        ValueError: a ragged row, a quote that is not doubled or never closed, a class out of range, bytes
            that are not UTF-8; with the line.
    """
    data = np.frombuffer(block.text, np.uint8)
    quotes = np.flatnonzero(data == _QUOTE)
    marks = np.flatnonzero((data == _COMMA) | (data == _NEWLINE))
    ends = marks[np.searchsorted(quotes, marks) % 2 == 0]  # of fields: outside of quotes
    found = faults(block.text, data, quotes, ends, classes)
    if found:
        at, what = min(found)
        line = block.line + block.text.count(b"\n", 0, at)
        raise ValueError(f"{who} line {line} must {what}")
    title, text, end = ends.reshape(-1, 3).T  # of each row: the commas before its fields, the new line
    joined = ~_is_empty(data, title, text) & ~_is_empty(data, text, end)

    ids = np.frombuffer(bytearray(block.text.translate(_IDS)), np.uint8)
    ids[text[joined]] = _SPACE
    dropped = _dropped(block.text, data, quotes, ends)
    dropped[text[joined]] = False
    kept = ids[~dropped]
    gaps = np.flatnonzero(dropped)
    first = title + 1 - np.searchsorted(gaps, title + 1)
    sizes = end - np.searchsorted(gaps, end) - first
    tokens = _windows(kept, first, sizes, length)
    labels = data[title - 1 - (data[title - 1] == _QUOTE)] - ord("1")
    return Quantised(tokens, labels, _counts(tokens, sizes, length))


def faults(text: bytes, data: np.ndarray, quotes: np.ndarray, ends: np.ndarray, classes: int) -> list[Fault]:
    """The first fault of each sort; behind it, nothing is sure."""
    found = [*_misplaced_quotes(data, quotes), *_wrong_rows(text, data, ends, classes)]
    try:
        text.decode()
    except UnicodeDecodeError as error:
        found.append(Fault(error.start, not_utf8(error)))
    return found


def _misplaced_quotes(data: np.ndarray, quotes: np.ndarray) -> list[Fault]:
    """Quotes open behind a mark or another quote, and close before one."""
    marks = (_COMMA, _NEWLINE, _QUOTE)
    opening, closing = quotes[::2], quotes[1::2]
    before = data[opening[opening > 0] - 1]
    wrong = [*opening[opening > 0][~np.isin(before, marks)][:1]]
    wrong += [*closing[~np.isin(data[closing + 1], marks)][:1]]
    faults = [Fault(int(at), "have every quote within a field doubled, got one that is not") for at in wrong]
    if len(quotes) % 2:
        faults.append(Fault(int(quotes[-1]), "close every quote, got one that is never closed"))
    return faults


def _wrong_rows(text: bytes, data: np.ndarray, ends: np.ndarray, classes: int) -> list[Fault]:
    """Rows that have not three fields; class fields that are not a number from 1 on, in quotes or bare."""
    last = np.flatnonzero(data[ends] == _NEWLINE)  # fields of each row
    fields = np.diff(last, prepend=-1)
    ragged = np.flatnonzero(fields != 3)
    whole = int(ragged[0]) if len(ragged) else len(fields)
    starts = np.concatenate([[0], ends[last[:-1]] + 1]) if len(last) else last
    faults = []
    if whole < len(fields):
        faults.append(Fault(int(starts[whole]), f"hold 3 fields, got {fields[whole]}"))
    start, end = starts[:whole], ends[: 3 * whole : 3]
    quoted = data[start] == _QUOTE
    digit = data[start + quoted]
    wrong = (end - start != 1 + 2 * quoted) | (digit < ord("1")) | (digit > ord("0") + classes)
    for row in np.flatnonzero(wrong)[:1]:
        got = text[start[row] : end[row]][:40].decode(errors="replace").strip('"')
        faults.append(Fault(int(start[row]), f"begin with a class from 1 to {classes}, got {got!r}"))
    return faults


def _is_empty(data: np.ndarray, before: np.ndarray, behind: np.ndarray) -> np.ndarray:
    return behind - before - 1 == 2 * (data[before + 1] == _QUOTE)


def _dropped(text: bytes, data: np.ndarray, quotes: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """[bytes] bool: marks, quotes but one of each pair, the n of an escape, UTF-8 behind its lead byte."""
    dropped = np.zeros(len(data), bool) if text.isascii() else (data & 0xC0) == 0x80
    dropped[ends] = True
    dropped[quotes] = True
    again = quotes[2::2]  # a quote that opens directly behind a closing one is the second of a pair
    dropped[again[data[again - 1] == _QUOTE]] = False
    if b"\\n" in text:
        slashes = np.flatnonzero(data == _BACKSLASH)
        dropped[slashes[data[slashes + 1] == _N] + 1] = True
    return dropped


def _windows(kept: np.ndarray, first: np.ndarray, sizes: np.ndarray, length: int) -> np.ndarray:
    """[n, length]: `sizes` ids from `first` on, cut or padded."""
    padded = np.concatenate([kept, np.full(length, PADDING, np.uint8)])
    tokens = np.lib.stride_tricks.sliding_window_view(padded, length)[first]
    tokens[np.arange(length, dtype=np.int32) >= sizes[:, None].astype(np.int32)] = PADDING
    return tokens


def _counts(tokens: np.ndarray, sizes: np.ndarray, length: int) -> Counts:
    return Counts(
        texts=len(sizes),
        empty=int((sizes == 0).sum()),
        longer=int((sizes > length).sum()),
        characters=int(np.minimum(sizes, length).sum()),
        unknown=int((tokens == UNKNOWN).sum()),
    )
