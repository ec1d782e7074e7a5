"""Whole runs of a language model: trained, distilled, judged by its perplexity."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import Result

from litfast import create

pytestmark = pytest.mark.usefixtures("hasty")
Litfast = Callable[..., Result]
RECIPE = """
[data]
name = "text"
root = "ROOT"
batch = 4
options = {vocabulary = 9, length = 6}
[teacher]
model = "lstm_lm"
options = {width = 8, tied = true}
[teacher.train]
epochs = 2
optimizer = "adam"
lr = 0.03
clip = 1.0
[student]
model = "lstm_lm"
options = {width = 4, layers = 1}
[method]
name = "kd"
alpha = 0.5
tau = 2.0
[distill]
epochs = 2
optimizer = "adam"
lr = 0.03
[engine]
precision = "fp32"
mode = "eager"
keep = "best"
threads = 1
log_every = 1
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of ten words: each is followed by one of two."""
    monkeypatch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("corpus") / "ten_words"
    folder.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "home"))
    draw = random.Random(0)
    for name, lines in (("train", 40), ("valid", 6), ("test", 8)):
        words = [draw.randrange(10)]
        while len(words) < 7 * lines:
            words.append((words[-1] * 3 + draw.randrange(2)) % 10)
        rows = (" ".join(f"w{word}" for word in words[7 * i : 7 * i + 7]) for i in range(lines))
        (folder / f"{name}.txt").write_text("\n".join(rows) + "\n")
    (folder / "words.toml").write_text(RECIPE.replace("ROOT", str(folder)))
    return folder / "words.toml"


@pytest.fixture(scope="module")
def run(recipe: Path, litfast: Litfast) -> Path:
    """A finished run of KD, what it said in said.txt."""
    out = recipe.parent / "run"
    result = litfast("train", recipe, "--out", out)
    assert result.exit_code == 0, result.output
    (out / "said.txt").write_text(result.stderr + result.stdout)
    return out


def results(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "results.json").read_text())
    return found


def test_a_run_of_words_is_judged_by_its_perplexity(run: Path) -> None:
    found = results(run)
    assert (found["unit"], found["data"]) == ("words", "ten_words")
    assert found["samples"] == {"train": 320, "test": 64}
    assert "test_accuracy" not in found and list(found["test_perplexity"]) == ["teacher", "student"]
    assert all(1 < value < 9 for value in found["test_perplexity"].values())
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for name, phase in found["phases"].items():
        values = [row["val_perplexity"] for row in rows if row["phase"] == name]
        assert phase == {"best": min(values), "last": values[-1]}
    assert [model["perplexity"] for model in found["models"]] == list(found["test_perplexity"].values())


def test_what_it_says_is_of_words_and_perplexity(run: Path) -> None:
    said = (run / "said.txt").read_text()
    assert "train: 320 words with the ends of lines, " in said and "; vocabulary 9" in said
    assert "loader: resident" in said and "val perplexity" in said
    assert "perplexity is of 64 test words of ten_words" in said
    assert "validation perplexity in phase distill: best" in said and "accuracy is of" not in said
    card = (run / "README.md").read_text()
    value = results(run)["test_perplexity"]
    assert f"| test perplexity | {value['student']:.2f}, of 64 words |" in card
    assert f"perplexity {value['teacher']:.2f}." in card
    assert " multiply-accumulates a window of 6 words." in card
    assert "| 6 word ids below 9 |" in card and "| vocabulary, listed in `model.json` | 9 words |" in card


def test_the_student_of_words_is_made_again_from_its_document(run: Path) -> None:
    document = json.loads((run / "model.json").read_text())
    assert len(document["classes"]) == 9 and {"<eos>", "<unk>"} <= set(document["classes"])
    student = create(**document["model"])
    student.load_state_dict(load_file(run / "student.safetensors"))
    assert student(torch.zeros(2, 6, dtype=torch.int64)).shape == (2, 6, 9)
    teacher = load_file(run / "teacher.safetensors")
    assert "softmax.weight" not in teacher and not any("carried" in key for key in teacher)


def test_a_run_of_words_is_evaluated_and_benched(run: Path, litfast: Litfast) -> None:
    judged = json.loads(litfast("eval", run, "--json").stdout)
    assert judged["perplexity"] == results(run)["test_perplexity"]["student"] and judged["samples"] == 63
    assert f"test: perplexity {judged['perplexity']:.2f}, " in litfast("eval", run).stdout
    words = ("--mode", "eager", "--precision", "fp32,bf16", "--batch", "2", "--seconds", "0.01", "--json")
    result = litfast("bench", run, *words)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["input"] == {"shape": [6], "alphabet": 9}
    assert all(row["gate"] for row in document["rows"]) and len(document["rows"]) == 4
    assert [model["perplexity"] for model in document["models"]] == list(
        results(run)["test_perplexity"].values()
    )


def test_the_plan_counts_words_and_a_mistake_leaves_no_folder(
    recipe: Path, litfast: Litfast, tmp_path: Path
) -> None:
    planned = litfast("train", recipe, "--dry-run", "--out", tmp_path / "run")
    assert "text: 320 train, 64 test, 48 val words, batch 4" in planned.stdout, planned.output
    for word, said in (
        ("data.batch=60", "StreamLoader: ids must hold more than 60 streams of 6 words, got 320"),
        ("student.model=vdcnn9", "a model of words must be named for ten_words (lstm_lm), got 'vdcnn9'"),
        ("method={name='lit'}", "method must be one of scratch, kd, groupreduce for 'lstm_lm', got 'lit'"),
    ):
        sets = [word, *(["distill=none"] if "lit" in word else [])]
        phases = ["sections={epochs=1,lr=1.0}", "finetune={epochs=1,lr=1.0}"] if "lit" in word else []
        options = [part for text in (*sets, *phases) for part in ("--set", text)]
        options += ["--set", "student.options={}"] if "vdcnn" in word else []
        result = litfast("train", recipe, *options, "--out", tmp_path / "run")
        assert result.exit_code and said in result.output, result.output
        assert not (tmp_path / "run").exists()
