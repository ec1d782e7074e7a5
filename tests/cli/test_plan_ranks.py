"""`litfast plan --ranks`: for a recipe and for a teacher alone, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

Litfast = Callable[..., Result]
TINY = ["--batch", 8, "--image", "3x8x8", "--classes", 4, "--threads", 1]
APART = ["--set", "method.bn_stats=ir", "--set", "data.options.train=64"]


def test_a_recipe_gets_a_plan_and_the_line_that_runs_it(recipe: Path, litfast: Litfast) -> None:
    result = litfast("plan", recipe, "--ranks", 4, "--batch", 16, *APART)
    assert result.exit_code == 0, result.output
    assert "relay + split: " in result.stdout and "layer1" in result.stdout
    assert (
        "torchrun --nproc-per-node 4 -m litfast train RECIPE --set engine.distributed=sections"
        in result.stdout
    )


def test_a_teacher_gets_one_in_json(litfast: Litfast) -> None:
    words = ["--per-machine", 2, "--inside", "5,10", "--between", "1,50", "--json"]
    result = litfast("plan", "resnet8", "--ranks", 2, *TINY, *words)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["sections"] == ["layer1", "layer2", "layer3"] and document["batch"] == 8
    assert document["network"]["per_machine"] == 2 and document["network"]["between"]["latency"] == 50.0
    assert [row["ranks"] for row in document["predictions"]] == [1] * 4 + [2] * 4


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["resnet8", "--ranks", 0, *TINY], "plan: --ranks must lie in 1 to 1024, got 0"),
        (["resnet8", "--ranks", 2, "--inside", "fast", *TINY], "plan: --inside must be GB/s,MICROSECONDS"),
        (["resnet8", "--ranks", 2, "--between", "0,1", *TINY], "plan: --between must be GB/s above 0"),
        (
            ["resnet8", "--ranks", 2, "--per-machine", 0, *TINY],
            "plan: --per-machine must be 1 or more, got 0",
        ),
        (["resnet9", "--ranks", 2], "recipe: "),
    ],
)
def test_bad_words_get_one_clear_line(words: list[object], line: str, litfast: Litfast) -> None:
    result = litfast("plan", *words)
    assert result.exit_code == 2, result.output
    assert line in result.stderr.splitlines()[-1]


def test_a_recipe_without_independent_sections_is_refused(recipe: Path, litfast: Litfast) -> None:
    result = litfast("plan", recipe, "--ranks", 2, "--set", "method.beta=0.5", *APART)
    assert result.exit_code == 2 and "must have a phase of independent sections" in result.stderr
