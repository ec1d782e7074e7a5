"""A report of finished runs: one page, and what it compared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from litfast import build

pytest.importorskip("matplotlib", reason="matplotlib is not installed (pip install 'litfast[bench]')")

Litfast = Callable[..., Result]


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """The finished run, free to be changed."""
    run = tmp_path / "run"
    shutil.copytree(finished, run, ignore=shutil.ignore_patterns("checkpoints", "tensorboard"))
    return run


def test_a_run_becomes_a_page_in_its_folder(copied: Path, litfast: Litfast) -> None:
    result = litfast("report", copied, "--count", 16, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["page"] == str(copied / "report.html")
    (run,) = document["runs"]
    assert run["compared"] == "16 test images"
    parts = {one["part"]: one for one in run["similarity"]}
    assert list(parts) == ["stem", "layer1", "layer2", "layer3", "output"]
    assert parts["stem"]["relative_error"] == 0  # copied from the teacher and frozen
    assert parts["layer3"]["relative_error"] > 0 and parts["layer3"]["cka"] <= 1
    text = (copied / "report.html").read_text()
    for said in ("lit: resnet14 → resnet8", "Loss in phase sections", "the loader&#39;s own", "config.toml"):
        assert said in text, said


def test_several_runs_share_a_page(
    finished: Path, copied: Path, litfast: Litfast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        raise ValueError("digits: the folder is gone")

    monkeypatch.setattr(build, "data", gone)
    results = json.loads((copied / "results.json").read_text())
    for pace in results["throughput"].values():
        pace |= {"loader_samples_per_s": None, "data_wait": 0.0}  # it never waited
    (copied / "results.json").write_text(json.dumps(results))
    out = tmp_path / "new" / "both.html"
    result = litfast("report", finished, copied, "--count", 4, "--out", out)
    assert result.exit_code == 0, result.output
    assert str(out) in result.stdout
    text = out.read_text()
    assert "<title>2 runs</title>" in text and "Accuracy against size" in text
    assert "4 random samples, unlike any that the models were trained on (no test samples: digits" in text


def test_test_samples_that_cannot_be_read_are_refused_where_asked_for(
    copied: Path, litfast: Litfast, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        raise ValueError("digits: the folder is gone")

    monkeypatch.setattr(build, "data", gone)
    result = litfast("report", copied, "--samples", "test")
    assert result.exit_code == 1 and "digits: the folder is gone" in result.stderr


def test_a_run_whose_results_are_cut_short_is_one_line(copied: Path, litfast: Litfast) -> None:
    (copied / "results.json").write_text("{}")
    result = litfast("report", copied)
    assert result.exit_code == 1, result.output
    assert "must hold whole results.json and model.json, got one without 'data'" in result.stderr


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["a", "--out", "a.pdf"], 2, "--out must end in .html, got 'a.pdf'"),
        (["a", "--samples", "train"], 2, "--samples must be one of auto, test, random, got 'train'"),
        (["a", "--count", "3"], 2, "--count must be at least 4, got 3"),
        (["a"], 1, "a must hold a run (run.json), got none"),
    ],
)
def test_bad_words_get_one_clear_line(words: list[str], code: int, line: str, litfast: Litfast) -> None:
    result = litfast("report", *words)
    assert result.exit_code == code, result.output
    assert line in result.stderr and result.stderr.count("\n") == 1
