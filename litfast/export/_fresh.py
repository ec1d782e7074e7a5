"""Run an exported file in a process of its own, where litfast cannot be imported.

python -P _fresh.py FILE INPUTS.npz OUTPUTS.npz
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

Run = Callable[[Any], Any]


def _onnx(file: str) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]


def _program(file: str) -> Run:
    import torch

    program = torch.export.load(file).module()
    return lambda x: program(torch.from_numpy(x)).numpy()


if __name__ == "__main__":
    sys.modules["litfast"] = None  # type: ignore[assignment]  # an import raises
    file, inputs, outputs = sys.argv[1:]
    run = _onnx(file) if file.endswith(".onnx") else _program(file)
    np.savez(outputs, *(run(x) for x in np.load(inputs).values()))
