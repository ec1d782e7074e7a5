"""`litfast export`: a run's student as one file for others to load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from torch import Tensor

from litfast import export as exporting
from litfast.cli import _console, _measuring
from litfast.engine.rundir import RunDirectory
from litfast.models import Input, create, load_weights

WEIGHTS = "student.safetensors"  # the run's own
FORMATS = "lfc (Huffman coded shared weights), safetensors, onnx, or torch (a torch.export program, .pt2)."


@_console.command
def export(
    run: Annotated[Path, typer.Argument(help="A finished run's folder.")],
    format: Annotated[str, typer.Option(help=FORMATS)] = "lfc",
    out: Annotated[Path | None, typer.Option(help="The file. Default: RUN/student.SUFFIX.")] = None,
    fold: Annotated[bool, typer.Option("--fold", help="Fold batch norms (onnx, torch).")] = False,
    as_json: _measuring.AsJson = False,
) -> None:
    """Write a run's student to a file and prove the file: every bit, or what it computes without litfast.

    Examples:

        litfast export runs/mnist_lenet300_compressed-1

        litfast export runs/digits-1 --format onnx --fold
    """
    with _console.usage():
        found = RunDirectory.open(run)
        file = out or found.path / f"student{exporting.FORMATS[format].suffix}"
        if file.resolve() == (found.path / WEIGHTS).resolve():
            raise ValueError(f"export: --out must be another file than the run's own weights, got {file}")
        exporting.chosen(file, format=format, fold=fold)
    document = found.read("model.json")
    model = create(**document["model"])
    load_weights(model, found.path / WEIGHTS)
    reads = document["input"]
    several = reads.get("inputs")
    input = Input.of(several) if several else Input(tuple(reads["shape"]), alphabet=reads.get("alphabet"))
    agreement = exporting.export(file, model, input, format=format, fold=fold, about=document)
    written, plain = file.stat().st_size, fp32_bytes(model.state_dict())
    if as_json:
        _console.print_json(
            {
                "file": str(file),
                "format": format,
                "fold": fold,
                "bytes": written,
                "fp32_bytes": plain,
                "ratio": plain / written,
                **asdict(agreement),
            }
        )
    else:
        _console.say(f"{file}: {written:,} bytes on disk, {_proof(agreement, plain / written, plain)}")


def fp32_bytes(state: Mapping[str, Tensor]) -> int:
    """Bytes of a state dict whose floats are all fp32; integers as they are."""
    return sum(v.numel() * (4 if v.is_floating_point() else v.element_size()) for v in state.values())


def _proof(agreement: exporting.Agreement, ratio: float, plain: int) -> str:
    if not agreement.batches:
        return f"{ratio:.2f} times smaller than the {plain:,} of its numbers in fp32; loads back bit for bit"
    sizes = " and ".join(str(batch) for batch in agreement.batches)
    return (
        f"any batch size; without litfast, on random batches of {sizes}, its outputs are within "
        f"{agreement.difference:.1e} of the student's (tolerance {agreement.tolerance:.0e})"
    )
