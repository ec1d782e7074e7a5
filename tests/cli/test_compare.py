"""Several runs in one table: the teacher once, latencies of now, and nothing that cannot be compared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from litfast import build
from litfast.cli import _runs
from litfast.models import create

Litfast = Callable[..., Result]
QUICK = ("--batch", "2", "--seconds", "0.01")


@pytest.fixture
def other(finished: Path, tmp_path: Path) -> Path:
    """A second run of the same teacher, whose student has other weights."""
    from safetensors.torch import load_file, save_file

    run = tmp_path / "other"
    shutil.copytree(finished, run, ignore=shutil.ignore_patterns("checkpoints", "tensorboard"))
    weights = load_file(run / "student.safetensors")
    save_file({key: value + 1 for key, value in weights.items()}, run / "student.safetensors")
    return run


def change(run: Path, name: str, **values: Any) -> None:
    document = json.loads((run / name).read_text())
    (run / name).write_text(json.dumps(document | values))


def test_a_run_knows_its_scores_before_and_after_every_phase(finished: Path, litfast: Litfast) -> None:
    results = json.loads((finished / "results.json").read_text())
    by_phase = results["test_by_phase"]
    assert list(by_phase) == ["teacher", "sections", "finetune"]
    assert by_phase["teacher"]["after"]["accuracy"] == results["test_accuracy"]["teacher"]
    assert by_phase["finetune"]["before"] == by_phase["sections"]["after"]
    assert by_phase["finetune"]["after"]["accuracy"] == results["test_accuracy"]["student"]
    shown = by_phase["finetune"]["before"]["accuracy"]
    assert f"before and after phase finetune | {shown:.2f} %, " in (finished / "README.md").read_text()


def test_runs_stand_in_one_table_with_their_teacher_once(
    finished: Path, other: Path, litfast: Litfast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "data", None)  # the samples themselves are not needed
    result = litfast("compare", finished, other, *QUICK, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    models = document["models"]
    assert [model["name"] for model in models] == ["teacher", "finished", "other"]
    assert [model["method"] for model in models] == ["teacher", "lit", "lit"]
    assert [model["model"] for model in models] == ["resnet14", "resnet8", "resnet8"]
    assert [model["weights_bytes"] for model in models] == [
        (finished / f"{name}.safetensors").stat().st_size for name in ("teacher", "student", "student")
    ]
    results = json.loads((finished / "results.json").read_text())
    assert models[1]["score"] == results["test_accuracy"]["student"]
    assert models[1]["before"] == results["test_by_phase"]["finetune"]["before"]["accuracy"]
    assert models[0]["before"] is None
    assert document["metric"] == "accuracy" and document["judged"] == "64 test images of synthetic"
    assert {row["contender"] for row in document["rows"]} == {"teacher", "finished", "other"}
    assert all(row["gate"] and row["batch"] == 2 for row in document["rows"])
    assert any(model["best"] for model in models)


def test_a_teacher_that_is_one_of_the_runs_has_no_line_of_its_own(
    finished: Path, other: Path, litfast: Litfast
) -> None:
    shutil.copy(finished / "teacher.safetensors", other / "student.safetensors")
    spec = create("resnet14", classes=4).spec
    change(other, "model.json", model=spec)
    result = litfast("compare", other, finished, *QUICK, "--json")
    assert [m["name"] for m in json.loads(result.stdout)["models"]] == ["other", "finished"]


def test_the_bytes_are_those_of_a_packed_file_where_there_is_one(finished: Path, other: Path) -> None:
    plain = _runs.finished(other).weights_bytes
    assert plain == _runs.finished(finished).weights_bytes
    (other / "student.lfc").write_bytes(b"packed")
    assert _runs.finished(other).weights_bytes == plain | {"student": 6}


def test_the_table_the_picture_and_its_record_are_written(
    finished: Path, other: Path, litfast: Litfast, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    out = tmp_path / "new" / "runs.svg"
    result = litfast("compare", finished, other, *QUICK, "--out", out)
    assert result.exit_code == 0, result.output
    assert "3 models by accuracy" in result.stdout and "resnet14" in result.stdout
    assert "accuracy is of 64 test images of synthetic" in result.stdout
    assert out.read_text().startswith("<?xml")
    record = json.loads(out.with_suffix(".json").read_text())
    assert [model["name"] for model in record["results"]["models"]] == ["teacher", "finished", "other"]


def unfinished(run: Path) -> None:
    change(run, "run.json", status="running")


def other_data(run: Path) -> None:
    change(run, "results.json", data="digits")


def other_split(run: Path) -> None:
    change(run, "results.json", samples={"train": 256, "test": 32})


def generator(run: Path) -> None:
    change(run, "results.json", test_accuracy=None, scores={"student": {"fid": 1.0, "extractor": "x"}})


def options(run: Path) -> None:
    text = (run / "config.toml").read_text()
    (run / "config.toml").write_text(text.replace("[data.options]", "[data.options]\nseed = 1"))


def torn(run: Path) -> None:
    (run / "student.safetensors").write_bytes(b"torn")


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (unfinished, "other must be finished, got one that is running"),
        (other_data, "must be judged by the same test samples, got data synthetic ("),
        (other_split, "must be judged by the same test samples, got test samples 64 ("),
        (generator, "must be judged by the same test samples, got metric accuracy ("),
        (options, "must be judged by the same test samples, got data.options {} ("),
        (torn, "must be a complete checkpoint of plain tensors, got 4 bytes"),
    ],
)
def test_a_run_that_cannot_be_compared_is_refused_in_one_line(
    spoil: Callable[[Path], None], line: str, finished: Path, other: Path, litfast: Litfast
) -> None:
    spoil(other)
    result = litfast("compare", finished, other, *QUICK)
    assert result.exit_code == 1, result.output
    assert line in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["a"], 2, "two runs or more must be given, got 1"),
        (["a", "./a"], 2, "runs must differ, got a twice"),
        (["a", "b"], 1, "a must hold a run (run.json), got none"),
        (["a", "b", "--out", "c.jpg"], 2, "--out must end in .png, .svg, .pdf, got 'c.jpg'"),
        (["a", "b", "--batch", "one"], 2, "--batch must be whole numbers separated by ',', got 'one'"),
    ],
)
def test_bad_words_get_one_clear_line(words: list[str], code: int, line: str, litfast: Litfast) -> None:
    result = litfast("compare", *words)
    assert result.exit_code == code, result.output
    assert line in result.stderr and result.stderr.count("\n") == 1


def test_runs_of_one_name_are_told_apart_by_their_folders(
    finished: Path, other: Path, litfast: Litfast, tmp_path: Path
) -> None:
    twin = tmp_path / "more" / "other"
    shutil.copytree(other, twin)
    result = litfast("compare", other, twin, *QUICK, "--json")
    assert [m["name"] for m in json.loads(result.stdout)["models"]][1:] == [
        f"{tmp_path.name}/other",
        "more/other",
    ]


def test_help_answers(litfast: Litfast) -> None:
    assert "RUN RUN" in litfast("compare", "--help").stdout
