"""The tables that a person reads: what `compare` measured, printed to a console."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from litfast.bench.metric import METRICS
from litfast.bench.stats import milliseconds

Document = Mapping[str, Any]


def show(document: Document, console: Console) -> None:
    """Print the summary, every latency, and the notes."""
    console.print(summary(document))
    console.print(latencies(document))
    for note in notes(document):
        console.print(Text(note))
    console.print(Text(conditions(document), style="dim"))


def summary(document: Document) -> Table:
    """The models side by side, one property a line; the last column is what the last gains on the first.

    Latencies are those of the first mode and precision, one line a batch size.
    """
    models = document["models"]
    columns = [model["name"] for model in models] + ["ratio"] * (len(models) > 1)
    table = Table(title=" and ".join(model["name"] for model in models))
    table.add_column()
    for column in columns:
        table.add_column(column, justify="right")
    rows: list[list[str]] = []
    for key, label, text in (
        ("depth", "depth", _count),
        ("parameters", "parameters", _count),
        ("macs", "MACs a sample", _millions),
        ("weights_bytes", "weights", size),
    ):
        values = [model[key] for model in models]
        rows.append([label, *map(text, values), _times(values[0] / values[-1]) if values[-1] else ""])
    if any(model["accuracy"] is not None for model in models):
        rows.append(_accuracy(models))
    if any(model.get("perplexity") is not None for model in models):
        rows.append(_perplexity(models))
    for row in rows + _first_cells(document):
        table.add_row(*row[: 1 + len(columns)])
    return table


def latencies(document: Document) -> Table:
    """Every row with its percentiles; the speed-up stands beside the contender that has it."""
    ratios = {(*_cell(ratio), ratio["contender"]): ratio for ratio in document["ratios"]}
    table = Table(title="Latency, ms")
    for column in ("batch", "mode", "precision", "model"):
        table.add_column(column, no_wrap=True)
    for column in ("p50", "p90", "p99", "samples/s", "speed-up (p10 to p90)"):
        table.add_column(column, justify="right", no_wrap=True)
    before = None
    for row in document["rows"]:
        cell = _cell(row)
        if before not in (None, cell):
            table.add_section()
        head = ("", "", "") if cell == before else (str(row["batch"]), row["mode"], row["precision"])
        times = [milliseconds(row[key]) for key in ("p50_ms", "p90_ms", "p99_ms")]
        rate = "-" if row["samples_per_s"] is None else f"{row['samples_per_s']:,.0f}"
        table.add_row(*head, row["contender"], *times, rate, _speedup(ratios.get((*cell, row["contender"]))))
        before = cell
    return table


def runs(document: Document) -> Table:
    """A line a model of several runs; "*" marks those that no other beats.

    The document is `compare`'s, with "metric" (a name of METRICS), and "method", "model", "before", "score"
    and "best" of every model. "before" is the metric before the last phase; older runs do not know it.
    """
    metric, models = METRICS[document["metric"]], document["models"]
    times = {(*_cell(row), row["contender"]): row["p50_ms"] for row in document["rows"]}
    cells = list(dict.fromkeys(_cell(row) for row in document["rows"]))
    earlier = any(model["before"] is not None for model in models)
    ways = list(dict.fromkeys(f"{mode} {precision}" for _, mode, precision in cells))
    same = f" ({ways[0]})" if len(ways) == 1 else ""
    table = Table(
        title=f"{len(models)} models by {metric.name}, latency{same} and size", collapse_padding=True
    )
    for column in ("", "method", "model"):
        table.add_column(column, overflow="fold")
    heads = ["depth", "params", "MACs", "weights"]
    heads += ["before the\nlast phase"] * earlier + [metric.name]
    heads += [f"ms at\nbatch {b}" + ("" if same else f"\n{mode} {precision}") for b, mode, precision in cells]
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for model in models:
        sizes = [_count(model["depth"]), short(model["parameters"]), short(model["macs"])]
        values = [*([model["before"]] if earlier else []), model["score"]]
        table.add_row(
            f"{model['name']} *" if model["best"] else model["name"],
            model["method"],
            model["model"],
            *sizes,
            size(model["weights_bytes"]),
            *map(metric.text, values),
            *(milliseconds(times[(*cell, model["name"])]) for cell in cells),
        )
    return table


def plain(table: Table) -> list[list[str]]:
    """Head and rows of a table as text, for a page."""
    columns = [[str(column.header), *map(str, column.cells)] for column in table.columns]
    return [list(line) for line in zip(*columns, strict=True)]


def notes(document: Document) -> list[str]:
    """One line for each row without a time, saying why, and one where the machine was busy."""
    lines = [
        f"{row['contender']} {row['mode']} {row['precision']} batch {row['batch']}: no time: {row['reason']}"
        for row in document["rows"]
        if row["reason"]
    ]
    load, cores = document["machine"]["load"], document["machine"]["cores"]
    if load is not None and load > 1.5 * cores:
        lines.append(f"the machine was busy before (load {load} on {cores} cores): times may be too long")
    return lines


def conditions(document: Document) -> str:
    """One line on what was measured on."""
    machine = document["machine"]
    chip = machine["gpu"]["name"] if str(document["device"]).startswith("cuda") else machine["cpu"]
    return f"{chip}, {document['threads']} threads, torch {machine['torch']}"


def _first_cells(document: Document) -> list[list[str]]:
    """A line of the summary for each batch size: p50 of every model and the speed-up."""
    rows, ratios = document["rows"], document["ratios"]
    first = (rows[0]["mode"], rows[0]["precision"])
    chosen = [row for row in rows if (row["mode"], row["precision"]) == first]
    lines = []
    for batch in dict.fromkeys(row["batch"] for row in chosen):
        times = [milliseconds(row["p50_ms"]) for row in chosen if row["batch"] == batch]
        cell = (batch, *first)
        ratio = next(
            (r for r in ratios if _cell(r) == cell and r["contender"] == chosen[-1]["contender"]), None
        )
        label = f"latency at batch {batch}, ms" + (
            "" if first == ("eager", "fp32") else f" ({' '.join(first)})"
        )
        lines.append([label, *times, _speedup(ratio)])
    return lines


def _accuracy(models: Sequence[Mapping[str, Any]]) -> list[str]:
    values = [model["accuracy"] for model in models]
    shown = ["-" if value is None else f"{value:.2f} %" for value in values]
    known = values[0] is not None and values[-1] is not None
    return ["accuracy", *shown, f"{values[-1] - values[0]:+.2f} points" if known else ""]


def _perplexity(models: Sequence[Mapping[str, Any]]) -> list[str]:
    values = [model["perplexity"] for model in models]
    shown = ["-" if value is None else f"{value:.2f}" for value in values]
    known = values[0] is not None and values[-1] is not None
    return ["perplexity", *shown, f"{100 * (values[-1] / values[0] - 1):+.2f} %" if known else ""]


def _cell(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    return (entry["batch"], entry["mode"], entry["precision"])


def _speedup(ratio: Mapping[str, Any] | None) -> str:
    if ratio is None:
        return ""
    if ratio["speedup"] is None:
        return "-"
    spread = f"({ratio['p10']:.2f} to {ratio['p90']:.2f})"
    return f"tie {spread}" if ratio["tie"] else f"{_times(ratio['speedup'])} {spread}"


def _times(ratio: float) -> str:
    return f"{ratio:.2f}x"


def _count(value: int) -> str:
    return f"{value:,}"


def short(value: int) -> str:
    """A count in millions, a small one in full."""
    return f"{value / 1e6:,.2f} M" if value >= 1e4 else f"{value:,}"


def _millions(value: int) -> str:
    return f"{value / 1e6:,.2f} M"


def size(value: int) -> str:
    """Bytes for people."""
    return f"{value / 2**20:,.2f} MiB" if value >= 2**20 else f"{value / 2**10:,.1f} KiB"
