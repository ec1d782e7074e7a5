from __future__ import annotations

import json
import math
import re
import struct
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from litfast import lfc
from litfast.lfc import _file

DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.uint8,
    torch.int16,
    torch.int64,
    torch.bool,
    torch.complex64,
    torch.complex128,
)


def bits(tensor: Tensor) -> list[int]:
    tensor = tensor.resolve_conj().resolve_neg().contiguous()
    return tensor.flatten().view(torch.uint8).tolist()


def assert_same(found: dict[str, Tensor], state: dict[str, Tensor]) -> None:
    assert list(found) == list(state)
    for name, tensor in state.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert bits(found[name]) == bits(tensor)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Of any type and shape: random bit patterns, NaN and -0 among them, few of them or many zeros."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 9), max_size=3))
    kinds = draw(st.integers(1, 300))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    count = math.prod(shape)
    pool = torch.randint(256, (kinds, dtype.itemsize), generator=generator, dtype=torch.uint8)
    pool = pool % 2 if dtype == torch.bool else pool
    chosen = pool[torch.randint(kinds, (count,), generator=generator)]
    chosen[torch.rand(count, generator=generator) < draw(st.sampled_from([0.0, 0.5, 0.95, 1.0]))] = 0
    return chosen.flatten().view(dtype).reshape(shape)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(max_size=5), tensors(), max_size=4))
def test_any_tensors_come_back_bit_for_bit(state: dict[str, Tensor]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.lfc"
        assert lfc.save(path, state) == path.stat().st_size
        assert_same(lfc.load(path), state)
        assert [entry.name for entry in Path(folder).iterdir()] == ["weights.lfc"]


def shared(shape: tuple[int, ...] = (30, 20), values: int = 7) -> Tensor:
    """Nine tenths zeros, the rest of a few values."""
    generator = torch.Generator().manual_seed(0)
    codebook = torch.randn(values, generator=generator)
    weight = codebook[torch.randint(values, shape, generator=generator)]
    return weight.masked_fill(torch.rand(shape, generator=generator) >= 0.1, 0)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file with a shared and a raw tensor."""
    path = tmp_path_factory.mktemp("lfc") / "x.lfc"
    lfc.save(path, {"weight": shared(), "bias": torch.arange(3.0)}, spec={"name": "lenet5"})
    return path.read_bytes()


def refused(data: bytes, read: Callable[[Path], object] = lfc.load) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.lfc"
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"^lfc: ") as raised:
            read(path)
    text = str(raised.value)
    assert str(path) in text and "\n" not in text
    return text


@settings(max_examples=100, deadline=None)
@given(place=st.integers(0), change=st.integers(1, 255))
def test_a_file_with_any_byte_changed_is_refused_and_its_checksum_named(
    written: bytes, place: int, change: int
) -> None:
    data = bytearray(written)
    data[place % len(data)] ^= change
    stored = int.from_bytes(data[-4:], "little")
    found = zlib.crc32(data[:-4])
    assert f"with crc32 {found:08x} where {stored:08x} is named" in refused(bytes(data))


@settings(max_examples=100, deadline=None)
@given(st.integers(0))
def test_a_file_cut_anywhere_is_refused_and_its_checksum_named(written: bytes, length: int) -> None:
    length %= len(written)
    assert f"got {length} bytes with crc32 " in refused(written[:length])


def test_a_file_of_another_sort_is_refused() -> None:
    assert "must be a whole .lfc file" in refused(b"label,pixel\n1,2\n" * 40)
    assert "must be a whole .lfc file" in refused(b"", lfc.spec)
    assert "4 bytes with crc32 00000000 where 00000000 is named" in refused(bytes(4))


def signed(content: bytes) -> bytes:
    return content + struct.pack("<I", zlib.crc32(content))


def with_header(header: Any, payload: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return signed(struct.pack("<4sHI", b"LFC\0", 1, len(text)) + text + payload)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (signed(struct.pack("<4sHI", b"LFC\0", 2, 0)), r"version 1, got b'LFC\\x00', version 2"),
        (signed(struct.pack("<4sHI", b"LFD\0", 1, 0)), "got b'LFD"),
        (signed(struct.pack("<4sHI", b"LFC\0", 1, 3) + b"{,}"), "must have a header in JSON"),
        (with_header([1]), "a JSON table as its header, got a list"),
        (with_header({}), "KeyError"),
        (with_header({"tensors": [["a", "os.system", [1], "raw", 0]]}), "KeyError: 'os.system'"),
        (with_header({"tensors": [["a", "uint8", [2], "raw", 1]]}, b"x"), "RuntimeError"),
        (
            with_header({"tensors": [["a", "uint8", [1], "zip", 1]]}, b"x"),
            "coding must be one of raw, shared",
        ),
        (with_header({"tensors": [["a", "uint8", [1], "raw", 1]]}, b"xy"), "fill the file, got 1 of 2 bytes"),
        (with_header({"tensors": [["a", "uint8", [9], "shared", 1]]}, b"x"), "error: "),
    ],
)
def test_a_file_that_was_written_wrongly_is_refused(data: bytes, message: str) -> None:
    assert re.search(message, refused(data))


def test_the_spec_comes_back(written: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.lfc"
    path.write_bytes(written)
    assert lfc.spec(path) == {"name": "lenet5"}
    lfc.save(path, {})
    assert lfc.spec(path) is None and lfc.load(path) == {}


def test_what_cannot_be_stored_is_refused_and_nothing_written(tmp_path: Path) -> None:
    path = tmp_path / "x.lfc"
    with pytest.raises(ValueError, match=r"lfc: tensor 'a' must be dense, got torch\.sparse_coo"):
        lfc.save(path, {"a": torch.eye(2).to_sparse()})
    with pytest.raises(ValueError, match="lfc: spec must hold plain JSON values alone, got: "):
        lfc.save(path, {}, spec={"model": torch.nn.ReLU()})
    assert list(tmp_path.iterdir()) == []


def test_minus_zero_and_nan_keep_their_bits(tmp_path: Path) -> None:
    payload = torch.tensor([0x7FC00001, 0x7FC00002, -(1 << 31), 0], dtype=torch.int32)
    state = {"w": payload.view(torch.float32).repeat(50)}
    lfc.save(tmp_path / "x.lfc", state)
    assert_same(lfc.load(tmp_path / "x.lfc"), state)


def test_the_same_tensors_make_the_same_file_whatever_their_strides(tmp_path: Path) -> None:
    weight = shared((6, 5, 4, 3))
    lfc.save(tmp_path / "a.lfc", {"w": weight})
    lfc.save(tmp_path / "b.lfc", {"w": weight.contiguous(memory_format=torch.channels_last)})
    assert (tmp_path / "a.lfc").read_bytes() == (tmp_path / "b.lfc").read_bytes()


def test_lenets_first_layer_is_small_and_quick(tmp_path: Path) -> None:
    state = {"ip1.weight": shared((300, 784), values=64)}
    started = time.process_time()
    size = lfc.save(tmp_path / "x.lfc", state)
    found = lfc.load(tmp_path / "x.lfc")
    assert time.process_time() - started < 1
    assert_same(found, state)
    kept = int((state["ip1.weight"] != 0).sum())
    entropy = (-0.1 * math.log2(0.1) - 0.9 * math.log2(0.9)) * 235_200 + 6 * kept
    assert size < entropy / 8 * 1.02 + 600  # the codebook, two tables of lengths, a header


def test_the_header_is_what_the_description_says(written: bytes) -> None:
    magic, version, size = struct.unpack_from("<4sHI", written)
    header = json.loads(written[10 : 10 + size])
    assert (magic, version) == (b"LFC\0", 1)
    assert [entry[:4] for entry in header["tensors"]] == [
        ["weight", "float32", [30, 20], "shared"],
        ["bias", "float32", [3], "raw"],
    ]
    assert written[-4 - 12 : -4] == struct.pack("<3f", 0, 1, 2)
    assert _file.HEAD.size + size + sum(entry[4] for entry in header["tensors"]) + 4 == len(written)
