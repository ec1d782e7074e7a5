"""`litfast bench`: how much faster a model is than the first one, on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from litfast.bench import picture, report
from litfast.cli import _console, _contenders, _measuring, _planned, _runs
from litfast.cli._contenders import IMAGE, LENGTH


@_console.command
def bench(
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN]...", help="Folders of finished runs.")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Model name, e.g. resnet56; it becomes the first.")
    ] = None,
    student: Annotated[
        list[str] | None, typer.Option(help="Model name, e.g. resnet20; may be given several times.")
    ] = None,
    image: Annotated[
        str | None, typer.Option(help=f"Shape CxHxW of an image that named models read. Default: {IMAGE}.")
    ] = None,
    length: Annotated[
        int | None, typer.Option(help=f"Characters of a text that named models read. Default: {LENGTH}.")
    ] = None,
    alphabet: Annotated[
        int | None, typer.Option(help="Ids that a text has, for a FILE.py:function that reads texts.")
    ] = None,
    batch: _measuring.Batch = "1,128",
    mode: _measuring.Mode = "eager,compile",
    precision: _measuring.Precision = "fp32,bf16",
    seconds: _measuring.Seconds = 1.0,
    threads: _measuring.Threads = None,
    clients: _measuring.Clients = None,
    device: _measuring.Device = "auto",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER|FILE",
            help="Folder for bench.json, bench.md and bench.png, or a picture (.png, .svg, .pdf) to put "
            "them beside. Default: the run's folder, where there is one run.",
        ),
    ] = None,
    as_json: _measuring.AsJson = False,
) -> None:
    """Measure sizes and latencies, all models in turn; a difference below the spread is a tie.

    Models are those of runs (their teacher and student), and named ones with fresh weights. Every other one
    is held to the first.

    Examples:

        litfast bench runs/digits-1

        litfast bench runs/kd-1 runs/lit-1 --student resnet20 --mode all --clients 1,4

        litfast bench --teacher resnet56 --student resnet20 --batch 1,32,128 --mode eager

        litfast bench --teacher vdcnn29 --student vdcnn9 --length 1014
    """
    with _console.usage():
        paths, students = runs or [], student or []
        if not (paths or students or teacher):
            raise ValueError("bench: a run folder, --teacher or --student must be given, got none")
        if paths and (image, length, alphabet) != (None, None, None):
            raise ValueError(
                "bench: --image, --length and --alphabet must come with named models alone, got a run"
            )
        _runs.check_different("bench", paths)
        _contenders.sizes("bench", image, length, alphabet)
        file = _file(paths, out)
        cells = _measuring.cells(
            "bench",
            batch=batch,
            mode=mode,
            precision=precision,
            seconds=seconds,
            threads=threads,
            clients=clients,
            device=device,
        )
    models, reads, known = _contenders.gathered(paths, teacher, students, image, length, alphabet)
    document = cells.measure(models, reads, **known)
    document["plans"] = _planned.verify_runs(paths, seconds)
    document["checks"] |= _planned.checks(document["plans"])
    if as_json:
        _console.print_json(document)
    else:
        report.show(document, _console.out)
        for line in _planned.lines(document["plans"]):
            _console.say(line)
    if file is not None:
        _measuring.save(document, file, picture.draw, report.markdown(document))


def _file(runs: Sequence[Path], out: Path | None) -> Path | None:
    """The picture that the record is put beside; None where nothing is written."""
    place = out or (runs[0] if len(runs) == 1 else None)
    if place is None or place.suffix in _measuring.ENDINGS:
        return place
    if place.suffix in (".json", ".md") or place.is_file():
        endings = ", ".join(_measuring.ENDINGS)
        raise ValueError(f"bench: --out must be a folder or a picture ({endings}), got {str(place)!r}")
    return place / "bench.png"
