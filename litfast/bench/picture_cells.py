"""A picture of a sweep: every run a point, every cell its mean and standard deviation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from litfast.bench.picture import COLOURS, blank, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Cell = Mapping[str, Any]  # "name", "figures": by name the spread of `cells.spread`


def draw(cells: Sequence[Cell], path: str | Path, *, title: str) -> None:
    """Write cells as a picture, one panel a figure; the ending of `path` chooses PNG, SVG or PDF.

    Args:
        cells: one line each, in this order; cells without a finished run are left out.
        title: what was swept, above the panels.

    Raises:
        ModuleNotFoundError: matplotlib is missing; says how to get it.
        ValueError: no cell has a figure.
    """
    shown = [cell for cell in cells if cell["figures"]]
    if not shown:
        raise ValueError("picture: cells must hold at least one finished run, got none")
    names = list(dict.fromkeys(name for cell in shown for name in cell["figures"]))
    longest = max(len(cell["name"]) for cell in shown)
    figure = blank(0.6 + 0.075 * longest + 3.4 * len(names), 1.1 + 0.42 * len(shown))
    axes = list(figure.subplots(1, len(names), squeeze=False, sharey=True).flat)
    for axis, name, colour in zip(axes, names, COLOURS[1:] * len(names), strict=False):
        _panel(axis, [cell["figures"].get(name) for cell in shown], colour)
        axis.set_xlabel(name)
    axes[0].set_yticks(range(len(shown)), [cell["name"] for cell in shown], fontsize=9.5)
    axes[0].set_ylim(len(shown) - 0.5, -0.5)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10.5, fontweight="bold")
    save(figure, path)


def _panel(axis: Axes, spreads: Sequence[Mapping[str, Any] | None], colour: str) -> None:
    """Light points for the runs; a dark one with a bar for mean and standard deviation."""
    for line, spread in enumerate(spreads):
        if spread is None:
            continue
        axis.scatter(spread["values"], [line] * len(spread["values"]), s=22, color=colour, alpha=0.45)
        axis.errorbar(
            spread["mean"], line, xerr=spread["std"], fmt="D", markersize=5, capsize=4, color=colour
        )
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.margins(x=0.12)
    axis.grid(axis="x", color="#ececec", linewidth=0.8)
    axis.set_axisbelow(True)
