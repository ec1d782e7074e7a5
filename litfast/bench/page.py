"""A report of runs as one HTML page that needs no network: tables, inline pictures, light and dark."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from litfast.bench import curves, picture_page, report, sheet
from litfast.bench.metric import Metric
from litfast.bench.picture import COLOURS
from litfast.bench.similarity import Similarity
from litfast.bench.stats import exact, timed

if TYPE_CHECKING:
    from jinja2 import Template

Table = Sequence[Sequence[str]]  # the head first
Figure = tuple[str, str]  # caption, SVG


@dataclass(frozen=True, kw_only=True, slots=True)
class Chapter:
    """What the page says of one run.

    Attributes:
        name: of the run; no two alike on a page.
        method: its name.
        models: their names, "resnet56 → resnet20".
        data: one line on the samples.
        metric: what its models are judged by.
        scores: their values on the test split, by model.
        rows: the journal.
        measured: sizes and latencies, as `compare` returned them at the end of the run.
        benched: the same of a later `litfast bench`, or None.
        phases: table of the phases.
        marks: table of a generator's scores, or None.
        similarity: of student and teacher, part by part; None where `compared` says why.
        compared: what the similarity is of.
        facts: versions, machine, choices; by name.
        config: the resolved recipe.
        picture: a PNG file to show, or None.
    """

    name: str
    method: str
    models: str
    data: str
    metric: Metric
    scores: Mapping[str, float]
    rows: Sequence[Mapping[str, Any]]
    measured: Mapping[str, Any]
    benched: Mapping[str, Any] | None = None
    phases: Table
    marks: Table | None = None
    similarity: Sequence[Similarity] | None = None
    compared: str
    facts: Mapping[str, str]
    config: str
    picture: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A model of several runs in one picture: what it is worth and what it costs."""

    name: str
    score: float
    weights_bytes: int
    latency: Mapping[str, Any]  # the row of the first cell
    colour: int  # by method; 0 is the teachers'


def write(
    path: Path, *, title: str, made: str, chapters: Sequence[Chapter], marks: Sequence[Mark] = ()
) -> None:
    """Write the page; its folder is made.

    Args:
        made: one line: when, by which version.
        chapters: one a run.
        marks: models to put into one picture; none where the runs cannot be compared.

    Raises:
        ModuleNotFoundError: matplotlib or jinja2 is missing; says how to get it.
    """
    text = _template().render(
        title=title,
        made=made,
        colours=COLOURS,
        overview=_overview(chapters) if len(chapters) > 1 else None,
        worth=_worth(chapters[0].metric, marks) if marks else [],
        chapters=[_view(chapter) for chapter in chapters],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _template() -> Template:
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ModuleNotFoundError as error:
        remedy = 'pip install "litfast[bench]"'
        raise ModuleNotFoundError(f"page: jinja2 must be installed, got none; {remedy}") from error
    folder = FileSystemLoader(Path(__file__).parent)
    made = Environment(
        loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return made.get_template("page.html")


def _view(chapter: Chapter) -> dict[str, Any]:
    """A chapter as the template reads it."""
    measured = chapter.benched or chapter.measured
    return {
        "name": chapter.name,
        "about": f"{chapter.method}: {chapter.models}, {chapter.data}",
        "tiles": _tiles(chapter),
        "models": _with_scores(sheet.summary(chapter.measured).lines, chapter),
        "marks": chapter.marks,
        "phases": chapter.phases,
        "training": _drawn(chapter.name, [*_merits(chapter), *curves.losses(chapter.rows)]),
        "timing": _drawn(chapter.name, curves.timing(chapter.rows)),
        "costs": _costs(chapter, measured),
        "latencies": sheet.latencies(measured).lines,
        "conditions": [*report.notes(measured), report.conditions(measured)],
        "similarity": _similarity(chapter),
        "compared": chapter.compared,
        "facts": chapter.facts,
        "config": chapter.config,
        "picture": None if chapter.picture is None else _inline(chapter.picture),
    }


def _merits(chapter: Chapter) -> list[curves.Panel]:
    return curves.merits(chapter.rows, {chapter.metric.name: chapter.scores})


def _drawn(name: str, panels: Sequence[curves.Panel]) -> list[Figure]:
    return [(panel.title, picture_page.curves(panel, f"{name}: {panel.title}")) for panel in panels]


def _tiles(chapter: Chapter) -> list[tuple[str, str, str]]:
    """The run at a glance: (label, value, beside the teacher)."""
    metric, models = chapter.metric, chapter.measured["models"]
    first, last = models[0], models[-1]
    alone = len(models) == 1
    taught = "" if alone else f"{first['name']} {metric.text(chapter.scores.get(first['name']))}"
    tiles = [(f"test {metric.name}", metric.text(chapter.scores.get(last["name"])), taught)]
    for key, label, text in (
        ("parameters", "parameters", report.short),
        ("weights_bytes", "weights", sheet.size),
    ):
        tiles.append((label, text(last[key]), "" if alone else f"{first['name']} {text(first[key])}"))
    for ratio in _ratios(chapter):
        gain = "tie" if ratio["tie"] else f"{ratio['speedup']:.2f}x"
        tiles.append((f"speed-up at batch {ratio['batch']}", gain, f"{ratio['mode']} {ratio['precision']}"))
    return tiles


def _ratios(chapter: Chapter) -> list[Mapping[str, Any]]:
    """Of the last model over the first, where both were timed."""
    last = chapter.measured["models"][-1]["name"]
    ratios = chapter.measured["ratios"]
    return [ratio for ratio in ratios if ratio["contender"] == last and ratio["speedup"] is not None]


def _with_scores(table: list[list[str]], chapter: Chapter) -> list[list[str]]:
    """The table of the models with the metric first where the summary does not know it."""
    if any(chapter.metric.name in line[0] for line in table):
        return table
    scores = chapter.scores
    values = [chapter.metric.text(scores[name]) if name in scores else "" for name in table[0][1:]]
    return [table[0], [chapter.metric.name, *values], *table[1:]]


def _costs(chapter: Chapter, measured: Mapping[str, Any]) -> list[Figure]:
    """Latency bars a batch size, and sizes where there is something to compare with."""
    rows = [row for row in measured["rows"] if row["p50_ms"] is not None]
    figures = []
    for batch in dict.fromkeys(row["batch"] for row in rows):
        title = f"Latency at batch {batch}"
        same = [row for row in rows if row["batch"] == batch]
        figures.append((title, picture_page.latencies(same, f"{chapter.name}: {title}")))
    if len(chapter.measured["models"]) > 1:
        title = "Size"
        models = chapter.measured["models"]
        figures.append((title, picture_page.sizes(models, f"{chapter.name}: {title}")))
    return figures


def _similarity(chapter: Chapter) -> dict[str, Any] | None:
    if chapter.similarity is None:
        return None
    title = "Student against teacher"
    lines = [
        [one.part, *("-" if value is None else f"{value:.3f}" for value in (one.relative_error, one.cka))]
        for one in chapter.similarity
    ]
    return {
        "table": [["part", "relative error", "linear CKA"], *lines],
        "figures": [(title, picture_page.alike(chapter.similarity, f"{chapter.name}: {title}"))],
    }


def _overview(chapters: Sequence[Chapter]) -> Table:
    """A line a run: what it reached, and how much smaller and faster than its own teacher."""
    head = ["run", "test", "teacher's", "speed-up", "parameters", "weights", "method", "models"]
    lines = []
    for chapter in chapters:
        last = chapter.measured["models"][-1]
        gains = [
            f"{'tie' if r['tie'] else format(r['speedup'], '.2f') + 'x'} at {r['batch']}"
            for r in _ratios(chapter)
        ]
        metric = chapter.metric
        lines.append(
            [
                chapter.name,
                f"{metric.name} {metric.text(chapter.scores.get(last['name']))}",
                metric.text(chapter.scores.get("teacher")),
                ", ".join(gains) or "-",
                report.short(last["parameters"]),
                sheet.size(last["weights_bytes"]),
                chapter.method,
                chapter.models,
            ]
        )
    return [head, *lines]


def _worth(metric: Metric, marks: Sequence[Mark]) -> list[Figure]:
    """The metric against latency and against bytes."""
    cell = marks[0].latency
    said = f"median latency, ms (batch {cell['batch']}, {cell['mode']} {cell['precision']})"
    largest = max(mark.weights_bytes for mark in marks)
    unit, one = ("MiB", 1 << 20) if largest >= 1 << 20 else ("KiB", 1 << 10)
    colours = [COLOURS[mark.colour % len(COLOURS)] for mark in marks]
    times = [(m.name, timed(m.latency), m.score, c) for m, c in zip(marks, colours, strict=True)]
    sizes = [(m.name, exact(m.weights_bytes / one), m.score, c) for m, c in zip(marks, colours, strict=True)]
    title = metric.name.capitalize() if metric.name.islower() else metric.name
    return [
        (caption, picture_page.worth(points, metric, across, caption))
        for caption, across, points in (
            (f"{title} against latency", said, times),
            (f"{title} against size", f"weights on disk, {unit}", sizes),
        )
    ]


def _inline(picture: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
