"""Which models are timed against each other, and under which names: those of runs, and named ones."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from litfast.cli import _console, _runs
from litfast.models import LSTMLM, VDCNN, Generator, Input, create
from litfast.models.sectioned import SectionedModel

IMAGE = "3x32x32"  # CIFAR's
LENGTH = 1014  # VDCNN's and LIT's
Models = dict[str, SectionedModel]
Chosen = tuple[_runs.Finished, str, str]  # a run, the name of one of its models, the model's role


def of_runs(runs: Sequence[_runs.Finished]) -> list[Chosen]:
    """Every run's student, by the run's name, behind every teacher once, however many runs it taught.

    A teacher that is the student of one of the runs has no line of its own.
    """
    names = _names([run.path for run in runs])
    students = {digest(run.weights["student"]) for run in runs}
    taught: dict[str, list[int]] = {}  # by the teacher's weights, the runs that it taught
    for at, run in enumerate(runs):
        if "teacher" in run.weights:
            taught.setdefault(digest(run.weights["teacher"]), []).append(at)
    alone = [found for found in taught if found not in students]
    chosen = [(runs[at], name, "student") for at, name in enumerate(names)]
    for found in reversed(alone):
        first = taught[found][0]
        name = "teacher" if len(alone) == 1 and "teacher" not in names else f"teacher of {names[first]}"
        chosen.insert(0, (runs[first], name, "teacher"))
    return chosen


def gathered(
    paths: Sequence[Path],
    teacher: str | None,
    students: Sequence[str],
    image: str | None,
    length: int | None,
    alphabet: int | None,
) -> tuple[Models, Input, dict[str, Any]]:
    """What `bench` times: the named teacher, the models of runs, the named students, in that order.

    Named models have fresh weights; beside runs they read what those read.

    Returns:
        The models by name, one sample, and what is known of them, for `litfast.bench.compare`.

    Raises:
        ValueError: a run that cannot be opened, models that do not read the same or have one name.
    """
    runs = [_runs.finished(path) for path in paths]
    lines = [(runs[0], role, role) for role in runs[0].models] if len(runs) == 1 else of_runs(runs)
    models = {name: run.models[role] for run, name, role in lines}
    reads = {name: run.input for run, name, _ in lines}
    if runs:
        made, characters = _like(runs[0]), runs[0].input.shape[0]
    else:
        made = sizes("bench", image, length, alphabet)
        characters = LENGTH if length is None else length
    named = [] if teacher is None else [("teacher", teacher)]
    named += [("student", name) for name in students]
    for role, name in named:
        twice = [other for _, other in named].count(name) > 1
        key = f"{name} ({role})" if twice else name
        if key in models:
            raise ValueError(f"bench: models must have names of their own, got {key} twice")
        model = create(name, **made)
        models = {key: model} | models if role == "teacher" else models | {key: model}
        reads[key] = input_of(model.model, made, characters)
    _check_alike({name: reads[name] for name in models})
    common = reads[next(iter(models))]
    if not runs:
        _check_sizes(common, image, length)
    return models, common, _known(lines)


def sizes(who: str, image: str | None, length: int | None, alphabet: int | None) -> dict[str, Any]:
    """The arguments of `create` for named models, by what the options say of a sample.

    Raises:
        ValueError: as `image_sizes`, or an alphabet or length below 1.
    """
    characters = LENGTH if length is None else length
    for option, given in (("length", characters), ("alphabet", alphabet)):
        if given is not None and given < 1:
            raise ValueError(f"{who}: --{option} must be at least 1, got {given}")
    if alphabet is not None:
        return {"alphabet": alphabet, "size": (characters,)}
    return image_sizes(who, IMAGE if image is None else image)


def image_sizes(who: str, image: str) -> dict[str, Any]:
    """The arguments of `create` for a model that reads images of a shape "CxHxW".

    Raises:
        ValueError: another text, or a size below 1.
    """
    shape = _console.numbers(f"{who}: --image", image, "x")
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"{who}: --image must be CxHxW, got {image!r}")
    return {"channels": shape[0], "size": shape[1:]}


def digest(file: Path) -> str:
    """SHA-256 of a file's content."""
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _known(lines: Sequence[Chosen]) -> dict[str, Any]:
    """What the runs have reported of their models."""
    known: dict[str, dict[str, Any]] = {"accuracies": {}, "perplexities": {}, "weights_bytes": {}}
    for run, name, role in lines:
        known["weights_bytes"][name] = run.weights_bytes[role]
        for figure, key in (("accuracies", "test_accuracy"), ("perplexities", "test_perplexity")):
            value = (run.results.get(key) or {}).get(role)
            if value is not None:
                known[figure][name] = value
    return known


def _like(run: _runs.Finished) -> dict[str, Any]:
    """The arguments of `create` for a model that reads what the run's models read."""
    shape = run.data.input.shape  # without the planes of a generator's domains
    image = {"channels": shape[0], "size": list(shape[1:])} if len(shape) == 3 else {}
    return {"classes": len(run.data.classes), **image}


def _check_alike(reads: dict[str, Input]) -> None:
    first, *others = reads
    for name in others:
        if reads[name] != reads[first]:
            raise ValueError(
                f"bench: {name} must read what {first} does, {_said(reads[first])}, got {_said(reads[name])}"
            )


def _check_sizes(reads: Input, image: str | None, length: int | None) -> None:
    """Refuse the option that says the size of what the models do not read."""
    option, given = ("--length", length) if reads.alphabet is None else ("--image", image)
    if given is not None:
        raise ValueError(f"bench: {option} must be left out with models of {_said(reads)}, got {given}")


def input_of(model: nn.Module, made: dict[str, Any], characters: int) -> Input:
    """What a named model reads: ids of characters or of words, images, images with their domains' planes."""
    if "alphabet" in made:
        return Input(made["size"], alphabet=made["alphabet"])
    match model:
        case VDCNN() | LSTMLM():
            return Input((characters,), alphabet=model.embedding.num_embeddings)
        case Generator():
            return Input((model.planes, *made.get("size", ())))
    return Input((made.get("channels", 0), *made.get("size", ())))


def _said(reads: Input) -> str:
    kind = "images" if reads.alphabet is None else "texts"
    return f"{kind} {list(reads.shape)}"


def _names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    places = [path.resolve() for path in paths]
    for parts in range(1, max((len(place.parts) for place in places), default=0)):
        names = ["/".join(place.parts[-parts:]) for place in places]
        if len(set(names)) == len(names):
            return names
    return [str(place) for place in places]
