"""Whether a file holds what its model is: the same bits, or the same outputs where nobody has litfast."""

from __future__ import annotations

import copy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from litfast.export import _fresh
from litfast.export._plain import called, inner, plain
from litfast.models import Input, SectionedModel, create

BATCHES = (1, 5)  # neither is what a program is traced on
TOLERANCE = 1e-4  # fp32 rounding reaches 1e-5 in a deep network; a wrong operator is far beyond


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How far a file's outputs are from its model's: |file - model| / |model|, 2-norms, in the worst batch.

    Attributes:
        difference: that number; 0 where the weights came back bit for bit.
        tolerance: the largest difference that is accepted; 0 for bits.
        batches: sizes of the random batches; none for bits.
    """

    difference: float = 0.0
    tolerance: float = 0.0
    batches: tuple[int, ...] = ()


@torch.no_grad()
def check_outputs(path: Path, model: nn.Module, input: Input) -> Agreement:
    """Run the file in a fresh process without litfast, on random batches of two sizes.

    Raises:
        ValueError: it does not run there, or its outputs are not the model's.
    """
    draws = torch.Generator().manual_seed(0)
    inputs = [input.example(batch, generator=draws) for batch in BATCHES]
    ours = plain(model)
    expected_ones = (called(ours, x) for x in inputs)
    pairs = zip(_outputs(path, inputs), expected_ones, strict=True)
    difference = max(_difference(theirs, expected) for theirs, expected in pairs)
    if not difference <= TOLERANCE:  # NaN is no agreement either
        raise ValueError(
            f"export: outputs of {path.name} must be within {TOLERANCE:.0e} of the model's, "
            f"got {difference:.1e}"
        )
    return Agreement(difference=difference, tolerance=TOLERANCE, batches=BATCHES)


def check_state(path: Path, state: Mapping[str, Tensor], model: nn.Module) -> Agreement:
    """Load what a file gave back into the plain model, strictly, and compare every bit.

    Raises:
        ValueError: other keys, shapes or bits.
    """
    made = _anew(model)
    try:
        made.load_state_dict(state, strict=True)
    except RuntimeError as error:
        said = " ".join(str(error).split())
        raise ValueError(f"export: {path.name} must load into the plain model, got: {said}") from error
    found, expected = made.state_dict(), model.state_dict()
    same = state.keys() == expected.keys() and all(_equal(found[k], v) for k, v in expected.items())
    if not same:
        raise ValueError(f"export: {path.name} must load back bit for bit, got other weights")
    return Agreement()


def _anew(model: nn.Module) -> nn.Module:
    """The plain class with other weights, as whoever loads the file makes it."""
    if not isinstance(model, SectionedModel) or model.spec is None:
        return copy.deepcopy(inner(model))
    with torch.random.fork_rng(devices=[]):
        return create(**model.spec).model


def _outputs(path: Path, inputs: Sequence[Any]) -> list[Tensor]:
    with tempfile.TemporaryDirectory() as folder:
        sent, received = Path(folder, "inputs.npz"), Path(folder, "outputs.npz")
        named = [x if isinstance(x, dict) else {"": x} for x in inputs]
        np.savez(
            sent, **{f"{at}-{name}": x.numpy() for at, one in enumerate(named) for name, x in one.items()}
        )
        # -P: beside the program lie modules with names of packages
        command = [sys.executable, "-P", _fresh.__file__, str(path), str(sent), str(received)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise ValueError(f"export: {path.name} must run in a fresh process, got: {said}")
        with np.load(received) as arrays:
            return [torch.from_numpy(array) for array in arrays.values()]


def _difference(theirs: Tensor, ours: Tensor) -> float:
    if theirs.shape != ours.shape:
        raise ValueError(f"export: outputs must be {list(ours.shape)}, got {list(theirs.shape)}")
    gap, size = (theirs.double() - ours.double()).norm(), ours.double().norm()
    return float(gap / size) if size else float(gap)


def _equal(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two tensors agree in type, shape and every bit: NaN is itself, -0 is not 0."""
    alike = ours.dtype == theirs.dtype and ours.shape == theirs.shape
    return alike and torch.equal(*(t.contiguous().flatten().view(torch.uint8) for t in (ours, theirs)))
