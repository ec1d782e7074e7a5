"""A run whose student becomes narrower: trained, evaluated and timed from its folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from typer.testing import Result

from litfast.models import create

Litfast = Callable[..., Result]
RECIPE = """
[data]
name = "synthetic"
batch = 32
options = {size = 8, train = 96, val = 16, test = 32}
[teacher]
model = "resnet8"
[teacher.train]
epochs = 1
lr = 0.05
[student]
model = "resnet8"
[method]
name = "slimming"
removed = 0.25
strength = 1e-3
[sparse]
epochs = 1
lr = 0.05
[finetune]
epochs = 1
lr = 0.01
[engine]
precision = "fp32"
mode = "eager"
threads = 1
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "slim.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def slim(recipe: Path, hasty: None, litfast: Litfast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "slim"
    result = litfast("train", recipe, "--out", out)
    assert result.exit_code == 0, result.output
    return out


def read(run: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / name).read_text())
    return found


def test_the_folder_holds_a_smaller_student_that_its_spec_makes_again(slim: Path) -> None:
    spec = read(slim, "model.json")["model"]
    assert sum(spec["inner"]) == (16 + 32 + 64) * 3 // 4
    weights = load_file(slim / "student.safetensors")
    create(**spec).load_state_dict(weights)
    sizes = {row["name"]: row for row in read(slim, "results.json")["models"]}
    assert sizes["student"]["parameters"] < sizes["teacher"]["parameters"]
    assert sizes["student"]["macs"] < sizes["teacher"]["macs"]


def test_eval_and_bench_take_the_student_as_training_left_it(slim: Path, litfast: Litfast) -> None:
    judged = litfast("eval", slim, "--json")
    assert judged.exit_code == 0, judged.output
    assert json.loads(judged.stdout)["accuracy"] == read(slim, "results.json")["test_accuracy"]["student"]
    quick = ("--batch", 1, "--mode", "eager", "--precision", "fp32", "--seconds", 0.01)
    timed = litfast("bench", slim, *quick, "--json")
    assert timed.exit_code == 0, timed.output
    before, again = read(slim, "results.json"), json.loads(timed.stdout)
    for results in (before, again):
        results["sizes"] = {row["name"]: row["parameters"] for row in results["models"]}
    assert again["sizes"] == before["sizes"]


def test_a_fraction_that_empties_a_layer_is_one_line_and_leaves_no_folder(
    slim: Path, litfast: Litfast, tmp_path: Path
) -> None:
    recipe = tmp_path / "hard.toml"
    teacher = f'weights = "{slim / "teacher.safetensors"}"'
    trained = "[teacher.train]\nepochs = 1\nlr = 0.05"
    text = RECIPE.replace(trained, teacher).replace("0.25", "0.999")
    recipe.write_text(text.replace("[sparse]\nepochs = 1", "[sparse]\nepochs = 0"))
    result = litfast("train", recipe, "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert "litfast: slimming: removed must leave every layer a channel, got 0.999, which" in result.stderr
    assert not (tmp_path / "run").exists()
