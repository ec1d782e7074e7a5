"""Checkpoints: written aside, synced, renamed, so that the one before survives whatever happens."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import torch


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors and plain values) to `path`, or leave `path` as it was and say why.

    Raises:
        OSError: the disk is full or the folder cannot be written; the previous checkpoint is intact.
    """
    aside = path.with_name(path.name + ".part")
    packed = io.BytesIO()  # torch turns a failed write into a RuntimeError that no longer names the cause
    torch.save(state, packed)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(aside, "wb") as file:
            file.write(packed.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise OSError(
            f"checkpoint: {path.name} must be written whole, got: {_first_line(error)}; {_kept(path)}"
        ) from error


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote; nothing but tensors and plain values is ever unpickled.

    Raises:
        ValueError: torn, foreign or unreadable file.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may make the parsers raise anything
        raise ValueError(
            f"checkpoint: {path} must be a whole litfast checkpoint, got: {_first_line(error)}"
        ) from error
    if not isinstance(state, dict) or not isinstance(state.get("progress"), dict):
        raise ValueError(f"checkpoint: {path} must be a whole litfast checkpoint, got another program's file")
    return state


def _kept(path: Path) -> str:
    return "the previous one is kept" if path.exists() else "there is none before it"


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
