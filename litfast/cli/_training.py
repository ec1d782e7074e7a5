"""One training from a resolved config to its results: what `train`, `sweep` and `search` have in common."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from litfast import __version__, build, config
from litfast.bench import machine
from litfast.cli import _console, _progress, _results
from litfast.cli._judge import Judge
from litfast.engine import Report, evaluate, lock, ranks
from litfast.engine import train as run_phases
from litfast.engine.adopt import adopt
from litfast.engine.rundir import MARK, RunDirectory
from litfast.ops import backends


class Stopped(Exception):
    """A signal stopped the training after a checkpoint; `code` is the exit code that tells so."""

    def __init__(self, run: RunDirectory, code: int) -> None:
        super().__init__(f"{run.path} was stopped")
        self.run, self.code = run, code


def carry_out(
    settings: config.Config,
    folder: Callable[[], RunDirectory],
    *,
    resume: bool = False,
    taught: Path | None = None,
    test: bool = True,
) -> tuple[RunDirectory, dict[str, Any]]:
    """Train what a resolved config says and judge it; the progress goes to stderr.

    Of several ranks (`litfast.engine.ranks.joined`) all train; the first one writes and judges.

    Args:
        settings: resolved by `build.resolve`, or read from the run that is resumed.
        folder: gives the run's folder; called once the models, the data and every loss have been tried, so
            that a recipe with a mistake leaves no folder behind.
        resume: continue from the checkpoints in the folder.
        taught: another run of the same seed, data, engine and teacher, whose trained teacher is taken over.
        test: judge it on the test split; else on the validation split alone, and the test split is not seen.

    Returns:
        The run and its results document, which is in the folder too: results.json, or trial.json. Ranks but
        the first one have an empty document.

    Raises:
        Stopped: Ctrl-C or SIGTERM came; a checkpoint is written.
    """
    every = ranks.current()
    if resume and every.is_first:
        with lock.held(folder().path):  # before the models and the data are read
            _compare_backend(folder())
    _apply(settings)
    experiment = build.experiment(settings, every)
    _results.check(experiment)
    plans = experiment.rehearse()
    for line in (*experiment.data.notes, *([] if resume else [experiment.data.loaded])):
        _console.say(line, _console.err)
    warnings = [] if resume else build.warnings(experiment, plans)
    for line in warnings:
        _console.say(f"warning: {line}", _console.err, "yellow")
    if not _is_taught(settings):
        _say_agreement(experiment)
    chosen = ""
    if not resume:
        experiment, chosen = experiment.choose()
        if chosen:
            _console.say(chosen, _console.err)
    run = RunDirectory(every.from_first(lambda: str(folder().path)))
    if not every.is_first:
        _run(run, experiment, resume or taught is not None, None)
        return run, {}
    with lock.held(run.path):
        _note(run, experiment, "running", chosen, warnings=warnings)
        run.write_config(config.dump(experiment.config))
        if taught is not None:
            adopt(run.path, "teacher", taught)
        judge = _judge(experiment) if test else None
        seconds = _run(run, experiment, resume or taught is not None, judge)
        if test:
            results = _results.collect(run, experiment, seconds, judge)
        else:
            results = _validated(run, experiment, seconds)
        _note(run, experiment, "finished", stopped=results.get("stopped"))
    return run, results


def _validated(run: RunDirectory, experiment: build.Experiment, seconds: dict[str, float]) -> dict[str, Any]:
    """What a search may know of a run: the student on the validation split; trial.json holds it."""
    assert experiment.val is not None
    found = evaluate(experiment.student, experiment.val)
    results = {
        "val_accuracy": found.accuracy,
        "val_perplexity": found.perplexity,
        "samples": {split: experiment.data.size(split) for split in ("train", "val")},
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
    }
    run.write("trial.json", results)
    return results


def _apply(settings: config.Config) -> None:
    """Process-wide settings of torch, as the run has them stored."""
    assert settings.engine.threads is not None
    torch.set_num_threads(settings.engine.threads)
    torch.use_deterministic_algorithms(settings.engine.deterministic)


def _backend() -> str:
    """The first loss-op backend that this installation can run: what "auto" takes on the CPU."""
    return next(name for name, missing in backends() if missing is None)


def _compare_backend(run: RunDirectory) -> None:
    """Another backend rounds in another order: the resumed run is as good, but not bit-identical. Say so."""
    before = run.read(MARK).get("backend")
    if before != _backend():
        said = f"note: this run began with backend {before}, here {_backend()} serves it: not bit-identical"
        _console.say(said, _console.err)


def _is_taught(settings: config.Config) -> bool:
    """Whether the run trains its teacher, in phase "teacher"."""
    return settings.teacher is not None and settings.teacher.train is not None


def _say_agreement(experiment: build.Experiment) -> None:
    """How far the teacher as it will be run is from the plain one: once its weights are there."""
    found = experiment.agreement()
    if found is None:
        return
    folded = "folded" + (f" (not {', '.join(found.plain)})" if found.plain else "")
    said = (
        f"teacher: {folded}, {experiment.config.engine.teacher_precision}; its irs are within "
        f"{max(found.irs):.1e} of the plain teacher's, its logits within {found.logits:.1e} (relative)"
    )
    _console.say(said, _console.err)


def command() -> str:
    """What was typed, as run.json has it."""
    return shlex.join(["litfast", *sys.argv[1:]])


def _note(
    run: RunDirectory,
    experiment: build.Experiment,
    status: str,
    chosen: str = "",
    stopped: dict[str, dict[str, int]] | None = None,
    warnings: Sequence[str] = (),
) -> None:
    """run.json; what was chosen at the start, why, and what looked wrong stays."""
    before = run.read(MARK) if (run.path / MARK).exists() else {}
    settings = experiment.config
    run.write(
        "run.json",
        {
            "status": status,
            "litfast": __version__,
            "command": command(),
            "seed": settings.seed,
            "engine": asdict(settings.engine),
            "auto": chosen or before.get("auto", ""),
            "loader": before.get("loader") or experiment.data.loaded,
            "warnings": list(warnings) or before.get("warnings", []),
            "left_out": experiment.data.left_out,
            "stopped": stopped or {},
            "backend": _backend(),
            "machine": machine.describe(settings.engine.device),
            "ranks": experiment.ranks.world,
        },
    )


def _judge(experiment: build.Experiment) -> Judge | None:
    """What judges the phases; None of generators, whose scores are taken once, at the end."""
    if experiment.discriminator is not None:
        return None
    return Judge(experiment.test, str(experiment.config.engine.device), labelled=experiment.data.labelled)


def _run(
    run: RunDirectory, experiment: build.Experiment, resume: bool, judge: Judge | None
) -> dict[str, float]:
    """Train, show progress, stop cleanly on a signal. Returns seconds of each phase in this process."""
    engine = experiment.config.engine
    phases = experiment.phases()
    reports: Iterator[Report] = run_phases(
        phases if judge is None else judge.watch(phases),
        experiment.train,
        experiment.val,
        engine.device,
        run.path,
        experiment.config.seed,
        resume=resume,
        precision=engine.precision,
        keep=engine.keep,
        keep_checkpoints=engine.keep_checkpoints,
        on_nan=engine.on_nan,
        log_every=engine.log_every,
        accumulate=engine.accumulate,
        ema=engine.ema,
        mode=engine.mode,
        branches=engine.branches,
        sync_batch_norm=engine.sync_batch_norm,
        distributed=engine.distributed,
        relay=engine.relay,
        split=engine.split,
    )
    vote = ranks.Vote(experiment.ranks)
    seconds: dict[str, float] = {}
    started = time.perf_counter()
    with _console.Stop().listening() as stop, _progress.Display() as display:
        for report in reports:
            display.show(report)
            for line in report.notes:
                _console.say(line, _console.err)
            if report.kind == "phase":
                if report.phase == "teacher" and _is_taught(experiment.config):
                    _say_agreement(experiment)
                judging = 0.0 if judge is None else judge.spent()
                seconds[report.phase] = time.perf_counter() - started - judging
                started = time.perf_counter()
            if heard := vote(stop.signal or 0):
                _close(reports)
                raise Stopped(run, 128 + heard)  # 130 for SIGINT, 143 for SIGTERM
    return seconds


def _close(reports: Any) -> None:
    """Closing the generator writes a checkpoint."""
    reports.close()
