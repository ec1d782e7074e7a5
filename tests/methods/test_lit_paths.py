"""The step that does no work twice against the plain one: loss, gradients and statistics in fp64."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from litfast.data.loader import Batch
from litfast.methods import lit
from litfast.models import SectionedModel

from .conftest import MOVES, PHASES, Calls, Check, Ready, Seen

KD = {"alpha": 0.3, "tau": 4.0}


@pytest.mark.parametrize("beta", [0.25, 0.75, 1.0])
@pytest.mark.parametrize("bn_stats", MOVES)
def test_loss_gradients_and_statistics_are_those_of_two_passes(
    bn_stats: str,
    beta: float,
    twin: bool,
    teacher: SectionedModel,
    student: SectionedModel,
    batch: Batch,
    ready: Ready,
    seen: Seen,
    calls: Calls,
    like_two_passes: Check,
) -> None:
    phase = ready(lit(teacher, student, **PHASES, **KD, beta=beta, bn_stats=bn_stats))
    observation, copy = seen(phase, batch), deepcopy(student)
    counted = calls(student, ["conv1", "layer1", "layer2", "layer3"])
    like_two_passes(phase, copy, observation, **KD, beta=beta, bn_stats=bn_stats)
    counted.clear()
    phase.branches[0].loss(observation)
    later = 1 if twin else 2
    assert counted == {"layer1": 1, "layer2": later, "layer3": later}


@pytest.mark.parametrize("names", [["layer1"], ["layer2", "layer3"], ["layer3", "layer1"]])
def test_a_subset_of_sections_is_served_alike(
    names: list[str],
    twin: bool,
    teacher: SectionedModel,
    student: SectionedModel,
    batch: Batch,
    ready: Ready,
    seen: Seen,
    calls: Calls,
    like_two_passes: Check,
) -> None:
    phase = ready(lit(teacher, student, **PHASES, **KD, train_sections=names))
    chosen = [student.names.index(name) for name in names]
    like_two_passes(
        phase, deepcopy(student), seen(phase, batch), **KD, beta=0.75, bn_stats="both", chosen=chosen
    )


def test_several_steps_keep_counting_as_two_passes_do(
    plain_step: Check,
    twin: bool,
    teacher: SectionedModel,
    student: SectionedModel,
    batch: Batch,
    ready: Ready,
    seen: Seen,
) -> None:
    phase = ready(lit(teacher, student, **PHASES, **KD))
    observation, copy = seen(phase, batch), deepcopy(student)
    for _ in range(3):
        phase.branches[0].loss(observation)
        plain_step(copy, observation, **KD, beta=0.75, bn_stats="both")
    ours, theirs = dict(student.model.named_buffers()), dict(copy.model.named_buffers())
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-14)
    assert ours["layer1.0.bn1.num_batches_tracked"] == theirs["layer1.0.bn1.num_batches_tracked"]


@pytest.mark.parametrize("bn_stats", MOVES)
def test_independent_sections_move_statistics_without_stem_and_head(
    bn_stats: str,
    teacher: SectionedModel,
    student: SectionedModel,
    batch: Batch,
    ready: Ready,
    seen: Seen,
    calls: Calls,
) -> None:
    phase = ready(lit(teacher, student, **PHASES, beta=0.0, bn_stats=bn_stats))
    copy = deepcopy(student)
    seen(phase, batch)
    counted = calls(student, ["conv1", "linear"])
    observation = seen(phase, batch)
    assert not counted
    for branch in phase.branches:
        branch.loss(observation)
    for _ in range(2 * ("own" in MOVES[bn_stats])):
        copy(batch.images)
    if "ir" in MOVES[bn_stats]:
        for i, section in enumerate(copy.sections):
            section(observation.irs[i])
    torch.testing.assert_close(
        dict(student.model.named_buffers()), dict(copy.model.named_buffers()), rtol=1e-12, atol=1e-14
    )
