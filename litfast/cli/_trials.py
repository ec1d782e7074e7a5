"""The trainings of a sweep or a search: each in a process of its own, kept, resumed or started."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from litfast import build, config
from litfast.cli import _console, _training
from litfast.engine.adopt import finished
from litfast.engine.rundir import MARK, RunDirectory
from litfast.errors import first_line, typed

POLL_S, LINGER_S = 0.2, 60.0
# Forked from a server that has imported torch, but touched no device: a run starts at once.
_methods = multiprocessing.get_all_start_methods()
_context: Any = multiprocessing.get_context("forkserver" if "forkserver" in _methods else "spawn")
if "forkserver" in _methods:
    _context.set_forkserver_preload(["litfast.cli._trials"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One training: its name, its run folder, the config as asked ("auto" unresolved), whether to test."""

    name: str
    path: Path
    settings: config.Config
    test: bool = True

    @property
    def state(self) -> str:
        """ "finished", "unfinished" or "missing".

        Raises:
            ValueError: the folder holds a run of another config.
        """
        if not ((self.path / MARK).exists() and (self.path / "config.toml").exists()):
            return "missing"
        run = RunDirectory(self.path)
        key = _differing(self.settings, config.parse(run.config()))
        if key:
            raise ValueError(f"run: {self.path} must hold the run that is asked for, got another {key}")
        return "finished" if run.status == "finished" and self._results.exists() else "unfinished"

    @property
    def results(self) -> dict[str, Any]:
        """What the finished run reports."""
        return RunDirectory(self.path).read(self._results.name)

    @property
    def _results(self) -> Path:
        return self.path / ("results.json" if self.test else "trial.json")

    @property
    def teaching(self) -> config.Config | None:
        """All that decides the teacher's training; None where the run trains none."""
        settings = self.settings
        if settings.teacher is None or settings.teacher.train is None:
            return None
        student = config.StudentConfig(model="any")
        method = config.MethodConfig(options=build.teacher_options(settings))
        return replace(settings, student=student, method=method, phases={})


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a trial ended: with results, or without any for a reason; `stopped` by a signal."""

    trial: Trial
    results: dict[str, Any] | None = None
    reason: str = ""
    stopped: bool = False


def run(trial: Trial, trials: Sequence[Trial], stop: _console.Stop, said: str) -> Outcome:
    """Keep a finished trial, resume an unfinished one, start a missing one, and wait for its end.

    It runs in a process of its own: whatever happens there, the others are not lost.

    Args:
        trial: the one to run.
        trials: all of them; the teacher of one that agrees in all that decides it is not trained again.
        stop: what the signals say, which go on to the process.
        said: what to call it on stderr.
    """
    if stop.signal is not None:
        return Outcome(trial=trial, stopped=True)
    state, taught = trial.state, _taught(trial, trials)
    if state == "finished":
        _console.say(f"{said}: kept", _console.err)
        return Outcome(trial=trial, results=trial.results)
    how = "resumed" if state == "unfinished" else f"teacher of {taught.name}" if taught else ""
    _console.say(f"{said}: {how}" if how else said, _console.err)
    receiver, sender = _context.Pipe(duplex=False)
    process = _context.Process(target=_work, args=(trial, taught, sender))
    process.start()
    sender.close()
    try:
        reason = _wait(process, receiver, stop)
    finally:
        if process.is_alive():
            process.kill()
        receiver.close()
    if not reason:
        return Outcome(trial=trial, results=trial.results)
    if stop.signal is None:
        _console.say(f"{said}: failed: {reason}", _console.err, "red")
    return Outcome(trial=trial, reason=reason, stopped=stop.signal is not None)


def _taught(trial: Trial, trials: Sequence[Trial]) -> Path | None:
    """A run whose trained teacher is the one that this trial would train too."""
    if trial.teaching is None:
        return None
    alike = [other.path for other in trials if other is not trial and other.teaching == trial.teaching]
    return next((path for path in alike if finished(path, "teacher").exists()), None)


def _wait(process: BaseProcess, receiver: Connection, stop: _console.Stop) -> str:
    """Until the process reports or dies; empty, or why there are no results. A signal is handed on once."""
    told = False
    while not multiprocessing.connection.wait([receiver, process.sentinel], POLL_S):
        if stop.signal is not None and not told:
            process.terminate()
            told = True
    try:
        reason: str = receiver.recv()
    except EOFError:
        process.join()
        code = process.exitcode or 0
        return f"its process ended with {signal.Signals(-code).name if code < 0 else f'exit code {code}'}"
    process.join(LINGER_S)
    return reason


def _work(trial: Trial, taught: Path | None, sender: Connection) -> None:
    """The process: trains, and says why not if it cannot."""
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    try:
        _carry_out(trial, taught)
        reason = ""
    except (_training.Stopped, KeyboardInterrupt):
        reason = "stopped by a signal"
    except _console.EXPECTED as error:
        reason = first_line(error)
    except Exception as error:
        traceback.print_exc()
        reason = typed(error)
    sender.send(reason)


def _carry_out(trial: Trial, taught: Path | None) -> None:
    resume = trial.state == "unfinished"
    settings = config.parse(RunDirectory(trial.path).config()) if resume else build.resolve(trial.settings)

    def folder() -> RunDirectory:
        return RunDirectory.open(trial.path) if resume else RunDirectory.create(trial.path, overwrite=True)

    _training.carry_out(settings, folder, resume=resume, taught=taught, test=trial.test)


def _end_with_the_parent() -> None:
    """Nobody reads on after a killed parent, and its successor will resume from the last checkpoint."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _differing(asked: config.Config, stored: config.Config) -> str:
    """The first key in which a stored config is not what is asked; what a run settles itself may differ."""
    ours, theirs = _flat(config.dump(asked)), _flat(config.dump(stored))
    settled = {key for key, value in ours.items() if value == "auto"} | ({"engine.threads"} - set(ours))
    keys = sorted((ours.keys() | theirs.keys()) - settled)
    return next((key for key in keys if ours.get(key) != theirs.get(key)), "")


def _flat(table: dict[str, Any], where: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= _flat(value, f"{where}{key}.") if isinstance(value, dict) else {f"{where}{key}": value}
    return found
