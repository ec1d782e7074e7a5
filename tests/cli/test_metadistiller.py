"""A run of MetaDistiller from the command line: trained, saved without heads, evaluated, and refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file
from typer.testing import Result

from litfast.models import create, parameters

Litfast = Callable[..., Result]
RECIPE = """
[data]
name = "synthetic"
options = {size = 8, train = 64, val = 16, test = 16}
batch = 16
[student]
model = "resnext20"
blocks = [1, 1, 1]
options = {width = 4, cardinality = 2}
[method]
name = "metadistiller"
every = 2
weights = [0.5, 1]
[train]
epochs = 1
lr = 0.05
[engine]
precision = "fp32"
mode = "eager"
threads = 1
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(RECIPE)
    return path


def test_a_run_leaves_a_student_of_the_backbones_size(
    small: Path, hasty: None, litfast: Litfast, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    result = litfast("train", small, "--out", run)
    assert result.exit_code == 0, result.output
    backbone = create(**json.loads((run / "model.json").read_text())["model"])
    saved = load_file(run / "student.safetensors")
    assert saved.keys() == backbone.state_dict().keys()
    found = json.loads((run / "results.json").read_text())
    assert list(found["phases"]) == ["train"] and "student" in found["test_accuracy"]
    assert [m["parameters"] for m in found["models"]] == [parameters(backbone)]
    judged = litfast("eval", run, "--json")
    assert judged.exit_code == 0, judged.output


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("method.every=0", "metadistiller: every must be at least 1, got 0"),
        ("method.weights=[1]", "metadistiller: weights must hold one number of 0 or more"),
        ("method.input=3", "method.* of method 'metadistiller' must be one of "),
        ("student.model=stargan1", "method 'metadistiller' must have a classifier, got 'stargan1'"),
    ],
)
def test_a_mistake_gets_one_line_and_no_folder(
    word: str, line: str, small: Path, litfast: Litfast, tmp_path: Path
) -> None:
    result = litfast("train", small, "--set", word, "--out", tmp_path / "run")
    assert result.exit_code in (1, 2) and result.stderr.count("\n") == 1, result.output
    assert line in result.stderr and not (tmp_path / "run").exists()
