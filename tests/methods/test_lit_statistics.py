"""`bn_stats`: which of a section's two forward passes moves its batch-norm statistics, and in which order."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor

from litfast.data.loader import Batch
from litfast.methods import lit
from litfast.methods._kd import Seen as Observation
from litfast.models import SectionedModel
from litfast.phase import Phase

from .conftest import MOVES, PHASES, Ready, Seen


def buffers(model: SectionedModel) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in model.model.named_buffers()}


def after_one_step(phase: Phase, batch: Batch, seen: Seen) -> dict[str, Tensor]:
    observation = seen(phase, batch)
    for branch in phase.branches:
        branch.loss(observation)
    return buffers(phase.model)


def run_path(student: SectionedModel, path: str, observation: Observation) -> None:
    if path == "own":
        student(observation.images)
    else:
        for i, section in enumerate(student.sections):
            section(observation.irs[i])


@pytest.mark.parametrize("beta", [0.0, 0.5], ids=["independent", "joint"])
@pytest.mark.parametrize("bn_stats", MOVES)
def test_the_named_paths_move_the_statistics_own_path_first(
    bn_stats: str,
    beta: float,
    teacher: SectionedModel,
    student: SectionedModel,
    batch: Batch,
    ready: Ready,
    seen: Seen,
) -> None:
    phase = ready(lit(teacher, student, **PHASES, beta=beta, bn_stats=bn_stats))
    by_hand, start = deepcopy(student), buffers(student)
    ours = after_one_step(phase, batch, seen)
    observation = seen(ready(lit(teacher, deepcopy(student), **PHASES, beta=0.5)), batch)
    for path in MOVES[bn_stats]:
        run_path(by_hand, path, observation)
    torch.testing.assert_close(ours, buffers(by_hand), rtol=1e-12, atol=0)
    counts = {name: ours[name] - start[name] for name in ours if name.endswith("num_batches_tracked")}
    assert {int(count) for name, count in counts.items() if name.startswith("layer")} == {
        len(MOVES[bn_stats])
    }
    assert counts["bn1.num_batches_tracked"] == 0


def test_the_order_of_the_two_updates_changes_the_result(
    teacher: SectionedModel, student: SectionedModel, batch: Batch, ready: Ready, seen: Seen
) -> None:
    phase = ready(lit(teacher, student, **PHASES, beta=0.5, bn_stats="both"))
    turned = deepcopy(student)
    ours = after_one_step(phase, batch, seen)
    observation = seen(phase, batch)
    for path in ("ir", "own"):
        run_path(turned, path, observation)
    name = "layer2.0.bn1.running_mean"
    assert not torch.allclose(ours[name], buffers(turned)[name])


def test_both_is_two_moving_averages_one_after_the_other(
    teacher: SectionedModel, student: SectionedModel, batch: Batch, ready: Ready, seen: Seen
) -> None:
    phase = ready(lit(teacher, student, **PHASES, beta=0.5, bn_stats="both"))
    block = student.model.get_submodule("layer2.0")
    start, twin = block.bn1.running_mean.clone(), deepcopy(student)
    ours = after_one_step(phase, batch, seen)["layer2.0.bn1.running_mean"]
    own_input = twin.sections[0](twin.stem(batch.images))
    own, taught = (block.conv1(x).mean((0, 2, 3)) for x in (own_input, seen(phase, batch).irs[1]))
    expected = 0.9 * (0.9 * start + 0.1 * own) + 0.1 * taught
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("beta", [0.0, 0.5], ids=["independent", "joint"])
def test_the_choice_of_statistics_changes_no_loss_of_a_step(
    beta: float, teacher: SectionedModel, student: SectionedModel, batch: Batch, ready: Ready, seen: Seen
) -> None:
    losses = []
    for bn_stats in MOVES:
        phase = ready(lit(teacher, deepcopy(student), **PHASES, beta=beta, bn_stats=bn_stats))
        observation = seen(phase, batch)
        losses.append([branch.loss(observation)["loss"].detach() for branch in phase.branches])
    assert losses[0] == losses[1] == losses[2]


def test_statistics_are_tracked_as_before_once_the_step_is_over(
    teacher: SectionedModel, student: SectionedModel, batch: Batch, ready: Ready, seen: Seen
) -> None:
    phase = ready(lit(teacher, student, **PHASES, beta=0.5, bn_stats="ir"))
    after_one_step(phase, batch, seen)
    norms = [m for m in student.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms and all(norm.track_running_stats for norm in norms)


def test_sections_that_do_not_train_keep_their_statistics(
    teacher: SectionedModel, student: SectionedModel, batch: Batch, ready: Ready, seen: Seen
) -> None:
    phase = ready(lit(teacher, student, **PHASES, beta=0.0, train_sections=["layer2"], bn_stats="both"))
    before, after = buffers(student), after_one_step(phase, batch, seen)
    assert {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])} == {"layer2"}
