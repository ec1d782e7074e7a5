"""Metrics gathered on the device and read once in a while; written to metrics.jsonl and TensorBoard."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, TypeVar

import torch
from torch import Tensor

from litfast.engine.board import Board
from litfast.engine.ranks import ALONE, Ranks

T = TypeVar("T")


class Window:
    """Metrics of the steps since the last read, kept on the device."""

    def __init__(self) -> None:
        self._steps: list[tuple[int, dict[str, Tensor]]] = []

    def add(self, step: int, metrics: dict[str, Tensor]) -> None:
        self._steps.append((step, metrics))

    def read(self, ranks: Ranks = ALONE) -> dict[str, list[tuple[int, float]]]:
        """Every metric's (step, value) pairs, the means over ranks, fetched in one copy; an empty window."""
        keys = [(step, name) for step, metrics in self._steps for name in metrics]
        values = [value.double() for _, metrics in self._steps for value in metrics.values()]
        self._steps = []
        row = torch.stack(values) if values else torch.empty(0)
        ranks.mean([row])
        numbers = row.tolist()
        series: dict[str, list[tuple[int, float]]] = {}
        for (step, name), number in zip(keys, numbers, strict=True):
            series.setdefault(name, []).append((step, number))
        return series


class Ring:
    """Metrics of the last `rows` steps, written on the device: a captured step can write, nobody waits.

    `write` is device work and belongs into the capture; `take` follows on the host which row came last.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._names: list[str] = []
        self._buffer = torch.empty(0)
        self._position = torch.empty(0)
        self._next = 0

    def write(self, metrics: Mapping[str, Tensor]) -> None:
        row = torch.stack([value.double() for value in metrics.values()])
        if not self._names:  # the first time, before any capture
            self._names = list(metrics)
            self._buffer = row.new_zeros(self._rows, len(metrics))
            self._position = torch.zeros(1, dtype=torch.int64, device=row.device)
        self._buffer.index_copy_(0, self._position, row[None])
        self._position.add_(1).remainder_(self._rows)

    def take(self) -> dict[str, Tensor]:
        """What the last `write` wrote, as views of its row."""
        row = self._buffer[self._next]
        self._next = (self._next + 1) % self._rows
        return dict(zip(self._names, row.unbind(), strict=True))

    def rewind(self) -> None:
        """Start again at the first row."""
        self._position.zero_()
        self._next = 0


class Sums:
    """Running sums of an epoch's metrics; plain numbers, so that a checkpoint can hold them."""

    def __init__(self, state: Mapping[str, list[float]] | None = None) -> None:
        self.state = {name: list(pair) for name, pair in (state or {}).items()}

    def add(self, series: Mapping[str, list[tuple[int, float]]]) -> None:
        for name, pairs in series.items():
            total = self.state.setdefault(name, [0.0, 0.0])
            for _, value in pairs:
                total[0] += value
                total[1] += 1

    def means(self, batch: int) -> dict[str, float]:
        """Mean over steps; `correct` counts become `accuracy` in percent of `batch` samples a step."""
        means = {name: total / count for name, (total, count) in self.state.items()}
        return {
            name.replace("correct", "accuracy"): 100 * mean / batch if name.endswith("correct") else mean
            for name, mean in means.items()
        }


class Clock:
    """Seconds of an epoch, and how many of them went by in waiting for the loader."""

    def __init__(self, batch: int) -> None:
        self._batch, self._batches, self._waited = batch, 0, 0.0
        self._started = time.perf_counter()

    def timed(self, batches: Iterator[T]) -> Iterator[T]:
        """The batches; the time in the loader counts as waiting, device work that it queued does not."""
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            self._waited += time.perf_counter() - asked
            if batch is None:
                return
            self._batches += 1
            yield batch

    def read(self) -> dict[str, float]:
        """Throughput and the share of waiting so far."""
        seconds = time.perf_counter() - self._started
        return {
            "samples_per_s": self._batches * self._batch / seconds,
            "data_wait": self._waited / seconds,
        }


class Journal:
    """metrics.jsonl and TensorBoard events; resuming cuts at `offset` what came after the checkpoint."""

    def __init__(self, folder: Path | None, *, offset: int = 0, step: int = 0) -> None:
        self._file: IO[bytes] | None = None
        self._board: Board | None = None
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / "metrics.jsonl").open("ab")
        self._file.truncate(offset)
        self._file.seek(offset)  # appending opens at the old end, which `offset` would report
        self._board = Board(folder / "tensorboard", step=step)

    @property
    def offset(self) -> int:
        if self._file is None:
            return 0
        self._file.flush()
        return self._file.tell()

    def write(self, step: int, row: Mapping[str, Any]) -> None:
        """Both can be read from here on, also when the process is killed.

        Raises:
            OSError: no room, or the folder cannot be written.
        """
        if self._file is None or self._board is None:
            return
        phase = row.get("phase", "")
        scalars = {f"{phase}/{name}": value for name, value in row.items() if isinstance(value, float)}
        try:
            self._file.write(json.dumps({"step": step, **row}).encode() + b"\n")
            self._file.flush()
            self._board.write(step, scalars)
        except OSError as error:
            said = f"got: {error}; the last checkpoint is kept"
            raise OSError(f"train: metrics of step {step} must be written, {said}") from error

    def close(self) -> None:
        if self._file is not None and self._board is not None:
            with suppress(OSError):  # what there was no room for has been said
                self._file.close()
            with suppress(OSError):
                self._board.close()
