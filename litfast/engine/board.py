"""TensorBoard's events, written at once: what has been written a killed run does not lose."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Board:
    """One file of events for every start of a run, in the order of the starts whatever the clock says.

    Args:
        folder: of the events, which may hold those of earlier starts.
        step: the last one of before; TensorBoard forgets what earlier starts wrote behind it.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, *, step: int) -> None:
        # a second to import: only a run needs it
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        before = [int(re.findall(r"\d+", path.name)[0]) for path in folder.glob("events.out.tfevents.[0-9]*")]
        self._file = (folder / f"events.out.tfevents.{max(before, default=0) + 1:010d}.litfast").open("xb")
        self._records, self._event = RecordWriter(self._file), Event
        self._write(file_version="brain.Event:2")
        self._write(step=step + 1, session_log=SessionLog(status=SessionLog.START))
        self._file.flush()

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """One event with a scalar for every name."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._write(step=step, summary=Summary(value=values))
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _write(self, **content: Any) -> None:
        self._records.write(self._event(wall_time=time.time(), **content).SerializeToString())
