from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from litfast.bench import cells, picture_cells

RESULTS: dict[str, Any] = {
    "test_accuracy": {"teacher": 99.0, "student": 91.5},
    "phases": {"sections": {"best": 80.0, "last": 79.0}, "finetune": {"best": 93.0, "last": 92.0}},
    "seconds": {"teacher": 100.0, "sections": 20.0, "finetune": 5.5},
}


def test_a_figure_is_named_with_its_split() -> None:
    assert cells.figures(RESULTS) == {"test accuracy, %": 91.5, "validation accuracy, %": 92.0}
    assert cells.figures(RESULTS, "best")["validation accuracy, %"] == 93.0
    nothing_held_out = RESULTS | {"phases": {"finetune": {"best": None, "last": None}}}
    assert cells.figures(nothing_held_out) == {"test accuracy, %": 91.5}


def test_a_language_model_has_a_perplexity_in_its_place() -> None:
    words = {"test_perplexity": {"teacher": 90.0, "student": 99.5}, "phases": RESULTS["phases"]}
    assert cells.figures(words) == {"test perplexity": 99.5, "validation perplexity": 92.0}


def test_scores_stand_in_for_an_accuracy() -> None:
    scored = {"scores": {"teacher": {"fid": 6.4}, "student": {"fid": 5.84, "grid": "grid.png"}}, "phases": {}}
    assert cells.figures(scored) == {"test fid": 5.84}


def test_the_teachers_training_is_not_a_runs_own_time() -> None:
    assert cells.seconds(RESULTS) == 25.5


def test_a_spread_is_mean_and_sample_deviation() -> None:
    found = cells.spread([1.0, 2.0, 6.0])
    assert found["mean"] == 3.0 and found["std"] == pytest.approx(7**0.5)
    assert cells.text(found) == "3.00 ± 2.65" and cells.text(cells.spread([4.0])) == "4.00"
    assert (cells.duration(9.96), cells.duration(12.3)) == ("10.0", "12")


def test_the_picture_shows_every_cell_that_has_a_run(tmp_path: Path) -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    shown = [
        {"name": "beta=0", "figures": {"test accuracy, %": cells.spread([90.0, 92.0])}},
        {"name": "beta=1", "figures": {}},
        {"name": "beta=0.5", "figures": {"test accuracy, %": cells.spread([91.0])}},
    ]
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        picture_cells.draw(shown, tmp_path / "new" / "sweep.svg", title="digits")
    text = (tmp_path / "new" / "sweep.svg").read_text()
    assert all(word in text for word in ("digits", "beta=0", "beta=0.5", "test accuracy, %"))
    assert "beta=1" not in text


def test_nothing_finished_gives_no_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    with pytest.raises(ValueError, match="cells must hold at least one finished run, got none"):
        picture_cells.draw([{"name": "a", "figures": {}}], tmp_path / "p.png", title="")
