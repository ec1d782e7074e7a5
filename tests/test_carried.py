from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from litfast.carried import Carried, anew, carried, lasting, reset


class Adder(nn.Module):
    """Adds what came before to what comes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.carried = Carried(total=2)

    def forward(self, x: Tensor) -> Tensor:
        (before,) = self.carried.take(len(x))
        total = self.weight * x + before
        self.carried.leave(total)
        return total


def ones(rows: int = 3) -> Tensor:
    return torch.ones(rows, 2)


def test_state_goes_on_from_batch_to_batch_without_its_gradient() -> None:
    model = Adder()
    model(ones())
    out = model(ones())
    out.sum().backward()  # the first batch's graph is gone, its result is not
    assert torch.equal(out.detach(), 2 * ones())
    assert model.weight.grad is not None and model.weight.grad.tolist() == [3.0, 3.0]


def test_a_batch_of_another_size_begins_anew() -> None:
    model = Adder()
    model(ones())
    assert torch.equal(model(ones(4)), ones(4)) and torch.equal(model(ones()), ones())


def test_reset_begins_anew_in_the_same_memory() -> None:
    model = Adder()
    model(ones())
    memory = model.carried.total.data_ptr()
    reset(model)
    assert torch.equal(model(ones()), ones()) and model.carried.total.data_ptr() == memory


def test_what_happens_anew_leaves_no_trace_not_even_in_inference_mode() -> None:
    model = Adder()
    model(ones())
    memory = model.carried.total.data_ptr()
    with anew(model), torch.inference_mode():
        assert torch.equal(model(ones()), ones()) and torch.equal(model(ones(5)), ones(5))
    assert model.carried.total.data_ptr() == memory
    out = model(ones())
    out.sum().backward()
    assert torch.equal(out.detach(), 2 * ones())


def test_a_first_batch_in_inference_mode_does_not_spoil_training() -> None:
    model = Adder()
    with torch.inference_mode():
        model(ones())
    model(ones()).sum().backward()


def test_parts_of_a_batch_have_streams_of_their_own() -> None:
    model = Adder()
    states = carried(model)
    assert states is not None
    for seen in (1.0, 2.0):
        for part, size in enumerate((1.0, 10.0)):
            states.turn(part)
            assert torch.equal(model(size * ones()).detach(), seen * size * ones())
    states.turn(0)
    assert torch.equal(model(ones()).detach(), 3 * ones())


def test_weights_lack_the_state_and_a_checkpoint_has_it() -> None:
    model, student = Adder(), nn.Sequential(Adder(), nn.ReLU())
    states = carried(model, student)
    assert states is not None and list(student.state_dict()) == ["0.weight"]
    for _ in range(2):
        model(ones()), student(ones(4))
    kept = copy.deepcopy(states.state_dict())
    model(ones()), reset(student)
    states.load_state_dict(kept)
    assert torch.equal(model(ones()), 3 * ones()) and torch.equal(student(ones(4)), 3 * ones(4))
    others = carried(fresh := Adder(), nn.Sequential(Adder()))
    assert others is not None
    others.load_state_dict(kept)
    assert torch.equal(fresh(ones()), 3 * ones())


def test_a_model_without_state_has_none() -> None:
    assert carried(nn.Linear(2, 2)) is None


def test_lasting_buffers_are_all_others() -> None:
    model = nn.Sequential(Adder(), norm := nn.BatchNorm1d(2))
    assert [id(buffer) for buffer in lasting(model)] == [id(buffer) for buffer in norm.buffers()]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_state_moves_with_the_model(dtype: torch.dtype) -> None:
    model = Adder()
    model(ones())
    other = copy.deepcopy(model).to(dtype)
    assert torch.equal(other(ones().to(dtype)), 2 * ones().to(dtype))
    assert torch.equal(model(ones()), 2 * ones())
