"""The .pt2 file: what it computes at any batch size, what it says of itself, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from litfast.export import program
from litfast.models import Input, SectionedModel


@pytest.mark.parametrize("family", ["stargan", "words"], indirect=True)
def test_the_program_computes_the_model_at_any_batch_size(
    family: tuple[SectionedModel, Input], tmp_path: Path
) -> None:
    model, input = family
    program.save(tmp_path / "x.pt2", model, input)
    run = program.runner(tmp_path / "x.pt2")
    batches = [input.example(batch) for batch in (1, 5)]
    found = [run(x) for x in [*batches, batches[0]]]
    assert torch.equal(found[0], found[2])  # nothing is carried from call to call
    with torch.no_grad():
        expected = [model.eval()(x) for x in batches]
    for ours, other in zip(found, expected, strict=False):
        assert ours.shape == other.shape and not ours.requires_grad
        assert float((ours - other).norm() / other.norm()) < 2e-5


def test_the_file_says_what_it_is_and_not_where_it_was_made(foreign: nn.Module, tmp_path: Path) -> None:
    program.save(tmp_path / "x.pt2", foreign, Input((3, 8, 8)), about={"classes": ["a", "b"]})
    assert [file.name for file in tmp_path.iterdir()] == ["x.pt2"]
    extra = {"model.json": ""}
    torch.export.load(tmp_path / "x.pt2", extra_files=extra)
    assert json.loads(extra["model.json"]) == {"classes": ["a", "b"]}
    assert str(Path(__file__).parents[2]).encode() not in (tmp_path / "x.pt2").read_bytes()


class Branching(nn.Module):
    """It looks at the values."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_what_cannot_be_traced_is_refused_in_one_line(tmp_path: Path) -> None:
    rule = r"export: model must be one that torch\.export can trace, got "
    with pytest.raises(ValueError, match=rule) as said:
        program.save(tmp_path / "x.pt2", Branching(), Input((3,)))
    assert "\n" not in str(said.value)
    assert not list(tmp_path.iterdir())
