"""The page stands alone, says what the runs say, and shows what is not known as such."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from litfast.bench import page
from litfast.bench.metric import METRICS
from litfast.bench.similarity import Similarity

from .conftest import ratio, row

pytest.importorskip("matplotlib", reason="matplotlib is not installed (pip install 'litfast[bench]')")
pytest.importorskip("jinja2", reason="jinja2 is not installed (pip install 'litfast[bench]')")

JOURNAL = [
    {"phase": "sections", "layer1.loss": 0.5, "layer2.loss": 50.0, "samples_per_s": 9.0, "data_wait": 0.1},
    {
        "phase": "finetune",
        "student.loss": 2.0,
        "student.accuracy": 80.0,
        "samples_per_s": 900.0,
        "data_wait": 0,
    },
]


@pytest.fixture
def chapter(document: dict[str, Any]) -> page.Chapter:
    """LIT from "deep" to "shallow", named so that it must be escaped."""
    return page.Chapter(
        name="runs/<lit>",
        method="lit",
        models="resnet56 → resnet20",
        data="4,000 images & 1,000 more",
        metric=METRICS["accuracy"],
        scores={"deep": 92.6, "shallow": 90.35},
        rows=JOURNAL,
        measured=document,
        phases=[["phase", "epochs"], ["sections", "1"]],
        similarity=[
            Similarity(part="layer1", relative_error=0.25, cka=0.9876),
            Similarity(part="output", relative_error=None, cka=None),
        ],
        compared="128 test images",
        facts={"seed": "0", "versions": "torch 2.13"},
        config='[data]\nname = "a<b"\n',
    )


def written(folder: Path, *chapters: page.Chapter, **options: Any) -> str:
    file = folder / "new" / "page.html"
    page.write(file, title="A title", made="today", chapters=chapters, **options)
    return file.read_text(encoding="utf-8")


class Outline(HTMLParser):
    """Ids, whatever would be fetched, and tags that are not closed."""

    VOID = ("meta", "img", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.fetched: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given: Mapping[str, str | None] = dict(attrs)
        self.ids += [value for key, value in attrs if key == "id" and value]
        links = [str(given[key]) for key in ("src", "href", "srcset", "action") if key in given]
        self.fetched += [link for link in links if not link.startswith(("#", "data:"))]
        self.fetched += [tag] * (tag in ("script", "link", "iframe", "object"))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_page_of_one_run_stands_alone_and_says_everything(chapter: page.Chapter, tmp_path: Path) -> None:
    text = written(tmp_path, chapter)
    outline = Outline(text)
    assert outline.open == [] and outline.fetched == []
    assert len(set(outline.ids)) == len(outline.ids)
    assert "http" not in text and "@import" not in text
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    for said in (
        "images &amp; 1,000 more",
        "a&lt;b",
        "90.35 %",
        "2.74x",
        "0.250",
        "0.988",
        "No working C++ compiler",
        "torch 2.13",
    ):
        assert said in text, said
    for caption in ("Accuracy", "Loss in phase sections", "Latency at batch 128", "Size", "Throughput"):
        assert f"<figcaption>{caption}</figcaption>" in text
    check_pictures(re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL))


def check_pictures(pictures: Sequence[str]) -> None:
    """They take the colours of the page and keep their letters; here, because drawing takes its time."""
    assert len(pictures) == 9  # accuracy, 2 of losses, similarity, 2 batches, size, 2 of timing
    for picture in pictures:
        assert set(re.findall(r"(?:fill|stroke): (#\w+)", picture)) == set()
        assert "var(--c1)" in picture and "<text" in picture
    assert "runs/&lt;lit&gt;: Accuracy" in pictures[0]


def test_what_is_not_there_is_said_or_left_out(chapter: page.Chapter, tmp_path: Path) -> None:
    measured = dict(chapter.measured)
    measured["models"] = [measured["models"][1] | {"accuracy": None}]
    measured["rows"], measured["ratios"] = [row("shallow", "eager", 1, 1.5)], []
    alone = replace(
        chapter,
        metric=METRICS["FID"],
        scores={"shallow": 1.79},
        rows=[],
        measured=measured,
        similarity=None,
        compared="the run had no teacher",
    )
    text = written(tmp_path, alone)
    assert "Not compared: the run had no teacher." in text
    assert "<figcaption>Size" not in text and "speed-up at" not in text
    assert re.search(r">FID</th><td>1.79</td></tr>", text)


def test_several_runs_have_a_table_a_picture_and_their_own_chapters(
    chapter: page.Chapter, tmp_path: Path
) -> None:
    chapter = replace(chapter, rows=[], similarity=None, compared="too few sections")
    other = replace(chapter, name="other")
    times = row("shallow", "eager", 1, 1.5) | {"spread": 0.1}
    marks = [
        page.Mark(name=name, score=score, weights_bytes=2 << 20, latency=times, colour=at)
        for at, (name, score) in enumerate({"teacher": 92.6, "lit": 90.0}.items())
    ]
    text = written(tmp_path, chapter, other, marks=marks)
    outline = Outline(text)
    assert outline.open == [] and len(set(outline.ids)) == len(outline.ids)
    assert {"run-1", "run-2"} <= set(outline.ids) and 'href="#run-2"' in text
    assert "<figcaption>Accuracy against latency</figcaption>" in text
    assert "2.74x at 1, tie at 128" in text


def test_a_later_benchmark_takes_the_place_of_the_runs_own_latencies(
    chapter: page.Chapter, tmp_path: Path
) -> None:
    later = dict(chapter.measured)
    later["rows"] = [row("deep", "graph", 7, 2.0), row("shallow", "graph", 7, 1.0)]
    later["ratios"] = [ratio("graph", 7, 2.0, False)]
    text = written(tmp_path, replace(chapter, rows=[], similarity=None, benched=later))
    assert "Latency at batch 7" in text and "Latency at batch 128" not in text


def test_a_picture_is_inline(chapter: page.Chapter, tmp_path: Path) -> None:
    (tmp_path / "drawn.png").write_bytes(b"png")
    text = written(tmp_path, replace(chapter, rows=[], similarity=None, picture=tmp_path / "drawn.png"))
    assert 'src="data:image/png;base64,cG5n"' in text


def test_without_jinja2_one_line_says_how_to_get_it(
    chapter: page.Chapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    with pytest.raises(ModuleNotFoundError, match=r"jinja2 must be installed, got none; pip install"):
        written(tmp_path, chapter)
