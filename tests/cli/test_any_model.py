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
from litfast.export import FORMATS

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


def test_a_strangers_text_model_is_named_with_its_alphabet(litfast: Litfast) -> None:
    given = (f"{FILE}:text", "--alphabet", "11", "--length", "8", "--json")
    assert document(litfast("sections", *given))["auto"] == ["encoder.layer[0:2]", "encoder.layer[2:4]"]
    words = ("--batch", "2", "--mode", "eager", "--precision", "fp32", "--seconds", "0.05")
    found = document(litfast("bench", "--student", *given, *words))
    assert found["input"] == {"shape": [8], "alphabet": 11}
    refused = litfast("bench", "--student", *given, *words, "--image", "3x32x32")
    assert refused.exit_code == 1 and "--image must be left out with models of texts [8]" in refused.stderr


def test_sections_refuses_a_shape_and_a_model_in_one_line(litfast: Litfast) -> None:
    assert litfast("sections", "resnet8", "--image", "32").exit_code == 2
    result = litfast("sections", "resnt8")
    assert result.exit_code == 1 and "did you mean 'resnet8'?" in result.output


def test_a_search_tries_tau_on_a_strangers_own_student(recipe: Path) -> None:
    words = (f"teacher.model={FILE}:preact", "student.model=auto", "student.depth=0.4")
    settings = config.load(str(recipe), words)
    first = stages(settings, {"tau": (1.0, 2.0), "alpha": (0.0,), "beta": (0.0,)}, None)[0]
    assert first.settings.student == StudentConfig(model="auto", depth=0.4)


def measured(litfast: Litfast, run: Path) -> None:
    """`litfast bench` of a run, as short as can be: teacher and student are timed."""
    words = ("--batch", "2", "--mode", "eager", "--precision", "fp32", "--seconds", "0.01", "--json")
    found = document(litfast("bench", run, *words))
    assert [row["contender"] for row in found["rows"]] == ["teacher", "student"]
    assert all(row["p50_ms"] > 0 and row["reason"] is None for row in found["rows"])


@pytest.mark.parametrize(
    ("name", "blocks", "auto", "format"),
    [
        ("vgg", [1, 1], ["features[0:10]", "features[10:20]"], "safetensors"),
        ("preact", [1, 1, 1], ["blocks[0:2]", "blocks[2:4]", "blocks[4:6]"], "safetensors"),
        ("transformer", [1, 1, 1], [f"encoder.layers[{at}:{at + 2}]" for at in (0, 2, 4)], "safetensors"),
    ],
)
def test_a_strangers_model_goes_from_its_sections_to_a_file(
    name: str, blocks: list[int], auto: list[str], format: str, recipe: Path, litfast: Litfast, tmp_path: Path
) -> None:
    model, out = f"{FILE}:{name}", tmp_path / "run"
    assert document(litfast("sections", model, "--image", "3x16x16", "--json"))["auto"] == auto
    words = ("--out", out, "--json", "--set", f"teacher.model={model}", *SMALL)
    results = document(litfast("train", recipe, *words))
    teacher, student = results["models"]
    assert student["parameters"] < teacher["parameters"]
    assert set(results["test_accuracy"]) == {"teacher", "student"}
    said = json.loads((out / "model.json").read_text())["model"]
    assert said["blocks"] == blocks and said["name"] == model
    assert document(litfast("eval", out, "--json"))["accuracy"] == results["test_accuracy"]["student"]
    measured(litfast, out)
    file = tmp_path / f"student{FORMATS[format].suffix}"
    assert document(litfast("export", out, "--format", format, "--out", file, "--json"))["bytes"] > 0


def test_a_narrower_student_stands_between_adapters(recipe: Path, litfast: Litfast, tmp_path: Path) -> None:
    out, thin = tmp_path / "run", ("--set", "student.init=random", "--set", "student.options={width=8}")
    words = (*thin, "--set", "data.options={size=16,train=64,test=16}", "--set", "engine.mode=eager")
    refused = litfast("train", recipe, "--out", out, *words)
    assert refused.exit_code == 1 and "bridge them by adapters or choose equal widths" in refused.stderr
    results = document(
        litfast("train", recipe, "--out", out, "--json", *words, "--set", "student.adapters=true")
    )
    teacher, student = results["models"]
    assert student["parameters"] < teacher["parameters"] / 2
    assert json.loads((out / "model.json").read_text())["model"]["width"] == 8
    assert document(litfast("eval", out, "--json"))["accuracy"] == results["test_accuracy"]["student"]
    measured(litfast, out)
    words = ("--format", "safetensors", "--out", tmp_path / "student.safetensors", "--json")
    assert document(litfast("export", out, *words))["bytes"] > 0


def test_a_model_that_fx_cannot_follow_learns_by_kd_and_is_timed(
    recipe: Path, litfast: Litfast, tmp_path: Path
) -> None:
    out, model = tmp_path / "run", f"{FILE}:branching"
    words = [f"teacher.model={model}", f"student.model={model}", "student.options={width=4}"]
    words += ["student.init=random", "data.options={size=16,train=64,test=16}", "engine.mode=eager"]
    given = [word for key in words for word in ("--set", key)]
    refused = litfast("train", recipe, "--out", out, *given)
    assert refused.exit_code == 1 and refused.stderr.count("\n") <= 3, refused.stderr
    assert "teacher must have sections, got none: sectioned: forward of Branching" in refused.stderr
    own = [
        "method.name=kd",
        "method.beta=none",
        "sections=none",
        "finetune=none",
        "distill.epochs=1",
        "distill.lr=0.1",
    ]
    results = document(
        litfast("train", recipe, "--out", out, "--json", *given, *[w for key in own for w in ("--set", key)])
    )
    assert set(results["test_accuracy"]) == {"teacher", "student"}
    measured(litfast, out)
    exported = ("--format", "safetensors", "--out", tmp_path / "student.safetensors", "--json")
    assert document(litfast("export", out, *exported))["bytes"] > 0
    listed = litfast("sections", model)
    assert listed.exit_code == 1 and "must be traceable by torch.fx" in listed.stderr


TEXTS = """
import random

class Texts:
    classes, alphabet = 4, 11

    def __init__(self, count, seed):
        self.count, self.seed = count, seed

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        draw = random.Random(f"{self.seed}/{i}")
        length = draw.randint(3, 8)
        ids = [draw.randrange(1, 11) if at < length else 0 for at in range(8)]
        return {"input_ids": ids, "attention_mask": [int(at < length) for at in range(8)]}, ids[0] % 4

def texts():
    return Texts(64, 0), Texts(16, 1)
"""


def test_a_model_of_several_inputs_goes_from_its_data_to_a_file(
    recipe: Path, litfast: Litfast, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(TEXTS)
    out, model = tmp_path / "run", f"{FILE}:text"
    sets = [f"data.name={tmp_path}/mine.py:texts", f"teacher.model={model}", "engine.accumulate=2"]
    given = [word for key in sets for word in ("--set", key)]
    results = document(litfast("train", recipe, "--out", out, "--json", *given, *SMALL[2:]))
    assert (results["unit"], results["samples"]) == ("texts", {"train": 64, "test": 16})
    said = json.loads((out / "model.json").read_text())
    names = ["input_ids", "attention_mask"]
    assert [one["name"] for one in said["input"]["inputs"]] == names
    assert said["model"]["blocks"] == [1, 1]
    assert document(litfast("eval", out, "--json"))["accuracy"] == results["test_accuracy"]["student"]
    measured(litfast, out)
    file = tmp_path / "student.pt2"
    exported = document(litfast("export", out, "--format", "torch", "--out", file, "--json"))
    assert exported["difference"] <= exported["tolerance"]
    report = litfast("report", out, "--out", tmp_path / "page.html")
    assert report.exit_code == 0, report.output
