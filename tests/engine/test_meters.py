from __future__ import annotations

import json
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from litfast.engine.meters import Journal, Ring, Sums, Window


def test_a_window_gives_every_value_with_its_step_and_is_empty_afterwards() -> None:
    window = Window()
    window.add(3, {"a.loss": torch.tensor(0.5), "a.correct": torch.tensor(7)})
    window.add(4, {"a.loss": torch.tensor(0.25, dtype=torch.float64), "b.loss": torch.tensor(1.0)})
    assert window.read() == {"a.loss": [(3, 0.5), (4, 0.25)], "a.correct": [(3, 7.0)], "b.loss": [(4, 1.0)]}
    assert window.read() == {}


def test_a_ring_gives_each_steps_metrics_until_it_has_gone_around() -> None:
    ring, window = Ring(3), Window()
    for step in range(8):
        ring.write({"a.loss": torch.tensor(step / 8), "a.correct": torch.tensor(step)})
        window.add(step, ring.take())
        if step % 3 == 2 or step == 7:
            first = step - step % 3
            steps = range(first, step + 1)
            read = {"a.loss": [(s, s / 8) for s in steps], "a.correct": [(s, float(s)) for s in steps]}
            assert window.read() == read


def test_a_rewound_ring_starts_at_its_first_row_again() -> None:
    ring = Ring(3)
    ring.write({"a": torch.tensor(1.0)})
    ring.write({"a": torch.tensor(2.0)})
    ring.rewind()
    ring.write({"a": torch.tensor(3.0)})
    assert ring.take() == {"a": 3.0}


def test_sums_are_means_over_the_steps_that_had_the_metric_and_counts_become_percent() -> None:
    sums = Sums()
    sums.add({"a.loss": [(0, 1.0), (1, 2.0)], "a.correct": [(0, 8.0), (1, 4.0)]})
    sums.add({"a.loss": [(2, 6.0)]})
    assert sums.means(batch=16) == {"a.loss": 3.0, "a.accuracy": 37.5}


def test_sums_carry_on_from_their_state_to_the_bit() -> None:
    values = [(step, 1.0 / (step + 3)) for step in range(40)]
    whole, first = Sums(), Sums()
    whole.add({"x": values})
    first.add({"x": values[:13]})
    second = Sums(json.loads(json.dumps(first.state)))
    second.add({"x": values[13:]})
    assert second.means(1) == whole.means(1)


def test_a_journal_writes_a_row_and_an_event_each(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.write(8, {"phase": "sections", "epoch": 1, "loss": 0.5})
    journal.write(16, {"phase": "sections", "epoch": 2, "loss": 0.25})
    journal.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [
        {"step": 8, "phase": "sections", "epoch": 1, "loss": 0.5},
        {"step": 16, "phase": "sections", "epoch": 2, "loss": 0.25},
    ]
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    scalars = [(event.step, event.value) for event in events.Scalars("sections/loss")]
    assert scalars == [(8, 0.5), (16, 0.25)]


def test_a_journal_reopened_at_an_offset_forgets_what_came_after_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.write(1, {"phase": "a"})
    offset = journal.offset
    journal.write(2, {"phase": "lost"})
    journal.close()
    again = Journal(tmp_path, offset=offset, step=1)
    assert again.offset == offset  # before anything new is written
    again.write(2, {"phase": "b"})
    assert again.offset == (tmp_path / "metrics.jsonl").stat().st_size
    again.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["phase"] for row in rows] == ["a", "b"]


def test_a_new_journal_starts_empty(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("of another run\n")
    journal = Journal(tmp_path)
    assert journal.offset == 0
    journal.close()
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_without_a_folder_a_journal_keeps_nothing() -> None:
    journal = Journal(None)
    journal.write(1, {"phase": "a", "loss": 1.0})
    assert journal.offset == 0
    journal.close()
