from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from litfast.data.resident import ResidentLoader
from litfast.engine.plan import BranchPlan, plan
from litfast.models import parameters
from litfast.phase import Phase, Schedule

Loaders = Callable[..., ResidentLoader]
CPU = torch.device("cpu")


def planned(phases: Any, data: ResidentLoader, precision: str = "fp32") -> list[BranchPlan]:
    return list(plan(phases, data, device=CPU, precision=precision))


def test_every_phase_and_branch_is_named_with_its_steps_and_parameters(
    lit: Any, data: ResidentLoader
) -> None:
    run = lit(beta=0.0)
    plans = planned(run.phases, data)
    assert [(p.phase, p.branch) for p in plans] == [
        ("sections", "layer1"),
        ("sections", "layer2"),
        ("sections", "layer3"),
        ("finetune", "student"),
    ]
    assert [p.steps for p in plans] == [8, 8, 8, 8]
    assert [p.parameters for p in plans[:3]] == [parameters(section) for section in run.student.sections]
    assert plans[3].parameters == sum(p.parameters for p in plans[:3])
    assert {p.weight_bytes for p in plans} == {4 * (parameters(run.teacher) + parameters(run.student))}


def test_a_branch_that_trains_every_third_step_is_planned_for_as_many(
    phase: Callable[..., Phase], toy: nn.Module, data: ResidentLoader
) -> None:
    (branch,) = phase(toy, epochs=2).branches
    plans = planned([phase(toy, branches=(replace(branch, every=3),))], data)
    assert [p.steps for p in plans] == [3]  # of 8: the first, the fourth, the seventh


def test_joint_training_is_one_branch_that_saves_more_than_any_section_alone(
    lit: Any, data: ResidentLoader
) -> None:
    joint, *_ = planned(lit(beta=0.5).phases, data)
    apart = planned(lit(beta=0.0).phases, data)[:3]
    assert joint.branch == "student"
    assert joint.activation_bytes > sum(branch.activation_bytes for branch in apart)


def test_what_the_backward_saves_grows_in_proportion_to_the_batch(lit: Any, loader: Loaders) -> None:
    small, large = (planned(lit(beta=0.0).phases, loader(batch=batch)) for batch in (8, 32))
    for few, many in zip(small, large, strict=True):
        assert many.activation_bytes == pytest.approx(4 * few.activation_bytes, rel=0.05)


def test_bf16_saves_less(lit: Any, data: ResidentLoader) -> None:
    full, half = (planned(lit(beta=0.5).phases, data, precision)[0] for precision in ("fp32", "bf16"))
    assert half.activation_bytes < 0.8 * full.activation_bytes


def test_the_bytes_saved_are_those_of_the_distinct_tensors_and_no_parameters(
    phase: Callable[..., Phase], toy: nn.Module, data: ResidentLoader
) -> None:
    def loss(batch: Any) -> dict[str, Tensor]:
        x = toy(batch.images)  # saves the flat images; the weight is a parameter
        return {"loss": (x.sin() * x).sum()}  # saves x (twice, counted once) and sin(x)

    (only,) = planned([phase(toy, loss=loss)], data)
    assert only.activation_bytes == 4 * (16 * 192 + 2 * 16 * 4)


@pytest.mark.parametrize(("optimizer", "tensors"), [("sgd", 1), ("adam", 2), ("adamw", 2), ("rmsprop", 2)])
def test_memory_is_weights_gradients_optimizer_state_and_activations(optimizer: str, tensors: int) -> None:
    ours = BranchPlan(
        phase="play",
        branch="toy",
        schedule=Schedule(epochs=1, lr=0.1, optimizer=optimizer),
        steps=1,
        parameters=10,
        weight_bytes=1000,
        activation_bytes=500,
    )
    assert ours.memory_bytes == 1000 + 4 * 10 * (1 + tensors) + 500


def test_planning_trains_nothing(lit: Any, data: ResidentLoader) -> None:
    run = lit(beta=0.0)
    sections = [p.clone() for section in run.student.sections for p in section.parameters()]
    planned(run.phases, data)
    after = [p for section in run.student.sections for p in section.parameters()]
    assert all(torch.equal(old, new) for old, new in zip(sections, after, strict=True))
    assert all(p.grad is None for p in (*run.student.parameters(), *run.teacher.parameters()))


def test_an_option_that_a_loss_refuses_is_found_by_planning(lit: Any, data: ResidentLoader) -> None:
    with pytest.raises(ValueError, match="penalty must be one of l2, l1, smooth_l1, got 'l3'"):
        planned(lit(beta=0.0, penalty="l3").phases, data)
