"""A finished run opened again: its models with their weights, what they read, what was reported.

The data set is not needed for it: the run has written down what its samples are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from litfast import build, config
from litfast.engine.rundir import RunDirectory
from litfast.models import Input, create, load_weights
from litfast.models.sectioned import SectionedModel


@dataclass(frozen=True, kw_only=True, slots=True)
class Described:
    """What a run says of its data, for `build.model`."""

    name: str
    unit: str
    classes: tuple[str, ...]
    input: Input


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """A run that came to its end.

    Attributes:
        path: its folder.
        config: the resolved recipe.
        results: results.json.
        data: what its samples are.
        models: "teacher" (where there was one) and "student", with their weights.
        weights: the files of these, by the same names.
        input: one sample as the models read it.
    """

    path: Path
    config: config.Config
    results: dict[str, Any]
    data: Described
    models: dict[str, SectionedModel]
    weights: dict[str, Path]
    input: Input

    @property
    def weights_bytes(self) -> dict[str, int]:
        """Bytes on disk, by name: of NAME.lfc where the run has one beside the plain weights."""
        packed = {name: file.with_suffix(".lfc") for name, file in self.weights.items()}
        return {
            name: (packed[name] if packed[name].exists() else file).stat().st_size
            for name, file in self.weights.items()
        }


def check_different(who: str, paths: Sequence[Path]) -> None:
    """Refuse one run that is given twice.

    Raises:
        ValueError: see above.
    """
    places = [path.resolve() for path in paths]
    for path, place in zip(paths, places, strict=True):
        if places.count(place) > 1:
            raise ValueError(f"{who}: runs must differ, got {path} twice")


def finished(path: Path) -> Finished:
    """Open the run in a folder.

    Raises:
        ValueError: no run, one that is not finished, files that are missing or do not fit.
    """
    run = RunDirectory.open(path)
    if run.status != "finished":
        raise ValueError(f"run: {path} must be finished, got one that is {run.status}")
    results, document = run.read("results.json"), run.read("model.json")
    settings = config.parse(run.config())
    try:
        data = _described(results, document)
    except KeyError as error:
        whole = "whole results.json and model.json"
        raise ValueError(f"run: {path} must hold {whole}, got one without {error}") from None
    models = {"student": create(**document["model"])}  # as the method left it, whatever it began as
    if settings.teacher is not None:
        models = {"teacher": build.model(settings.teacher, data)} | models
    weights = {name: path / f"{name}.safetensors" for name in models}
    for name, model in models.items():
        load_weights(model, weights[name])
    return Finished(
        path=path,
        config=settings,
        results=results,
        data=data,
        models=models,
        weights=weights,
        input=build.model_input(settings, data),
    )


def _described(results: dict[str, Any], document: dict[str, Any]) -> Described:
    """The samples as the loaders delivered them: without the planes that a generator reads behind."""
    made, reads = document["model"], document["input"]
    shape, alphabet = tuple(reads["shape"]), reads.get("alphabet")
    if "channels" in made:
        shape = (made["channels"], *shape[1:])
    several = reads.get("inputs")
    return Described(
        name=results["data"],
        unit=results["unit"],
        classes=tuple(document["classes"]),
        input=Input.of(several) if several else Input(shape, alphabet=alphabet),
    )
