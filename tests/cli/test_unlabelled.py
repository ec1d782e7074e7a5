"""A folder of images without labels: LIT with alpha = 0 and beta = 0, judged by the agreement."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import Result

from litfast.models import create

Litfast = Callable[..., Result]

RECIPE = """
[data]
name = "unlabelled"
root = "{root}/images"
batch = 8
val = 8
options = {{ classes = 4, test = 0.2 }}
[teacher]
model = "resnet14"
weights = "{root}/teacher.pt"
[student]
model = "resnet8"
init = "teacher"
[method]
name = "lit"
alpha = 0.0
beta = 0.0
[sections]
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
    root = tmp_path_factory.mktemp("unlabelled")
    (root / "images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(root / "images" / f"{number}.png")
    torch.manual_seed(0)
    teacher = create("resnet14", classes=4)
    for _ in range(20):
        teacher(torch.randn(16, 3, 8, 8))
    torch.save(teacher.state_dict(), root / "teacher.pt")
    (root / "recipe.toml").write_text(RECIPE.format(root=root))
    return root / "recipe.toml"


def test_a_run_reports_the_agreement_and_eval_finds_it_again(recipe: Path, litfast: Litfast) -> None:
    run = recipe.parent / "run"
    result = litfast("train", recipe, "--out", run)
    assert result.exit_code == 0, result.output
    found = json.loads((run / "results.json").read_text())
    assert "test_accuracy" not in found and found["samples"] == {"train": 24, "test": 8}
    assert found["test_agreement"]["teacher"] == 100 and 0 <= found["test_agreement"]["student"] <= 100
    assert set(found["test_by_phase"]["finetune"]["after"]) == {"agreement"}
    assert "agreement is of 8 test images of images; the student's with the teacher: " in result.output
    assert "test agreement with the teacher" in (run / "README.md").read_text()
    assert (
        json.loads((run / "model.json").read_text())["test_agreement"] == found["test_agreement"]["student"]
    )
    again = litfast("eval", run, "--json")
    assert json.loads(again.stdout)["agreement"] == found["test_agreement"]["student"]
    said = litfast("eval", run).stdout
    assert "agrees with the teacher on " in said


@pytest.mark.parametrize(
    ("sets", "line"),
    [
        (
            ["method.alpha=0.5"],
            "recipe: method.alpha must be 0 without labels, got 0.5; --set method.alpha=0",
        ),
        (
            [
                "method={name='fitnets'}",
                "student.init=random",
                "sections=none",
                "finetune=none",
                "hint={epochs=1, lr=0.1}",
                "distill={epochs=1, lr=0.1}",
            ],
            "recipe: method must be one of lit, kd, ban without labels, got 'fitnets'",
        ),
        (
            ["teacher.weights=none", "teacher.train={epochs=1, lr=0.1}"],
            "recipe: teacher.weights must be given without labels, got [teacher.train]",
        ),
        (["data.options={}"], "unlabelled: classes must be the teacher's, how many or their names, got none"),
    ],
)
def test_what_needs_labels_is_refused(sets: list[str], line: str, recipe: Path, litfast: Litfast) -> None:
    words = [word for text in sets for word in ("--set", text)]
    result = litfast("train", recipe, "--dry-run", *words)
    assert result.exit_code == 1 and line in result.output


def test_a_wrong_normalisation_is_said_before_any_training_and_refused_on_request(
    recipe: Path, litfast: Litfast
) -> None:
    wrong = ("train", recipe, "--dry-run", "--set", "data.mean=[90, 90, 90]")
    line = "teacher: images must be normalised as in its training, got a mean "
    said = litfast(*wrong)
    assert said.exit_code == 0 and f"warning: {line}" in said.output
    assert json.loads(litfast(*wrong, "--json").stdout)["warnings"][0].startswith(line)
    refused = litfast(*wrong, "--set", "teacher.check=refuse")
    assert refused.exit_code == 1 and f"litfast: {line}" in refused.output
