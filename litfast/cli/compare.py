"""`litfast compare`: several runs in one table and one picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from litfast.bench import picture_runs, report
from litfast.bench.metric import METRICS, by_phase, judged
from litfast.bench.stats import exact, front, timed
from litfast.cli import _console, _contenders, _measuring, _runs, _translation
from litfast.models.sectioned import SectionedModel

CELL = ("batch", "mode", "precision")
LONGEST = 80  # letters of a fact in a message: a vocabulary has more


@_console.command
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Folders of finished runs.")],
    batch: _measuring.Batch = "1,128",
    mode: _measuring.Mode = "eager",
    precision: _measuring.Precision = "fp32",
    seconds: _measuring.Seconds = 1.0,
    threads: _measuring.Threads = None,
    device: _measuring.Device = "auto",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Picture (.png, .svg, .pdf); the record is beside it.")
    ] = None,
    as_json: _measuring.AsJson = False,
) -> None:
    """Put runs in one table: method, sizes, bytes on disk, what the test split says, and latency.

    Every run's student is a line, and every teacher once, however many runs it taught. Accuracy (perplexity,
    FID) is the one that the run reported; it is only compared where the runs were judged by the same
    samples. All latencies are measured now, in turn within each round: those that runs have stored came from
    whatever the machine was doing then. The picture is of the first batch size, mode and precision.

    Examples:

        litfast compare runs/digits-1 runs/digits-2 --out digits.png

        litfast compare runs/kd runs/lit runs/slim --batch 128 --precision fp32,bf16
    """
    with _console.usage():
        _check_words(runs, out)
        cells = _measuring.cells(
            "compare",
            batch=batch,
            mode=mode,
            precision=precision,
            seconds=seconds,
            threads=threads,
            clients=None,
            device=device,
        )
    found = [_runs.finished(run) for run in runs]
    _check_alike(found)
    entries, models = lineup(found)
    metric, _ = judged(found[0].results)
    document = cells.measure(
        models, found[0].input, weights_bytes={entry["name"]: entry["weights_bytes"] for entry in entries}
    )
    document = {"metric": metric.name, "judged": _judged_by(found[0]), **document}
    document["models"] = _marked(document, entries)
    if as_json:
        _console.print_json(document)
    else:
        _show(document)
    if out is not None:
        _measuring.save(document, out, picture_runs.draw, None)


def _check_words(runs: Sequence[Path], out: Path | None) -> None:
    if len(runs) < 2:
        raise ValueError(f"compare: two runs or more must be given, got {len(runs)}; see litfast bench")
    _runs.check_different("compare", runs)
    if out is not None and out.suffix not in _measuring.ENDINGS:
        raise ValueError(f"compare: --out must end in {', '.join(_measuring.ENDINGS)}, got {str(out)!r}")


FACTS: dict[str, Callable[[_runs.Finished], Any]] = {
    "metric": lambda run: judged(run.results)[0].name,
    "data": lambda run: run.data.name,
    "test samples": lambda run: run.results["samples"]["test"],
    "classes": lambda run: ", ".join(run.data.classes),
    "input": lambda run: [*run.input.shape],
    "data.options": lambda run: run.config.data.options,
    "extractor": lambda run: _extractor(run),
}


def _check_alike(runs: Sequence[_runs.Finished]) -> None:
    """Refuse runs whose figures say nothing about each other."""
    first = runs[0]
    for what, fact in FACTS.items():
        for other in runs[1:]:
            if fact(other) != fact(first):
                said = [str(fact(run))[:LONGEST] for run in (first, other)]
                got = f"{what} {said[0]} ({first.path}) and {said[1]} ({other.path})"
                raise ValueError(f"compare: runs must be judged by the same test samples, got {got}")


def _extractor(run: _runs.Finished) -> str:
    """What judged a generator's translations; empty of other runs."""
    if "scores" not in run.results:
        return ""
    named = run.config.scores.extractor
    file = run.path / _translation.SAVED if named is None else Path(named)
    name: str = run.results["scores"]["student"]["extractor"]
    return f"{name} {_contenders.digest(file)[:12]}" if file.exists() else name


def _judged_by(run: _runs.Finished) -> str:
    said = f"{run.results['samples']['test']} test {run.data.unit} of {run.data.name}"
    extractor = _extractor(run)
    return f"{said}, judged by {extractor}" if extractor else said


def lineup(runs: Sequence[_runs.Finished]) -> tuple[list[dict[str, Any]], dict[str, SectionedModel]]:
    """A line a model, teachers first: what its run says of it; and the models by name."""
    chosen = _contenders.of_runs(runs)
    entries = [_entry(*each) for each in chosen]
    return entries, {name: run.models[role] for run, name, role in chosen}


def _entry(run: _runs.Finished, name: str, role: str) -> dict[str, Any]:
    _, scores = judged(run.results)
    phases = list(by_phase(run.results).values()) if role == "student" else []
    spec = run.models[role].spec or {}
    return {
        "name": name,
        "run": str(run.path),
        "method": run.config.method.name if role == "student" else "teacher",
        "model": spec.get("name", "-"),
        "weights_bytes": run.weights_bytes[role],
        "before": phases[-1][0] if phases else None,
        "score": scores.get(role),
    }


def _marked(document: Mapping[str, Any], entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The models of the document with what the runs say, and `best`: whether no other beats them.

    That is in the metric, the latency in the first cell and the bytes; false where one is missing.
    """
    metric, cell = METRICS[document["metric"]], [document["rows"][0][key] for key in CELL]
    rows = {row["contender"]: row for row in document["rows"] if [row[key] for key in CELL] == cell}
    models = [
        {key: value for key, value in model.items() if key not in METRICS} | entry
        for model, entry in zip(document["models"], entries, strict=True)
    ]
    whole = [m for m in models if m["score"] is not None and rows[m["name"]]["p50_ms"] is not None]
    costs = [
        (exact(metric.cost(m["score"])), timed(rows[m["name"]]), exact(m["weights_bytes"])) for m in whole
    ]
    best = [model["name"] for model, on in zip(whole, front(costs), strict=True) if on]
    return [model | {"best": model["name"] in best} for model in models]


def _show(document: Mapping[str, Any]) -> None:
    _console.out.print(report.runs(document))
    name, first = document["metric"], document["rows"][0]
    cell = f"{first['mode']} {first['precision']}, batch {first['batch']}"
    _console.say(f"{name} is of {document['judged']}; latency is the median of models timed in turn")
    _console.say(
        f"* no other is as good in {name}, latency ({cell}; within the spread is a tie) and weights, "
        "and better in one"
    )
    for note in report.notes(document):
        _console.say(note)
    _console.say(report.conditions(document), style="dim")
