"""Kill -9 in either phase, then resume: the weights are those of a run that was never killed."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import litfast
from litfast.engine.loop import SPEEDS

SCRIPT = Path(__file__).with_name("killed.py")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("whole")
    return out, runpy.run_path(str(SCRIPT))["run"](out)


def journal(out: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in SPEEDS} for row in rows]


@pytest.mark.parametrize("step", [6, 15], ids=["phase 1", "phase 2"])
def test_a_killed_run_resumes_to_the_bit(
    step: int, whole: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    path = os.pathsep.join([str(Path(litfast.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(SCRIPT), str(out), str(step)]
    killed = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, check=False)
    assert killed.returncode == -signal.SIGKILL
    kept = torch.load(out / "checkpoints" / "last.pt", weights_only=True)
    assert kept["progress"]["global_step"] == step // 4 * 4  # the end of the last whole epoch
    resumed = runpy.run_path(str(SCRIPT))["run"](out, resume=True)
    assert [key for key, value in whole[1].items() if not torch.equal(value, resumed[key])] == []
    assert journal(out) == journal(whole[0])
