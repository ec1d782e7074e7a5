"""What `compare` measured as tables of text, for a terminal (`report`) and for Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from litfast.bench.metric import METRICS, Metric
from litfast.bench.stats import milliseconds

Document = Mapping[str, Any]
WORDS = ("batch", "mode", "precision", "model")  # columns of words; the others are of numbers


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table: what its columns are called, its rows, and whether each begins a section."""

    title: str
    head: list[str]
    rows: list[list[str]]
    begins: list[bool]

    @property
    def lines(self) -> list[list[str]]:
        """Head and rows."""
        return [self.head, *self.rows]


def summary(document: Document) -> Sheet:
    """The models side by side, one property a line; the last column is what the last gains on the first.

    Latencies are those of the first mode and precision, one line a batch size.
    """
    models = document["models"]
    rows: list[list[str]] = []
    for key, label, text in (
        ("depth", "depth", count),
        ("parameters", "parameters", count),
        ("macs", "MACs a sample", _millions),
        ("weights_bytes", "weights", size),
    ):
        values = [model[key] for model in models]
        rows.append([label, *map(text, values), _times(values[0] / values[-1]) if values[-1] else ""])
    for name in ("accuracy", "perplexity"):
        if any(model.get(name) is not None for model in models):
            rows.append(_merit(models, METRICS[name]))
    rows += _first_cells(document)
    head = ["", *(model["name"] for model in models)] + ["ratio"] * (len(models) > 1)
    title = " and ".join(model["name"] for model in models) if len(models) < 4 else f"{len(models)} models"
    return Sheet(title, head, [row[: len(head)] for row in rows], [False] * len(rows))


def latencies(document: Document) -> Sheet:
    """Every row with its percentiles; the speed-up stands beside the contender that has it.

    The host's wall time has a column where the GPU's time was taken, energy where it was counted. What a
    document of an older version lacks is left open.
    """
    ratios = {(*cell(ratio), ratio["contender"]): ratio for ratio in document["ratios"]}
    rows = document["rows"]
    own = {f"p{q}": f"p{q}_ms" for q in (50, 90, 95, 99)} | {"mean": "mean_ms", "std": "std_ms"}
    if any(row.get("gpu_p50_ms") is not None for row in rows):
        own |= {"host p50": "host_p50_ms", "host p99": "host_p99_ms"}
    energy = any(row.get("joules_per_sample") is not None for row in rows)
    head = [*WORDS, *own, "samples/s", "peak memory", *(["mJ/sample"] * energy), "speed-up (p10 to p90)"]
    lines = []
    for row in rows:
        joules, peak = row.get("joules_per_sample"), row.get("peak_memory_bytes")
        line = [*_words(row), row["contender"], *(milliseconds(row.get(key)) for key in own.values())]
        line.append(_rate(row["samples_per_s"]))
        line.append("-" if peak is None else size(peak))
        line += ["-" if joules is None else milliseconds(1000 * joules)] * energy
        lines.append([*line, gain(ratios.get((*cell(row), row["contender"])))])
    return Sheet("Latency, ms", head, lines, _sections(rows))


def throughput(document: Document) -> Sheet | None:
    """Requests a second under each number of clients; None where there were none."""
    ratios = {
        (*cell(ratio), ratio["contender"], load["clients"]): load
        for ratio in document["ratios"]
        for load in ratio.get("loads", ())
    }
    loaded = [(row, load) for row in document["rows"] for load in row.get("loads", ())]
    if not loaded:
        return None
    times = [f"p{q}" for q in (50, 90, 95, 99)]
    lines = [
        [
            *_words(row),
            row["contender"],
            str(load["clients"]),
            *(_rate(load[key]) for key in ("requests_per_s", "samples_per_s")),
            *(milliseconds(load[f"{key}_ms"]) for key in times),
            gain(ratios.get((*cell(row), row["contender"], load["clients"]))),
        ]
        for row, load in loaded
    ]
    head = [*WORDS, "clients", "requests/s", "samples/s", *times, "speed-up (p10 to p90)"]
    title = "Throughput of requests of one batch each, and their latency, ms"
    return Sheet(title, head, lines, _sections([row for row, _ in loaded]))


def cell(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    """Batch, mode and precision of a row or a ratio."""
    return (entry["batch"], entry["mode"], entry["precision"])


def gain(ratio: Mapping[str, Any] | None) -> str:
    """A speed-up with its spread, a tie by that name; nothing for the baseline, "-" where it is not known."""
    if ratio is None:
        return ""
    if ratio["speedup"] is None:
        return "-"
    spread = f"({ratio['p10']:.2f} to {ratio['p90']:.2f})"
    return f"tie {spread}" if ratio["tie"] else f"{_times(ratio['speedup'])} {spread}"


def count(value: int) -> str:
    """A whole number with its thousands apart."""
    return f"{value:,}"


def size(value: int) -> str:
    """Bytes, as KiB or MiB."""
    return f"{value / 2**20:,.2f} MiB" if value >= 2**20 else f"{value / 2**10:,.1f} KiB"


def _words(row: Mapping[str, Any]) -> list[str]:
    return [str(word) for word in cell(row)]


def _sections(rows: Sequence[Mapping[str, Any]]) -> list[bool]:
    """True where a row begins another cell than the row before it."""
    cells = [cell(row) for row in rows]
    return [before != own for before, own in zip([None, *cells], cells, strict=False)]


def _first_cells(document: Document) -> list[list[str]]:
    """A line of the summary for each batch size: p50 of every model and the speed-up."""
    rows, ratios = document["rows"], document["ratios"]
    first = (rows[0]["mode"], rows[0]["precision"])
    chosen = [row for row in rows if (row["mode"], row["precision"]) == first]
    lines = []
    for batch in dict.fromkeys(row["batch"] for row in chosen):
        times = [milliseconds(row["p50_ms"]) for row in chosen if row["batch"] == batch]
        where = (batch, *first)
        ratio = next(
            (r for r in ratios if cell(r) == where and r["contender"] == chosen[-1]["contender"]), None
        )
        label = f"latency at batch {batch}, ms" + (
            "" if first == ("eager", "fp32") else f" ({' '.join(first)})"
        )
        lines.append([label, *times, gain(ratio)])
    return lines


def _merit(models: Sequence[Mapping[str, Any]], metric: Metric) -> list[str]:
    """A line of the summary: the metric of every model, and what the last one gains on the first."""
    values = [model[metric.name] for model in models]
    first, last = values[0], values[-1]
    gained = ""
    if first is not None and last is not None:
        gained = f"{last - first:+.2f} points" if metric.unit else f"{100 * (last / first - 1):+.2f} %"
    return [metric.name, *map(metric.text, values), gained]


def _rate(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _times(ratio: float) -> str:
    return f"{ratio:.2f}x"


def _millions(value: int) -> str:
    return f"{value / 1e6:,.2f} M"
