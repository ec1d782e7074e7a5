"""Arrays built once from a source file, kept in the user's cache folder and memory-mapped."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

VERSION = 1  # of the layout below; a file of another version is built anew
_MAGIC = b"LITFASTC"
_HEADER = 4096  # bytes: magic, CRC-32 and length of the JSON, the JSON; the arrays follow
_PREFIX = struct.Struct("<8sII")


@dataclass(frozen=True)
class Cached:
    """What a cache file holds."""

    arrays: dict[str, Tensor]  # memory-mapped, copied on write
    facts: dict[str, Any]  # whatever the builder returned


class Writer:
    """Appends arrays to a cache file, one after the other."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._crc = 0
        self._arrays: dict[str, tuple[str, list[int], int]] = {}  # dtype, shape, offset

    def append(self, name: str, rows: np.ndarray) -> None:
        """Rows [n, ...] to the array `name`, which must be the last one begun or a new one."""
        assert name == next(reversed(self._arrays), name) or name not in self._arrays
        dtype, shape, offset = self._arrays.get(name, (rows.dtype.str, [0, *rows.shape[1:]], 0))
        assert dtype == rows.dtype.str and shape[1:] == list(rows.shape[1:])
        if name not in self._arrays:
            self._write(b"\0" * (-self._file.tell() % 64))  # torch's and numpy's types ask for alignment
            offset = self._file.tell()
        self._write(np.ascontiguousarray(rows).data)
        self._arrays[name] = (dtype, [shape[0] + len(rows), *shape[1:]], offset)

    def _write(self, data: Any) -> None:
        self._crc = zlib.crc32(data, self._crc)
        self._file.write(data)

    def header(self, key: Mapping[str, Any], facts: Mapping[str, Any]) -> bytes:
        """The first 4,096 bytes of the finished file."""
        document = {
            "key": key,
            "arrays": self._arrays,
            "facts": facts,
            "bytes": self._file.tell(),
            "crc32": self._crc,
        }
        text = json.dumps(document).encode()
        packed = _PREFIX.pack(_MAGIC, zlib.crc32(text), len(text)) + text
        assert len(packed) <= _HEADER
        return packed.ljust(_HEADER, b"\0")


def folder(given: str | Path | None = None) -> Path:
    """The folder `given`, else $XDG_CACHE_HOME/litfast, else ~/.cache/litfast; it may not exist yet."""
    if given is not None:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "litfast"


def cached(
    kind: str,
    source: Path,
    build: Callable[[Writer], Mapping[str, Any]],
    *,
    where: str | Path | None = None,
    **options: Any,
) -> Cached:
    """The arrays made from a source file: read from the cache, or built and kept.

    The cache file is named by kind, source path and options. It is built anew when the source's size or time
    of change, or the version of the layout, is another one, or when its length or checksum is wrong. It is
    written aside and renamed when it is whole. Processes take turns: the second one finds what the first
    one built (POSIX only; a lock on the folder, which the kernel gives back whatever happens).

    Args:
        kind: what is made of the source.
        build: appends the arrays and returns facts about them (plain values, some 3 kB as JSON).
        where: the cache folder; None takes the user's.
        options: plain values that decide what is built.
    """
    source = source.resolve()
    status = source.stat()
    key = {
        "kind": kind,
        "source": str(source),
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "version": VERSION,
        "options": options,
    }
    name = hashlib.sha256(json.dumps([str(source), options], sort_keys=True).encode()).hexdigest()[:16]
    file = folder(where) / f"{kind}-{name}.cache"
    found = _read(file, key)
    if found is None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _locked(file.parent):
            found = _read(file, key)  # another process may have been first
            if found is None:
                _write(file, key, build)
                found = _read(file, key)
    assert found is not None
    return found


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    import fcntl  # not on every platform

    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(file: Path, key: Mapping[str, Any], build: Callable[[Writer], Mapping[str, Any]]) -> None:
    # one name: what a killed process left is overwritten by the next build
    aside = file.with_suffix(".partial")
    try:
        with aside.open("wb") as stream:
            stream.write(b"\0" * _HEADER)
            writer = Writer(stream)
            facts = build(writer)
            header = writer.header(key, facts)
            stream.seek(0)
            stream.write(header)
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(file)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def _read(file: Path, key: Mapping[str, Any]) -> Cached | None:
    """The file's arrays; None where it is missing, of another key, cut short or damaged."""
    try:
        with file.open("rb") as stream:
            packed, size = stream.read(_HEADER), os.fstat(stream.fileno()).st_size
    except FileNotFoundError:
        return None
    if len(packed) < _HEADER:
        return None
    magic, crc, length = _PREFIX.unpack_from(packed)
    text = packed[_PREFIX.size : _PREFIX.size + length]
    if magic != _MAGIC or zlib.crc32(text) != crc:
        return None
    document = json.loads(text)
    if document["key"] != key or document["bytes"] != size:
        return None
    content = np.memmap(file, mode="c", dtype=np.uint8)
    if zlib.crc32(content[_HEADER:].data) != document["crc32"]:
        return None
    arrays = {name: _mapped(content, *where) for name, where in document["arrays"].items()}
    return Cached(arrays, document["facts"])


def _mapped(content: np.ndarray, dtype: str, shape: list[int], offset: int) -> Tensor:
    count = int(np.prod(shape))
    flat = content[offset : offset + count * np.dtype(dtype).itemsize].view(dtype)
    return torch.from_numpy(flat.reshape(shape))
