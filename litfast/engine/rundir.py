"""What a run leaves behind, and who may write there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w
from torch import nn

from litfast import config
from litfast.engine import durable, lock

NEEDED = {"model.json": {"model": dict, "input": dict, "classes": list}}  # what readers count on, by file
MARK = "run.json"  # a folder without it is not ours, and is never written into or deleted


class RunDirectory:
    """A run's folder.

    config.toml            the resolved recipe: `litfast train DIR/config.toml` runs it again
    run.json               status, command, seed, versions and machine
    metrics.jsonl          one row an epoch; tensorboard/ holds the same as events
    checkpoints/           resumable
    student.safetensors    plain keys, no teacher inside; model.json says how to build and feed it
    student.lfc            of deep compression: the same weights, Huffman coded
    results.json, README.md   what came out, for machines and for people
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, path: str | Path, *, overwrite: bool = False) -> RunDirectory:
        """A folder for a new run; an earlier run in it is only replaced when asked."""
        run = cls(path)
        if run.path.exists() and not run.path.is_dir():
            raise ValueError(f"run: {path} must be a folder, got a file")
        if run.path.is_dir() and run._holds_files:
            if not run._is_ours:
                raise ValueError(
                    f"run: {path} must be empty or hold a run, got a folder with other files in it"
                )
            if not overwrite:
                state = "a finished run; pass --overwrite to replace it"
                if run.status != "finished":
                    state = "an unfinished run; pass --resume to continue it or --overwrite to start anew"
                raise ValueError(f"run: {path} must be free, got {state}")
            run._clear()
        run.path.mkdir(parents=True, exist_ok=True)
        return run

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """An existing run."""
        run = cls(path)
        if not (run.path / MARK).exists():
            raise ValueError(f"run: {path} must hold a run ({MARK}), got none")
        return run

    def _clear(self) -> None:
        """Remove all of an earlier run, unless a process is still at work on it."""
        with lock.held(self.path):
            for file in self.path.iterdir():
                if file.is_dir() and not file.is_symlink():
                    shutil.rmtree(file)
                elif file.name != lock.NAME:
                    file.unlink()

    @property
    def _holds_files(self) -> bool:
        return any(file.name != lock.NAME for file in self.path.iterdir())

    @property
    def _is_ours(self) -> bool:
        return (self.path / MARK).exists() and "litfast" in self.read(MARK)

    @property
    def status(self) -> str:
        return str(self.read(MARK).get("status"))

    def config(self) -> dict[str, Any]:
        return config.read(self.path / "config.toml")

    def read(self, name: str) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads((self.path / name).read_text())
        except FileNotFoundError:
            raise ValueError(
                f"run: {self.path} must hold {name}, got no such file; is the run finished?"
            ) from None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"run: {self.path / name} must be valid JSON, got: {error}") from None
        if not isinstance(content, dict):
            raise ValueError(f"run: {self.path / name} must be a table, got a {type(content).__name__}")
        for key, kind in NEEDED.get(name, {}).items():
            if not isinstance(content.get(key), kind):
                rule = f"hold {key!r} of type {kind.__name__}"
                raise ValueError(f"run: {self.path / name} must {rule}, got {content.get(key)!r}")
        return content

    def rows(self) -> list[dict[str, Any]]:
        """The journal: one row an epoch, in the order of training."""
        file = self.path / "metrics.jsonl"
        try:
            rows = [json.loads(line) for line in file.read_text().splitlines()]
        except (ValueError, RecursionError) as error:
            raise ValueError(f"run: {file} must hold JSON in every line, got: {error}") from None
        if not all(isinstance(row, dict) for row in rows):
            raise ValueError(f"run: {file} must hold a table in every line, got other values")
        return rows

    def write_config(self, table: Mapping[str, Any]) -> None:
        self._write("config.toml", tomli_w.dumps(dict(table)))

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        self._write(name, json.dumps(content, indent=2) + "\n")

    def write_text(self, name: str, text: str) -> None:
        self._write(name, text)

    def write_weights(self, name: str, model: nn.Module) -> int:
        """The model's own parameters and buffers under plain keys; returns the bytes on disk."""
        from safetensors.torch import save

        content = save({key: value.contiguous() for key, value in model.state_dict().items()})
        durable.write(self.path / name, content)
        return len(content)

    def _write(self, name: str, text: str) -> None:
        durable.write(self.path / name, text.encode())


def next_free(folder: Path, stem: str) -> Path:
    """`folder/stem-1`, or the first number that is not taken."""
    number = 1
    while (folder / f"{stem}-{number}").exists():
        number += 1
    return folder / f"{stem}-{number}"


def latest_unfinished(folder: Path, stem: str) -> Path:
    """The newest run of `stem` in `folder` that can be resumed."""
    marks = [mark for mark in folder.glob(f"*/{MARK}") if _numbered(mark.parent.name, stem)]
    runs = [RunDirectory(mark.parent) for mark in marks]
    open_runs = [run for run in runs if run.status != "finished"]
    if not open_runs:
        raise ValueError(f"run: {folder} must hold an unfinished {stem} run to resume, got none")
    return max(open_runs, key=lambda run: (run.path / MARK).stat().st_mtime).path


def _numbered(name: str, stem: str) -> bool:
    return name.startswith(f"{stem}-") and name.removeprefix(f"{stem}-").isdigit()
