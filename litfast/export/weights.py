"""Files of weights alone, under the model's own keys: safetensors, and `.lfc`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from litfast import lfc
from litfast.export._agreement import Agreement, check_state
from litfast.export._file import ABOUT, write
from litfast.models import Input


def save_safetensors(
    path: str | Path, model: nn.Module, input: Input, *, about: Mapping[str, Any] | None = None
) -> None:
    """Write the weights; `about` is kept as JSON in the header, under "model.json"."""
    from safetensors.torch import save

    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    write(path, save(state, {ABOUT: json.dumps(dict(about or {}))}))


def check_safetensors(path: Path, model: nn.Module, input: Input) -> Agreement:
    """Load the file strictly into the plain class and compare every bit."""
    from safetensors.torch import load_file

    return check_state(path, load_file(path), model)


def save_lfc(
    path: str | Path, model: nn.Module, input: Input, *, about: Mapping[str, Any] | None = None
) -> None:
    """Write the weights, Huffman coded where they share values; of `about` it keeps the model's spec."""
    lfc.save(path, model.state_dict(), spec=(about or {}).get("model"))


def check_lfc(path: Path, model: nn.Module, input: Input) -> Agreement:
    """Load the file strictly into the plain class and compare every bit."""
    return check_state(path, lfc.load(path), model)
