"""Metrics gathered on the device and read once in a while; written to metrics.jsonl and TensorBoard."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, TypeVar

import torch
from torch import Tensor

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


def first_non_finite(series: Mapping[str, list[tuple[int, float]]]) -> tuple[int, str] | None:
    """The earliest step whose loss is not finite, and its metric's name."""
    bad = [
        (step, name) for name, pairs in series.items() for step, value in pairs if not math.isfinite(value)
    ]
    return min(bad, default=None)


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
        self._board: Any = None
        if folder is None:
            return
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import: only a run needs it

        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / "metrics.jsonl").open("ab")
        self._file.truncate(offset)
        self._file.seek(offset)  # appending opens at the old end, which `offset` would report
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step)

    @property
    def offset(self) -> int:
        if self._file is None:
            return 0
        self._file.flush()
        return self._file.tell()

    def write(self, step: int, row: Mapping[str, Any]) -> None:
        if self._file is None:
            return
        self._file.write(json.dumps({"step": step, **row}).encode() + b"\n")
        self._file.flush()
        phase = row.get("phase", "")
        for name, value in row.items():
            if isinstance(value, float):
                self._board.add_scalar(f"{phase}/{name}", value, step)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._board.close()
