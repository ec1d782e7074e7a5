"""Numbers with many zeros and few other values: gaps between them and indices into a codebook.

On disk: the number of distinct non-zeros (u16), these in ascending order, the bits of a gap (u8), then two
Huffman streams: the gaps and, for each non-zero, its index in the codebook.

A gap of `bits` bits counts the zeros before a non-zero. The largest, M = 2^bits - 1, stands for M zeros with
no value behind them, so that a longer run of zeros is M as often as it fits and then the rest. (Deep
Compression puts a filler zero there, section 2, figure 2; here the code of M says as much.)
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from litfast.lfc import _huffman

Words = NDArray[np.unsignedinteger]  # bit patterns of 8, 16, 32 or 64 bits

LARGEST_CODEBOOK = 256
GAP_BITS = range(1, 9)
MOST = 1 << 31  # numbers; the streams count in 32 bits
COUNT, BITS = struct.Struct("<H"), struct.Struct("<B")


def encode(words: Words) -> bytes | None:
    """Bit patterns [N] as gaps and indices; None for more than 256 distinct non-zeros, or too many numbers.

    Only the pattern of all zeros is a zero: -0.0 is a value like others.
    """
    if len(words) >= MOST:
        return None
    places = np.flatnonzero(words)
    codebook, index = np.unique(words[places], return_inverse=True)
    if len(codebook) > LARGEST_CODEBOOK:
        return None
    gaps = np.diff(places, prepend=-1) - 1
    sizes = {bits: _huffman.size(np.bincount(_split(gaps, bits), minlength=1)) for bits in GAP_BITS}
    fitting = {bits: size for bits, size in sizes.items() if size is not None}
    if not fitting or _huffman.size(np.bincount(index, minlength=1)) is None:
        return None
    bits = min(fitting, key=lambda bits: fitting[bits])
    return b"".join(
        [
            COUNT.pack(len(codebook)),
            codebook.tobytes(),
            BITS.pack(bits),
            _huffman.encode(_split(gaps, bits)),
            _huffman.encode(index.astype(np.uint8)),
        ]
    )


def decode(data: bytes, count: int, dtype: np.dtype) -> Words:
    """What `encode` was given.

    Args:
        data: what it made.
        count: N.
        dtype: of the bit patterns, little-endian.

    Raises:
        ValueError: what `encode` would not have written.
    """
    if count >= MOST:  # which no byte of the file need stand for
        raise ValueError(f"lfc: a tensor must hold fewer than {MOST} numbers, got {count}")
    (distinct,) = COUNT.unpack_from(data)
    at = COUNT.size
    codebook = np.frombuffer(data, dtype, distinct, at)
    at += codebook.nbytes
    (bits,) = BITS.unpack_from(data, at)
    symbols, at = _huffman.decode(data, at + BITS.size, most=count)
    index, at = _huffman.decode(data, at, most=count)
    most = (1 << bits) - 1
    steps = symbols.astype(np.int64) + (symbols != most)
    places = np.cumsum(steps)[symbols != most] - 1
    if at != len(data) or len(places) != len(index) or places.max(initial=-1) >= count:
        raise ValueError(f"lfc: {count} numbers must have a place for each value, got other streams")
    words = np.zeros(count, dtype)
    words[places] = codebook[index]
    return words


def _split(gaps: _huffman.Ints, bits: int) -> _huffman.Bytes:
    """The gaps as symbols: the largest as often as it fits, then the rest."""
    most = (1 << bits) - 1
    whole, rest = np.divmod(gaps, most)
    ends = np.cumsum(whole + 1)
    symbols = np.full(int(ends[-1]) if len(ends) else 0, most, np.uint8)
    symbols[ends - 1] = rest
    return symbols
