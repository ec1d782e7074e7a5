"""A whole run of GroupReduce: a language model trained, compressed, fine-tuned, rounded, judged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import Result

from litfast import create
from litfast.nn import LowRankTable

pytestmark = pytest.mark.usefixtures("hasty")
Litfast = Callable[..., Result]
RECIPE = """
[data]
name = "text"
root = "ROOT"
batch = 4
options = {vocabulary = 12, length = 6}
[teacher]
model = "lstm_lm"
options = {width = 8, layers = 1}
[teacher.train]
epochs = 1
optimizer = "adam"
lr = 0.03
[student]
model = "lstm_lm"
options = {width = 8, layers = 1}
[method]
name = "groupreduce"
compression = 1.5
blocks = 3
bits = 8
[finetune]
epochs = 1
optimizer = "adam"
lr = 0.003
[engine]
precision = "fp32"
mode = "eager"
threads = 1
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A text of twelve words, some of them rare."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    corpus = tmp_path / "twelve_words"
    corpus.mkdir()
    for name, lines in (("train", 40), ("valid", 6), ("test", 8)):
        rows = (" ".join(f"w{(i * j * j) % 11}" for j in range(7)) for i in range(1, lines + 1))
        (corpus / f"{name}.txt").write_text("\n".join(rows) + "\n")
    (tmp_path / "words.toml").write_text(RECIPE.replace("ROOT", str(corpus)))
    return tmp_path / "words.toml"


def test_a_recipe_compresses_a_language_model(recipe: Path, litfast: Litfast, tmp_path: Path) -> None:
    result = litfast("train", recipe, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert list(found["phases"]) == ["teacher", "finetune"]  # those that were validated after an epoch
    assert (tmp_path / "run" / "checkpoints" / "2-quantised.pt").exists()
    document = json.loads((tmp_path / "run" / "model.json").read_text())["model"]
    student = create(**document)
    student.load_state_dict(load_file(tmp_path / "run" / "student.safetensors"))
    assert {table.factors[0].dtype for table in student.modules() if isinstance(table, LowRankTable)} == {
        torch.int8
    }
    result = litfast("eval", tmp_path / "run", "--json")
    assert result.exit_code == 0, result.output
    judged = json.loads(result.stdout)
    assert judged["perplexity"] == pytest.approx(found["test_perplexity"]["student"])


def test_a_budget_below_the_smallest_possible_is_one_line(
    recipe: Path, litfast: Litfast, tmp_path: Path
) -> None:
    result = litfast("train", recipe, "--set", "method.compression=40", "--out", tmp_path / "run")
    assert result.exit_code and "compression must be at most" in " ".join(result.output.split())
