"""ONNX: written by torch's exporter, run by ONNX Runtime on the CPU."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from litfast.errors import first_line
from litfast.export._file import ABOUT, write
from litfast.export._plain import traced
from litfast.models import Input


def save(path: str | Path, model: nn.Module, input: Input, *, about: Mapping[str, Any] | None = None) -> None:
    """Write a model as one ONNX file that takes any number of samples.

    The graph is what the model computes in eval mode and fp32. A language model begins anew at every call.

    Args:
        path: replaced if it is there; the file appears whole or not at all.
        model: takes what `input` says; it is copied and left as it is.
        input: one sample.
        about: plain values that the file keeps as JSON in its metadata, under "model.json".

    Raises:
        ValueError: the packages are not installed, a model that torch.export cannot trace, or an operator
            that ONNX lacks.
    """
    _need("onnx", "onnxscript")
    program = traced(model, input)
    try:
        with _quiet():
            made = torch.onnx.export(program, dynamo=True, verbose=False, custom_translation_table=_missing())
    except torch.onnx.errors.OnnxExporterError as error:
        said = first_line(error.__cause__ or error)
        raise ValueError(f"onnx: model must consist of operators that ONNX has, got: {said}") from error
    assert made is not None
    made.model.metadata_props[ABOUT] = json.dumps(dict(about or {}))
    write(path, made.model_proto.SerializeToString())


def runner(path: str | Path, *, threads: int) -> Callable[[Any], Tensor]:
    """A function from a batch, [B, ...] or several tensors by name, to the model's output, both on the CPU.

    Args:
        path: what `save` wrote.
        threads: of an operator; operators run one after the other. Threads do not spin between calls.

    Raises:
        ValueError: ONNX Runtime is not installed, or the file is none of its.
    """
    _need("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3  # errors
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common base
        raise ValueError(
            f"onnx: {path} must be a model that ONNX Runtime loads, got: {first_line(error)}"
        ) from error
    names = [one.name for one in session.get_inputs()]

    def run(x: Any) -> Tensor:
        given = x if isinstance(x, dict) else {names[0]: x}
        return torch.from_numpy(session.run(None, {name: given[name].numpy() for name in names})[0])

    return run


def _missing() -> dict[Callable[..., Any], Callable[..., Any]]:
    """What torch's exporter lacks: ONNX's TopK, by which it sorts, takes the first of equal values anyway."""
    from onnxscript.function_libs.torch_lib.ops.core import aten_sort

    return {torch.ops.aten.sort.stable: aten_sort}


def _need(*packages: str) -> None:
    for package in packages:
        try:
            __import__(package)
        except ImportError as error:
            rule = "be installed (pip install 'litfast[onnx]')"
            raise ValueError(f"onnx: the package {package} must {rule}, got: {error}") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of torchvision's operators and of torch's own deprecations."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logger.setLevel(level)
