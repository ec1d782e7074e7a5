"""The table and the picture of several runs: every model, what is best, and names that can be read."""

from __future__ import annotations

import re
from io import StringIO
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from litfast.bench import picture_runs, report

from .conftest import row


def model(
    name: str, method: str, score: float | None, weights_bytes: int, before: float | None = None
) -> dict[str, Any]:
    sizes = {"depth": 20, "parameters": 269_722, "macs": 40_550_000, "weights_bytes": weights_bytes}
    said = {"name": name, "method": method, "model": "resnet20", "best": name == "deep"}
    return {**said, **sizes, "before": before, "score": score}


@pytest.fixture
def runs(document: dict[str, Any]) -> dict[str, Any]:
    """Six runs, three of them of one size, one latency and nearly one accuracy."""
    document["models"] = [
        model("teacher", "teacher", 92.6, 3_426_640),
        model("lit-1", "lit", 89.7, 1_084_752, 85.1),
        model("lit-2", "lit", 89.65, 1_084_752, 85.0),
        model("lit-3", "lit", 89.6, 1_084_752, 84.9),
        model("deep", "deep_compression", 89.2, 98_400, 88.0),
        model("scratch", "scratch", 65.9, 1_084_752),
    ]
    times = (4.36, 1.59, 1.60, 1.61, 1.6, 1.6)
    document["rows"] = [
        row(m["name"], "eager", batch, batch * t) | {"spread": 0.1}
        for batch in (1, 128)
        for m, t in zip(document["models"], times, strict=True)
    ]
    return document | {"metric": "accuracy", "judged": "1000 test images of cifar10"}


def printed(document: dict[str, Any]) -> str:
    console = Console(width=120, file=StringIO())
    with console.capture() as captured:
        console.print(report.runs(document))
    return captured.get()


def test_the_table_has_a_line_a_model_and_marks_the_best(runs: dict[str, Any]) -> None:
    lines = {line.split()[1]: line for line in printed(runs).splitlines() if "resnet20" in line}
    assert list(lines) == [model["name"] for model in runs["models"]]
    for value in (
        "deep *",
        "deep_compression",
        "0.27 M",
        "40.55 M",
        "96.1 KiB",
        "88.00 %",
        "89.20 %",
        "1.6 ",
    ):
        assert value in lines["deep"], value
    assert "*" not in lines["scratch"] and " - " in lines["scratch"]
    assert "latency (eager fp32)" in printed(runs) and "batch 128" in printed(runs)


def test_runs_that_know_no_score_before_have_no_such_column(runs: dict[str, Any]) -> None:
    assert "before the" in printed(runs)
    for known in runs["models"]:
        known["before"] = None
    assert "before the" not in printed(runs)


@pytest.fixture
def svg(tmp_path: Path) -> Any:
    """Draw, and return the SVG's text with every text as text."""
    matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed")

    def draw(document: dict[str, Any]) -> str:
        with matplotlib.rc_context({"svg.fonttype": "none"}):
            picture_runs.draw(document, tmp_path / "new" / "runs.svg")
        return (tmp_path / "new" / "runs.svg").read_text()

    return draw


def test_the_picture_names_every_model_once_a_panel_and_apart(svg: Any, runs: dict[str, Any]) -> None:
    text = svg(runs)
    texts = re.findall(r">([^<>]+)</text>", text)
    for name in ("lit-1", "lit-2", "lit-3", "deep"):
        assert texts.count(name) == 2
    assert texts.count("scratch") == texts.count("teacher") == 3  # and in the legend
    assert "median latency, ms (batch 1, eager fp32)" in texts and "weights on disk, MiB" in texts
    assert "test accuracy, % (higher is better)" in texts
    places = [(float(x), float(y)) for x, y in re.findall(r'x="([\d.]+)" y="([\d.]+)"[^>]*>lit-\d<', text)]
    for panel in (places[:3], places[3:]):  # of points that coincide
        for one, other in combinations(panel, 2):
            assert abs(one[1] - other[1]) > 8 or abs(one[0] - other[0]) > 20
    assert len(places) == 6


def test_a_model_without_score_or_time_is_left_out(svg: Any, runs: dict[str, Any]) -> None:
    runs["models"][0]["score"] = None
    runs["rows"][1]["p50_ms"] = None
    text = svg(runs | {"metric": "perplexity"})
    assert "test perplexity (lower is better)" in text
    assert text.count(">lit-1<") == 0 and text.count(">lit-2<") == 2
    for each in runs["models"]:
        each["score"] = None
    with pytest.raises(ValueError, match="models must hold one with a score and a latency, got none"):
        svg(runs)
