"""The tables and the picture say what was measured, and no more."""

from __future__ import annotations

import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from litfast.bench import picture, report

from .conftest import row


def printed(thing: Any, width: int = 120) -> str:
    console = Console(width=width, file=StringIO())
    with console.capture() as captured:
        console.print(thing)
    return captured.get()


def line(text: str, *words: str) -> str:
    (found,) = [line for line in text.splitlines() if all(word in line for word in words)]
    return found


def test_the_summary_sets_teacher_against_student(document: dict[str, Any]) -> None:
    text = printed(report.summary(document), width=80)
    for label, *values in [
        ("depth", "56", "20", "2.80x"),
        ("parameters", "853,018", "269,722", "3.16x"),
        ("MACs a sample", "125.49 M", "40.55 M", "3.09x"),
        ("weights", "3.27 MiB", "1.03 MiB", "3.16x"),
        ("accuracy", "92.60 %", "90.35 %", "-2.25 points"),
        ("latency at batch 1,", "4.36", "1.59", "2.74x (2.47 to 3.01)"),
    ]:
        assert all(value in line(text, label) for value in values), label


def test_a_tie_is_called_a_tie(document: dict[str, Any]) -> None:
    for table in (report.summary(document), report.latencies(document)):
        text = printed(table)
        assert "tie (0.90 to 1.11)" in text
        assert "1.00x" not in text and "1.01x" not in text


def test_markdown_has_every_column_and_names_the_tie(document: dict[str, Any]) -> None:
    text = report.markdown(document)
    head = line(text, "| batch | mode |")
    assert "| p50 | p90 | p95 | p99 | mean | std | samples/s | peak memory | speed-up" in head
    assert "host p50" not in head and "mJ" not in head
    rows = [row.split(" | ") for row in text.splitlines() if row.startswith("| 128 | eager | fp32 | shallow")]
    assert len(rows) == 1 and rows[0][-1] == "tie (0.90 to 1.11) |"
    assert all(row.count("|") == head.count("|") for row in text.splitlines() if row.startswith("| 1"))
    assert "- no energy: there is no RAPL counter" in text


def test_a_gpu_has_columns_for_what_the_host_waited(document: dict[str, Any]) -> None:
    for each in document["rows"]:
        each["gpu_p50_ms"] = each["p50_ms"]
    assert "| host p50 | host p99 |" in report.markdown(document)


def test_a_document_of_an_older_version_is_shown_too(document: dict[str, Any]) -> None:
    new = ("p95_ms", "gpu_p50_ms", "host_p50_ms", "peak_memory_bytes", "joules_per_sample", "loads", "asked")
    for each in document["rows"]:
        for key in new:
            del each[key]
    for ratio in document["ratios"]:
        del ratio["loads"]
    assert "tie (0.90 to 1.11)" in printed(report.latencies(document))
    assert len(report.notes(document)) == 2


def test_many_models_have_a_short_title(document: dict[str, Any]) -> None:
    document["models"] = [document["models"][0] | {"name": f"m{at}"} for at in range(4)]
    assert "4 models" in printed(report.summary(document), width=120)


def test_an_unknown_accuracy_is_left_open(document: dict[str, Any]) -> None:
    document["models"][1]["accuracy"] = None
    shown = line(printed(report.summary(document)), "accuracy")
    assert "92.60 %" in shown and "points" not in shown
    document["models"][0]["accuracy"] = None
    assert "accuracy" not in printed(report.summary(document))


def test_a_language_model_has_a_perplexity(document: dict[str, Any]) -> None:
    for model, perplexity in zip(document["models"], (100.0, 112.5), strict=True):
        model |= {"accuracy": None, "perplexity": perplexity}
    shown = line(printed(report.summary(document)), "perplexity")
    assert [word in shown for word in ("100.00", "112.50", "+12.50 %")] == [True] * 3


def test_what_was_not_timed_has_a_dash_and_a_reason(document: dict[str, Any]) -> None:
    table = printed(report.latencies(document))
    assert line(table, "compile").split()[4:] == ["-"] * 7
    assert report.notes(document) == [
        "deep compile fp32 batch 1: no time: No working C++ compiler found",
        "shallow compile fp32 batch 1: no time: No working C++ compiler found",
    ]


def test_a_busy_machine_is_said_to_be_busy(document: dict[str, Any]) -> None:
    document["machine"]["load"] = 5.2
    assert report.notes(document)[-1].startswith("the machine was busy before (load 5.2, cores 2)")
    document["machine"]["load"] = None  # not known here
    assert not any("busy" in note for note in report.notes(document))


def test_everything_is_printed_to_the_given_console(document: dict[str, Any]) -> None:
    file = StringIO()
    report.show(document, Console(width=120, file=file))
    text = file.getvalue()
    assert "deep and shallow" in text and "Latency, ms" in text
    assert line(text, "deep compile fp32").endswith("No working C++ compiler found")
    assert f"2 threads, torch {document['machine']['torch']}" in text


@pytest.mark.parametrize("accuracies", [True, False])
def test_the_picture_is_a_png_with_something_in_it(
    document: dict[str, Any], tmp_path: Path, accuracies: bool
) -> None:
    image = pytest.importorskip("matplotlib.image", reason="matplotlib is not installed")
    for model in document["models"]:
        model["accuracy"] = model["accuracy"] if accuracies else None
    path = tmp_path / "new" / "latency.png"
    picture.draw(document, path)
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    pixels = image.imread(path)
    assert pixels.shape[0] > 300 and pixels.shape[1] > 800
    for colour in picture.COLOURS[:2]:  # both models are there
        wanted = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        assert (abs(pixels[..., :3] - wanted).max(-1) < 0.01).sum() > 50


def test_a_sweep_of_batches_and_a_slow_spell_fit_into_the_picture(
    document: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    document["rows"] = [
        row(name, mode, batch, float(batch))
        for batch in (1, 2, 4, 8)
        for mode in ("eager", "compile")
        for name in ("deep", "shallow")
    ]
    document["rows"][0]["p90_ms"] = 1e4
    document["models"][0]["accuracy"] = document["models"][1]["accuracy"] = None
    picture.draw(document, tmp_path / "sweep.svg")
    text = (tmp_path / "sweep.svg").read_text()
    assert all(f"batch {batch}" in text for batch in (1, 2, 4, 8))
    assert "p90 10,000" in text


@pytest.mark.parametrize(
    ("read", "said"),
    [
        ({"shape": [3, 32, 32], "alphabet": None}, "input 3 x 32 x 32; "),
        ({"shape": [1014], "alphabet": 69}, "input 1014 ids; "),
    ],
)
def test_the_picture_says_what_the_models_read(
    read: dict[str, Any], said: str, document: dict[str, Any], tmp_path: Path
) -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    document["input"] = read
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        picture.draw(document, tmp_path / "read.svg")
    assert said in (tmp_path / "read.svg").read_text()


def test_a_model_that_has_no_time_at_one_batch_is_left_out_there(
    document: dict[str, Any], tmp_path: Path
) -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    document["rows"][0] = row("deep", "eager", 1, None, "no memory")
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        picture.draw(document, tmp_path / "points.svg")
        document["models"][0]["accuracy"] = None
        picture.draw(document, tmp_path / "bars.svg")
    assert ">deep</text>" in (tmp_path / "points.svg").read_text()
    assert ">deep</text>" in (tmp_path / "bars.svg").read_text()  # the legend is of all panels


def test_nothing_measured_gives_no_picture(document: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    document["rows"] = [row("deep", "eager", 1, None, "no memory")]
    with pytest.raises(ValueError, match="picture: rows must hold at least one measured latency, got none"):
        picture.draw(document, tmp_path / "p.png")
    assert not (tmp_path / "p.png").exists()


def test_without_matplotlib_one_line_says_how_to_get_it(
    document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(
        ModuleNotFoundError, match=r'matplotlib must be installed, got none; pip install "litfast\[bench\]"'
    ):
        picture.draw(document, tmp_path / "p.png")
