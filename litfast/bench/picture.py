"""A picture of a comparison: latency bars, or accuracy against latency where accuracies are known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from litfast.bench.report import conditions
from litfast.bench.stats import milliseconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Document = Mapping[str, Any]
# the teacher muted, the student warm
COLOURS = ("#5b6b7f", "#d1603d", "#2a8a8a", "#b08900", "#7a5aa6", "#3f6fb5", "#a8437e", "#64862b", "#8a5a44",
           "#d98cb3", "#3b3b3b")  # fmt: skip
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "*", "h")


def draw(document: Document, path: str | Path) -> None:
    """Write `compare`'s document as a picture; the ending of `path` chooses PNG, SVG or PDF.

    One panel a batch size. Where all accuracies are known a point is a model in one mode and precision, and a
    line joins a teacher and its one student; else a bar is a median, its whisker reaching to p90.

    Raises:
        ModuleNotFoundError: matplotlib is missing; says how to get it.
        ValueError: nothing in the document was timed.
    """
    timed = [row for row in document["rows"] if row["p50_ms"] is not None]
    if not timed:
        raise ValueError("picture: rows must hold at least one measured latency, got none")
    batches = list(dict.fromkeys(row["batch"] for row in timed))
    scatter = all(model["accuracy"] is not None for model in document["models"])
    across = min(len(batches), 3)
    down = math.ceil(len(batches) / across)
    kinds = len(dict.fromkeys(_kind(row) for row in timed))
    height = 3.2 if scatter else 0.9 + 0.42 * kinds * len(document["models"])
    figure = blank(1 + 4.2 * across, (height + 0.5) * down + 0.7)
    axes = list(figure.subplots(down, across, squeeze=False).flat)
    for axis, batch in zip(axes, batches, strict=False):
        rows = [row for row in timed if row["batch"] == batch]
        (_points if scatter else _bars)(axis, rows, document)
        axis.set_title(f"batch {batch}", loc="left", fontsize=11, fontweight="bold")
    for spare in axes[len(batches) :]:
        spare.set_axis_off()
    _finish(figure, document)
    save(figure, path)


def blank(width: float, height: float) -> Figure:
    """An empty figure of that size in inches.

    Raises:
        ModuleNotFoundError: matplotlib is missing; says how to get it.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        remedy = 'pip install "litfast[bench]"'
        raise ModuleNotFoundError(f"picture: matplotlib must be installed, got none; {remedy}") from error
    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure; the ending of `path` chooses PNG, SVG or PDF, its folder is made."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160)


def _bars(axis: Axes, rows: list[dict[str, Any]], document: Document) -> None:
    """Bars grouped by mode and precision, one a model; median and speed-up written at the end."""
    names = [model["name"] for model in document["models"]]
    kinds = list(dict.fromkeys(_kind(row) for row in rows))
    thick = 0.8 / len(names)
    limit = 1.5 * max(row["p50_ms"] for row in rows)  # one slow spell must not flatten every bar
    for row in rows:
        which = names.index(row["contender"])
        at = kinds.index(_kind(row)) + (which - (len(names) - 1) / 2) * thick
        tail = min(row["p90_ms"], 0.8 * limit)
        axis.barh(
            at, row["p50_ms"], thick * 0.92, color=COLOURS[which % len(COLOURS)], label=row["contender"]
        )
        axis.plot([row["p50_ms"], tail], [at, at], color="#333333", linewidth=0.9)
        cut = f" (p90 {milliseconds(row['p90_ms'])})" if row["p90_ms"] > tail else ""
        text = f"{milliseconds(row['p50_ms'])}{cut}{_gain(row, document)}"
        axis.text(
            max(tail, row["p50_ms"]) + 0.01 * limit, at, text, va="center", fontsize=8.5, color="#222222"
        )
    axis.set_yticks(range(len(kinds)), kinds, fontsize=9.5)
    axis.invert_yaxis()
    axis.set_xlim(0, limit)
    axis.set_xlabel("latency, ms (bar: median, line: to p90)")
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color="#e3e3e3", linewidth=0.8)


def _gain(row: Mapping[str, Any], document: Document) -> str:
    """The speed-up over the first model, where there is one."""
    for ratio in document["ratios"]:
        same = all(ratio[key] == row[key] for key in ("contender", "batch", "mode", "precision"))
        if same and ratio["speedup"] is not None:
            return "  tie" if ratio["tie"] else f"  {ratio['speedup']:.2f}x"
    return ""


def _points(axis: Axes, rows: list[dict[str, Any]], document: Document) -> None:
    """Accuracy over latency: colour tells the model, marker the mode and precision."""
    accuracy = {model["name"]: model["accuracy"] for model in document["models"]}
    names = list(dict.fromkeys(row["contender"] for row in rows))
    kinds = list(dict.fromkeys(_kind(row) for row in rows))
    for kind in kinds:
        same = [row for row in rows if _kind(row) == kind]
        places = [(row["p50_ms"], accuracy[row["contender"]]) for row in same]
        if len(names) == 2:
            axis.plot(*zip(*places, strict=True), color="#cccccc", linewidth=1, zorder=1)
        for row, (x, y) in zip(same, places, strict=True):
            colour = COLOURS[list(accuracy).index(row["contender"]) % len(COLOURS)]
            marker = MARKERS[kinds.index(kind) % len(MARKERS)]
            axis.scatter([x], [y], s=52, color=colour, marker=marker, zorder=2)
    best = max(accuracy[name] for name in names)
    for name in names:
        fastest = min(row["p50_ms"] for row in rows if row["contender"] == name)
        colour = COLOURS[list(accuracy).index(name) % len(COLOURS)]
        away = 9 if accuracy[name] == best else -17  # off the lines between the models
        axis.annotate(
            name,
            (fastest, accuracy[name]),
            (-4, away),
            textcoords="offset points",
            fontsize=9.5,
            color=colour,
        )
    for kind in kinds:
        axis.scatter(
            [], [], s=40, color="#777777", marker=MARKERS[kinds.index(kind) % len(MARKERS)], label=kind
        )
    axis.set_xlim(0, 1.18 * max(row["p50_ms"] for row in rows))
    axis.margins(y=0.25)
    axis.set_xlabel("median latency, ms")
    axis.set_ylabel("accuracy, %")
    axis.grid(color="#ececec", linewidth=0.8)


def _finish(figure: Figure, document: Document) -> None:
    """Title, one legend for all panels, and no box around anything."""
    shown: dict[str, Any] = {}
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_axisbelow(True)
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            shown.setdefault(label, handle)
    figure.legend(
        shown.values(),
        shown.keys(),
        loc="outside upper right",
        ncols=min(len(shown), 4),
        frameon=False,
        fontsize=9,
    )
    reads = document["input"]
    size = " x ".join(str(size) for size in reads["shape"]) + ("" if reads["alphabet"] is None else " ids")
    figure.supxlabel(
        f"input {size}; {conditions(document)}", fontsize=8.5, color="#555555", x=0.01, ha="left"
    )


def _kind(row: Mapping[str, Any]) -> str:
    return f"{row['mode']} {row['precision']}"
