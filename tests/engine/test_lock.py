"""Two processes on one run's folder: the second is refused; a dead one is in nobody's way."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from torch import nn

import litfast
from litfast.data.resident import ResidentLoader
from litfast.engine import lock
from litfast.engine.rundir import RunDirectory
from litfast.phase import Phase

# the lock alone, without torch: it holds a folder until its stdin ends
HOLDER = """
import runpy, sys
from pathlib import Path
with runpy.run_path(sys.argv[1])["held"](Path(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds tmp_path."""
    words = [sys.executable, "-c", HOLDER, lock.__file__, str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        _read(process.stdout)
        yield process
        process.kill()


def _read(stream: IO[bytes] | None) -> None:
    assert stream is not None and stream.readline() == b"held\n"


def refused(other: Any, folder: Path) -> Any:
    rule = (
        rf"^run: {folder} must be used by one process at a time, got process {other.pid} on .* at work in it$"
    )
    return pytest.raises(ValueError, match=rule)


def test_a_training_in_a_folder_that_another_process_holds_is_refused_and_touches_nothing(
    other: Any, toy: nn.Module, phase: Callable[..., Phase], data: ResidentLoader, tmp_path: Path
) -> None:
    with refused(other, tmp_path):
        list(litfast.train([phase(toy)], data, out=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [lock.NAME]


def test_a_run_at_work_is_not_overwritten(other: Any, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"litfast": "0", "status": "running"}')
    with refused(other, tmp_path):
        RunDirectory.create(tmp_path, overwrite=True)
    assert (tmp_path / "run.json").exists()


def test_the_lock_of_a_killed_process_is_no_obstacle(
    other: Any, toy: nn.Module, phase: Callable[..., Phase], data: ResidentLoader, tmp_path: Path
) -> None:
    other.kill()
    other.wait()
    assert (tmp_path / lock.NAME).exists()
    assert RunDirectory.create(tmp_path).path == tmp_path
    list(litfast.train([phase(toy)], data, out=tmp_path))
    assert not (tmp_path / lock.NAME).exists()


def test_one_process_may_take_it_again_and_holds_it_until_the_outermost_end(tmp_path: Path) -> None:
    with lock.held(tmp_path):
        with lock.held(tmp_path / "." / "."):
            pass
        words = [sys.executable, "-c", HOLDER, lock.__file__, str(tmp_path)]
        done = subprocess.run(words, input=b"", capture_output=True, check=False)
        assert b"must be used by one process at a time" in done.stderr
    done = subprocess.run(words, input=b"", capture_output=True, check=False)
    assert done.returncode == 0 and not list(tmp_path.iterdir())


def test_a_fork_that_outlives_the_process_holds_nothing(tmp_path: Path) -> None:
    """As a loader's worker does for some seconds when its parent is killed."""
    program = """
import os, runpy, signal, sys, time
from pathlib import Path
with runpy.run_path(sys.argv[1])["held"](Path(sys.argv[2])):
    ready, done = os.pipe()
    if os.fork() == 0:
        os.write(done, b"1")
        time.sleep(60)
    os.read(ready, 1)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    words = [sys.executable, "-c", program, lock.__file__, str(tmp_path)]
    process = subprocess.Popen(words, start_new_session=True)
    process.wait()
    try:
        with lock.held(tmp_path):
            pass
    finally:
        subprocess.run(["kill", "-KILL", "--", f"-{process.pid}"], check=True)
