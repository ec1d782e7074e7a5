"""Strategies: good bytes, texts and tables with some of them spoilt."""

from __future__ import annotations

import copy
import datetime
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

# the edges of what formats count in
NUMBERS = [n for bits in (7, 8, 15, 16, 31, 32, 63) for n in ((1 << bits) - 1, 1 << bits)]
PIECES = [
    b"",
    b"\0",
    b"\xff",
    b"\n",
    b'"',
    b",",
    b"\\",
    b"../",
    b"\0" * 512,
    *(n.to_bytes(8, "little") for n in NUMBERS),
    *(n.to_bytes(4, "big") for n in NUMBERS if n < 1 << 32),
]
HUGE = 10**400  # beyond a float


@st.composite
def spoilt(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds after a few accidents: bytes flipped, cut out, doubled, overwritten, the end cut."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        size = draw(st.integers(1, 16))
        match draw(st.sampled_from(["flip", "cut", "double", "write", "insert", "end"])):
            case "flip" if data:
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del data[at : at + size]
            case "double":
                data[at:at] = data[at : at + size]
            case "write":
                piece = draw(st.sampled_from(PIECES))
                data[at : at + len(piece)] = piece
            case "insert":
                data[at:at] = draw(st.binary(max_size=16))
            case "end":
                del data[at:]
    return bytes(data)


def any_bytes(*seeds: bytes) -> st.SearchStrategy[bytes]:
    """Spoilt seeds most of the time, else noise."""
    return st.one_of(spoilt(seeds), spoilt(seeds), spoilt(seeds), st.binary(max_size=200))


values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.sampled_from(
            [
                0,
                1,
                -1,
                2,
                3,
                7,
                HUGE,
                -HUGE,
                1 << 31,
                1 << 63,
                -(1 << 63) - 1,
                True,
                False,
                "",
                "auto",
                "none",
            ]
        ),
        st.sampled_from([0.0, -0.0, 0.5, 1e308, -1e308, 5e-324, float("inf"), float("-inf"), float("nan")]),
        st.sampled_from(["..", "/", "/etc/passwd", "x.py:f", "cuda:7", "\n", "a\nb", "\0", "é", "\ud800"]),
        st.just(datetime.date(1979, 5, 27)),
        st.text(max_size=8),
        st.integers(),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)
plain = st.one_of(st.none(), values).map(lambda value: _without_dates(value))


def _without_dates(value: Any) -> Any:
    """As JSON holds it."""
    if isinstance(value, dict):
        return {key: _without_dates(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_dates(item) for item in value]
    return str(value) if isinstance(value, datetime.date) else value


@st.composite
def spoilt_table(draw: st.DrawFn, seeds: Sequence[Any], with_values: st.SearchStrategy[Any]) -> Any:
    """One of the tables with a few of its values, at any depth, replaced, dropped or renamed."""
    table = copy.deepcopy(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 3))):
        places = list(_places(table))
        if not places:
            break
        inside, key = draw(st.sampled_from(places))
        match draw(st.sampled_from(["replace", "replace", "drop", "rename"])):
            case "replace":
                inside[key] = draw(with_values)
            case "drop":
                del inside[key]
            case "rename" if isinstance(inside, dict):
                inside[draw(st.text(max_size=6))] = inside.pop(key)
    return table if draw(st.integers(0, 30)) else draw(with_values)


def _places(table: Any) -> Any:
    """(container, key) of every value, outer ones first."""
    items = table.items() if isinstance(table, dict) else enumerate(table) if isinstance(table, list) else ()
    for key, value in list(items):
        yield table, key
        yield from _places(value)
