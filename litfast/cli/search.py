"""`litfast search`: the hyper-parameters of a distillation, on validation samples alone."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tomli_w
import typer
from rich.table import Table

from litfast import build, config
from litfast.bench import cells, record
from litfast.cli import _console, _ranks, _stages, _trials
from litfast.engine.rundir import RunDirectory

RUNS = Path("runs")


@_console.command
def search(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name, or a TOML file.")],
    tau: Annotated[str, typer.Option(help="Temperatures to try, comma separated.")] = "1,2,4,6,8",
    alpha: Annotated[str, typer.Option(help="Weights of the hard labels to try.")] = "0,0.5,0.9,0.95",
    beta: Annotated[str, typer.Option(help="Weights of the KD term to try.")] = "0,0.05,0.25,0.5,0.75",
    student: Annotated[
        str | None, typer.Option(help="Small model for tau. Default: the shallowest of the student's family.")
    ] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key for all trials.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the trials. Default: runs/RECIPE-search.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1 ... Default: cuda where there is one.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document on stdout, all else on stderr.")
    ] = False,
) -> None:
    """Choose tau, then alpha, then beta on validation samples; the test samples are never looked at.

    The best accuracy counts, of a language model the best perplexity.

    tau is chosen by plain KD of a small student (over the epochs of all phases, or as a [distill] table
    says), alpha and beta with the recipe's own student and method. An option with one value is taken as it
    is. Finished trials are kept: the same command again goes on. The result is recipe.toml, ready to train.

    Examples:

        litfast search digits

        litfast search cifar10_resnet56_resnet20 --set data.val=400 --tau 2,4,6 --beta 0

        litfast search my.toml --student resnet14 --set distill.epochs=10 --set distill.lr=0.1
    """
    folder = out or RUNS / f"{Path(recipe).stem}-search"
    with _console.usage():
        _ranks.refuse("search")
        on_top = [*(sets or []), *([] if device is None else [f"engine.device={device}"])]
        settings = config.load(recipe, on_top)
        build.method_options(_stages.plain(settings))
        texts = {"tau": tau, "alpha": alpha, "beta": beta}
        given = {key: _stages.numbers(f"--{key}", text) for key, text in texts.items()}
        stages = _stages.stages(settings, given, student)
        _check_validation(settings)
    trials: list[_trials.Trial] = []
    chosen: dict[str, float] = {}
    rows: list[dict[str, Any]] = []
    with _console.Stop().listening() as stop:
        for stage in stages:
            found = _run(stage, chosen, folder, trials, stop)
            rows += found
            if not any(row["chosen"] for row in found):
                raise ValueError(f"search: a trial of {stage.key} must succeed, got: {found[0]['failed']}")
            chosen[stage.key] = next(row["value"] for row in found if row["chosen"])
    document = {"trials": rows, "chosen": chosen, "split": "validation"}
    _save(document, settings, folder)
    if as_json:
        _console.print_json(document)
    else:
        _console.out.print(_table(rows))
        _say(document, settings, folder)
    if any(row["failed"] for row in rows):
        raise typer.Exit(_console.FAILED)


def _check_validation(settings: config.Config) -> None:
    _, data = build.data(build.resolve(settings))
    if data.splits["val"] is None:
        raise ValueError(
            "search: the recipe must hold out validation samples, got none; add --set data.val=N"
        )


def _run(
    stage: _stages.Stage,
    chosen: dict[str, float],
    folder: Path,
    trials: list[_trials.Trial],
    stop: _console.Stop,
) -> list[dict[str, Any]]:
    """One row a value; `trials` grows by the stage's own."""
    if len(stage.values) == 1:
        return [_row(stage, stage.values[0], None, is_chosen=True)]
    own = []
    for value in stage.values:
        name = stage.named(value, chosen)
        settings = stage.config(value, chosen)
        own.append(_trials.Trial(name=name, path=folder / name, settings=settings, test=False))
    trials += own
    outcomes = []
    for at, trial in enumerate(own, start=1):
        outcome = _trials.run(trial, trials, stop, f"[{stage.key} {at}/{len(own)}] {trial.name}")
        if outcome.stopped:
            line = shlex.join(["litfast", *sys.argv[1:]])
            _console.say(f"stopped; the same command continues: {line}", _console.err)
            raise typer.Exit(stop.code)
        outcomes.append(outcome)
    best = _stages.pick(stage, outcomes)
    return [
        _row(stage, value, outcome, is_chosen=value == best)
        for value, outcome in zip(stage.values, outcomes, strict=True)
    ]


def _row(
    stage: _stages.Stage, value: float, outcome: _trials.Outcome | None, *, is_chosen: bool
) -> dict[str, Any]:
    """A trial for the record; a value that was not tried has no result."""
    results = None if outcome is None else outcome.results
    settings = stage.settings
    return {
        "stage": stage.key,
        "value": value,
        "method": settings.method.name,
        "student": settings.student.model or list(settings.student.chain),
        "trial": None if outcome is None else outcome.trial.name,
        "val_accuracy": None if results is None else results["val_accuracy"],
        "val_perplexity": None if results is None else results.get("val_perplexity"),
        "val_samples": None if results is None else results["samples"]["val"],
        "seconds": None if results is None else cells.seconds(results),
        "failed": outcome.reason or None if outcome is not None else None,
        "chosen": is_chosen,
    }


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    """One line a trial, stage after stage."""
    table = Table(title="search")
    for column in ("stage", "trained"):
        table.add_column(column)
    metric = _stages.validated(next((row for row in rows if row["val_perplexity"] is not None), {}))
    for column in ("value", f"validation {metric.label}", "seconds"):
        table.add_column(column, justify="right")
    table.add_column("")
    before = ""
    for row in rows:
        if before not in ("", row["stage"]):
            table.add_section()
        head = ("", "") if row["stage"] == before else (row["stage"], f"{row['method']} {row['student']}")
        result = row[f"val_{metric.name}"]
        scored = "failed" if row["failed"] else "-" if result is None else f"{result:.2f}"
        took = "-" if row["seconds"] is None else cells.duration(row["seconds"])
        table.add_row(*head, f"{row['value']:g}", scored, took, "chosen" if row["chosen"] else "")
        before = row["stage"]
    return table


def _save(document: dict[str, Any], settings: config.Config, folder: Path) -> None:
    """recipe.toml with what was chosen, and search.json."""
    command = shlex.join(["litfast", *sys.argv[1:]])
    chosen = _stages.with_options(_stages.plain(settings), document["chosen"])
    folder.mkdir(parents=True, exist_ok=True)
    head = "# Chosen on validation samples by `litfast search`; search.json holds the trials.\n"
    RunDirectory(folder).write_text("recipe.toml", head + tomli_w.dumps(config.dump(chosen)))
    checks = {"every trial finished": not any(row["failed"] for row in document["trials"])}
    record.write(folder / "search.json", command=command, results=document, checks=checks)


def _say(document: dict[str, Any], settings: config.Config, folder: Path) -> None:
    """What was chosen on how many samples, and the command that trains it."""
    samples = next((row["val_samples"] for row in document["trials"] if row["val_samples"]), None)
    said = ", ".join(f"{key} {value:g}" for key, value in document["chosen"].items())
    _console.say(f"chosen: {said}" + (f" (on {samples} validation samples)" if samples else ""))
    _console.say(f"train it: litfast train {folder / 'recipe.toml'}")
    if settings.data.val:
        _console.say("  with --set data.val=0 the held-out samples are trained on too")
