"""A state dict to an `.lfc` file and back.

The file, all numbers little-endian:

    4 bytes   magic, "LFC" and a zero
    u16       version of the format, 1
    u32       bytes of the header
    header    JSON: {"spec": ..., "tensors": [[name, dtype, shape, coding, bytes], ...]}
    ...       every tensor's bytes in that order: "raw", its elements; "shared", as `_sparse` has it
    u32       crc32 of all bytes before it
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from litfast.errors import typed
from litfast.lfc import _sparse

CODINGS = ("raw", "shared")
MAGIC, VERSION = b"LFC\0", 1
HEAD, CHECKSUM = struct.Struct("<4sHI"), struct.Struct("<I")
DTYPES = {str(d).removeprefix("torch."): d for d in vars(torch).values() if isinstance(d, torch.dtype)}


def save(path: str | Path, state_dict: Mapping[str, Tensor], *, spec: Mapping[str, Any] | None = None) -> int:
    """Write tensors so that `load` gives every one back bit for bit.

    A tensor of at most 256 distinct non-zero values is stored as gaps between its non-zeros and indices into
    a codebook, both Huffman coded, where that is shorter; every other one as it is. The file appears whole
    or not at all.

    Args:
        path: replaced if it is there.
        state_dict: dense tensors of any dtype and shape.
        spec: how to make the model, in plain values: `create(**spec)`.

    Returns:
        The bytes on disk.

    Raises:
        ValueError: a tensor that is not dense, a spec that is not plain.

    Source: Han, Mao, Dally, Deep Compression (ICLR 2016), sections 2 to 4.
    """
    entries, payloads = [], []
    for name, tensor in state_dict.items():
        words = _words(name, tensor)
        shared, raw = _sparse.encode(words), words.tobytes()
        coding, payload = ("raw", raw) if shared is None or len(shared) >= len(raw) else ("shared", shared)
        dtype = str(tensor.dtype).removeprefix("torch.")
        entries.append([name, dtype, list(tensor.shape), coding, len(payload)])
        payloads.append(payload)
    try:
        header = json.dumps({"spec": spec, "tensors": entries}, separators=(",", ":")).encode()
    except TypeError as error:
        raise ValueError(f"lfc: spec must hold plain JSON values alone, got: {error}") from None
    content = b"".join([HEAD.pack(MAGIC, VERSION, len(header)), header, *payloads])
    path = Path(path)
    aside = path.with_name(path.name + ".part")
    aside.write_bytes(content + CHECKSUM.pack(zlib.crc32(content)))
    os.replace(aside, path)
    return path.stat().st_size


def load(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU, bit for bit those that were saved.

    Raises:
        ValueError: damaged, cut or no `.lfc` file (its checksum is named), or one of another version.
    """
    header, content = _read(Path(path))
    tensors: dict[str, Tensor] = {}
    try:
        at = 0
        for name, dtype, shape, coding, size in header["tensors"]:
            if not isinstance(name, str) or name in tensors:
                raise ValueError(f"lfc: tensors must have names of their own, got {name!r}")
            tensors[name] = _tensor(content[at : at + size], DTYPES[dtype], shape, coding)
            at += size
        if at != len(content):
            raise ValueError(f"lfc: tensors must fill the file, got {at} of {len(content)} bytes")
    except Exception as error:  # the checksum is right, so whoever wrote the file did it wrongly
        raise ValueError(
            f"lfc: {path} must hold tensors as version {VERSION} writes them, got {typed(error)}"
        ) from error
    return tensors


def spec(path: str | Path) -> dict[str, Any] | None:
    """What `save` was given as `spec`; raises as `load` does."""
    found: dict[str, Any] | None = _read(Path(path))[0].get("spec")
    return found


def _read(path: Path) -> tuple[dict[str, Any], bytes]:
    """The header and the bytes of all tensors of a file whose checksum is right."""
    data = path.read_bytes()
    content, stored = data[: -CHECKSUM.size], data[-CHECKSUM.size :]
    if len(content) < HEAD.size or CHECKSUM.pack(zlib.crc32(content)) != stored:
        named = f"{CHECKSUM.unpack(stored)[0]:08x}" if len(stored) == CHECKSUM.size else "none"
        raise ValueError(
            f"lfc: {path} must be a whole .lfc file with the crc32 of its content at its end, "
            f"got {len(data)} bytes with crc32 {zlib.crc32(content):08x} where {named} is named"
        )
    magic, version, size = HEAD.unpack_from(content)
    if (magic, version) != (MAGIC, VERSION):
        raise ValueError(
            f"lfc: {path} must be of format {MAGIC!r}, version {VERSION}, got {magic!r}, version {version}"
        )
    try:
        header = json.loads(content[HEAD.size : HEAD.size + size])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"lfc: {path} must have a header in JSON, got: {error}") from None
    if not isinstance(header, dict):
        raise ValueError(f"lfc: {path} must have a JSON table as its header, got a {type(header).__name__}")
    return header, content[HEAD.size + size :]


def _words(name: str, tensor: Tensor) -> _sparse.Words:
    """The elements' bit patterns, [N]; those of 16 bytes as two of 8."""
    if tensor.layout != torch.strided or tensor.is_quantized:
        kind = "a quantised one" if tensor.is_quantized else str(tensor.layout)
        raise ValueError(f"lfc: tensor {name!r} must be dense, got {kind}")
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    return plain.flatten().view(torch.uint8).numpy().view(_word(tensor.dtype))


def _tensor(data: bytes, dtype: torch.dtype, shape: list[int], coding: str) -> Tensor:
    word = _word(dtype)
    if not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError(f"lfc: shape must be whole numbers from 0 on, got {shape}")
    count = int(np.prod(shape, dtype=object)) * dtype.itemsize // word.itemsize
    if coding not in CODINGS:
        raise ValueError(f"lfc: coding must be one of {', '.join(CODINGS)}, got {coding!r}")
    shared = coding == "shared"
    words = _sparse.decode(data, count, word) if shared else np.frombuffer(data, word).copy()
    return torch.from_numpy(words.view(np.uint8)).view(dtype).reshape(shape)


def _word(dtype: torch.dtype) -> np.dtype:
    return np.dtype(f"<u{min(dtype.itemsize, 8)}")
