"""`torchrun -m litfast train`: a rank is killed, and the restarted job goes on from the last checkpoint."""

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
from typer.testing import Result

from litfast import build, config
from litfast.cli import _ranks
from litfast.engine.ranks import Ranks
from litfast.engine.rundir import MARK

Litfast = Callable[..., Result]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def _rank(number: int, parent: int) -> int:
    """The process of a rank, by its environment."""
    for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if f"\0RANK={number}\0" in f"\0{Path(f'/proc/{pid}/environ').read_text()}":
            return int(pid)
    raise AssertionError(f"no rank {number}")


def _wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, f"{path.name} never came"
        time.sleep(0.01)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the rank's process in /proc")
def test_a_killed_rank_restarts_the_job_from_its_last_checkpoint(recipe: Path, tmp_path: Path) -> None:
    words = ["--set", "sections.epochs=6", "--set", "teacher.train.epochs=1", "--json"]
    command = [*TORCHRUN, "--max-restarts", "1", "-m", "litfast", "train", str(recipe), *words]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    run = tmp_path / "runs" / "tiny-1"
    _wait_for(run / "checkpoints" / "0-teacher.pt", process)
    _wait_for(run / "checkpoints" / "last.pt", process)
    os.kill(_rank(1, process.pid), signal.SIGKILL)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert err.count("litfast: ") == err.count("litfast: ranks: every rank must live to the end") == 1
    document = json.loads(out)  # of the first rank alone
    assert document["run"] == "runs/tiny-1" and [p.name for p in run.parent.iterdir()] == ["tiny-1"]
    mark = json.loads((run / MARK).read_text())
    assert (mark["status"], mark["ranks"]) == ("finished", 2)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    epochs = [(row["phase"], row["epoch"]) for row in rows]
    assert epochs == [("teacher", 1), *(("sections", n) for n in range(1, 7)), ("finetune", 1)]
    assert "loaded from its checkpoint" in err and document["phases"]["sections"]["last"] is not None


def test_a_restarted_command_finds_what_it_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, (status, command) in enumerate(
        [("running", "litfast train a"), ("running", "litfast train b"), ("finished", "litfast train a")]
    ):
        folder = tmp_path / f"a-{number}"
        folder.mkdir()
        (folder / MARK).write_text(json.dumps({"litfast": "0", "status": status, "command": command}))
    assert _ranks.left_behind(tmp_path, "litfast train a") is None
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert _ranks.left_behind(tmp_path, "litfast train a") == tmp_path / "a-0"
    assert _ranks.left_behind(tmp_path / "a-1", "litfast train b") == tmp_path / "a-1"
    assert _ranks.left_behind(tmp_path / "a-2", "litfast train a") is None
    assert _ranks.left_behind(tmp_path / "none", "litfast train a") is None


@pytest.mark.parametrize("command", ["sweep", "search"])
def test_a_command_with_processes_of_its_own_is_refused(
    command: str, litfast: Litfast, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = litfast(command, recipe)
    assert result.exit_code == 2
    assert f"{command}: it must be started as one process, got one of 2 ranks" in result.stderr


def test_a_batch_that_does_not_divide_is_refused(recipe: Path) -> None:
    settings = build.resolve(config.load(str(recipe), ["data.batch=33"]))
    with pytest.raises(ValueError, match=r"data\.batch must divide among the 2 ranks, got 33"):
        build.data(settings, Ranks(1, 2))
