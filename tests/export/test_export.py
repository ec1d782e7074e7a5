"""Formats by name: weights that load strictly, words that do not fit, batch norms folded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from litfast import export, lfc
from litfast.export import _agreement
from litfast.models import Input, SectionedModel, create, load_weights


@pytest.mark.parametrize("family", ["resnet", "words", "low rank"], indirect=True)
@pytest.mark.parametrize("format", ["safetensors", "lfc"])
def test_weights_load_strictly_into_the_plain_class(
    format: str, family: tuple[SectionedModel, Input], tmp_path: Path
) -> None:
    model, input = family
    file, about = tmp_path / f"x.{format}", {"model": model.spec, "classes": ["a"]}
    assert export.export(file, model, input, format=format, about=about) == export.Agreement()
    if format == "lfc":
        spec = lfc.spec(file)
    else:
        with safe_open(file, "pt") as opened:
            said = json.loads(opened.metadata()["model.json"])
        assert said == json.loads(json.dumps(about))
        spec = said["model"]
    made = create(**(spec or {}))
    load_weights(made, file)
    assert all(torch.equal(value, made.state_dict()[key]) for key, value in model.state_dict().items())


def test_the_weights_of_a_foreign_model_have_its_own_keys(foreign: nn.Module, tmp_path: Path) -> None:
    file = tmp_path / "new" / "x.safetensors"
    export.export(file, foreign, Input((3, 8, 8)), format="safetensors")
    with safe_open(file, "pt") as opened:
        assert set(opened.keys()) == set(foreign.state_dict())


@pytest.mark.parametrize(
    ("file", "options", "message"),
    [
        ("x.onnx", dict(format="pt"), "--format must be one of lfc, onnx, safetensors, torch, got 'pt'"),
        ("x.pt", dict(format="torch"), r"--out must end in \.pt2, by which it is recognised, got x\.pt"),
        ("x.lfc", dict(format="lfc", fold=True), r"--fold must go with .* \(onnx, torch\), got lfc, whose"),
    ],
)
def test_words_that_do_not_fit_are_refused_before_anything_is_written(
    file: str, options: dict[str, object], message: str, foreign: nn.Module, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"^export: {message}"):
        export.export(Path(file), foreign, Input((3, 8, 8)), **options)  # type: ignore[arg-type]


def test_a_folded_program_is_compared_with_the_model_as_it_came(
    foreign: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def outputs(path: Path, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        loaded = torch.export.load(path)
        assert not [node for node in loaded.graph.nodes if "batch_norm" in str(node.target)]
        return [loaded.module()(x) for x in inputs]

    monkeypatch.setattr(_agreement, "_outputs", outputs)
    options = dict(format="torch", fold=True)
    found = export.export(tmp_path / "x.pt2", foreign, Input((3, 8, 8)), **options)  # type: ignore[arg-type]
    assert 0 < found.difference < 1e-5
