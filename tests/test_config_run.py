"""A recipe that takes a model from a finished run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from litfast.config import load

PLAIN: dict[str, Any] = {
    "student": {"model": "resnet8"},
    "teacher": {"model": "resnet14", "weights": "teacher.th"},
    "method": {"name": "lit"},
    "sections": {"epochs": 3, "lr": 0.1},
    "finetune": {"epochs": 1, "lr": 1},
}


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "plain.toml"
    path.write_text(tomli_w.dumps(PLAIN))
    return str(path)


def run_of(folder: Path, **spec: Any) -> Path:
    folder.mkdir()
    document = {
        "model": {"name": "resnet8", "classes": 10, "channels": 3, **spec},
        "weights": "student.safetensors",
    }
    (folder / "model.json").write_text(json.dumps(document))
    return folder


def test_a_run_stands_for_the_model_and_the_weights_of_its_student(tmp_path: Path) -> None:
    run = run_of(tmp_path / "slim", blocks=None, option="A", inner=[8, 16, 40])
    table = PLAIN | {"teacher": {"run": str(run)}}
    (tmp_path / "next.toml").write_text(tomli_w.dumps(table))
    taught = load(str(tmp_path / "next.toml"), [f"student={{run = '{run}'}}"])
    assert taught.teacher is not None
    assert (taught.teacher.model, taught.teacher.blocks) == ("resnet8", None)
    assert taught.teacher.options == taught.student.options == {"option": "A", "inner": [8, 16, 40]}
    assert taught.teacher.weights == taught.student.weights == str(run / "student.safetensors")


def test_a_run_stands_alone_and_is_finished(recipe: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"recipe: teacher.run must stand in place of model, got both"):
        load(recipe, [f"teacher.run={run_of(tmp_path / 'run')}"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        ValueError, match=r"recipe: student.run must be the folder of a finished run, .*, got "
    ):
        load(recipe, [f"student={{run = '{tmp_path / 'empty'}'}}"])


@pytest.mark.parametrize("weights", ["../other.safetensors", "/etc/passwd", "..", "a/b", ""])
def test_the_weights_of_a_run_lie_in_its_folder(weights: str, recipe: str, tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    document = json.loads((run / "model.json").read_text())
    (run / "model.json").write_text(json.dumps(document | {"weights": weights}))
    with pytest.raises(ValueError, match=r"recipe: weights of .*run must be a file in that folder, got "):
        load(recipe, [f"student={{run = '{run}'}}"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"seed = {'9' * 5000}", "must be valid TOML, got: "),
        ("x = " + "[" * 5000, "must be valid TOML, got: "),
        (f"seed = {1 << 63}", "seed must be an integer of 64 bits, got one of 65"),
        (f"[x]\na{'.a' * 50} = 1", r"must be at most 20 tables deep, got more"),
        (f"[data]\nname = '{'x' * 5000}'", r"data.name must have at most 1000 characters, got 5,000: 'xxx"),
        ('["a\\nb"]\nc = 1', r"a key must be printable, of at most 100 characters, got 'a\\nb'"),
    ],
)
def test_what_no_machine_holds_is_refused_in_one_line(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(ValueError, match=said) as caught:
        load(str(tmp_path / "x.toml"))
    assert "\n" not in str(caught.value)


def test_what_is_set_is_no_longer_than_a_line() -> None:
    with pytest.raises(ValueError, match=r"--set: must have at most 1000 characters, got 5,005: 'seed=999"):
        load("digits", [f"seed={'9' * 5000}"])
