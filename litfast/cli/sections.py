"""`litfast sections`: where a model may be cut into sections."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import torch
import typer
from rich.table import Table

from litfast.cli import _console, _measuring
from litfast.cli._contenders import IMAGE, LENGTH, input_of, sizes
from litfast.models import create, parameters
from litfast.models.discovery import measure

BATCH = 8  # of the timed passes


@_console.command
def sections(
    model: Annotated[str, typer.Argument(help="A model's name, timm:NAME or FILE.py:function.")],
    image: Annotated[str, typer.Option(help="Shape CxHxW of an image that it reads.")] = IMAGE,
    length: Annotated[int, typer.Option(help="Characters of a text that it reads.")] = LENGTH,
    alphabet: Annotated[
        int | None, typer.Option(help="Ids that a text has, for a FILE.py:function that reads texts.")
    ] = None,
    classes: Annotated[int, typer.Option(help="Width of its output.")] = 10,
    as_json: _measuring.AsJson = False,
) -> None:
    """List the submodules that a model's forward pass runs through in a line: a section may end with each.

    The last line names the boundaries that `boundaries = "auto"` takes: for a recipe, or for
    `litfast.sectioned`.

    Examples:

        litfast sections resnet56

        litfast sections timm:vit_small_patch16_224 --image 3x224x224

        litfast sections net.py:make --image 1x28x28 --json

        litfast sections net.py:encoder --alphabet 30522 --length 128
    """
    with _console.usage():
        given = sizes("sections", image, length, alphabet)
    made = create(model, classes=classes, **given)
    reads = input_of(made.model, given, length)
    sample = reads.example(BATCH, generator=torch.Generator())
    rows = [asdict(row) for row in measure(made.model, sample, made.inputs)]
    document = {
        "model": model,
        "input": {"shape": list(reads.shape), "alphabet": reads.alphabet},
        "parameters": parameters(made),
        "candidates": [row | {"shape": list(row["shape"])} for row in rows],
        "auto": list(made.names),
    }
    if as_json:
        _console.print_json(document)
    else:
        _console.out.print(_table(document))
        listed = ", ".join(f'"{name}"' for name in made.names)
        _console.say(f"boundaries = [{listed}]")


def _table(document: dict[str, Any]) -> Table:
    """One row a candidate, indented by what it lies in."""
    shape = "x".join(map(str, document["input"]["shape"]))
    total = _console.count(document["parameters"])
    table = Table(title=f"{document['model']} on {shape}: {total} parameters")
    for column in ("submodule", "kind", "output"):
        table.add_column(column)
    for column in ("parameters", "of all", "of the time"):
        table.add_column(column, justify="right")
    names: list[str] = []
    for row in document["candidates"]:
        outer = sum(row["name"].startswith(f"{name}.") for name in names)
        names.append(row["name"])
        table.add_row(
            "  " * outer + row["name"],
            row["kind"],
            "x".join(map(str, row["shape"])),
            _console.count(row["parameters"]),
            f"{100 * row['parameters_share']:.1f} %",
            f"{100 * row['time_share']:.1f} %",
        )
    return table
