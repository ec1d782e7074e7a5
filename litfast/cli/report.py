"""`litfast report`: finished runs as one HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from litfast import __version__
from litfast.bench import page, record
from litfast.bench import report as tables
from litfast.bench.metric import by_phase, judged
from litfast.cli import _compared, _console, _measuring, _runs, _translation
from litfast.cli.compare import lineup
from litfast.engine.rundir import RunDirectory

PAGE = "report.html"
BENCH = "bench.json"  # what `litfast bench` leaves in a run's folder


@_console.command
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of finished runs.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help=f"The page. Default: {PAGE} in the run's folder, of several here."),
    ] = None,
    samples: Annotated[
        str,
        typer.Option(
            help="What student and teacher are compared on: test, random, or auto (test if they can be read)."
        ),
    ] = "auto",
    count: Annotated[int, typer.Option(help="How many of these.")] = 128,
    as_json: _measuring.AsJson = False,
) -> None:
    """Write one self-contained page: curves, models, similarity, latencies, versions; it needs no network.

    Latencies are those that the runs measured at their end, or `litfast bench RUN` later; nothing is timed
    now. Student and teacher are run on a few samples, to compare their intermediate representations.

    Examples:

        litfast report runs/digits-1

        litfast report runs/kd runs/lit --out report.html --samples random
    """
    with _console.usage():
        _runs.check_different("report", runs)
        _check_words(out, samples, count)
    found = [_runs.finished(run) for run in runs]
    entries, _ = lineup(found)
    names = [entry["name"] for entry in entries if entry["method"] != "teacher"]
    chapters = []
    for name, run in zip(names, found, strict=True):
        _console.say(f"{name}: comparing student and teacher", _console.err, "dim")
        chapters.append(_chapter(name, run, samples, count))
    file = out or (runs[0] / PAGE if len(runs) == 1 else Path(PAGE))
    today = datetime.now().astimezone().isoformat(" ", "minutes")
    page.write(
        file,
        title=names[0] if len(names) == 1 else f"{len(names)} runs",
        made=f"litfast report, {today}, litfast {__version__}",
        chapters=chapters,
        marks=_marks(found, entries),
    )
    if as_json:
        _console.print_json({"page": str(file), "runs": [_said(chapter) for chapter in chapters]})
    _console.say(str(file), _console.err if as_json else _console.out)


def _check_words(out: Path | None, samples: str, count: int) -> None:
    if out is not None and out.suffix not in (".html", ".htm"):
        raise ValueError(f"report: --out must end in .html, got {str(out)!r}")
    if samples not in _compared.SAMPLES:
        known = ", ".join(_compared.SAMPLES)
        raise ValueError(f"report: --samples must be one of {known}, got {samples!r}")
    if count < _compared.FEWEST:
        raise ValueError(f"report: --count must be at least {_compared.FEWEST}, got {count}")


def _chapter(name: str, run: _runs.Finished, samples: str, count: int) -> page.Chapter:
    folder = RunDirectory(run.path)
    rows = folder.rows()
    metric, scores = judged(run.results)
    alike, compared = _compared.similarity(run, samples, count)
    bench = run.path / BENCH
    drawn = run.path / _translation.PICTURE
    return page.Chapter(
        name=name,
        method=run.config.method.name,
        models=_names(run),
        data=_data(run),
        metric=metric,
        scores=scores,
        rows=rows,
        measured=run.results,
        benched=record.read(bench)["results"] if bench.exists() else None,
        phases=_phases(run, rows),
        marks=_marks_of(run.results),
        similarity=alike,
        compared=compared,
        facts=_facts(folder.read("run.json"), run),
        config=(run.path / "config.toml").read_text(encoding="utf-8"),
        picture=drawn if drawn.exists() else None,
    )


def _names(run: _runs.Finished) -> str:
    return " → ".join((model.spec or {}).get("name", "a model") for model in run.models.values())


def _data(run: _runs.Finished) -> str:
    sizes = run.results["samples"]
    return f"{sizes['train']:,} training and {sizes['test']:,} test {run.data.unit} of {run.data.name}"


def _marks_of(results: Mapping[str, Any]) -> page.Table | None:
    """A generator's scores."""
    return tables.plain(_translation.table(results["scores"])) if results.get("scores") else None


def _phases(run: _runs.Finished, rows: Sequence[Mapping[str, Any]]) -> page.Table:
    """A line a phase: length, pace, and what it did to the test score; empty columns are left out."""
    metric, _ = judged(run.results)
    tested, best = by_phase(run.results), run.results["phases"]
    head = ["phase", "epochs", "seconds", "samples/s", "the loader's own", "waiting for data"]
    lines = [[*head, f"test {metric.name} before", "after", "validation, best"]]
    for phase, pace in run.results["throughput"].items():
        before, after = tested.get(phase, (None, None))
        reached = best.get(phase, {}).get("best")
        lines.append(
            [
                phase,
                str(sum(row["phase"] == phase for row in rows)),
                f"{run.results['seconds'][phase]:,.0f}",
                f"{pace['samples_per_s']:,.0f}",
                f"{rate:,.0f}" if (rate := pace.get("loader_samples_per_s")) is not None else "-",
                f"{100 * pace['data_wait']:.1f} %",
                metric.text(before),
                metric.text(after),
                metric.text(reached),
            ]
        )
    kept = [at for at in range(len(lines[0])) if any(line[at] != "-" for line in lines[1:])]
    return [[line[at] for at in kept] for line in lines]


def _facts(made: Mapping[str, Any], run: _runs.Finished) -> dict[str, str]:
    """What the run ran with, for people; run.json has all of it."""
    machine, engine = made["machine"], made["engine"]
    gpu = machine["gpu"]["name"] if machine["gpu"] else "none"
    ram = f"{machine['ram_gib']} GiB" if machine["ram_gib"] else "memory unknown"
    facts = {
        "command": made["command"],
        "seed": str(made["seed"]),
        "versions": f"litfast {made['litfast']}, torch {machine['torch']}, Python {machine['python']}",
        "machine": f"{machine['cpu']}, {machine['cores']} cores, {ram}, GPU: {gpu}; {machine['os']}",
        "engine": ", ".join(f"{key} {value}" for key, value in engine.items() if value is not None),
        "loss ops": f"{made['backend']} backend",
        "loader": made["loader"].removeprefix("loader: "),
        "chosen": made["auto"],
        "advice": run.results["advice"],
        "stopped early": ", ".join(run.results["stopped"]),
        "left out": f"{len(made['left_out'])} images" if made["left_out"] else "",
    }
    return {name: text for name, text in facts.items() if text}


def _marks(runs: Sequence[_runs.Finished], entries: Sequence[Mapping[str, Any]]) -> list[page.Mark]:
    """The models of several runs for one picture; none where they were judged or timed differently."""
    if len({_conditions(run) for run in runs}) > 1 or len(runs) < 2:
        return []
    by_path = {str(run.path): run.results["rows"] for run in runs}
    methods = list(dict.fromkeys(entry["method"] for entry in entries if entry["method"] != "teacher"))
    marks = []
    for entry in entries:
        role = "teacher" if entry["method"] == "teacher" else "student"
        rows = [row for row in by_path[entry["run"]] if row["contender"] == role]
        if entry["score"] is None or not rows or rows[0]["p50_ms"] is None:
            continue
        marks.append(
            page.Mark(
                name=entry["name"],
                score=entry["score"],
                weights_bytes=entry["weights_bytes"],
                latency=rows[0],
                colour=0 if role == "teacher" else 1 + methods.index(entry["method"]),
            )
        )
    return marks


def _conditions(run: _runs.Finished) -> tuple[Any, ...]:
    """What must agree before two runs stand in one picture."""
    results, machine = run.results, run.results["machine"]
    cell = tuple(results["rows"][0][key] for key in ("mode", "precision", "batch"))
    same = (judged(results)[0].name, run.data.name, results["samples"]["test"])
    return (*same, *cell, results["device"], results["threads"], machine["cpu"], machine["torch"])


def _said(chapter: page.Chapter) -> dict[str, Any]:
    """What is only known here, for machines."""
    alike = chapter.similarity
    return {
        "name": chapter.name,
        "metric": chapter.metric.name,
        "scores": dict(chapter.scores),
        "compared": chapter.compared,
        "similarity": None if alike is None else [asdict(one) for one in alike],
    }
