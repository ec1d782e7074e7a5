"""`litfast train`: a recipe becomes a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from litfast import build, config
from litfast.cli import _console, _dry_run, _ranks, _results, _training
from litfast.engine.rundir import RunDirectory, latest_unfinished, next_free

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
        str | None, typer.Option(help="auto, fp32 (exact), bf16 or fp16, of the teacher's forward pass.")
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

        litfast train amazon_full_vdcnn29_chain --set data.root=DIR        texts, two students in turn

        litfast train celeba_stargan6_stargan2 --set data.root=DIR         generators, judged by FID

        litfast train --resume --out runs/mine

        torchrun --nproc-per-node 4 -m litfast train RECIPE                one batch shared by four processes
    """
    with _ranks.joined() as every:
        with _console.usage():
            if resume and (overwrite or sets or seed is not None or teacher_precision is not None):
                raise ValueError(
                    "train: --resume must come alone (a run keeps its recipe), "
                    "got --overwrite, --set, --seed or --teacher-precision"
                )
            place = every.from_first(lambda: _unfinished(out, Path(recipe).stem, resume))
            started = None if place is None else RunDirectory.open(place)
            if started is None:
                settings = _settings(recipe, sets or [], device, seed, deterministic, teacher_precision)
            else:
                settings = config.parse(started.config())
            build.method_options(settings)
        if dry_run:
            if every.is_first:
                _dry_run.show(settings, as_json=as_json)
            return

        def folder() -> RunDirectory:
            free = out or next_free(RUNS, Path(recipe).stem)
            return started or RunDirectory.create(free, overwrite=overwrite)

        try:
            run, results = _training.carry_out(settings, folder, resume=started is not None)
        except _training.Stopped as stopped:
            said = f"stopped; continue with: litfast train --resume --out {stopped.run.path}"
            _console.say(said, _console.err)
            raise typer.Exit(stopped.code) from None
        if every.is_first:
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


def _unfinished(out: Path | None, stem: str, resume: bool) -> str | None:
    """The run to go on with: the one asked for, or what this command left before its job was restarted."""
    if not resume:
        place = _ranks.left_behind(out or RUNS, _training.command())
        return None if place is None else str(place)
    run = RunDirectory.open(out or latest_unfinished(RUNS, stem))
    if run.status == "finished":
        raise ValueError(f"train: {run.path} must be unfinished to be resumed, got a finished run")
    return str(run.path)
