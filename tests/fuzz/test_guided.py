"""The cases that atheris finds, where it is installed; benchmarks/fuzz.py --guided takes all targets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_what_atheris_finds_is_taken_whole_or_refused(tmp_path: Path) -> None:
    pytest.importorskip("atheris")
    counts = tmp_path / "counts.json"
    command = [
        sys.executable,
        "-m",
        "tests.fuzz.guided",
        "lfc file",
        "--cases",
        "100",
        "--counts",
        str(counts),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(counts.read_text())
    assert found["accepted"] and found["refused"] and found["accepted"] + found["refused"] == 100
