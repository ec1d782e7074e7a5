from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from litfast.lfc import _huffman, _sparse


def decoded(data: bytes | None, words: np.ndarray) -> np.ndarray:
    assert data is not None
    return _sparse.decode(data, len(words), words.dtype)


@given(
    st.lists(st.tuples(st.integers(0, 1200), st.integers(0, 9)), max_size=20),
    st.integers(0, 1200),
    st.sampled_from([np.uint8, np.uint16, np.uint32, np.uint64]),
)
def test_gaps_of_any_length_come_back(runs: list[tuple[int, int]], rest: int, dtype: type) -> None:
    words = np.array([n for zeros, value in runs for n in [0] * zeros + [value]] + [0] * rest, dtype)
    found = decoded(_sparse.encode(words), words)
    assert np.array_equal(found, words) and found.dtype == words.dtype


@pytest.mark.parametrize(
    ("gaps", "bits", "symbols"),
    [([0, 2, 5], 2, [0, 2, 3, 2]), ([3], 2, [3, 0]), ([6, 7], 2, [3, 3, 0, 3, 3, 1]), ([1], 1, [1, 0])],
)
def test_a_run_of_zeros_that_overflows_is_the_largest_symbol_and_the_rest(
    gaps: list[int], bits: int, symbols: list[int]
) -> None:
    assert _sparse._split(np.array(gaps), bits).tolist() == symbols


def test_256_values_are_shared_and_257_are_not() -> None:
    assert _sparse.encode(np.arange(257, dtype=np.uint32)) is not None
    assert _sparse.encode(np.arange(258, dtype=np.uint32)) is None


def test_the_width_of_a_gap_is_the_one_that_makes_the_file_shortest() -> None:
    draw = np.random.default_rng(0)
    for share in (0.5, 0.1, 0.01):
        words = (draw.random(5000) < share).astype(np.uint32)
        data = _sparse.encode(words)
        assert data is not None
        gaps = np.diff(np.flatnonzero(words), prepend=-1) - 1
        tried = [len(_huffman.encode(_sparse._split(gaps, bits))) for bits in _sparse.GAP_BITS]
        ones = len(_huffman.encode(np.zeros(len(gaps), np.uint8)))
        assert len(data) == 2 + 4 + 1 + min(tried) + ones


def test_streams_that_do_not_fit_the_tensor_are_refused() -> None:
    words = np.array([0, 5, 0, 7], np.uint16)
    data = _sparse.encode(words)
    assert data is not None
    with pytest.raises(ValueError, match="lfc: "):
        _sparse.decode(data, 3, words.dtype)
    with pytest.raises(ValueError, match="4 numbers must have a place for each value"):
        _sparse.decode(data + b"\0", 4, words.dtype)
