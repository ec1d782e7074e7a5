"""`litfast export`: a run's student as one file for others to load."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from litfast import lfc
from litfast.cli import _console
from litfast.engine.rundir import RunDirectory
from litfast.registry import Registry

State = Mapping[str, Tensor]
WEIGHTS = "student.safetensors"  # the run's own


@_console.command
def export(
    run: Annotated[Path, typer.Argument(help="A finished run's folder.")],
    format: Annotated[str, typer.Option(help="lfc (Huffman coded shared weights), or safetensors.")] = "lfc",
    out: Annotated[Path | None, typer.Option(help="The file. Default: RUN/student.lfc.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Write a run's student to a file, load that back and compare every bit.

    Examples:

        litfast export runs/mnist_lenet300_compressed-1

        litfast export runs/digits-1 --format safetensors --out student.safetensors
    """
    with _console.usage():
        save, load = FORMATS[format]
        found = RunDirectory.open(run)
        file = out or found.path / f"student.{format}"
        if file.resolve() == (found.path / WEIGHTS).resolve():
            raise ValueError(f"export: --out must not be the run's own weights, got {file}")
        if file.suffix != f".{format}":
            raise ValueError(f"export: --out must end in .{format}, by which it is recognised, got {file}")
    spec = found.read("model.json")["model"]
    state = _load_safetensors(found.path / WEIGHTS)
    written = save(file, state, spec)
    _compare(file, load(file), state)
    plain = fp32_bytes(state)
    if as_json:
        _console.print_json(
            {
                "file": str(file),
                "format": format,
                "bytes": written,
                "fp32_bytes": plain,
                "ratio": plain / written,
            }
        )
    else:
        _console.say(
            f"{file}: {written:,} bytes on disk, {plain / written:.2f} times smaller than the {plain:,} "
            "of its numbers in fp32; loads back bit for bit"
        )


def fp32_bytes(state: State) -> int:
    """Bytes of a state dict whose floats are all fp32; integers as they are."""
    return sum(v.numel() * (4 if v.is_floating_point() else v.element_size()) for v in state.values())


def _compare(file: Path, found: State, state: State) -> None:
    same = found.keys() == state.keys() and all(_equal(found[key], value) for key, value in state.items())
    if not same:
        raise ValueError(f"export: {file} must load back bit for bit, got other weights; do not use it")


def _equal(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two tensors agree in type, shape and every bit: NaN is itself, -0 is not 0."""
    alike = ours.dtype == theirs.dtype and ours.shape == theirs.shape
    return alike and torch.equal(*(t.contiguous().flatten().view(torch.uint8) for t in (ours, theirs)))


def _save_lfc(file: Path, state: State, spec: Mapping[str, Any] | None) -> int:
    return lfc.save(file, state, spec=spec)


def _save_safetensors(file: Path, state: State, spec: Mapping[str, Any] | None) -> int:
    from safetensors.torch import save

    return file.write_bytes(save(dict(state)))  # the spec is in the run's model.json


def _load_safetensors(file: Path) -> State:
    from safetensors.torch import load_file

    if not file.is_file():
        raise ValueError(f"export: {file} must exist, got no such file; is the run finished?")
    loaded: State = load_file(file)
    return loaded


FORMATS: Registry[tuple[Callable[..., int], Callable[[Path], State]]] = Registry("export: --format")
FORMATS.update(lfc=(_save_lfc, lfc.load), safetensors=(_save_safetensors, _load_safetensors))
