"""The options by which `bench` and `compare` say what is timed and how, and what both do with the numbers."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn

from litfast import bench, build
from litfast.bench import latency, modes, record
from litfast.cli import _console
from litfast.models import Input

ENDINGS = (".png", ".svg", ".pdf")
ALL = "all"
NAMES = ", ".join(modes.MODES)

Batch = Annotated[str, typer.Option(help="Batch sizes, comma separated; halved where there is no memory.")]
Mode = Annotated[
    str, typer.Option(help=f"Comma separated: {NAMES}; or {ALL}: those that differ on this device.")
]
Precision = Annotated[str, typer.Option(help="fp32, bf16, comma separated.")]
Seconds = Annotated[float, typer.Option(help="Time to spend on one latency.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads. Default: torch's.")]
Clients = Annotated[
    str | None, typer.Option(help="Also the throughput under so many clients at once, comma separated.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda ...")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, all else on stderr.")]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cells:
    """What the options ask for, as `litfast.bench.compare` takes it."""

    batches: list[int]
    modes: list[str]
    precisions: list[str]
    seconds: float
    threads: int | None
    clients: list[int]
    device: torch.device

    def measure(self, models: Mapping[str, nn.Module], input: Input, **known: Any) -> dict[str, Any]:
        """The document of a comparison; `known` is what `compare` is told of the models."""
        return bench.compare(
            {name: model.to(self.device) for name, model in models.items()},
            input=input,
            batches=self.batches,
            modes=self.modes,
            precisions=self.precisions,
            seconds=self.seconds,
            device=self.device,
            threads=self.threads,
            clients=self.clients,
            progress=lambda line: _console.say(line, _console.err, "dim"),
            **known,
        )


def cells(
    who: str,
    *,
    batch: str,
    mode: str,
    precision: str,
    seconds: float,
    threads: int | None,
    clients: str | None,
    device: str,
) -> Cells:
    """Read the options of a command.

    Raises:
        ValueError: text where numbers should be, and what `latency.measure` refuses of them.
    """
    place = torch.device(build.device(device))
    what: dict[str, Any] = {
        "batches": _console.numbers(f"{who}: --batch", batch, ","),
        "modes": modes.every(place) if mode == ALL else _words(mode),
        "precisions": _words(precision),
    }
    under: dict[str, Any] = {
        "seconds": seconds,
        "threads": threads,
        "clients": [] if clients is None else _console.numbers(f"{who}: --clients", clients, ","),
        "device": place,
    }
    latency.check_cells(**what)
    latency.check_conditions(**under)
    return Cells(**what, **under)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def save(
    document: dict[str, Any], picture: Path, draw: Callable[[dict[str, Any], Path], None], text: str | None
) -> None:
    """The record, its tables in Markdown where there is `text`, and the picture where matplotlib is there."""
    command = shlex.join(["litfast", *sys.argv[1:]])
    file = picture.with_suffix(".json")
    record.write(file, command=command, results=document, checks=document["checks"])
    said = [str(file)]
    if text is not None:
        file.with_suffix(".md").write_text(f"{text}\n`{command}`\n", encoding="utf-8")
        said.append(str(file.with_suffix(".md")))
    try:
        draw(document, picture)
        said.append(str(picture))
    except ModuleNotFoundError as error:
        said.append(str(error))
    _console.say("\n".join(said), _console.err)
