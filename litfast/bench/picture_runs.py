"""A picture of several runs: what their models are worth against what they cost in time and in bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from litfast.bench.metric import METRICS, Metric
from litfast.bench.picture import COLOURS, blank, save
from litfast.bench.report import conditions
from litfast.bench.stats import Range, exact, front, timed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backend_bases import RendererBase
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

Document = Mapping[str, Any]
Point = tuple[str, Range, float, str]  # name, cost, score, colour
WIDE = 10.0  # costs that lie further apart than this factor get a logarithmic axis
# Where a name may stand beside its point: horizontal and vertical alignment, and the direction.
SIDES = (("left", "center", 1, 0), ("right", "center", -1, 0), ("center", "bottom", 0, 1),
         ("center", "top", 0, -1), ("left", "bottom", 1, 1), ("right", "bottom", -1, 1),
         ("left", "top", 1, -1), ("right", "top", -1, -1))  # fmt: skip
AWAY = (7, 16, 28, 42)  # points


def draw(document: Document, path: str | Path) -> None:
    """Write a comparison of runs as a picture; the ending of `path` chooses PNG, SVG or PDF.

    Two panels: the metric against the latency in the document's first cell, and against the bytes on disk. A
    line joins the models that no other beats (`stats.front`), whose points are filled; the colour tells the
    method.

    Args:
        document: `compare`'s, with "metric" (a name of METRICS), and "method" and "score" of every model.

    Raises:
        ModuleNotFoundError: matplotlib is missing; says how to get it.
        ValueError: no model has both a score and a latency.
    """
    metric, first = METRICS[document["metric"]], document["rows"][0]
    cell = ("mode", "precision", "batch")
    times = {
        row["contender"]: timed(row)
        for row in document["rows"]
        if row["p50_ms"] is not None and all(row[key] == first[key] for key in cell)
    }
    models = [m for m in document["models"] if m["score"] is not None and m["name"] in times]
    if not models:
        raise ValueError("picture: models must hold one with a score and a latency, got none")
    colours = _colours([model["method"] for model in document["models"]])
    figure = blank(11, 4.9)
    left, right = figure.subplots(1, 2, sharey=True)
    said = f"median latency, ms (batch {first['batch']}, {first['mode']} {first['precision']})"
    worth = [(model["name"], model["score"], colours[model["method"]]) for model in models]
    panels = [
        (left, said, [(name, times[name], score, colour) for name, score, colour in worth]),
        (right, *_sizes(models, worth)),
    ]
    for axis, label, points in panels:
        scatter(axis, points, metric)
        axis.set_xlabel(label)
    better = "higher" if metric.higher else "lower"
    left.set_ylabel(f"test {metric.label} ({better} is better)")
    for method, colour in colours.items():
        left.scatter([], [], s=44, color=colour, label=method)
    figure.legend(loc="outside upper left", ncols=6, frameon=False, fontsize=9)
    figure.supxlabel(
        f"{document['judged']}; {conditions(document)}", fontsize=8.5, color="#555555", x=0.01, ha="left"
    )
    name_points(figure, [(axis, points) for axis, _, points in panels])
    save(figure, path)


def _sizes(
    models: Sequence[Mapping[str, Any]], worth: Sequence[tuple[str, float, str]]
) -> tuple[str, list[Point]]:
    """The label of the right panel and its points, in the unit that suits the largest file."""
    largest = max(model["weights_bytes"] for model in models)
    unit, one = ("MiB", 1 << 20) if largest >= 1 << 20 else ("KiB", 1 << 10)
    points = [
        (name, exact(model["weights_bytes"] / one), score, colour)
        for model, (name, score, colour) in zip(models, worth, strict=True)
    ]
    return f"weights on disk, {unit}", points


def _colours(methods: Sequence[str]) -> dict[str, str]:
    """One a method; that of teachers is muted."""
    others = [method for method in dict.fromkeys(methods) if method != "teacher"]
    bright = COLOURS[1:]
    found = {method: bright[at % len(bright)] for at, method in enumerate(others)}
    return ({"teacher": COLOURS[0]} if "teacher" in methods else {}) | found


def scatter(axis: Axes, points: Sequence[Point], metric: Metric) -> None:
    """One panel: the score of every point over its cost, a line along those that no other beats."""
    costs = [cost[1] for _, cost, _, _ in points]
    best = front([(cost, exact(metric.cost(score))) for _, cost, score, _ in points])
    edge = sorted((cost[1], score) for (_, cost, score, _), on in zip(points, best, strict=True) if on)
    axis.plot(*zip(*edge, strict=True), color="#c8c8c8", linewidth=1.2, zorder=1)
    for (_, cost, score, colour), on in zip(points, best, strict=True):
        axis.scatter([cost[1]], [score], s=54, zorder=2, edgecolors=colour, color=colour if on else "white")
    if max(costs) > WIDE * min(costs):
        _logarithmic(axis)
        axis.margins(x=0.2, y=0.18)
    else:
        axis.margins(y=0.18)
        axis.set_xlim(0, 1.2 * max(costs))
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(color="#ececec", linewidth=0.8)
    axis.set_axisbelow(True)


def _logarithmic(axis: Axes) -> None:
    """A logarithmic axis with plain numbers: 0.1, 0.2, 0.5, 1."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_locator(NullLocator())


def name_points(figure: Figure, panels: Sequence[tuple[Axes, Sequence[Point]]]) -> None:
    """Write every name beside its point, where it hides least of what is there already."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()  # places the panels
    figure.set_layout_engine("none")
    for axis, points in panels:
        taken = _spots(axis, points, reach=5 * figure.dpi / 72)
        for name, cost, score, colour in sorted(points, key=lambda point: -point[2]):
            found: list[tuple[int, Annotation, Bbox]] = []
            for away, side in product(AWAY, SIDES):
                note = _note(axis, name, (cost[1], score), colour, side, away)
                box = _box(note, renderer)
                found.append((_hidden(box, axis, taken), note, box))
                if not found[-1][0]:
                    break
            found.sort(key=itemgetter(0))
            taken.append(found[0][2])
            for _, note, _ in found[1:]:
                note.remove()


def _spots(axis: Axes, points: Sequence[Point], reach: float) -> list[Bbox]:
    """The points as boxes in pixels."""
    from matplotlib.transforms import Bbox

    at = [axis.transData.transform((cost[1], score)) for _, cost, score, _ in points]
    return [Bbox.from_extents(x - reach, y - reach, x + reach, y + reach) for x, y in at]


def _box(note: Annotation, renderer: RendererBase) -> Bbox:
    """Where a name would stand, without the line to its point."""
    from matplotlib.text import Text

    note.update_positions(renderer)
    return Text.get_window_extent(note, renderer)


def _hidden(box: Bbox, axis: Axes, taken: Sequence[Bbox]) -> int:
    """How much a name in this box would hide: the line a little, names and points more; it must fit in."""
    edge = axis.lines[0]
    line = edge.get_transform().transform_path(edge.get_path())
    fits = axis.bbox.x0 <= box.x0 and box.x1 <= axis.bbox.x1
    return line.intersects_bbox(box, filled=False) + 2 * box.count_overlaps(taken) + 100 * (not fits)


def _note(
    axis: Axes, name: str, at: tuple[float, float], colour: str, side: tuple[str, str, int, int], away: float
) -> Annotation:
    across, up, right, above = side
    near = away == AWAY[0]
    return axis.annotate(
        name,
        at,
        (right * away, above * away),
        textcoords="offset points",
        ha=across,
        va=up,
        fontsize=9,
        color=colour,
        arrowprops=None if near else {"arrowstyle": "-", "color": "#aaaaaa", "linewidth": 0.7},
    )
