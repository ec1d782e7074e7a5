"""What TensorBoard shows of a run while it runs, and after it was killed and resumed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from litfast.engine.board import Board


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in EventAccumulator(str(folder)).Reload().Scalars(name)]


def test_events_are_readable_while_the_run_writes(tmp_path: Path) -> None:
    board = Board(tmp_path, step=0)
    for step in (4, 8):
        board.write(step, {"play/loss": 1 / step, "play/accuracy": 50.0})
        assert scalars(tmp_path, "play/loss")[-1] == (step, 1 / step)
    assert scalars(tmp_path, "play/accuracy") == [(4, 50.0), (8, 50.0)]
    board.close()


def test_a_resumed_run_goes_on_where_its_checkpoint_was_whatever_the_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for start, steps in ((0, (4, 8, 12)), (8, (12, 16)), (16, (20,))):
        now = 2e9 - 1e8 * start  # a clock that is put back between the starts
        monkeypatch.setattr(time, "time", lambda now=now: now)
        board = Board(tmp_path, step=start)
        for step in steps:
            board.write(step, {"loss": float(step + start)})
        board.close()
    assert scalars(tmp_path, "loss") == [(4, 4.0), (8, 8.0), (12, 20.0), (16, 24.0), (20, 36.0)]


def test_events_of_an_older_writer_come_before(tmp_path: Path) -> None:
    (tmp_path / "events.out.tfevents.1795318292.vm.6305.44").touch()
    Board(tmp_path, step=0).close()
    assert sorted(path.name for path in tmp_path.iterdir())[-1] == "events.out.tfevents.1795318293.litfast"
