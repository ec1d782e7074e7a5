"""A training run that is stopped or killed, and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import Result

Litfast = Callable[..., Result]


def _start(recipe: Path, out: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "litfast", "train", str(recipe), "--out", str(out), *words]
    return subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=out.parent
    )


def _wait_for(path: Path, *, after: Path | None = None) -> None:
    """Until `path` is there, written later than `after`."""
    deadline = time.monotonic() + 60
    while _written(path) <= (0 if after is None else _written(after)):
        assert time.monotonic() < deadline, f"{path.name} never came"
        time.sleep(0.01)


def _written(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _resume(out: Path) -> str:
    """Resumes to the end, from the folder that `_start` works in: the same installation serves both."""
    command = [sys.executable, "-m", "litfast", "train", "--resume", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=out.parent)
    assert done.returncode == 0, done.stderr
    return done.stderr


LONG = ("--set", "sections.epochs=40", "--set", "teacher.train.epochs=1")


def test_a_stopped_run_checkpoints_says_how_to_go_on_and_resumes(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = _start(recipe, out, *LONG)
    ended, last = out / "checkpoints" / "0-teacher.pt", out / "checkpoints" / "last.pt"
    _wait_for(ended)
    _wait_for(last, after=ended)  # that of the teacher's phase is there for a moment longer
    os.kill(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"litfast train --resume --out {out}" in stderr
    assert last.exists()
    _resume(out)
    assert json.loads((out / "run.json").read_text())["status"] == "finished"


def test_sigterm_stops_a_run_alike_and_the_resumed_one_has_every_score(
    finished: Path, recipe: Path, litfast: Litfast, stopped: Litfast, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    halted = stopped("finetune", "train", recipe, "--out", out)
    assert halted.exit_code == 143 and not (out / "results.json").exists()
    assert f"litfast train --resume --out {out}" in halted.stderr
    assert (out / "checkpoints" / "last.pt").exists()
    resumed = litfast("train", "--resume", "--out", out)
    assert resumed.exit_code == 0, resumed.output
    ours, whole = (json.loads((run / "results.json").read_text()) for run in (out, finished))
    assert ours["test_by_phase"] == whole["test_by_phase"]
    assert list(ours["test_by_phase"]) == ["teacher", "sections", "finetune"]
    assert json.loads((out / "run.json").read_text())["status"] == "finished"


@pytest.mark.parametrize("phase", ["sections", "finetune"])
def test_a_killed_run_resumes_to_bit_equal_weights(phase: str, recipe: Path, tmp_path: Path) -> None:
    words = ["--set", f"{phase}.epochs=12"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = _start(recipe, whole, *words)
    process.communicate(timeout=120)
    assert process.returncode == 0
    process = _start(recipe, killed, *words)
    ended = killed / "checkpoints" / ("0-teacher.pt" if phase == "sections" else "1-sections.pt")
    _wait_for(ended)
    _wait_for(killed / "checkpoints" / "last.pt", after=ended)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert not (killed / "results.json").exists()
    assert "not bit-identical" not in _resume(killed)
    first, second = (load_file(run / "student.safetensors") for run in (whole, killed))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_resume_on_another_backend_says_that_bits_may_differ(
    recipe: Path, litfast: Litfast, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert litfast("train", recipe, "--out", out).exit_code == 0
    mark = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(mark | {"status": "running", "backend": "abacus"}))
    assert "began with backend abacus" in litfast("train", "--resume", "--out", out).stderr
