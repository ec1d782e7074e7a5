from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import Result

from litfast import config
from litfast.models import create

Litfast = Callable[..., Result]


def test_a_run_leaves_everything_it_promises(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    promised = {
        "config.toml",
        "run.json",
        "metrics.jsonl",
        "tensorboard",
        "checkpoints",
        "student.safetensors",
    }
    assert promised | {"model.json", "results.json", "README.md"} <= names
    assert (
        json.loads((finished / "run.json").read_text()).items()
        >= {"status": "finished", "stopped": {}}.items()
    )
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [(row["phase"], row["epoch"]) for row in rows] == [
        *[("teacher", 1), ("teacher", 2), ("sections", 1), ("sections", 2), ("finetune", 1)]
    ]
    assert {"layer1.ir", "layer2.ir", "layer3.ir", "samples_per_s", "val_accuracy"} <= rows[2].keys()
    assert {"student.soft", "student.hard", "student.accuracy"} <= rows[4].keys()
    assert list((finished / "tensorboard").iterdir())


def test_the_saved_student_loads_strictly_into_the_plain_model(finished: Path) -> None:
    described = json.loads((finished / "model.json").read_text())
    student = create(**described["model"])
    weights = load_file(finished / "student.safetensors")
    student.model.load_state_dict(weights)
    assert set(weights) == set(student.model.state_dict())
    assert not any("teacher" in key or key.startswith("model.") for key in weights)


def test_the_resolved_config_has_no_auto_and_runs_again(finished: Path) -> None:
    settings = config.load(str(finished / "config.toml"))
    engine = settings.engine
    assert "auto" not in (engine.device, engine.precision, engine.mode, engine.branches)
    assert engine.threads == 1


def test_what_auto_chose_is_said_and_stays_with_the_run(
    recipe: Path, litfast: Litfast, tmp_path: Path
) -> None:
    words = ("--device", "cpu", "--set", "finetune.epochs=0", "--set", "teacher.train.epochs=1")
    out = tmp_path / "run"
    result = litfast("train", recipe, *words, "--out", out)
    assert "auto: eager (all steps of the run: eager" in result.stderr
    assert "too short a run to try compile" in result.stderr
    mark = json.loads((out / "run.json").read_text())
    assert mark["auto"] in " ".join(result.stderr.split())
    assert (mark["engine"]["mode"], mark["engine"]["branches"]) == ("eager", "serial")
    (out / "run.json").write_text(json.dumps(mark | {"status": "running"}))
    resumed = litfast("train", "--resume", "--out", out)
    assert resumed.exit_code == 0 and "auto:" not in resumed.stderr
    assert json.loads((out / "run.json").read_text())["auto"] == mark["auto"]


def test_a_finished_run_is_not_overwritten_unless_asked(
    finished: Path, recipe: Path, litfast: Litfast
) -> None:
    before = (finished / "student.safetensors").read_bytes()
    result = litfast("train", recipe, "--out", finished)
    assert result.exit_code == 1 and "--overwrite" in result.stderr
    assert (finished / "student.safetensors").read_bytes() == before


def test_json_is_one_document_on_stdout(recipe: Path, litfast: Litfast, tmp_path: Path) -> None:
    result = litfast("train", recipe, "--out", tmp_path / "run", "--json", "--set", "sections.epochs=1")
    document = json.loads(result.stdout)
    assert set(document["test_accuracy"]) == {"teacher", "student"}
    assert document["phases"].keys() == {"teacher", "sections", "finetune"}


def test_dry_run_prints_the_plan_and_writes_nothing(recipe: Path, litfast: Litfast, tmp_path: Path) -> None:
    result = litfast("train", recipe, "--dry-run", "--json", "--out", tmp_path / "run")
    document = json.loads(result.stdout)
    assert [(b["phase"], b["branch"]) for b in document["branches"]] == [
        ("teacher", "student"),
        ("sections", "layer1"),
        ("sections", "layer2"),
        ("sections", "layer3"),
        ("finetune", "student"),
    ]
    assert all(b["memory_bytes"] > b["activation_bytes"] > 0 for b in document["branches"])
    assert not (tmp_path / "run").exists()
    assert "sections" in litfast("train", recipe, "--dry-run").stdout


def test_the_plan_names_precision_mode_and_how_a_step_is_made(recipe: Path, litfast: Litfast) -> None:
    words = ("engine.accumulate=2", "engine.ema=0.99", "sections.optimizer=adamw", "sections.clip=1")
    sets = [part for word in words for part in ("--set", word)]
    said = " ".join(litfast("train", recipe, "--dry-run", *sets).stdout.split())
    assert "fp32 (teacher fp32), 1 threads, mode auto, branches auto, 2 parts a step, ema 0.99" in said
    document = json.loads(litfast("train", recipe, "--dry-run", "--json", *sets).stdout)
    assert (document["engine"]["accumulate"], document["engine"]["ema"]) == (2, 0.99)
    schedules = {
        (b["phase"], b["schedule"]["optimizer"], b["schedule"]["clip"]) for b in document["branches"]
    }
    assert ("sections", "adamw", 1.0) in schedules and ("finetune", "sgd", None) in schedules


def test_one_section_of_a_finished_run_is_trained_alone(
    finished: Path, litfast: Litfast, tmp_path: Path
) -> None:
    words = {
        "teacher.weights": finished / "teacher.safetensors",
        "teacher.train": "none",
        "student.weights": finished / "student.safetensors",
        "student.init": "random",
        "method.train_sections": '["layer2"]',
        "finetune.epochs": 0,
    }
    sets = [part for key, value in words.items() for part in ("--set", f"{key}={value}")]
    result = litfast("train", finished / "config.toml", *sets, "--out", tmp_path / "again")
    assert result.exit_code == 0, result.output
    before, after = (load_file(run / "student.safetensors") for run in (finished, tmp_path / "again"))
    moved = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert moved and all(key.startswith("layer2.") for key in moved)
    assert {key for key in before if key.startswith("layer2.") and "num_batches" not in key} <= moved


@pytest.mark.parametrize(("precision", "teachers"), [("bf16", "fp32"), ("fp32", "bf16")])
def test_the_teachers_precision_is_set_and_its_agreement_said(
    precision: str, teachers: str, finished: Path, litfast: Litfast, tmp_path: Path
) -> None:
    words = {"teacher.weights": finished / "teacher.safetensors", "teacher.train": "none"}
    sets = [part for key, value in words.items() for part in ("--set", f"{key}={value}")]
    words = {"engine.precision": precision, "sections.epochs": 1, "finetune.epochs": 1}
    sets += [part for key, value in words.items() for part in ("--set", f"{key}={value}")]
    sets += ["--teacher-precision", teachers]
    result = litfast("train", finished / "config.toml", *sets, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    (said,) = [line for line in result.stderr.splitlines() if line.startswith("teacher: ")]
    assert said.startswith(f"teacher: folded, {teachers}; its irs are within ")
    engine = config.load(str(tmp_path / "run" / "config.toml")).engine
    assert (engine.precision, engine.teacher_precision) == (precision, teachers)


def test_what_patience_stopped_is_said_and_stays_with_the_run(
    recipe: Path, litfast: Litfast, tmp_path: Path
) -> None:
    words = {"teacher.train.epochs": 1, "sections.epochs": 8, "sections.patience": 1, "sections.lr": 1.0}
    sets = [part for key, value in words.items() for part in ("--set", f"{key}={value}")]
    result = litfast("train", recipe, *sets, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    said = re.findall(r"sections: branch (\w+) stopped after epoch (\d) of 8", result.stderr)
    early = {branch: int(epoch) for branch, epoch in said if epoch != "8"}
    assert early
    assert json.loads((tmp_path / "run" / "run.json").read_text())["stopped"] == {"sections": early}
    listed = ", ".join(f"{branch} after epoch {epoch}" for branch, epoch in early.items())
    assert f"stopped early in phase sections (patience): {listed}\n" in result.stdout


def test_patience_without_validation_samples_is_refused_before_training(
    recipe: Path, litfast: Litfast, tmp_path: Path
) -> None:
    words = ("--set", "sections.patience=2", "--set", "data.val=0", "--out", tmp_path / "run")
    result = litfast("train", recipe, *words)
    assert result.exit_code == 1 and "patience must come with validation samples" in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["digitz"], 2, "did you mean 'digits'?"),
        (["--set", "sections.epoch=3"], 2, "did you mean 'sections.epochs'?"),
        (["--set", "method.tua=3"], 2, "did you mean 'tau'?"),
        (["--set", "method.name=lot"], 2, "did you mean 'lit'?"),
        (["--set", "sections.lr=fast"], 2, "sections.lr must be of type float, got 'fast'"),
        (["--set", "method.ir_input=both"], 1, "ir_input must be one of student, teacher, got 'both'"),
        (["--set", "method.tau=0.0"], 1, "tau must be"),
        (["--set", "method.alpha=1.5"], 1, "alpha must"),
        (["--set", "method.penalty=l3"], 1, "penalty must be one of"),
        (["--set", "sections.lr"], 2, "--set: must be written key=value"),
        (["--set", "student.model=resnt20"], 1, "did you mean 'resnet20'?"),
        (["--set", "data.name=cifra10"], 1, "did you mean 'cifar10'?"),
        (["--set", "sections.schedule=cosin"], 2, "schedule must be one of constant, steps, cosine, linear"),
        (["--set", "finetune=none"], 2, "a [finetune] table must be given for method 'lit', got none"),
        (
            ["--set", "student.weights=a.pt"],
            2,
            "student.init must be 'random' where student.weights are given",
        ),
        (["--set", "engine.mode=graph", "--device", "cpu"], 1, "mode graph must have a CUDA device, got cpu"),
        (["--set", "sections.patience=-1"], 2, "patience must be 0 or more, got -1"),
        (["--teacher-precision", "fp8"], 2, "engine.teacher_precision must be one of auto, bf16, fp16, fp32"),
        (["--resume", "--teacher-precision", "fp32"], 2, "--resume must come alone"),
        (["--resume", "--overwrite"], 2, "--resume must come alone"),
        (["--device", "cuda:7"], 2, "device must be one that this machine has"),
    ],
)
def test_bad_words_get_one_clear_line(words: list[str], code: int, line: str, litfast: Litfast) -> None:
    result = litfast("train", *words)
    assert result.exit_code == code, result.output
    assert line in result.stderr and result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_a_student_of_another_width_is_refused_before_training(
    recipe: Path, litfast: Litfast, tmp_path: Path
) -> None:
    result = litfast("train", recipe, "--set", "student.blocks=[1, 1]", "--out", tmp_path / "run")
    assert result.exit_code == 1 and "blocks" in result.stderr
    assert not (tmp_path / "run").exists()
