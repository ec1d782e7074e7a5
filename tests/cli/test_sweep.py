from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import Result

from litfast import config
from litfast.bench import record
from litfast.cli._grid import axes, cells, split
from litfast.cli._trials import Trial

Litfast = Callable[..., Result]

SETS = {
    "data.options.train": 64,
    "data.options.test": 32,
    "teacher.train.epochs": 1,
    "sections.epochs": 1,
    "engine.device": "cpu",
    "engine.mode": "eager",
}
QUICK = [word for key, value in SETS.items() for word in ("--set", f"{key}={value}")]
# `FILE.py:function`: a set whose making kills the process, as a machine short of memory does
DEADLY = """
import os, signal
from litfast.data.sets import load

def pictures(deadly, **options):
    if deadly:
        os.kill(os.getpid(), signal.SIGKILL)
    return load("synthetic", **options)
"""


@pytest.fixture(scope="module")
def swept(recipe: Path, litfast: Litfast, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """Three penalties, one of which there is not, with two seeds."""
    out = tmp_path_factory.mktemp("sweeps") / "penalties"
    words = ("--grid", "method.penalty=l2,l1,l3", "--seeds", 2, "--out", out)
    return out, litfast("sweep", recipe, *QUICK, *words)


def test_a_failed_run_is_named_and_the_others_are_there(swept: tuple[Path, Result]) -> None:
    out, result = swept
    assert result.exit_code == 1
    reason = "ir_loss: penalty must be one of l2, l1, smooth_l1, got 'l3'"
    assert f"failed: penalty=l3,seed=0: {reason}\nfailed: penalty=l3,seed=1: {reason}\n" in result.stderr
    finished = {path.parent.name for path in out.glob("*/results.json")}
    assert finished == {f"penalty={name},seed={seed}" for name in ("l1", "l2") for seed in (0, 1)}


def test_the_table_and_the_record_hold_mean_and_spread(swept: tuple[Path, Result]) -> None:
    out, result = swept
    document = record.read(out / "sweep.json")
    assert document["checks"] == {"every run finished": False}
    assert [cell["finished"] for cell in document["results"]["cells"]] == [2, 2, 0]
    assert [run["seed"] for run in document["results"]["runs"]] == [0, 0, 0, 1, 1, 1]
    reported = [json.loads((out / f"penalty=l1,seed={seed}" / "results.json").read_text()) for seed in (0, 1)]
    figures = document["results"]["cells"][1]["figures"]
    assert figures["test accuracy, %"]["values"] == [found["test_accuracy"]["student"] for found in reported]
    last = [found["phases"]["finetune"]["last"] for found in reported]
    assert figures["validation accuracy, %"]["values"] == last
    spread = figures["test accuracy, %"]
    assert f"{spread['mean']:.2f} ± {spread['std']:.2f}" in result.stdout
    assert "0 of 2" in result.stdout and "test accuracy, %" in result.stdout


def test_the_picture_is_there(swept: tuple[Path, Result]) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    assert (swept[0] / "sweep.png").read_bytes()[:4] == b"\x89PNG"


def test_one_teacher_a_seed_serves_all_and_the_bits_are_those_of_train(
    swept: tuple[Path, Result], recipe: Path, tmp_path: Path
) -> None:
    out, result = swept
    assert "penalty=l1,seed=0: teacher of penalty=l2,seed=0" in result.stderr
    words = ["train", str(recipe), *QUICK, "--set", "method.penalty=l1", "--out", str(tmp_path / "alone")]
    subprocess.run([sys.executable, "-m", "litfast", *words], check=True, capture_output=True)
    shared = out / "penalty=l1,seed=0"
    for model in ("teacher", "student"):
        first, second = (load_file(run / f"{model}.safetensors") for run in (shared, tmp_path / "alone"))
        assert all(torch.equal(first[key], second[key]) for key in second)
    kept = ("phase", "epoch", "step", "val_accuracy")
    rows = [
        [{key: row[key] for key in kept} for row in map(json.loads, file.read_text().splitlines())]
        for file in (shared / "metrics.jsonl", tmp_path / "alone" / "metrics.jsonl")
    ]
    assert rows[0] == rows[1] and [row["phase"] for row in rows[0]] == ["teacher", "sections", "finetune"]


def test_finished_runs_are_kept_and_another_recipe_is_refused(
    swept: tuple[Path, Result], recipe: Path, litfast: Litfast
) -> None:
    out, _ = swept
    words = ("sweep", recipe, *QUICK, "--grid", "method.penalty=l2,l1", "--seeds", 2, "--out", out)
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/results.json")}
    again = litfast(*words, "--json")
    assert again.exit_code == 0 and again.stderr.count(": kept\n") == 4
    assert [cell["finished"] for cell in json.loads(again.stdout)["cells"]] == [2, 2]
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/results.json")} == before
    other = litfast(*words, "--set", "finetune.lr=0.5")
    assert other.exit_code == 2
    assert "must hold the run that is asked for, got another finetune.lr" in other.stderr


def test_a_killed_process_is_one_failed_run(recipe: Path, litfast: Litfast, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(DEADLY)
    words = ["--set", f"data.name={tmp_path}/mine.py:pictures", "--set", "finetune.epochs=0"]
    result = litfast(
        "sweep", recipe, *QUICK, *words, "--grid", "data.options.deadly=true,false", "--out", tmp_path / "s"
    )
    assert result.exit_code == 1
    assert "failed: deadly=true,seed=0: its process ended with SIGKILL" in result.stderr
    assert (tmp_path / "s" / "deadly=false,seed=0" / "results.json").exists()


def _wait_for(run: Path) -> None:
    """Until a run is in its second phase."""
    deadline = time.monotonic() + 60
    while not all((run / "checkpoints" / name).exists() for name in ("0-teacher.pt", "last.pt")):
        assert time.monotonic() < deadline, f"{run.name} never came so far"
        time.sleep(0.01)


def _check_resumed(run: Path, result: Result) -> None:
    assert result.exit_code == 0, result.output
    assert f"[1/1] {run.name}: resumed" in result.stderr
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    epochs = [row["epoch"] for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())]
    assert epochs == [1, *range(1, 26), 1]


LONG = [*QUICK, "--set", "sections.epochs=25", "--grid", "method.beta=0.5"]


def test_a_killed_sweep_goes_on_where_it_was(recipe: Path, litfast: Litfast, tmp_path: Path) -> None:
    words = ["sweep", str(recipe), *LONG, "--out", str(tmp_path)]
    run = tmp_path / "beta=0.5,seed=0"
    process = subprocess.Popen([sys.executable, "-m", "litfast", *words], stderr=subprocess.DEVNULL)
    _wait_for(run)
    process.kill()
    process.wait(timeout=60)
    time.sleep(1)  # its run notices, and ends too
    assert not (run / "results.json").exists()
    _check_resumed(run, litfast(*words))


def test_ctrl_c_checkpoints_and_says_how_to_go_on(recipe: Path, litfast: Litfast, tmp_path: Path) -> None:
    words = ["sweep", str(recipe), *LONG, "--out", str(tmp_path)]
    run = tmp_path / "beta=0.5,seed=0"

    def stop() -> None:
        _wait_for(run)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=stop)
    thread.start()
    stopped = litfast(*words)
    thread.join()
    assert stopped.exit_code == 130 and not (run / "results.json").exists()
    assert "stopped; the same command continues: litfast" in stopped.stderr
    _check_resumed(run, litfast(*words))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--grid", "method.betta=0,1"], "did you mean 'beta'?"),
        (["--grid", "sections.epoch=1,2"], "did you mean 'sections.epochs'?"),
        (["--grid", "sections.lr=0.1,fast"], "sections.lr must be of type float, got 'fast'"),
        (["--grid", "method.beta="], "--grid: must be written key=value,value, got 'method.beta='"),
        (["--grid", "method.beta"], "--grid: must be written key=value,value, got 'method.beta'"),
        (["--grid", "method.beta=0,,1"], "--grid: must be written key=value,value"),
        (["--grid", "method.beta=0,0"], "--grid: keys and the values of a key must differ"),
        (["--grid", "method.beta=0,0.0"], "--grid: cells must differ, got beta=0.0 like beta=0"),
        (["--grid", "seed=0,1"], "--seeds N takes N of them"),
        ([], "--grid KEY=A,B or --seeds N must be given, got neither"),
        (["--seeds", "0"], "--seeds must be 1 or more, got 0"),
    ],
)
def test_bad_words_get_one_line_before_anything_runs(
    words: list[str], line: str, litfast: Litfast, tmp_path: Path
) -> None:
    result = litfast("sweep", "digits", *words, "--out", tmp_path / "s")
    assert result.exit_code == 2, result.output
    assert line in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "s").exists()


def test_a_dry_run_lists_the_runs_and_writes_nothing(litfast: Litfast, tmp_path: Path) -> None:
    words = ("--grid", "method.beta=0,0.5", "--grid", "student.blocks=[2, 2, 2],[3,2,1]", "--seeds", 2)
    result = litfast("sweep", "digits", *words, "--out", tmp_path / "s", "--dry-run", "--json")
    runs = json.loads(result.stdout)["runs"]
    assert [Path(run["run"]).name for run in runs][:3] == [
        "beta=0,blocks=2-2-2,seed=0",
        "beta=0,blocks=3-2-1,seed=0",
        "beta=0.5,blocks=2-2-2,seed=0",
    ]
    assert len(runs) == 8 and {run["state"] for run in runs} == {"missing"}
    assert not (tmp_path / "s").exists()
    shown = litfast("sweep", "digits", *words, "--out", tmp_path / "s", "--dry-run").stdout
    assert "8 runs; 8 of them share 2 trained teachers" in shown


def test_commas_in_brackets_and_quotes_do_not_split() -> None:
    assert split("1, 2.5,l1") == ["1", "2.5", "l1"]
    assert split("[1, 2],[[3, 4], 5]") == ["[1, 2]", "[[3, 4], 5]"]
    assert split("\"a,b\",'c,]d',{x = 1, y = 2}") == ['"a,b"', "'c,]d'", "{x = 1, y = 2}"]


def test_names_are_short_where_they_can_be_and_safe_for_a_folder() -> None:
    found = cells("digits", [], axes(["sections.lr=0.1,0.2", "finetune.lr=0.01", "data.root=a/b"]))
    assert [cell.name for cell in found] == [
        "sections.lr=0.1,finetune.lr=0.01,root=a-b",
        "sections.lr=0.2,finetune.lr=0.01,root=a-b",
    ]
    assert [cell.settings.phases["sections"].lr for cell in found] == [0.1, 0.2]
    (negative,) = cells("digits", [], axes(["data.options.low=-1"]))
    assert negative.name == "low=-1"


def test_help_shows_the_ablations(litfast: Litfast) -> None:
    shown = litfast("sweep", "--help")
    assert shown.exit_code == 0
    for word in ("method.penalty=l2,l1,smooth_l1", "method.ir_input=teacher,student", "engine.precision="):
        assert word in shown.stdout


def test_generators_share_a_teacher_only_where_it_would_be_trained_alike() -> None:
    def teaching(*words: str) -> config.Config | None:
        settings = config.load("celeba_stargan6_stargan2", words)
        return Trial(name="", path=Path("run"), settings=settings).teaching

    assert teaching() == teaching("student.model=stargan1", "method.noise=0.1", "sections.epochs=2")
    assert teaching() != teaching("method.lambda_rec=5.0")
    assert teaching() != teaching("discriminator.width=8")
