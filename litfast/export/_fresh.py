"""Run an exported file in a process of its own, where litfast cannot be imported.

python -P _fresh.py FILE INPUTS.npz OUTPUTS.npz
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

Inputs = dict[str, Any]  # arrays by name
Run = Callable[[Inputs], Any]


def _onnx(file: str) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    return lambda given: session.run(None, {n: given[n if n in given else ""] for n in names})[0]


def _program(file: str) -> Run:
    import torch

    program = torch.export.load(file).module()

    def run(given: Inputs) -> Any:
        tensors = {name: torch.from_numpy(x) for name, x in given.items()}
        return (program(tensors[""]) if "" in tensors else program(**tensors)).numpy()

    return run


def _batches(file: str) -> list[Inputs]:
    """Arrays named "BATCH-INPUT", by batch; of a model of one input it has no name."""
    found: dict[str, Inputs] = {}
    for key, array in np.load(file).items():
        batch, _, name = key.partition("-")
        found.setdefault(batch, {})[name] = array
    return list(found.values())


if __name__ == "__main__":
    sys.modules["litfast"] = None  # type: ignore[assignment]  # an import raises
    file, inputs, outputs = sys.argv[1:]
    run = _onnx(file) if file.endswith(".onnx") else _program(file)
    np.savez(outputs, *map(run, _batches(inputs)))
