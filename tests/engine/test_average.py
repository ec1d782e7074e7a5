from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import litfast
from litfast.data.resident import ResidentLoader
from litfast.engine import evaluate
from litfast.engine.average import Average
from litfast.phase import Phase


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))


def move(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
        model(torch.randn(8, 3))  # the statistics move too


def test_the_average_follows_its_formula_and_copies_counters(model: nn.Module) -> None:
    average = Average(model, 0.9)
    expected = {name: value.double() for name, value in model.state_dict().items()}
    for _ in range(5):
        move(model)
        average.update()
        for name, value in model.state_dict().items():
            expected[name] = (
                0.9 * expected[name] + 0.1 * value if value.is_floating_point() else value.double()
            )
    state = average.state()
    assert state["1.num_batches_tracked"].dtype is torch.int64
    for name, value in expected.items():
        torch.testing.assert_close(state[name].double(), value, rtol=1e-5, atol=1e-6)


def test_the_model_has_the_average_inside_and_its_own_weights_afterwards(model: nn.Module) -> None:
    average = Average(model, 0.5)
    move(model)
    average.update()
    own = {name: value.clone() for name, value in model.state_dict().items()}
    with average.in_place():
        assert all(torch.equal(value, average.state()[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())
    assert not torch.equal(own["0.weight"], average.state()["0.weight"])


def test_the_average_is_what_is_validated_and_what_a_phase_ends_with(
    toy: nn.Module, phase: Callable[..., Phase], data: ResidentLoader, val: ResidentLoader
) -> None:
    start = {name: value.clone() for name, value in toy.state_dict().items()}
    last = list(litfast.train([phase(toy, epochs=1)], data, val, ema=0.8))[-1]
    assert last.val == evaluate(toy, val)
    averaged = toy.linear.weight.clone()

    toy.load_state_dict(start)
    expected = start["linear.weight"].clone()
    for report in litfast.train([phase(toy, epochs=1)], data):
        if report.kind == "step":  # the weights of plain training, averaged by hand
            expected.mul_(0.8).add_(toy.linear.weight.detach(), alpha=0.2)
    torch.testing.assert_close(averaged, expected)
    assert not torch.equal(averaged, toy.linear.weight)


def test_a_checkpoint_of_a_run_without_an_average_is_refused(
    toy: nn.Module, phase: Callable[..., Phase], data: ResidentLoader, tmp_path: Path
) -> None:
    reports: Any = litfast.train([phase(toy)], data, out=tmp_path)
    next(reports)
    reports.close()
    message = r"train: the checkpoint must hold one average of weights \(ema\), got none"
    with pytest.raises(ValueError, match=message):
        list(litfast.train([phase(toy)], data, out=tmp_path, resume=True, ema=0.9))
