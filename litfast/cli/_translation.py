"""How a run's generators are judged: scores by one extractor, a table of them, and a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table
from torch import nn

from litfast import build
from litfast.bench.classifier import Classifier, train_classifier
from litfast.bench.features import Extractor, Inception
from litfast.bench.grid import grid
from litfast.bench.translate import scores
from litfast.cli import _console
from litfast.config import Config
from litfast.engine.report import Report

SAVED = "classifier.safetensors"  # within the run's folder
PICTURE = "translations.png"
ROWS = {
    "fid": ("FID", "{:.2f}"),
    "domain_fid": ("FID, mean over domains", "{:.2f}"),
    "inception_score": ("inception-style score", "{:.2f}"),
    "domain_accuracy": ("translations taken for their domain", "{:.1f} %"),
    "reconstruction": ("reconstruction, mean |x - x''|", "{:.4f}"),
}


def check(config: Config, data: build.Data) -> None:
    """Refuse before any training what `judge` would refuse after it.

    Raises:
        ValueError: an extractor that is none or does not fit, too few test images.
    """
    if data.test.samples < 2:
        raise ValueError(f"scores: test must hold at least 2 images, got {data.test.samples}")
    _named(config, data)


def judge(
    generators: Mapping[str, nn.Module], config: Config, data: build.Data, folder: Path
) -> dict[str, Any]:
    """The scores of every generator on the test split, by its name; the picture goes into the folder."""
    extractor = _extractor(config, data, folder)
    found = {}
    for name, generator in generators.items():
        _console.say(f"scores of {name} by {extractor.name}", _console.err)
        given = scores(generator, data.test, extractor, domains=data.classes, limit=config.scores.images)
        found[name] = asdict(given)
    for note in dict.fromkeys(note for given in found.values() for note in given["notes"]):
        _console.say(note, _console.err)
    grid(generators, data.test, domains=data.classes).save(folder / PICTURE)
    return found


def table(found: Mapping[str, Mapping[str, Any]]) -> Table:
    """One column a generator."""
    first = next(iter(found.values()))
    drawn = Table(
        title=f"{first['translations']} translations of {first['inputs']} test images, "
        f"against {first['images']}; judged by {first['extractor']}"
    )
    drawn.add_column()
    for name in found:
        drawn.add_column(name, justify="right")
    for key, (label, form) in ROWS.items():
        values = [given[key] for given in found.values()]
        if any(value is not None for value in values):
            drawn.add_row(label, *("-" if value is None else form.format(value) for value in values))
    if first["real_accuracy"] is not None:
        drawn.caption = f"the classifier is right on {first['real_accuracy']:.1f} % of the real images"
    return drawn


def _extractor(config: Config, data: build.Data, folder: Path) -> Extractor:
    """The named one; else a classifier of the run's own images, trained once and kept in its folder."""
    known, device = folder / SAVED, str(config.engine.device)
    if (named := _named(config, data)) is not None:
        return named
    if known.exists():
        return Classifier.load(known, domains=data.classes, shape=data.input.shape, device=device)
    training = data.loader("train")
    assert training is not None
    made = train_classifier(
        training,
        data.test,
        data=data.name,
        domains=data.classes,
        mean=data.form["mean"],
        std=data.form["std"],
        epochs=config.scores.epochs,
        device=device,
        precision=_training_precision(config),
        progress=_say,
    )
    made.save(known)
    return made


def _named(config: Config, data: build.Data) -> Extractor | None:
    """The extractor that the recipe names."""
    said, device = config.scores.extractor, str(config.engine.device)
    if said is None:
        return None
    if not said.endswith(".safetensors"):
        return Inception(said, device=device)
    return Classifier.load(said, domains=data.classes, shape=data.input.shape, device=device)


def _training_precision(config: Config) -> str:
    return "bf16" if config.engine.precision == "bf16" else "fp32"


def _say(report: Report) -> None:
    if report.kind == "epoch":
        said = f"classifier epoch {report.epoch}/{report.epochs}  {report.samples_per_s:.0f} samples/s"
        _console.say(said, _console.err)
