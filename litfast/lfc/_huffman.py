"""Canonical Huffman codes of streams of bytes, vectorised with numpy.

A stream on disk: the number of symbols (u32), the bytes of the code (u32), the largest symbol (u8), the code
lengths of symbols 0 to the largest at five bits each (31: not used), and the code, its first bit the highest
of the first byte. All numbers are little-endian; both bit fields are padded with zeros to whole bytes.
"""

from __future__ import annotations

import heapq
import struct

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]

HEAD = struct.Struct("<IIB")
LENGTH_BITS = 5
UNUSED = 31  # in place of the code length of a symbol that does not occur
PIECE = 1 << 16  # bytes of a code that are looked at together


def code_lengths(counts: Ints) -> Ints:
    """The code length of every symbol, such that the mean over all occurrences is the smallest.

        H <= sum_s p_s length_s < H + 1,   p_s = counts_s / sum counts,   H = -sum_s p_s log2 p_s

    Args:
        counts: [A], how often each symbol occurs.

    Returns:
        [A], UNUSED where a symbol does not occur; one that occurs alone needs 0 bits.

    Source: Huffman, A Method for the Construction of Minimum-Redundancy Codes (1952).
    """
    lengths = np.full(len(counts), UNUSED, np.int64)
    used = np.flatnonzero(counts)
    lengths[used] = 0
    # equal counts: the older node first, which keeps the longest code short
    heap = [(int(counts[symbol]), order, [symbol]) for order, symbol in enumerate(used)]
    heapq.heapify(heap)
    for order in range(len(used), 2 * len(used) - 1):
        count, _, members = heapq.heappop(heap)
        other_count, _, others = heapq.heappop(heap)
        lengths[members + others] += 1
        heapq.heappush(heap, (count + other_count, order, members + others))
    return lengths


def size(counts: Ints) -> int | None:
    """Bytes of the stream that `encode` makes of symbols that occur so often; None where it cannot."""
    lengths = code_lengths(counts)
    used = counts > 0
    if used.any() and lengths[used].max() >= UNUSED:
        return None
    bits = int((counts * lengths)[used].sum())
    largest = int(np.flatnonzero(used).max(initial=0))
    return HEAD.size + _bytes(LENGTH_BITS * (largest + 1)) + _bytes(bits)


def encode(symbols: Bytes) -> bytes:
    """A stream of symbols; `decode` is its inverse.

    Args:
        symbols: [N], fewer than 2^32, of which no code is longer than 30 bits (`size` knows).
    """
    counts = np.bincount(symbols, minlength=1)
    lengths = code_lengths(counts)
    codes, widths = _codes(lengths)[symbols], lengths[symbols]
    ends = np.cumsum(widths)
    bits = np.zeros(int(ends[-1]) if len(ends) else 0, np.uint8)
    starts = ends - widths
    for place in range(int(widths.max(initial=0))):
        there = widths > place
        bits[starts[there] + place] = codes[there] >> (widths[there] - 1 - place) & 1
    table = lengths[:, None] >> np.arange(LENGTH_BITS)[::-1] & 1
    code = np.packbits(bits).tobytes()
    head = HEAD.pack(len(symbols), len(code), len(counts) - 1)
    return head + np.packbits(table.astype(np.uint8)).tobytes() + code


def decode(data: bytes, at: int, *, most: int) -> tuple[Bytes, int]:
    """The symbols of the stream that begins at byte `at`, and the byte behind it.

    Args:
        most: symbols that there can be; a stream that announces more is refused before it takes memory.

    Raises:
        ValueError: what `encode` would not have written.
    """
    count, size, largest = HEAD.unpack_from(data, at)
    if count > most:
        raise ValueError(f"lfc: a stream must have at most {most} symbols, got {count}")
    at += HEAD.size
    table = _bytes(LENGTH_BITS * (largest + 1))
    stop = at + table + size
    if stop > len(data):
        raise ValueError(f"lfc: a stream must end within its tensor, got {stop - len(data)} bytes too few")
    bits = np.unpackbits(np.frombuffer(data, np.uint8, table, at))[: LENGTH_BITS * (largest + 1)]
    lengths = bits.reshape(-1, LENGTH_BITS) @ (1 << np.arange(LENGTH_BITS)[::-1])
    return _symbols(data[at + table : stop], count, lengths), stop


def _symbols(code: bytes, count: int, lengths: Ints) -> Bytes:
    """Looks a symbol up at every bit of the code, then follows the lengths from the first bit on."""
    used = np.flatnonzero(lengths != UNUSED)
    order = used[np.argsort(lengths[used], kind="stable")]  # as the codes ascend
    widths = lengths[order]
    if count and (widths.min(initial=UNUSED) < (len(order) > 1) or (2.0**-widths).sum() != 1):
        raise ValueError(f"lfc: code lengths must be those of a complete code, got {lengths.tolist()}")
    if len(order) < 2 or not count:
        return np.repeat(order[: min(count, 1)], count).astype(np.uint8)
    longest = int(widths[-1])
    firsts = _codes(lengths)[order] << (longest - widths)  # with zeros behind, to the longest code's length
    padded = np.frombuffer(code + bytes(8), np.uint8)
    found: list[int] = []
    bit = 0
    for start in range(0, len(code), PIECE):
        part = padded[start : start + PIECE + 7]
        words = np.lib.stride_tricks.sliding_window_view(part, 8).copy().view(">u8").astype(np.uint64)
        words = words[: len(code) - start]
        ahead = words << np.arange(8, dtype=np.uint64) >> np.uint64(64 - longest)
        place = np.searchsorted(firsts, ahead.ravel().astype(np.int64), side="right") - 1
        symbols, after = order[place].tolist(), (np.arange(len(place)) + widths[place]).tolist()
        bit -= 8 * start
        while bit < len(place) and len(found) < count:
            found.append(symbols[bit])
            bit = after[bit]
        bit += 8 * start
    if len(found) < count or _bytes(bit) != len(code):
        raise ValueError(f"lfc: a code must hold {count} symbols, got {len(code)} bytes of another number")
    return np.array(found, np.uint8)


def _codes(lengths: Ints) -> Ints:
    """The canonical code of every symbol: ascending with the length, and at one length with the symbol."""
    codes = np.zeros(len(lengths), np.int64)
    code = before = 0
    for symbol in np.argsort(lengths, kind="stable"):
        length = int(lengths[symbol])
        if length == UNUSED:
            break
        code <<= length - before
        codes[symbol], code, before = code, code + 1, length
    return codes


def _bytes(bits: int) -> int:
    return -(-bits // 8)
