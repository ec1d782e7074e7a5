"""`litfast train`: a recipe becomes a run."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from litfast import __version__, build, config
from litfast.bench import machine
from litfast.cli import _console, _plan, _progress, _results
from litfast.engine import Report
from litfast.engine import train as run_phases
from litfast.engine.rundir import MARK, RunDirectory, latest_unfinished, next_free
from litfast.ops import backends

RUNS = Path("runs")


@_console.command
def train(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name, or a TOML file.")] = "digits",
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one key: `--set sections.epochs=8`."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder. Default: runs/RECIPE-N.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the interrupted run in --out.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")] = False,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1 ... Default: cuda where there is one.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order, augmentation, noise.")] = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Refuse nondeterministic kernels.")
    ] = False,
    teacher_precision: Annotated[
        str | None, typer.Option(help="auto, fp32 (exact) or bf16, of the teacher's forward pass.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print phases, branches, memory; train nothing.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document on stdout, all else on stderr.")
    ] = False,
) -> None:
    """Train (or load) a teacher, train a shallower student, measure both.

    Examples:

        litfast train                                          the embedded default, about a minute

        litfast train cifar10_resnet56_resnet20 --set data.root=PATH --set teacher.weights=FILE

        litfast train my.toml --set sections.epochs=8 --seed 1 --out runs/mine

        litfast train --set sections.patience=3                sections that learn no more stop early

        litfast train my.toml --set data.name=image_folder --set data.root=DIR --set data.loader=torch

        litfast train --resume --out runs/mine
    """
    with _console.usage():
        if resume and (overwrite or sets or seed is not None or teacher_precision is not None):
            raise ValueError(
                "train: --resume must come alone (a run keeps its recipe), "
                "got --overwrite, --set, --seed or --teacher-precision"
            )
        if resume:
            run = RunDirectory.open(out or latest_unfinished(RUNS, Path(recipe).stem))
            _refuse_finished(run)
            _compare_backend(run)
            settings = config.parse(run.config())
        else:
            settings = _settings(recipe, sets or [], device, seed, deterministic, teacher_precision)
        build.method_options(settings)
    if dry_run:
        _plan.show(settings, as_json=as_json)
        return
    _apply(settings)
    experiment = build.experiment(settings)
    experiment.rehearse()
    for line in (*experiment.data.notes, *([] if resume else [experiment.data.loaded])):
        _console.say(line, _console.err)
    if not _is_taught(settings):
        _say_agreement(experiment)
    chosen = ""
    if not resume:
        experiment, chosen = experiment.choose()
        if chosen:
            _console.say(chosen, _console.err)
        run = RunDirectory.create(out or next_free(RUNS, Path(recipe).stem), overwrite=overwrite)
    _note(run, experiment, "running", chosen)
    run.write_config(config.dump(experiment.config))
    seconds = _run(run, experiment, resume)
    results = _results.collect(run, experiment, seconds)
    _note(run, experiment, "finished", stopped=results["stopped"])
    _results.show(results, run, as_json=as_json)


def _settings(
    recipe: str,
    sets: list[str],
    device: str | None,
    seed: int | None,
    deterministic: bool,
    teacher_precision: str | None,
) -> config.Config:
    settings = config.load(recipe, sets)
    engine = settings.engine
    if device is not None:
        engine = replace(engine, device=device)
    if deterministic:
        engine = replace(engine, deterministic=True)
    if teacher_precision is not None:
        engine = replace(engine, teacher_precision=teacher_precision)
    return build.resolve(replace(settings, engine=engine, seed=settings.seed if seed is None else seed))


def _apply(settings: config.Config) -> None:
    """Process-wide settings of torch, as the run has them stored."""
    assert settings.engine.threads is not None
    torch.set_num_threads(settings.engine.threads)
    torch.use_deterministic_algorithms(settings.engine.deterministic)


def _refuse_finished(run: RunDirectory) -> None:
    if run.status == "finished":
        raise ValueError(f"train: {run.path} must be unfinished to be resumed, got a finished run")


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


def _note(
    run: RunDirectory,
    experiment: build.Experiment,
    status: str,
    chosen: str = "",
    stopped: dict[str, dict[str, int]] | None = None,
) -> None:
    """run.json; what was chosen at the start, and why, stays from one writing to the next."""
    before = run.read(MARK) if (run.path / MARK).exists() else {}
    settings = experiment.config
    run.write(
        "run.json",
        {
            "status": status,
            "litfast": __version__,
            "command": shlex.join(["litfast", *sys.argv[1:]]),
            "seed": settings.seed,
            "engine": asdict(settings.engine),
            "auto": chosen or before.get("auto", ""),
            "loader": before.get("loader") or experiment.data.loaded,
            "left_out": experiment.data.left_out,
            "stopped": stopped or {},
            "backend": _backend(),
            "machine": machine.describe(),
        },
    )


def _run(run: RunDirectory, experiment: build.Experiment, resume: bool) -> dict[str, float]:
    """Train, show progress, stop cleanly on a signal. Returns seconds of each phase in this process."""
    engine = experiment.config.engine
    reports: Iterator[Report] = run_phases(
        experiment.phases(),
        experiment.train,
        experiment.val,
        engine.device,
        run.path,
        experiment.config.seed,
        resume=resume,
        precision=engine.precision,
        keep=engine.keep,
        log_every=engine.log_every,
        accumulate=engine.accumulate,
        ema=engine.ema,
        mode=engine.mode,
        branches=engine.branches,
    )
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
                seconds[report.phase] = time.perf_counter() - started
                started = time.perf_counter()
            if stop.signal is not None:
                _close(reports)
                said = f"stopped; continue with: litfast train --resume --out {run.path}"
                _console.say(said, _console.err)
                raise typer.Exit(stop.code)
    return seconds


def _close(reports: Any) -> None:
    """Closing the generator writes a checkpoint."""
    reports.close()
