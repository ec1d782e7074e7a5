"""What batch norms do where one pass stands for two."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from litfast.models.twin import (
    counted_twice,
    in_halves,
    is_per_sample,
    is_repeatable,
    is_same,
    statistics_held,
    twin_pass,
)


def section() -> nn.Sequential:
    """Two batch norms with statistics that are not fresh ones, in fp64 and train mode."""
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.3), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
    ).double()
    made(torch.randn(4, 3, 6, 6, dtype=torch.float64))
    return made


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    first, second = (torch.randn(5, 3, 6, 6, dtype=torch.float64, generator=generator) for _ in range(2))
    return first, 3 * second + 1


def gradients(module: nn.Module, first: Tensor, second: Tensor) -> list[Tensor]:
    total = (first.sin() + 2 * second.cos()).sum()
    return list(torch.autograd.grad(total, list(module.parameters())))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("moved", [(True, True), (True, False), (False, True), (False, False)])
def test_a_twin_pass_is_two_passes_in_value_gradient_and_statistics(
    moved: tuple[bool, bool], layout: torch.memory_format, inputs: tuple[Tensor, Tensor]
) -> None:
    ours = section().to(memory_format=layout)
    theirs = deepcopy(ours)
    first, second = (x.contiguous(memory_format=layout) for x in inputs)
    together = twin_pass(ours, first, second, moved=moved)
    apart = []
    for x, moves in zip((first, second), moved, strict=True):
        into = theirs if moves else deepcopy(theirs)
        into.load_state_dict(theirs.state_dict())
        apart.append(into(x))
    torch.testing.assert_close(list(together), apart, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(dict(ours.named_buffers()), dict(theirs.named_buffers()), rtol=0, atol=1e-14)
    twice = deepcopy(theirs)
    expected = gradients(twice, twice(first), twice(second))
    torch.testing.assert_close(gradients(ours, *together), expected, rtol=1e-10, atol=1e-12)


def test_a_twin_pass_under_bf16_autocast_keeps_its_halves_apart(inputs: tuple[Tensor, Tensor]) -> None:
    ours, theirs = section().float(), section().float()
    first, second = (x.float() for x in inputs)
    with torch.autocast("cpu", torch.bfloat16):
        together, apart = twin_pass(ours, first, second), (theirs(first), theirs(second))
    torch.testing.assert_close(list(together), list(apart), rtol=0.03, atol=0.03)
    torch.testing.assert_close(dict(ours.named_buffers()), dict(theirs.named_buffers()), rtol=0.01, atol=0.01)


def test_one_pass_counted_twice_moves_the_statistics_as_two(inputs: tuple[Tensor, Tensor]) -> None:
    ours, theirs = section(), section()
    with counted_twice([ours]):
        ours(inputs[0])
    for _ in range(2):
        theirs(inputs[0])
    torch.testing.assert_close(
        dict(ours.named_buffers()), dict(theirs.named_buffers()), rtol=1e-14, atol=1e-14
    )
    assert ours[1].momentum == 0.3


def test_held_statistics_stay_and_the_output_is_that_of_train_mode(inputs: tuple[Tensor, Tensor]) -> None:
    ours, theirs = section(), section()
    before = deepcopy(dict(ours.named_buffers()))
    with statistics_held([ours]):
        held = ours(inputs[0])
    torch.testing.assert_close(held, theirs(inputs[0]), rtol=0, atol=0)
    torch.testing.assert_close(dict(ours.named_buffers()), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    "context", [counted_twice, statistics_held, lambda m: in_halves(m, moved=(True, True))]
)
def test_a_section_is_itself_again_afterwards_an_error_included(context: object) -> None:
    ours = section()
    before = [dict(module.__dict__) for module in ours]
    with pytest.raises(RuntimeError), context([ours]):  # type: ignore[operator]
        ours(torch.randn(4, 99, 6, 6, dtype=torch.float64))
    for module, old in zip(ours, before, strict=True):
        assert module.__dict__.keys() == old.keys()
    norm = ours[1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.momentum == 0.3 and norm.track_running_stats and "forward" not in norm.__dict__


@pytest.mark.parametrize(
    ("extra", "repeatable"),
    [
        (nn.Identity(), True),
        (nn.GroupNorm(2, 4), True),
        (nn.Dropout(0.5), False),
        (nn.Dropout(0.5).eval(), True),
        (nn.RReLU(), False),
        (nn.InstanceNorm2d(4, track_running_stats=True), False),
        (nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 1)), False),
        (nn.SyncBatchNorm(4), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_draws_numbers_or_moves_a_state_of_its_own_is_not_repeatable(
    extra: nn.Module, repeatable: bool, inputs: tuple[Tensor, Tensor]
) -> None:
    module = nn.Sequential(section(), extra.double())
    buffers, state = deepcopy(dict(module.named_buffers())), torch.get_rng_state()
    assert is_repeatable(module, inputs[0]) == repeatable
    torch.testing.assert_close(dict(module.named_buffers()), buffers, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)


def test_per_sample_is_judged_on_the_numbers_and_moves_nothing(inputs: tuple[Tensor, Tensor]) -> None:
    class Coupled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x - x.mean(0)

    plain, coupled = section(), nn.Sequential(Coupled(), nn.ReLU())
    buffers = deepcopy(dict(plain.named_buffers()))
    assert is_per_sample(plain, *inputs) and not is_per_sample(coupled, *inputs)
    assert not is_per_sample(plain, inputs[0], inputs[1].float())
    assert not is_per_sample(plain, inputs[0], inputs[1][:2])
    torch.testing.assert_close(dict(plain.named_buffers()), buffers, rtol=0, atol=0)


def test_the_same_is_the_same_code_settings_and_bits() -> None:
    class Scaled(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = factor

        def forward(self, x: Tensor) -> Tensor:
            return x * self.factor

    class Deciding(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    one = section()
    assert is_same(one, deepcopy(one).eval()) and one.training and is_same(Scaled(2.0), Scaled(2.0))
    other = deepcopy(one)
    with torch.no_grad():
        other[0].weight[0, 0, 0, 0] += 1e-9
    moved = deepcopy(one)
    moved[1].running_mean += 1e-9
    slower = deepcopy(one)
    slower[1].eps = 1e-4
    for stranger in (other, moved, slower, nn.Sequential(*one, nn.ReLU()), Deciding()):
        assert not is_same(one, stranger)
    assert not is_same(Scaled(2.0), Scaled(3.0)) and not is_same(Deciding(), Deciding())
    assert not is_same(nn.Sequential(nn.LeakyReLU(0.1)), nn.Sequential(nn.LeakyReLU(0.2)))
