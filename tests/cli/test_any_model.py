"""Models that litfast has never seen, from their sections to a compressed student."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from litfast import config
from litfast.cli._stages import stages
from litfast.config import StudentConfig

Litfast = Callable[..., Result]
FILE = Path(__file__).parents[1] / "models" / "third_party.py"
SMALL = (
    *("--set", "data.options={size=16,train=64,test=16}", "--set", "teacher.train.epochs=1"),
    *("--set", "sections.epochs=1", "--set", "student.model=auto", "--set", "student.depth=0.4"),
    *("--set", "engine.mode=eager", "--set", "engine.branches=serial"),
)


def document(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_sections_lists_the_candidates_and_what_auto_takes(litfast: Litfast) -> None:
    found = document(litfast("sections", f"{FILE}:preact", "--image", "3x16x16", "--json"))
    assert found["auto"] == ["blocks[0:2]", "blocks[2:4]", "blocks[4:6]"]
    row = next(row for row in found["candidates"] if row["name"] == "blocks.5")
    assert row["shape"] == [32, 4, 4] and row["kind"] == "PreActBlock"
    assert set(row) == {"name", "kind", "shape", "parameters", "parameters_share", "time_share"}
    assert found["input"] == {"shape": [3, 16, 16], "alphabet": None}


def test_sections_of_a_text_model_prints_boundaries_for_a_recipe(litfast: Litfast) -> None:
    result = litfast("sections", "vdcnn9", "--length", "64")
    assert result.exit_code == 0, result.output
    assert 'boundaries = ["section1", "section2", "section3", "section4"]' in result.output


def test_sections_refuses_a_shape_and_a_model_in_one_line(litfast: Litfast) -> None:
    assert litfast("sections", "resnet8", "--image", "32").exit_code == 2
    result = litfast("sections", "resnt8")
    assert result.exit_code == 1 and "did you mean 'resnet8'?" in result.output


def test_a_search_tries_tau_on_a_strangers_own_student(recipe: Path) -> None:
    words = (f"teacher.model={FILE}:preact", "student.model=auto", "student.depth=0.4")
    settings = config.load(str(recipe), words)
    first = stages(settings, {"tau": (1.0, 2.0), "alpha": (0.0,), "beta": (0.0,)}, None)[0]
    assert first.settings.student == StudentConfig(model="auto", depth=0.4)


@pytest.mark.parametrize(
    ("name", "blocks"), [("vgg", [1, 1]), ("preact", [1, 1, 1]), ("transformer", [1, 1, 1])]
)
def test_a_strangers_model_is_compressed_by_lit_and_opened_again(
    name: str, blocks: list[int], recipe: Path, litfast: Litfast, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    results = document(
        litfast("train", recipe, "--out", out, "--json", "--set", f"teacher.model={FILE}:{name}", *SMALL)
    )
    teacher, student = results["models"]
    assert student["parameters"] < teacher["parameters"]
    assert set(results["test_accuracy"]) == {"teacher", "student"}
    model = json.loads((out / "model.json").read_text())["model"]
    assert model["blocks"] == blocks and model["name"] == f"{FILE}:{name}"
    again = document(litfast("eval", out, "--json"))
    assert again["accuracy"] == results["test_accuracy"]["student"]
