"""The ONNX file: what it computes, at any batch size, and what is in it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from litfast.export import onnx as ours
from litfast.models import Input, create

GROUPS = {"embedding": [[10, 8], [20, 2]], "softmax": [[12, 8], [18, 3]]}
FAMILIES = {
    "resnet": (dict(name="resnet8", width=4), Input((3, 8, 8))),
    "vdcnn": (dict(name="vdcnn9", classes=2), Input((57,), alphabet=69)),
    "stargan": (dict(name="stargan1", classes=3, width=4), Input((6, 8, 8))),
    "low rank": (
        dict(name="lstm_lm", classes=30, width=8, layers=1, groups=GROUPS),
        Input((6,), alphabet=30),
    ),
}


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("family", FAMILIES)
def test_onnx_runtime_computes_what_the_model_computes_at_any_batch_size(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec, input = FAMILIES[family]
    model = create(**spec)
    ours.save(tmp_path / "x.onnx", model, input)
    assert model.training
    run = ours.runner(tmp_path / "x.onnx", threads=1)
    model.eval()
    for batch in (1, 5):
        x = input.example(batch)
        with torch.no_grad():
            expected = create(**spec)  # a new one carries no state
            expected.load_state_dict(model.state_dict())
            assert relative(run(x), expected.eval()(x)) < 2e-5
