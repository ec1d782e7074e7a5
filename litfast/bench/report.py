"""The tables that a person reads: what `compare` measured, printed to a console or as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from litfast.bench import sheet
from litfast.bench.metric import METRICS
from litfast.bench.sheet import WORDS, Sheet, cell, count, size
from litfast.bench.stats import milliseconds

Document = Mapping[str, Any]
WIDE = ("mean", "host p99")  # left to Markdown: a terminal is 120 wide


def show(document: Document, console: Console) -> None:
    """Print the summary, every latency, the throughput, and the notes."""
    console.print(summary(document))
    console.print(latencies(document))
    if loads := sheet.throughput(document):
        console.print(_table(loads))
    for note in (*notes(document), energy(document)):
        console.print(Text(note))
    console.print(Text(conditions(document), style="dim"))


def markdown(document: Document) -> str:
    """The same tables, with every column, as GitHub's Markdown."""
    sheets = (sheet.summary(document), sheet.latencies(document), sheet.throughput(document))
    parts = [_markdown(each) for each in sheets if each is not None]
    lines = [*notes(document), energy(document), conditions(document)]
    return "\n\n".join([*parts, "\n".join(f"- {line}" for line in lines)]) + "\n"


def summary(document: Document) -> Table:
    """`sheet.summary` for a terminal."""
    made = sheet.summary(document)
    table = Table(title=made.title)
    for head in made.head:
        table.add_column(head, justify="right" if head else "left")
    for row in made.rows:
        table.add_row(*row)
    return table


def latencies(document: Document) -> Table:
    """`sheet.latencies` for a terminal: without the columns that it has no room for."""
    return _table(sheet.latencies(document))


def _table(made: Sheet) -> Table:
    table = Table(title=made.title, box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    shown = [at for at, head in enumerate(made.head) if head not in WIDE]
    for at in shown:
        head = made.head[at]
        if head in WORDS:
            table.add_column(head, overflow="fold")
        else:
            table.add_column(head, justify="right", no_wrap=True)
    for row, begins in zip(made.rows, made.begins, strict=True):
        if begins and table.row_count:
            table.add_section()
        cells = [row[at] for at in shown]
        table.add_row(*(cells if begins else ["", "", "", *cells[3:]]))  # the cell is named once
    return table


def _markdown(made: Sheet) -> str:
    rules = [":--" if head in WORDS or not head else "--:" for head in made.head]
    rows = [made.head, rules, *([text.replace("|", "\\|") for text in row] for row in made.rows)]
    return f"### {made.title}\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows)


def runs(document: Document) -> Table:
    """A line a model of several runs; "*" marks those that no other beats.

    The document is `compare`'s, with "metric" (a name of METRICS), and "method", "model", "before", "score"
    and "best" of every model. "before" is the metric before the last phase; older runs do not know it.
    """
    metric, models = METRICS[document["metric"]], document["models"]
    times = {(*cell(row), row["contender"]): row["p50_ms"] for row in document["rows"]}
    cells = list(dict.fromkeys(cell(row) for row in document["rows"]))
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
        sizes = [count(model["depth"]), short(model["parameters"]), short(model["macs"])]
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
    rows = document["rows"]
    lines = [f"{_name(row)}: no time: {row['reason']}" for row in rows if row["reason"]]
    lines += [
        f"{_name(row)}, {load['clients']} clients: no throughput: {load['reason']}"
        for row in rows
        for load in row.get("loads", ())
        if load["reason"]
    ]
    smaller = {(*cell(row), row["asked"]) for row in rows if row.get("asked")}
    lines += [
        f"{mode} {precision} batch {asked}: no memory for it, batch {batch} was measured instead"
        for batch, mode, precision, asked in sorted(smaller)
    ]
    load, cores = document["machine"]["load"], document["machine"]["cores"]
    if load is not None and load > 1.5 * cores:
        lines.append(f"the machine was busy before (load {load}, cores {cores}): times may be too long")
    return lines


def energy(document: Document) -> str:
    """One line on where joules come from, or why there are none."""
    said = document["energy"]
    source = f"energy is by {said['source']}: all that the device drew meanwhile"
    return source if said["source"] else f"no energy: {said['reason']}"


def conditions(document: Document) -> str:
    """One line on what was measured on."""
    machine = document["machine"]
    chip = machine["gpu"]["name"] if str(document["device"]).startswith("cuda") else machine["cpu"]
    return f"{chip}, {document['threads']} threads, torch {machine['torch']}"


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['contender']} {row['mode']} {row['precision']} batch {row['batch']}"


def short(value: int) -> str:
    """A count in millions, a small one in full."""
    return f"{value / 1e6:,.2f} M" if value >= 1e4 else count(value)
