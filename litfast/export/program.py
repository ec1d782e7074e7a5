"""A `torch.export` program: a .pt2 file that torch runs without the code of the model."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from litfast.export._file import ABOUT, write
from litfast.export._plain import called, traced
from litfast.models import Input


def save(path: str | Path, model: nn.Module, input: Input, *, about: Mapping[str, Any] | None = None) -> None:
    """Write a model as a program that takes any number of samples.

    The program is what the model computes in eval mode and fp32. A language model begins anew at every call.

    Args:
        path: replaced if it is there; the file appears whole or not at all.
        model: takes what `input` says; it is copied and left as it is.
        input: one sample.
        about: plain values that the file keeps as JSON, among its extra files as "model.json".

    Raises:
        ValueError: a model that torch.export cannot trace.
    """
    file = io.BytesIO()
    text = json.dumps(dict(about or {}))
    torch.export.save(traced(model, input), file, extra_files={ABOUT: text})
    write(path, file.getvalue())


def runner(path: str | Path) -> Callable[[Any], Tensor]:
    """A function from a batch, [B, ...] or several tensors by name, to the model's output, on the CPU."""
    program = torch.export.load(path).module()

    def run(x: Any) -> Tensor:
        out: Tensor = called(program, x)
        return out

    return run
