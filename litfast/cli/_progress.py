"""Progress of a training: bars on a terminal, plain lines elsewhere; both on stderr."""

from __future__ import annotations

import time

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from litfast.cli._console import err, say
from litfast.engine import Report

LINE_EVERY_S = 10.0


class Display:
    """One bar a phase where somebody watches; otherwise a line a phase, and one every ten seconds in it."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description:<10}"),
            BarColumn(),
            TextColumn("epoch {task.fields[epoch]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._bars = Progress(*columns, console=err) if err.is_terminal else None
        self._task: tuple[int, TaskID] | None = None
        self._spoke = time.monotonic()

    def __enter__(self) -> Display:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars:
            self._bars.stop()

    def show(self, report: Report) -> None:
        if self._bars:
            self._move(self._bars, report)
        elif report.kind == "phase" or (
            report.kind == "epoch" and time.monotonic() - self._spoke > LINE_EVERY_S
        ):
            line = f"{report.phase:<10} epoch {report.epoch}/{report.epochs}  {note(report)}"
            say(line, err)
            self._spoke = time.monotonic()

    def _move(self, bars: Progress, report: Report) -> None:
        if self._task is None or self._task[0] != report.index:
            total = report.epochs * report.steps
            self._task = report.index, bars.add_task(report.phase, total=total, epoch="", note="")
        epoch = f"{min(report.epoch + (report.step > 0), report.epochs)}/{report.epochs}"
        bars.update(self._task[1], completed=report.epoch * report.steps + report.step, epoch=epoch)
        if text := note(report):
            bars.update(self._task[1], note=text)


def note(report: Report) -> str:
    """The few figures worth a glance."""
    if report.restored:
        return "loaded from its checkpoint"
    parts = [
        f"{name} {value:.4g}"
        for name, value in report.metrics.items()
        if name.endswith((".loss", ".accuracy"))
    ]
    if report.samples_per_s:
        parts.append(f"{report.samples_per_s:.0f} samples/s, {100 * report.data_wait:.0f} % waiting for data")
    if report.val is not None:
        perplexity = report.val.perplexity
        parts.append(
            f"val {report.val.accuracy:.2f} %" if perplexity is None else f"val perplexity {perplexity:.2f}"
        )
    return "  ".join(parts)
