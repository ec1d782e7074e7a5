"""`litfast sweep`: a recipe under every combination of some values, with several seeds."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from litfast import build
from litfast.bench import cells, picture_cells, record
from litfast.cli import _console, _grid, _ranks, _trials

RUNS = Path("runs")


@_console.command
def sweep(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name, or a TOML file.")],
    grids: Annotated[
        list[str] | None,
        typer.Option("--grid", metavar="KEY=A,B", help="Values of one key; several keys: all combinations."),
    ] = None,
    seeds: Annotated[
        int, typer.Option(help="How many seeds each combination gets, from the recipe's on.")
    ] = 1,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key for all runs.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run folders. Default: runs/RECIPE-sweep.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1 ... Default: cuda where there is one.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs; train nothing.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document on stdout, all else on stderr.")
    ] = False,
) -> None:
    """Train a recipe with every combination of values and several seeds; mean ± std of each combination.

    Every run is an ordinary run folder in --out. The same command again keeps those that are finished,
    resumes one that was interrupted and starts those that are missing. A teacher that the runs train on the
    spot is trained once a seed where nothing that decides it differs; the others take it over, bit for bit.

    Examples:

        litfast sweep digits --grid method.penalty=l2,l1,smooth_l1 --seeds 3                 which penalty

        litfast sweep digits --grid method.ir_input=teacher,student --seeds 3                whose IRs go in

        litfast sweep digits --grid method.beta=0,0.75 --set method.alpha=0.95 --seeds 3     how much KD

        litfast sweep digits --grid engine.precision=fp32,bf16,fp16 --seeds 3                which precision

        litfast sweep digits --grid sections.lr=0.05,0.1 --grid student.blocks=[2,2,2],[3,2,1] --dry-run
    """
    folder = out or RUNS / f"{Path(recipe).stem}-sweep"
    with _console.usage():
        _ranks.refuse("sweep")
        found, trials = _planned(recipe, grids or [], sets or [], seeds, device, folder)
    if dry_run:
        _list(trials, as_json=as_json)
        return
    outcomes = _run(trials)
    document = _document(found, trials, outcomes, len(trials) // len(found))
    several = f"{seeds} seed{'s' if seeds > 1 else ''}"
    said = _save(document, folder, f"{Path(recipe).stem}: mean ± standard deviation of {several}")
    if as_json:
        _console.print_json(document)
    else:
        _console.out.print(_table(document))
        _console.say(f"mean ± standard deviation of {several}; runs in {folder}")
    for line in said:
        _console.say(line, _console.err)
    failed = [outcome for outcome in outcomes if outcome.results is None]
    for outcome in failed:
        _console.say(f"failed: {outcome.trial.name}: {outcome.reason}", _console.err, "red")
    if failed:
        raise typer.Exit(_console.FAILED)


def _planned(
    recipe: str, grids: Sequence[str], sets: Sequence[str], seeds: int, device: str | None, folder: Path
) -> tuple[list[_grid.Cell], list[_trials.Trial]]:
    """All cells and runs, read and checked; those of the first seed come first."""
    if seeds < 1:
        raise ValueError(f"sweep: --seeds must be 1 or more, got {seeds}")
    if not grids and seeds == 1:
        raise ValueError("sweep: --grid KEY=A,B or --seeds N must be given, got neither")
    on_top = [*sets, *([] if device is None else [f"engine.device={device}"])]
    found = _grid.cells(recipe, on_top, _grid.axes(grids))
    trials = []
    for more in range(seeds):
        for cell in found:
            settings = replace(cell.settings, seed=cell.settings.seed + more)
            name = ",".join([*([cell.name] if cell.name else []), f"seed={settings.seed}"])
            trials.append(_trials.Trial(name=name, path=folder / name, settings=settings))
            build.resolve(settings)
    for trial in trials:
        assert trial.state  # a folder with another run in it is refused before anything runs
    return found, trials


def _list(trials: Sequence[_trials.Trial], *, as_json: bool) -> None:
    rows = [{"run": str(trial.path), "state": trial.state} for trial in trials]
    if as_json:
        _console.print_json({"runs": rows})
        return
    for row in rows:
        _console.say(f"{row['state']:<10} {row['run']}")
    taught = [trial.teaching for trial in trials if trial.teaching is not None]
    teachers = [teaching for at, teaching in enumerate(taught) if teaching not in taught[:at]]
    said = f"; {len(taught)} of them share {len(teachers)} trained teachers" if taught else ""
    _console.say(f"{len(rows)} runs{said}")


def _run(trials: Sequence[_trials.Trial]) -> list[_trials.Outcome]:
    """All runs one after another; a signal ends the sweep after the checkpoint of the run under way."""
    outcomes = []
    with _console.Stop().listening() as stop:
        for at, trial in enumerate(trials, start=1):
            outcome = _trials.run(trial, trials, stop, f"[{at}/{len(trials)}] {trial.name}")
            if outcome.stopped:
                line = shlex.join(["litfast", *sys.argv[1:]])
                _console.say(f"stopped; the same command continues: {line}", _console.err)
                raise typer.Exit(stop.code)
            outcomes.append(outcome)
    return outcomes


def _document(
    found: Sequence[_grid.Cell],
    trials: Sequence[_trials.Trial],
    outcomes: Sequence[_trials.Outcome],
    seeds: int,
) -> dict[str, Any]:
    """Cells with the spread of each figure, and every run."""
    rows = []
    for at, cell in enumerate(found):
        own = [outcome for outcome in outcomes[at :: len(found)] if outcome.results is not None]
        each = [cells.figures(o.results or {}, o.trial.settings.engine.keep) for o in own]
        names = list(dict.fromkeys(name for figures in each for name in figures))
        rows.append(
            {
                "name": cell.name or "recipe",
                "values": cell.values,
                "finished": len(own),
                "runs": seeds,
                "figures": {name: cells.spread([f[name] for f in each if name in f]) for name in names},
                "seconds": cells.spread([cells.seconds(o.results or {}) for o in own]) if own else None,
            }
        )
    runs = [
        {"run": o.trial.name, "seed": o.trial.settings.seed, "failed": o.reason or None} for o in outcomes
    ]
    return {"cells": rows, "runs": runs}


def _table(document: dict[str, Any]) -> Table:
    """One line a cell; the heads say of which split a figure is."""
    rows = document["cells"]
    names = list(dict.fromkeys(name for row in rows for name in row["figures"]))
    table = Table(title="sweep")
    for label in rows[0]["values"]:
        table.add_column(label, overflow="fold")
    for name in ("runs", *names, "seconds a run"):
        table.add_column(name, justify="right")
    for row in rows:
        done = (
            f"{row['finished']}" if row["finished"] == row["runs"] else f"{row['finished']} of {row['runs']}"
        )
        shown = [cells.text(row["figures"][name]) if name in row["figures"] else "-" for name in names]
        took = "-" if row["seconds"] is None else cells.duration(row["seconds"]["mean"])
        table.add_row(*row["values"].values(), done, *shown, took)
    return table


def _save(document: dict[str, Any], folder: Path, title: str) -> list[str]:
    """sweep.json, and sweep.png where matplotlib is installed; the lines that say so."""
    command = shlex.join(["litfast", *sys.argv[1:]])
    checks = {"every run finished": all(run["failed"] is None for run in document["runs"])}
    record.write(folder / "sweep.json", command=command, results=document, checks=checks)
    said = [str(folder / "sweep.json")]
    try:
        picture_cells.draw(
            document["cells"], folder / "sweep.png", title="mean and standard deviation of runs"
        )
        said.append(str(folder / "sweep.png"))
    except (ModuleNotFoundError, ValueError) as error:
        said.append(str(error))
    return said
