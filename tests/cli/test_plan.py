"""`litfast plan`: the recipe it writes, for every family, and the plan that the run keeps."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from typer.testing import Result

from litfast import build, config
from litfast.bench import Row
from litfast.bench import plan as planning
from litfast.bench.blocks import counts
from litfast.models.sectioned import SectionedModel

Litfast = Callable[..., Result]


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """1 ms and 1 ms a block: what is chosen depends on no machine."""

    def measure(models: Mapping[str, nn.Module], **cell: Any) -> list[Row]:
        rows = []
        for name, model in models.items():
            assert isinstance(model, SectionedModel)
            ms = 1.0 + sum(counts(model))
            head: dict[str, Any] = dict(mode="eager", precision="fp32", batch=cell["batches"][0])
            rows.append(Row(contender=name, p50_ms=ms, round_ms=(ms,) * 5, **head))
        return rows

    monkeypatch.setattr(planning, "measure", measure)


@pytest.mark.parametrize(
    ("teacher", "words", "kept"),
    [
        ("resnet20", ["--speedup", 2], 4),
        ("resnet56", ["--target-latency-ms", 14.1, "--weights", "w.th"], 13),
        ("preresnet20", ["--speedup", "1.5"], 3),
        ("resnext20", ["--speedup", "1.5", "--batch", 8], 5),
        ("vdcnn17", ["--speedup", "1.5", "--length", 64, "--classes", 5], 5),
        ("stargan6", ["--speedup", 2, "--classes", 5, "--set", "teacher.options.width=2"], 2),
    ],
)
def test_every_family_gets_a_recipe_that_trains(
    teacher: str, words: list[object], kept: int, litfast: Litfast, tmp_path: Path
) -> None:
    out = tmp_path / "plan.toml"
    result = litfast("plan", teacher, *words, "--out", out, "--threads", 1)
    assert result.exit_code == 0, result.output
    settings = config.load(str(out))
    assert settings.teacher is not None and settings.plan is not None
    assert settings.teacher.model == settings.student.model == teacher
    assert sum(settings.student.blocks or ()) == kept and settings.student.init == "teacher"
    assert settings.student.options == settings.teacher.options
    assert (settings.teacher.weights is None) != (settings.teacher.train is None)
    assert settings.plan.predicted_ms <= settings.plan.target_ms
    build.method_options(settings)
    assert json.loads((tmp_path / "plan.json").read_text())["checks"] == {"plan": True}
    assert f"train it: litfast train {out}" in result.stdout and "target" in result.stdout


def test_json_holds_costs_choice_and_proof(litfast: Litfast, tmp_path: Path) -> None:
    out = tmp_path / "plan.toml"
    found = json.loads(litfast("plan", "resnet20", "--speedup", 2, "--out", out, "--json").stdout)
    assert (found["teacher_blocks"], found["sections"]) == ([3, 3, 3], ["layer1", "layer2", "layer3"])
    assert found["costs"]["per_block_ms"] == pytest.approx([1.0, 1.0, 1.0])
    assert found["expected"]["predicted_ms"] == found["verified"]["measured_ms"] == 5.0
    assert found["verified"]["met"] and found["verified"]["speedup"] == 2.0


def test_a_run_keeps_its_plan_and_checks_it_after_training(
    recipe: Path, litfast: Litfast, tmp_path: Path
) -> None:
    out, run = tmp_path / "plan.toml", tmp_path / "run"
    short = ["teacher.train.epochs=1", "sections.epochs=1", "finetune.epochs=1", "data.options.train=64"]
    short += ["engine.mode=eager", "engine.branches=serial"]
    words = ["--recipe", recipe, "--image", "3x16x16", "--classes", 4, "--speedup", "1.3", "--out", out]
    planned = litfast("plan", "resnet14", *words, *(word for key in short for word in ("--set", key)))
    assert planned.exit_code == 0, planned.output
    trained = litfast("train", out, "--out", run)
    assert trained.exit_code == 0, trained.output
    kept = config.parse(config.read(run / "config.toml")).plan
    assert kept == config.load(str(out)).plan and kept is not None and kept.times == 1.3
    results = json.loads((run / "results.json").read_text())
    assert results["plans"][0]["measured_ms"] == kept.predicted_ms == 5.0
    assert "plan: predicted 5 ms, measured 5 ms (+0.0%)" in trained.stdout
    cell = ["--batch", 1, "--mode", "eager", "--precision", "fp32", "--seconds", 0.01]
    document = json.loads(litfast("bench", run, *cell, "--json").stdout)
    (found,) = document["plans"]
    assert found["met"] and found["run"] == str(run) and document["checks"][found["check"]]


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (
            ["vgg16", "--speedup", 2],
            2,
            "plan: teacher must be of a family whose sections are stacks of like blocks",
        ),
        (["resnet57", "--speedup", 2], 2, "model must be one of"),
        (["resnet20", "--speedup", 2, "--batch", 0], 2, "batches must be 1 or more, got [0]"),
        (["resnet20", "--speedup", 2, "--mode", "eagr"], 2, "did you mean 'eager'?"),
        (["resnet20"], 2, "plan: either a target latency or a speed-up must be given, got none"),
        (["resnet20", "--speedup", "0.5"], 2, "plan: speed-up must be above 1, got 0.5"),
        (["resnet20", "--speedup", 2, "--image", "32x32"], 2, "plan: --image must be CxHxW, got '32x32'"),
        (
            ["resnet20", "--speedup", 2, "--out", "plan.json"],
            2,
            "plan: --out must end in .toml, got 'plan.json'",
        ),
        (
            ["resnet20", "--speedup", 2, "--recipe", "cifar10_resnet56_slim"],
            2,
            "recipe: teacher.weights (a file) or [teacher.train] (a table) must be given, got none",
        ),
        (
            ["preresnet164", "--speedup", 2, "--recipe", "cifar10_preresnet164_slim"],
            2,
            "plan: recipe for 'preresnet164' must be of method 'lit', got 'slimming'",
        ),
        (["resnet20", "--target-latency-ms", 3], 1, "plan: target must be at least 4 ms"),
        (["resnet8", "--speedup", 2], 1, "plan: teacher must have a section of 2 blocks or more"),
    ],
)
def test_bad_words_get_one_clear_line(
    words: list[object],
    code: int,
    line: str,
    litfast: Litfast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = litfast("plan", *words)
    assert result.exit_code == code, result.output
    assert line in result.stderr.splitlines()[-1] and not list(tmp_path.rglob("*.toml"))


def test_a_recipe_of_ones_own_is_not_written_over(recipe: Path, litfast: Litfast) -> None:
    before = recipe.read_text()
    result = litfast("plan", "resnet14", "--speedup", "1.3", "--recipe", recipe, "--out", recipe)
    assert result.exit_code == 2 and "--out must be a new file or an earlier plan" in result.stderr
    assert recipe.read_text() == before
