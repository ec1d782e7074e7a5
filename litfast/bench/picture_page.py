"""The pictures of a page: small inline SVGs whose colours are the page's, so that they go light and dark."""

from __future__ import annotations

import functools
import html
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, ParamSpec

from litfast.bench.curves import Panel
from litfast.bench.metric import Metric
from litfast.bench.picture import COLOURS, MARKERS, blank
from litfast.bench.picture_runs import WIDE, Point, name_points, scatter
from litfast.bench.similarity import Similarity
from litfast.bench.stats import milliseconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")
WIDTH, HEIGHT = 4.4, 2.9  # inches: at the width of a phone the letters stay readable
LETTERS = 64  # of a phase's name that the width of a panel holds
INK, MUTED, LINE = "#222222", "#555555", "#e3e3e3"
# What the page calls each colour that is drawn with.
VARIABLES = {
    **{colour: f"var(--c{at})" for at, colour in enumerate(COLOURS)},
    **dict.fromkeys((INK, "#333333"), "var(--ink)"),
    **dict.fromkeys((MUTED, "#aaaaaa"), "var(--muted)"),
    **dict.fromkeys((LINE, "#ececec", "#c8c8c8"), "var(--line)"),
    "#ffffff": "var(--paper)",
}
STYLE = {
    "svg.fonttype": "none",  # letters stay letters, in the page's own type
    "svg.hashsalt": "litfast",  # the same run gives the same page
    "font.size": 9,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
}


def _styled(draw: Callable[P, str]) -> Callable[P, str]:
    """Draw under the page's settings; where there is no matplotlib `blank` says how to get it."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> str:
        blank(1, 1)
        from matplotlib import rc_context

        with rc_context(STYLE):  # type: ignore[arg-type]
            return draw(*args, **kwargs)

    return drawn


@_styled
def curves(panel: Panel, title: str) -> str:
    """A panel as SVG: a curve a series, a line where a phase begins, a dashed one for a level.

    Args:
        title: for those who cannot see it, unlike any other picture's of the page; so in all functions here.

    Raises:
        ModuleNotFoundError: matplotlib is missing; says how to get it.
    """
    figure = blank(WIDTH, HEIGHT)
    axis = figure.subplots()
    for at, (name, points) in enumerate(panel.series.items()):
        dash = ("-", "--", ":")[at // len(COLOURS) % 3]
        axis.plot(
            *zip(*points, strict=True) if points else ([], []),
            label=name,
            color=_series(at),
            linestyle=dash,
            linewidth=1.6,
            marker=MARKERS[at % len(MARKERS)] if len(points) < 30 else None,
            markersize=3.5,
        )
    for at, (name, value) in enumerate(panel.levels.items()):
        colour = COLOURS[0] if name.startswith("teacher") else _series(len(panel.series) + at)
        axis.axhline(value, label=name, color=colour, linestyle="--", linewidth=1.1)
    _phases(axis, panel.phases, panel.epochs)
    values = [value for points in panel.series.values() for _, value in points]
    if panel.from_zero:
        axis.set_ylim(bottom=0)
    elif not panel.levels and values and min(values) > 0 and max(values) > WIDE * min(values):
        _logarithmic(axis)
    _whole_epochs(axis, panel.epochs)
    axis.set_ylabel(panel.unit)
    return _svg(figure, title)


@_styled
def latencies(rows: Sequence[Mapping[str, Any]], title: str) -> str:
    """Median latency of every model in each mode and precision of one batch size, a line reaching to p90."""
    groups = list(dict.fromkeys(f"{row['mode']} {row['precision']}" for row in rows))
    cells = [
        (f"{row['mode']} {row['precision']}", row["contender"], row["p50_ms"], milliseconds(row["p50_ms"]))
        for row in rows
    ]
    tails = [row["p90_ms"] for row in rows]
    return _bars(groups, cells, tails, title, "latency, ms (bar: median, line: to p90)")


@_styled
def sizes(models: Sequence[Mapping[str, Any]], title: str) -> str:
    """Parameters, MACs and bytes of every model in percent of the first one's."""
    named = {"parameters": "parameters", "macs": "MACs", "weights_bytes": "weights"}
    cells = []
    for key, label in named.items():
        for model in models:
            share = 100 * model[key] / models[0][key]
            cells.append((label, model["name"], share, f"{share:.3g} %"))
    return _bars(list(named.values()), cells, None, title, f"% of the {models[0]['name']}'s")


@_styled
def alike(found: Sequence[Similarity], title: str) -> str:
    """Relative error and linear CKA of every part, side by side."""
    figure = blank(WIDTH, HEIGHT)
    axis = figure.subplots()
    for shift, colour, label, values in (
        (-0.2, COLOURS[1], "relative error", [one.relative_error for one in found]),
        (0.2, COLOURS[2], "linear CKA", [one.cka for one in found]),
    ):
        known = {at + shift: value for at, value in enumerate(values) if value is not None}
        axis.bar(list(known), list(known.values()), width=0.36, color=colour, label=label)
    axis.axhline(1, color=MUTED, linewidth=0.8, linestyle=":")
    slant = 0 if sum(len(one.part) + 2 for one in found) < 55 else 35
    axis.set_xticks(
        range(len(found)), [one.part for one in found], rotation=slant, ha="right" if slant else "center"
    )
    axis.tick_params(axis="x", length=0)
    return _svg(figure, title)


@_styled
def worth(points: Sequence[Point], metric: Metric, across: str, title: str) -> str:
    """The metric against one cost, as `picture_runs` draws it."""
    figure = blank(WIDTH, HEIGHT + 0.4)
    axis = figure.subplots()
    scatter(axis, points, metric)
    axis.set_xlabel(across)
    axis.set_ylabel(f"test {metric.label}")
    name_points(figure, [(axis, points)])
    return _themed(figure, title)


def _bars(
    groups: Sequence[str],
    cells: Sequence[tuple[str, str, float, str]],
    tails: Sequence[float] | None,
    title: str,
    across: str,
) -> str:
    """Horizontal bars (group, name, value, text), one a name in each group."""
    names = list(dict.fromkeys(name for _, name, _, _ in cells))
    figure = blank(WIDTH, 0.9 + 0.24 * len(cells) + 0.1 * len(groups))
    axis = figure.subplots()
    thick = 0.8 / len(names)
    longest = max(value for _, _, value, _ in cells)
    limit = 1.3 * longest
    for at, (group, name, value, text) in enumerate(cells):
        which = names.index(name)
        place = groups.index(group) + (which - (len(names) - 1) / 2) * thick
        axis.barh(place, value, thick * 0.9, color=COLOURS[which % len(COLOURS)], label=name)
        end = value
        if tails is not None:
            end = max(value, min(tails[at], longest * 1.1))  # one slow spell must not flatten every bar
            axis.plot([value, end], [place, place], color=INK, linewidth=0.9)
        axis.text(end + 0.015 * limit, place, text, va="center", fontsize=8.5)
    axis.set_yticks(range(len(groups)), groups)
    axis.tick_params(axis="y", length=0)
    axis.invert_yaxis()
    axis.set_xlim(0, limit)
    axis.set_xlabel(across)
    return _svg(figure, title, grid="x")


def _series(at: int) -> str:
    """The muted first colour is the teacher's."""
    return COLOURS[1:][at % (len(COLOURS) - 1)]


def _phases(axis: Axes, phases: Mapping[str, int], epochs: int) -> None:
    """The name of every phase above its first epoch, on a line where there is room, and where it begins."""
    if len(phases) < 2:
        return
    ends: list[float] = []  # of what stands on each line so far, in epochs
    for name, done in phases.items():
        if done:
            axis.axvline(done + 0.5, color=LINE, linewidth=1)
        line = next((at for at, end in enumerate(ends) if end <= done), len(ends))
        ends[line : line + 1] = [done + epochs * (len(name) + 2) / LETTERS]
        axis.annotate(
            name,
            (done + 0.5, 1),
            (2, 2 + 9 * line),
            xycoords=axis.get_xaxis_transform(),
            textcoords="offset points",
            fontsize=7.5,
            color=MUTED,
        )


def _whole_epochs(axis: Axes, epochs: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_xlim(0.5, epochs + 0.5)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axis.set_xlabel("epoch")


def _logarithmic(axis: Axes) -> None:
    """Plain numbers: 0.1, 0.2, 0.5, 1; over many decades one a decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_yscale("log")
    low, high = axis.get_ylim()
    near = math.log10(high / low) < 3
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if near else (1,)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_locator(NullLocator())


def _svg(figure: Figure, title: str, *, grid: Literal["x", "y"] = "y") -> str:
    """The figure's one axis with a legend and without a box, as SVG."""
    (axis,) = figure.axes
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis=grid, color=LINE, linewidth=0.8)
    axis.set_axisbelow(True)
    handles = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    if len(handles) > 1:
        figure.legend(
            handles.values(),
            handles.keys(),
            loc="outside upper left",
            ncols=max(1, min(3, 46 // (4 + max(map(len, handles))))),
            fontsize=8.5,
            handlelength=1.4,
            columnspacing=1.2,
        )
    return _themed(figure, title)


def _themed(figure: Figure, title: str) -> str:
    """SVG to stand within a page: no prolog, ids of its own, the page's colours, as wide as there is room."""
    written = io.StringIO()
    figure.savefig(written, format="svg", metadata={"Date": None})
    text = written.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    own = re.sub(r"\W+", "-", title)  # ids must differ between the pictures of a page
    text = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{own}-", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, variable)
    head = f'<svg role="img" aria-label="{html.escape(title)}" style="max-width: {96 * WIDTH:.0f}px"'
    return re.sub(r'<svg height="[^"]*"|<svg', head, re.sub(r' (width|height)="[\d.]+pt"', "", text), count=1)
