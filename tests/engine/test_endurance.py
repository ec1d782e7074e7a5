"""SIGKILL in every phase, and many steps on end: `benchmarks/endurance.py`, in short by default."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import litfast
from litfast.bench import record

ROOT = Path(litfast.__file__).parents[1]


def endured(out: Path, *words: str) -> dict[str, Any]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [
        sys.executable,
        str(Path(__file__).parents[2] / "benchmarks" / "endurance.py"),
        "--out",
        str(out),
    ]
    done = subprocess.run(
        [*command, *words],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return record.read(out)


def check(found: dict[str, Any], kills: int, steps: int) -> None:
    assert all(found["checks"].values())
    killed, steady = found["results"]["kills"], found["results"]["soak"]
    assert killed["died"] == killed["bit_equal"] == kills
    assert {moment["phase"] for moment in killed["moments"]} == {"teacher", "sections", "finetune"}
    assert steady["steps"] >= steps and steady["open_files"][0] == steady["open_files"][1]
    assert steady["run_bytes_an_epoch"] < 10_000


def test_killed_runs_resume_to_the_bit_and_a_longer_one_takes_no_more_of_the_machine(tmp_path: Path) -> None:
    check(endured(tmp_path / "endurance.json", "--kills", "3", "--steps", "300"), 3, 300)


@pytest.mark.long
def test_twenty_kills_and_ten_thousand_steps(tmp_path: Path) -> None:
    check(endured(tmp_path / "endurance.json"), 20, 10_000)
