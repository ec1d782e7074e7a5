from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from litfast import config
from litfast.bench import record
from litfast.cli import _stages, search
from litfast.cli._trials import Outcome, Trial

Litfast = Callable[..., Result]

# `FILE.py:function`: a set whose test samples nobody may look at, but for the first one's shape
SEALED = """
from litfast.data.sets import load

class Pictures:
    def __init__(self, split, classes=None):
        self._split, self.classes = split, classes

    def __len__(self):
        return len(self._split)

    def __getitem__(self, i):
        return self._split.images[i], int(self._split.labels[i])

class Sealed(Pictures):
    def __getitem__(self, i):
        if i:
            raise ValueError("the test samples were looked at")
        return super().__getitem__(i)

def pictures():
    images = load("synthetic", size=8, train=96, val=32, test=16)
    return Pictures(images.train, images.classes), Sealed(images.test), Pictures(images.val)
"""
WORDS = ["--tau", "1,4", "--alpha", "0,0.5", "--beta", "0"]


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """--set words: the sealed set, and one epoch a phase."""
    folder = tmp_path_factory.mktemp("sealed")
    (folder / "mine.py").write_text(SEALED)
    sets = {
        "data.name": f"{folder}/mine.py:pictures",
        "data.workers": 0,
        "teacher.train.epochs": 1,
        "sections.epochs": 1,
        "engine.device": "cpu",
        "engine.mode": "eager",
    }
    return [word for key, value in sets.items() for word in ("--set", f"{key}={value}")]


@pytest.fixture(scope="module")
def searched(
    recipe: Path, sealed: list[str], litfast: Litfast, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("searches") / "found"
    return out, litfast("search", recipe, *sealed, *WORDS, "--out", out)


def test_the_order_is_tau_alpha_beta_and_the_test_samples_stay_sealed(searched: tuple[Path, Result]) -> None:
    out, result = searched
    assert result.exit_code == 0, result.output
    rows = record.read(out / "search.json")["results"]["trials"]
    assert [(row["stage"], row["value"]) for row in rows] == [
        *[("tau", 1.0), ("tau", 4.0), ("alpha", 0.0), ("alpha", 0.5), ("beta", 0.0)]
    ]
    assert [(row["method"], row["student"]) for row in rows[:3]] == [("kd", "resnet8")] * 2 + [
        ("lit", "resnet8")
    ]
    assert {row["val_samples"] for row in rows[:4]} == {32} and rows[4]["val_accuracy"] is None
    assert not list(out.glob("*/results.json")) and len(list(out.glob("*/trial.json"))) == 4
    assert result.stdout.count("chosen ") >= 3 and "(on 32 validation samples)" in result.stdout


def test_the_best_validation_accuracy_is_chosen_and_goes_into_the_next_stage(
    searched: tuple[Path, Result],
) -> None:
    out, _ = searched
    document = record.read(out / "search.json")["results"]
    for stage in ("tau", "alpha"):
        rows = [row for row in document["trials"] if row["stage"] == stage]
        (chosen,) = [row for row in rows if row["chosen"]]
        assert chosen["val_accuracy"] == max(row["val_accuracy"] for row in rows)
        assert document["chosen"][stage] == chosen["value"]
    tau = document["chosen"]["tau"]
    alpha = config.load(str(out / f"alpha=0.5,tau={tau:g}" / "config.toml"))
    assert alpha.method.options["tau"] == tau and alpha.method.options["alpha"] == 0.5
    first = config.load(str(out / "tau=4" / "config.toml"))
    assert first.phases["distill"].epochs == 2 and first.phases["distill"].lr == 0.05


def test_the_recipe_is_ready_to_run(searched: tuple[Path, Result], litfast: Litfast) -> None:
    out, result = searched
    settings = config.load(str(out / "recipe.toml"))
    chosen = record.read(out / "search.json")["results"]["chosen"]
    assert settings.method.options.items() >= chosen.items() and settings.engine.branches == "auto"
    assert f"litfast train {out / 'recipe.toml'}" in " ".join(result.stdout.split("\n"))
    assert litfast("train", out / "recipe.toml", "--dry-run").exit_code == 0


def test_finished_trials_are_kept_and_the_teacher_is_trained_once(
    searched: tuple[Path, Result], recipe: Path, sealed: list[str], litfast: Litfast
) -> None:
    out, result = searched
    assert result.stderr.count("teacher of tau=1\n") == 3
    again = litfast("search", recipe, *sealed, *WORDS, "--out", out, "--json")
    assert again.exit_code == 0 and again.stderr.count(": kept\n") == 4
    assert json.loads(again.stdout)["chosen"] == record.read(out / "search.json")["results"]["chosen"]


def test_a_stage_that_fails_as_a_whole_ends_the_search(
    recipe: Path, litfast: Litfast, tmp_path: Path
) -> None:
    words = ("--tau", "0,-1", "--set", "engine.device=cpu", "--out", tmp_path / "s")
    result = litfast("search", recipe, *words)
    assert result.exit_code == 1
    assert "search: a trial of tau must succeed, got: " in result.stderr.splitlines()[-1]
    assert not (tmp_path / "s" / "recipe.toml").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--set", "data.val=0"], "the recipe must hold out validation samples, got none"),
        (["--tau", "1,two"], "--tau must be different numbers separated by ',', got '1,two'"),
        (["--alpha", ""], "--alpha must be different numbers"),
        (["--beta", "0,0"], "--beta must be different numbers"),
        (["--student", "resnet9"], "--student must be one of"),
        (["--set", "method.tua=3"], "did you mean 'tau'?"),
        (["--set", "distil.epochs=3"], "must be"),
    ],
)
def test_bad_words_get_one_line(
    words: list[str], line: str, recipe: Path, litfast: Litfast, tmp_path: Path
) -> None:
    result = litfast("search", recipe, *words, "--out", tmp_path / "s")
    assert result.exit_code == 2, result.output
    assert line in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "s").exists()


def test_a_method_with_nothing_to_search_is_refused(litfast: Litfast, tmp_path: Path) -> None:
    file = tmp_path / "plain.toml"
    file.write_text(
        '[student]\nmodel = "resnet8"\n[method]\nname = "scratch"\n[train]\nepochs = 1\nlr = 0.1\n'
    )
    result = litfast("search", file)
    assert result.exit_code == 2
    assert "method must have an option tau, alpha, beta to search, got 'scratch'" in result.stderr


def _outcome(accuracy: float | None, perplexity: float | None = None) -> Outcome:
    trial: Any = Trial(name="", path=Path(), settings=config.load("digits"), test=False)
    found = {"val_accuracy": accuracy, "val_perplexity": perplexity, "samples": {"val": 8}, "seconds": {}}
    return Outcome(trial=trial, results=None if accuracy is None else found)


@pytest.mark.parametrize(
    ("accuracies", "picked"),
    [
        ([90, 91, 92, 93], 8.0),
        ([93, 91, 92, 93], 1.0),  # both as near to 4.5
        ([93, 93, 92, 93], 2.0),
        ([None, 80, None, 79], 2.0),
        ([None] * 4, None),
    ],
)
def test_ties_go_to_the_value_nearest_the_recipes_own(
    accuracies: list[float | None], picked: float | None
) -> None:
    stage = _stages.Stage(key="tau", values=(1, 2, 7.5, 8), own=4.5, settings=config.load("digits"))
    assert _stages.pick(stage, [_outcome(accuracy) for accuracy in accuracies]) == picked


def test_a_language_model_goes_by_perplexity() -> None:
    stage = _stages.Stage(key="tau", values=(1, 2, 4), own=1, settings=config.load("digits"))
    outcomes = [_outcome(30, 120.0), _outcome(20, 80.0), _outcome(25, 90.0)]
    assert _stages.pick(stage, outcomes) == 2
    row = search._row(stage, 2, outcomes[1], is_chosen=True)
    assert row["val_perplexity"] == 80.0
    assert "validation perplexity" in [column.header for column in search._table([row]).columns]


def test_the_small_student_is_the_shallowest_of_the_family_and_distill_its_schedule() -> None:
    assert _stages.smallest("resnet56") == "resnet8"
    assert _stages.smallest("vdcnn29") == "vdcnn9"
    assert _stages.smallest("mine.py:net") == "mine.py:net"
    given = dict.fromkeys(_stages.ORDER, (1.0, 2.0))
    settings = config.load("digits", ["distill.epochs=3", "distill.lr=0.3"])
    tau, alpha, _ = _stages.stages(settings, given, "resnet14")
    assert tau.settings.student.model == "resnet14" and tau.settings.phases["distill"].epochs == 3
    assert tau.settings.student.init == "random"
    assert alpha.settings.student.model == "resnet14" and set(alpha.settings.phases) == {
        *("sections", "finetune")
    }
    tau, *_ = _stages.stages(config.load("digits"), given, None)
    assert tau.settings.student.model == "resnet8"
    assert (tau.settings.phases["distill"].epochs, tau.settings.phases["distill"].lr) == (25, 0.1)
    assert tau.config(2.0, {}).method.options == {"alpha": 0.0, "tau": 2.0}


def test_help_answers(litfast: Litfast) -> None:
    shown = litfast("search", "--help")
    assert shown.exit_code == 0 and "litfast search digits" in shown.stdout
