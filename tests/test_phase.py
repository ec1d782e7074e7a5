from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from litfast.phase import Branch, Coefficient, Losses, Phase, Schedule


def no_loss(_: Any) -> Losses:
    raise AssertionError("nobody trains here")


def schedule(**changes: Any) -> Schedule:
    return Schedule(**{"epochs": 4, "lr": 1.0, **changes})


def branch(name: str, *params: nn.Parameter, **changes: Any) -> Branch:
    return Branch(**{"name": name, "params": params, "loss": no_loss, "schedule": schedule(), **changes})


def phase(*branches: Branch) -> Phase:
    return Phase(name="play", model=nn.Identity(), observe=lambda batch: batch, branches=branches, trains=())


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({"schedule": "constant"}, {0: 1.0, 1.5: 1.0, 3.99: 1.0}),
        ({"schedule": "cosine"}, {0: 1.0, 1: 0.8535533905932737, 2: 0.5, 3: 0.1464466094067263}),
        ({"schedule": "linear"}, {0: 1.0, 1: 0.75, 2.5: 0.375}),
        ({"schedule": "linear", "hold": 2}, {0: 1.0, 1.5: 1.0, 2: 1.0, 2.5: 0.75, 3.5: 0.25}),
        ({"schedule": "linear", "hold": 4}, {0: 1.0, 3.99: 1.0}),
        (
            {"schedule": "steps", "milestones": (1, 3), "gamma": 0.1},
            {0.99: 1.0, 1: 0.1, 2.99: 0.1, 3: 0.01},
        ),
        ({"schedule": "steps", "milestones": (2, 2), "gamma": 0.5}, {1.99: 1.0, 2: 0.25}),
    ],
)
def test_the_learning_rate_follows_its_schedule(words: dict[str, Any], expected: dict[float, float]) -> None:
    ours = schedule(lr=0.3, **words)
    assert {at: ours.lr_at(at) for at in expected} == pytest.approx({t: 0.3 * y for t, y in expected.items()})


def test_warmup_scales_the_peak_and_then_joins_the_schedule() -> None:
    ours = schedule(lr=0.1, schedule="linear", warmup=1, warmup_factor=0.1)
    assert ours.lr_at(0) == ours.lr_at(0.99) == pytest.approx(0.01)
    assert ours.lr_at(1) == pytest.approx(0.075)


def test_a_coefficient_moves_in_a_straight_line_and_stays_where_it_ends() -> None:
    ours = Coefficient(4.0, 1.0, epochs=6)
    assert [ours.at(progress) for progress in (0, 1.5, 3, 6, 7)] == [4.0, 3.25, 2.5, 1.0, 1.0]
    assert Coefficient(4.0, 1.0, epochs=0).at(0) == 4.0


def test_a_coefficient_is_written_in_place() -> None:
    ours = Coefficient(4.0, 1.0, epochs=6)
    memory = ours.value
    assert (memory.item(), memory.shape) == (4.0, ())
    ours.to(torch.device("cpu"))
    ours.set(2.5)
    assert ours.value is memory and memory.item() == 2.5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"optimizer": "lion"}, "Schedule: optimizer must be one of sgd, adam, adamw, rmsprop, got 'lion'"),
        ({"schedule": "cos"}, "Schedule: schedule must be one of constant, steps, cosine, linear, got 'cos'"),
        ({"epochs": -1}, "Schedule: epochs must be 0 or more, got -1"),
        ({"hold": -1}, "Schedule: hold must be 0 or more, got -1"),
        ({"hold": 2}, "Schedule: hold must be 0 but for schedule 'linear', got 2 with 'constant'"),
        ({"lr": 0.0}, "Schedule: lr must be positive and finite, got 0.0"),
        ({"lr": float("inf")}, "Schedule: lr must be positive and finite, got inf"),
        ({"lr": float("nan")}, "Schedule: lr must be positive and finite, got nan"),
        ({"clip": 0.0}, "Schedule: clip must be positive and finite, got 0.0"),
        ({"clip": float("inf")}, "Schedule: clip must be positive and finite, got inf"),
        ({"momentum": 1.0}, "Schedule: momentum must be at least 0 and below 1, got 1.0"),
        ({"betas": (0.9, 1.5)}, r"Schedule: betas must be two numbers .* below 1, got \[0.9, 1.5\]"),
        ({"weight_decay": -1e-4}, "Schedule: weight_decay must be 0 or more and finite, got -0.0001"),
        (
            {"schedule": "steps"},
            r"Schedule: milestones must be given with schedule 'steps' .* milestones \[\]",
        ),
        ({"milestones": (2,)}, r"Schedule: milestones must .* got schedule 'constant' and milestones \[2\]"),
        ({"schedule": "steps", "milestones": (3, 1)}, r"Schedule: milestones must ascend, got \[3, 1\]"),
    ],
)
def test_a_schedule_refuses_what_it_cannot_mean(words: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        schedule(**words)


def test_branches_that_name_no_after_own_disjoint_parameters() -> None:
    shared = parameter(2, 3)
    with pytest.raises(ValueError) as caught:
        phase(branch("a", shared), branch("b", parameter(1), shared))
    assert str(caught.value) == (
        "phase 'play': branches 'a' and 'b' must own disjoint parameters, got a shared one of shape [2, 3]"
    )


def test_equal_values_are_not_a_shared_parameter() -> None:
    assert len(phase(branch("a", parameter(2)), branch("b", parameter(2))).branches) == 2


def test_a_branch_that_waits_for_another_may_share_its_parameters() -> None:
    shared = parameter(1)
    assert phase(branch("a", shared), branch("b", shared, after=("a",))).branches[1].after == ("a",)


def test_a_branch_without_parameters_is_refused() -> None:
    with pytest.raises(
        ValueError, match="phase 'play': branch 'a' must own at least one parameter, got none"
    ):
        phase(branch("a"))


def test_the_branches_of_a_phase_train_equally_long() -> None:
    longer = branch("b", parameter(1), schedule=schedule(epochs=5))
    with pytest.raises(AssertionError, match="epochs differ"):
        phase(branch("a", parameter(1)), longer)
    assert phase(longer).epochs == 5


def test_branch_names_are_unique_and_come_after_those_they_wait_for() -> None:
    with pytest.raises(AssertionError, match="branch names"):
        phase(branch("a", parameter(1)), branch("a", parameter(1)))
    with pytest.raises(AssertionError, match="a after"):
        phase(branch("a", parameter(1), after=("b",)), branch("b", parameter(1)))
