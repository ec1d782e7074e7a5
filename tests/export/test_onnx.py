"""The ONNX file: what it computes at any batch size, what it says of itself, what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import onnx as theirs
import pytest
import torch
from torch import nn

from litfast.export import onnx
from litfast.models import Input, SectionedModel


@pytest.mark.parametrize("family", ["vdcnn", "low rank"], indirect=True)
def test_onnx_runtime_computes_the_model_at_any_batch_size(
    family: tuple[SectionedModel, Input], tmp_path: Path
) -> None:
    model, input = family
    onnx.save(tmp_path / "x.onnx", model, input)
    assert model.training  # and it has been left alone
    run = onnx.runner(tmp_path / "x.onnx", threads=1)
    batches = [input.example(batch) for batch in (1, 5)]
    found = [run(x) for x in [*batches, batches[0]]]
    assert torch.equal(found[0], found[2])  # nothing is carried from call to call
    with torch.no_grad():
        expected = [model.eval()(x) for x in batches]
    for ours, other in zip(found, expected, strict=False):
        assert ours.shape == other.shape and float((ours - other).norm() / other.norm()) < 2e-5


def test_a_foreign_model_becomes_one_file_that_says_what_it_is(foreign: nn.Module, tmp_path: Path) -> None:
    onnx.save(tmp_path / "x.onnx", foreign, Input((3, 8, 8)), about={"classes": ["a", "b"]})
    assert [file.name for file in tmp_path.iterdir()] == ["x.onnx"]
    model = theirs.load(tmp_path / "x.onnx")
    theirs.checker.check_model(model, full_check=True)
    about = {prop.key: prop.value for prop in model.metadata_props}
    assert json.loads(about["model.json"]) == {"classes": ["a", "b"]}
    (shape,) = [[d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim] for i in model.graph.input]
    assert isinstance(shape[0], str) and shape[1:] == [3, 8, 8]
    assert str(Path(onnx.__file__).parents[1]).encode() not in (tmp_path / "x.onnx").read_bytes()


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_a_missing_package_is_refused_with_the_way_to_get_it(
    package: str, foreign: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    said = rf"onnx: the package {package} must be installed \(pip install 'litfast\[onnx\]'\), got: "
    with pytest.raises(ValueError, match=said):
        onnx.save(tmp_path / "x.onnx", foreign, Input((3, 8, 8)))
    assert not list(tmp_path.iterdir())


class Eigen(nn.Module):
    """torch.export traces it, and ONNX has no such operator."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvalsh(x)


def test_an_operator_that_onnx_lacks_is_refused_in_one_line(tmp_path: Path) -> None:
    rule = "onnx: model must consist of operators that ONNX has, got: "
    with pytest.raises(ValueError, match=rule) as said:
        onnx.save(tmp_path / "x.onnx", Eigen(), Input((3, 3)))
    assert "\n" not in str(said.value) and "linalg" in str(said.value)


def test_the_runner_refuses_what_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.onnx").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"onnx: .*x\.onnx must be a model that ONNX Runtime loads, got: "):
        onnx.runner(tmp_path / "x.onnx", threads=1)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match="onnx: the package onnxruntime must be installed"):
        onnx.runner(tmp_path / "x.onnx", threads=1)
