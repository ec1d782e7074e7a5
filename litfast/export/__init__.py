"""A trained model as one file for others to load, and the proof that it computes the same."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from litfast.export import onnx, program, weights
from litfast.export._agreement import Agreement as Agreement
from litfast.export._agreement import check_outputs
from litfast.models import Input
from litfast.models.inference import without_batch_norms
from litfast.registry import Registry


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """One kind of file.

    Attributes:
        suffix: how its name ends, by which others recognise it.
        save: (path, model, input, about=...) writes it.
        check: (path, model, input) compares what it holds with the model.
        runs: it holds the computation, not the weights alone.
    """

    suffix: str
    save: Callable[..., None]
    check: Callable[[Path, nn.Module, Input], Agreement]
    runs: bool


FORMATS: Registry[Format] = Registry("export: --format")
FORMATS.update(
    lfc=Format(suffix=".lfc", save=weights.save_lfc, check=weights.check_lfc, runs=False),
    safetensors=Format(
        suffix=".safetensors", save=weights.save_safetensors, check=weights.check_safetensors, runs=False
    ),
    onnx=Format(suffix=".onnx", save=onnx.save, check=check_outputs, runs=True),
    torch=Format(suffix=".pt2", save=program.save, check=check_outputs, runs=True),
)


def chosen(path: Path, *, format: str, fold: bool = False) -> Format:
    """The format, once the file's name and the options suit it.

    Raises:
        ValueError: an unknown format, another suffix, or batch norms to fold in a file of weights.
    """
    found = FORMATS[format]
    if path.suffix != found.suffix:
        raise ValueError(f"export: --out must end in {found.suffix}, by which it is recognised, got {path}")
    if fold and not found.runs:
        raise ValueError(
            f"export: --fold must go with a format that computes (onnx, torch), got {format}, "
            "whose weights must fit the model as it is"
        )
    return found


def export(
    path: str | Path,
    model: nn.Module,
    input: Input,
    *,
    format: str,
    fold: bool = False,
    about: Mapping[str, Any] | None = None,
) -> Agreement:
    """Write a model to a file and compare what the file holds with the model.

    onnx and torch run in a fresh process without litfast, on random batches of two sizes; lfc and safetensors
    load strictly into the plain class, bit for bit.

    Args:
        path: its folder is made; a file that is there is replaced once the new one is proved.
        model: takes what `input` says; a SectionedModel or any other. It is left as it is.
        input: one sample.
        format: one of FORMATS.
        fold: fold batch norms into the convolutions before them.
        about: plain values that the file keeps, such as a run's model.json.

    Returns:
        How far the file is from the model as it came, batch norms unfolded.

    Raises:
        ValueError: what the format or the model does not allow, or a file that differs.
    """
    path = Path(path)
    found = chosen(path, format=format, fold=fold)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".litfast-", dir=path.parent) as folder:
        aside = Path(folder, path.name)
        found.save(aside, without_batch_norms(model) if fold else model, input, about=about)
        agreement = found.check(aside, model, input)
        os.replace(aside, path)
    return agreement
