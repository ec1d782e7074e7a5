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


def _wait(process: subprocess.Popen[str], what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not what():
        assert process.poll() is None and time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the rank's process in /proc")
@pytest.mark.parametrize("distributed", ["data", "sections"])
def test_a_job_survives_a_killed_rank_stops_at_a_signal_and_ends_as_one_process(
    distributed: str, recipe: Path, litfast: Litfast, tmp_path: Path
) -> None:
    """Rank 1 is killed amid the sections; the restarted job goes on, and is stopped by torchrun's SIGTERM."""
    words = ["--set", "sections.epochs=12", "--set", "teacher.train.epochs=1"]
    words += ["--set", f"engine.distributed={distributed}"]
    command = [*TORCHRUN, "--max-restarts", "1", "-m", "litfast", "train", str(recipe), *words]
    run, said = tmp_path / "runs" / "tiny-1", tmp_path / "said"
    last = run / "checkpoints" / "last.pt"
    with said.open("w") as file:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=file, stderr=file, text=True)
    _wait(process, (run / "checkpoints" / "0-teacher.pt").exists)
    began = time.time()
    _wait(process, lambda: _written(last) > began)
    os.kill(_rank(1, process.pid), signal.SIGKILL)
    killed = time.time() + 1  # what the first attempt was about to write
    _wait(process, lambda: _written(last) > killed)
    process.terminate()
    assert process.wait(timeout=120) != 0
    text = said.read_text()
    lost = "litfast: ranks: every rank must live to the end"
    assert text.count("litfast: ") == text.count(lost) == 1, text
    assert "loaded from its checkpoint" in text
    assert text.count("stopped; continue with: litfast train --resume --out runs/tiny-1") == 1, text
    assert [path.name for path in run.parent.iterdir()] == ["tiny-1"]
    assert json.loads((run / MARK).read_text())["ranks"] == 2
    assert last.stat().st_mtime > killed and not (run / "results.json").exists()

    ended = litfast("train", "--resume", "--out", run)
    assert ended.exit_code == 0, ended.output
    mark = json.loads((run / MARK).read_text())
    assert (mark["status"], mark["ranks"]) == ("finished", 1)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    epochs = [(row["phase"], row["epoch"]) for row in rows]
    assert epochs == [("teacher", 1), *(("sections", n) for n in range(1, 13)), ("finetune", 1)]


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
