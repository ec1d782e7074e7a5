"""`litfast bench`: how much faster the student is, on this machine."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import nn

from litfast import build
from litfast.bench import compare, picture, record, report
from litfast.cli import _console, _planned, _runs
from litfast.models import LSTMLM, VDCNN, Generator, Input, create
from litfast.models.sectioned import SectionedModel

IMAGE = "3x32x32"  # CIFAR's
LENGTH = 1014  # VDCNN's and LIT's


@_console.command
def bench(
    run: Annotated[Path | None, typer.Argument(help="A run folder; or name --teacher and --student.")] = None,
    teacher: Annotated[str | None, typer.Option(help="Model name, e.g. resnet56.")] = None,
    student: Annotated[str | None, typer.Option(help="Model name, e.g. resnet20.")] = None,
    image: Annotated[
        str | None, typer.Option(help=f"Shape CxHxW of an image that named models read. Default: {IMAGE}.")
    ] = None,
    length: Annotated[
        int | None, typer.Option(help=f"Characters of a text that named models read. Default: {LENGTH}.")
    ] = None,
    batch: Annotated[str, typer.Option(help="Batch sizes, comma separated.")] = "1,128",
    mode: Annotated[str, typer.Option(help="Modes, comma separated: eager, compile.")] = "eager,compile",
    precision: Annotated[str, typer.Option(help="fp32, bf16, comma separated.")] = "fp32,bf16",
    seconds: Annotated[float, typer.Option(help="Time to spend on one row.")] = 1.0,
    threads: Annotated[int | None, typer.Option(help="CPU threads. Default: torch's.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
    out: Annotated[
        Path | None, typer.Option(help="Folder for bench.json and bench.png. Default: the run's.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document on stdout, all else on stderr.")
    ] = False,
) -> None:
    """Measure sizes and latencies, teacher and student interleaved; a difference below the spread is a tie.

    Examples:

        litfast bench runs/digits-1

        litfast bench --teacher resnet56 --student resnet20 --batch 1,32,128 --mode eager

        litfast bench --teacher vdcnn29 --student vdcnn9 --length 1014
    """
    with _console.usage():
        if (run is None) == (teacher is None or student is None):
            raise ValueError(
                "bench: either a run folder or --teacher and --student must be given, got both or none"
            )
        if run is not None and (image, length) != (None, None):
            raise ValueError("bench: --image and --length must come with --teacher and --student, got a run")
        batches = _console.numbers("bench: --batch", batch, ",")
        if len(_console.numbers("bench: --image", image or IMAGE, "x")) != 3:
            raise ValueError(f"bench: --image must be CxHxW, got {image!r}")
    if run is not None:
        models, reads, known = _of_run(run)
    else:
        models, reads = _of_names(str(teacher), str(student), image, length)
        known = {}
    place = build.device(device)
    document = compare(
        {name: model.to(place) for name, model in models.items()},
        input=reads,
        batches=batches,
        modes=mode.split(","),
        precisions=precision.split(","),
        seconds=seconds,
        device=place,
        threads=threads,
        progress=lambda line: _console.say(line, _console.err, "dim"),
        **known,
    )
    if run is not None:
        document |= _planned.verify(_planned.expected(run), models, input=reads, seconds=seconds)
        document["checks"] |= _planned.checks(document)
    folder = out or run
    if as_json:
        _console.print_json(document)
    else:
        report.show(document, _console.out)
        for line in _planned.lines(document):
            _console.say(line)
    if folder is not None:
        _save(document, folder)


def _save(document: dict[str, Any], folder: Path) -> None:
    """The record, and a picture where matplotlib is installed."""
    command = shlex.join(["litfast", *sys.argv[1:]])
    record.write(folder / "bench.json", command=command, results=document, checks=document["checks"])
    said = [str(folder / "bench.json")]
    try:
        picture.draw(document, folder / "bench.png")
        said.append(str(folder / "bench.png"))
    except ModuleNotFoundError as error:
        said.append(str(error))
    _console.say("\n".join(said), _console.err)


def _of_run(run: Path) -> tuple[dict[str, SectionedModel], Input, dict[str, Any]]:
    """A run's models with their weights (the student alone if it had no teacher), what they read, facts."""
    found = _runs.finished(run)
    accuracies = found.results.get("test_accuracy", {})
    known = {
        "accuracies": {name: value for name, value in accuracies.items() if name in found.models},
        "perplexities": found.results.get("test_perplexity"),
        "weights_bytes": found.weights_bytes,
    }
    return found.models, found.input, known


def _of_names(
    teacher: str, student: str, image: str | None, length: int | None
) -> tuple[dict[str, SectionedModel], Input]:
    """Two models with fresh weights, and what both read."""
    shape = _console.numbers("bench: --image", image or IMAGE, "x")
    models = [create(name, channels=shape[0], size=shape[1:]) for name in (teacher, student)]
    reads = [_input(model.model, shape, length or LENGTH) for model in models]
    if reads[0] != reads[1]:
        raise ValueError(f"bench: student must read the teacher's {_said(reads[0])}, got {_said(reads[1])}")
    option, given = ("--length", length) if reads[0].alphabet is None else ("--image", image)
    if given is not None:
        raise ValueError(f"bench: {option} must be left out with models of {_said(reads[0])}, got {given}")
    same = teacher == student
    names = (f"{teacher} (teacher)", f"{student} (student)") if same else (teacher, student)
    return dict(zip(names, models, strict=True)), reads[0]


def _input(model: nn.Module, image: Sequence[int], length: int) -> Input:
    """What a named model reads: ids of characters or of words, images, images with their domains' planes."""
    match model:
        case VDCNN() | LSTMLM():
            return Input((length,), alphabet=model.embedding.num_embeddings)
        case Generator():
            return Input((model.planes, *image[1:]))
    return Input(tuple(image))


def _said(reads: Input) -> str:
    kind = "images" if reads.alphabet is None else "texts"
    return f"{kind} {list(reads.shape)}"
