from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from litfast.lfc import _huffman

STREAMS = st.lists(st.integers(0, 255), max_size=300) | st.lists(st.integers(0, 3), max_size=300)


def entropy(counts: np.ndarray) -> float:
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log2(p)).sum())


def mean_length(counts: np.ndarray) -> float:
    used = counts > 0
    return float((counts * _huffman.code_lengths(counts))[used].sum() / counts.sum())


@given(STREAMS)
def test_a_stream_decodes_to_itself_from_the_midst_of_others(symbols: list[int]) -> None:
    given_ = np.array(symbols, np.uint8)
    stream = _huffman.encode(given_)
    found, end = _huffman.decode(b"before" + stream + b"behind", 6, most=len(symbols))
    assert np.array_equal(found, given_) and found.dtype == np.uint8
    assert end == 6 + len(stream)
    assert _huffman.size(np.bincount(given_, minlength=1)) == len(stream)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=64).filter(any))
def test_the_mean_code_length_is_within_one_bit_of_the_entropy(counts: list[int]) -> None:
    given_ = np.array(counts)
    assert entropy(given_) - 1e-9 <= mean_length(given_) < entropy(given_) + 1


@pytest.mark.parametrize("counts", [[5, 2, 1], [1, 1, 1, 1], [9, 1, 1, 1], [3, 3, 2, 2, 1]])
def test_no_prefix_code_is_shorter(counts: list[int]) -> None:
    lengths = itertools.product(range(1, len(counts)), repeat=len(counts))
    kraft = (choice for choice in lengths if sum(2.0**-n for n in choice) <= 1)
    best = min(sum(c * n for c, n in zip(counts, choice, strict=True)) for choice in kraft)
    assert mean_length(np.array(counts)) * sum(counts) == pytest.approx(best)


def test_one_symbol_needs_no_bits() -> None:
    assert len(_huffman.encode(np.full(1000, 200, np.uint8))) == _huffman.HEAD.size + -(-5 * 201 // 8)


def test_the_bytes_are_those_of_the_canonical_code() -> None:
    # counts 3, 1, 2 of the symbols 0, 1, 2: lengths 1, 2, 2, codes 0, 10, 11
    stream = _huffman.encode(np.array([0, 1, 2, 0, 2, 0], np.uint8))
    table, code = 0b00001_00010_00010_0, 0b0_10_11_0_11_0 << 7
    assert stream == b"".join(
        [
            (6).to_bytes(4, "little"),
            (2).to_bytes(4, "little"),
            bytes([2]),
            table.to_bytes(2, "big"),
            code.to_bytes(2, "big"),
        ]
    )


def test_a_code_longer_than_a_piece_decodes() -> None:
    draw = np.random.default_rng(0)
    symbols = np.minimum(draw.geometric(0.3, 9 * _huffman.PIECE // 2), 255).astype(np.uint8)
    stream = _huffman.encode(symbols)
    assert len(stream) > _huffman.PIECE
    assert np.array_equal(_huffman.decode(stream, 0, most=len(symbols))[0], symbols)


def test_counts_that_need_a_code_of_31_bits_have_no_size() -> None:
    fibonacci = [1, 1]
    while len(fibonacci) < 32:
        fibonacci.append(sum(fibonacci[-2:]))
    assert _huffman.size(np.array(fibonacci[:31])) is not None
    assert _huffman.size(np.array(fibonacci)) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s[:-1], "must end within its tensor, got 1 bytes too few"),
        (lambda s: (7).to_bytes(4, "little") + s[4:], "must have at most 6 symbols, got 7"),
        (lambda s: s[:9] + bytes(2) + s[11:], "must be those of a complete code"),
        (lambda s: s[:9] + b"\xff\xff" + s[11:], "must be those of a complete code"),
        (lambda s: s[:4] + (3).to_bytes(4, "little") + s[8:] + b"\0", "must hold 6 symbols, got 3 bytes"),
    ],
)
def test_what_encode_would_not_write_is_refused(change: object, message: str) -> None:
    stream = _huffman.encode(np.array([0, 1, 2, 0, 2, 0], np.uint8))
    with pytest.raises(ValueError, match=message):
        _huffman.decode(change(stream), 0, most=6)  # type: ignore[operator]
