"""A whole run of FitNets, and a pair that no regressor can join."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import Result

from litfast.models import create

Litfast = Callable[..., Result]
SETTINGS = (
    "data.options={size=8,train=64,val=16,test=16}",
    "teacher.model=resnet8",
    "teacher.train.epochs=1",
    "student={model='resnet14',options={width=4}}",
    "method={name='fitnets'}",
    "sections=none",
    "finetune=none",
    "hint={epochs=1,lr=0.001,optimizer='adam'}",
    "distill={epochs=1,lr=0.05}",
    "engine.mode=eager",
)


def sets(*words: str) -> list[str]:
    return [part for word in words for part in ("--set", word)]


@pytest.mark.usefixtures("hasty")
def test_a_recipe_trains_a_thin_deep_student(recipe: Path, litfast: Litfast, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = litfast("train", recipe, "--out", out, *sets(*SETTINGS, "method.hint_section=2"))
    assert done.exit_code == 0, done.output
    results = json.loads((out / "results.json").read_text())
    assert list(results["phases"]) == ["teacher", "hint", "distill"]
    assert results["phases"]["hint"] == {"best": None, "last": None}  # its head is still random
    spec = json.loads((out / "model.json").read_text())["model"]
    weights = load_file(out / "student.safetensors")
    again = create(**spec)
    again.load_state_dict(weights)
    assert again.model.conv1.weight.shape == (4, 3, 3, 3)
    hint = torch.load(out / "checkpoints" / "1-hint.pt", weights_only=True)
    assert set(hint["model"]) == set(weights)


def test_a_pair_that_no_regressor_can_join_gets_one_line_and_leaves_no_folder(
    recipe: Path, litfast: Litfast, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    settings = sets(*SETTINGS, "method.hint_section=layer1", "method.guided_section=3")
    done = litfast("train", recipe, "--out", out, *settings)
    assert done.exit_code == 1 and not out.exists()
    assert done.stderr.splitlines()[-1].endswith(
        "fitnets: guided section 'layer3' must be at least as large as the hint in every direction, "
        "[8, 8], got [2, 2]; take a later hint section or an earlier guided one"
    )
