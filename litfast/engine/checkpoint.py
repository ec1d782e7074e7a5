"""Checkpoints: whole or not at all, each with a checksum, so that a torn or spoilt one is known."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from litfast.engine import durable
from litfast.errors import first_line

SEAL = b"litfast checkpoint, sha256 "  # stands behind what torch wrote, which torch itself does not mind
ZIP_END = b"PK\x05\x06"  # 22 bytes before the end of what torch wrote
TRAILER = len(SEAL) + hashlib.sha256().digest_size


def save(path: Path, state: dict[str, Any], *, keep: int = 1) -> None:
    """Write `state` (tensors and plain values) to `path`, or leave `path` as it was and say why.

    The file is what `torch.save` writes, then SEAL and the SHA-256 of all before SEAL. The last `keep` stay:
    `path`, and beside it `-1`, `-2` ... by age.

    Raises:
        OSError: the disk is full or the folder cannot be written; the previous checkpoint is intact.
    """
    packed = io.BytesIO()  # torch turns a failed write into a RuntimeError that no longer names the cause
    torch.save(state, packed)
    packed.write(SEAL + hashlib.sha256(packed.getbuffer()).digest())
    try:
        durable.write(path, packed.getbuffer(), keep=keep)
    except OSError as error:
        raise OSError(
            f"checkpoint: {path.name} must be written whole, got: {first_line(error)}; {_kept(path)}"
        ) from error


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote; nothing but tensors and plain values is ever unpickled.

    Raises:
        ValueError: torn, spoilt, foreign or unreadable file.
    """
    try:
        content = memoryview(path.read_bytes())
        body, trailer = content[:-TRAILER], content[-TRAILER:]
        if content[-22:-18] == ZIP_END:
            body = content  # older checkpoints have no seal
        elif trailer[: len(SEAL)] != SEAL:
            raise EOFError("a file that ends before its seal")
        elif trailer[len(SEAL) :] != hashlib.sha256(body).digest():
            raise OSError("another checksum than it was written with")
        state: dict[str, Any] = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file may make torch raise anything
        raise ValueError(
            f"checkpoint: {path} must be a whole litfast checkpoint, got: {first_line(error)}"
        ) from error
    if not isinstance(state, dict) or not isinstance(state.get("progress"), dict):
        raise ValueError(f"checkpoint: {path} must be a whole litfast checkpoint, got another program's file")
    return state


def _kept(path: Path) -> str:
    """That there is one to resume from, whether its own or that of another phase."""
    try:
        there = any(path.parent.glob("*.pt"))
    except OSError:  # a folder that may not even be searched
        there = False
    return "the previous one is kept" if there else "there is none before it"
