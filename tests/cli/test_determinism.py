"""The same recipe, seed and thread count: the same bits from another process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from litfast.engine.loop import SPEEDS

WEIGHTS = ("teacher.safetensors", "student.safetensors")


def journal(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in SPEEDS} for row in rows]


@pytest.mark.slow
def test_a_whole_run_comes_out_the_same_to_the_bit_in_two_processes(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    command = [sys.executable, "-m", "litfast", "train", str(finished / "config.toml"), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in WEIGHTS:
        assert (out / name).read_bytes() == (finished / name).read_bytes(), name
    assert journal(out) == journal(finished)
