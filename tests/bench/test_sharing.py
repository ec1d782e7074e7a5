"""What sharing sections out should bring: measured without a trace, predicted for up to 1,024 ranks."""

from __future__ import annotations

import json

import pytest
import torch

import litfast
from litfast.bench import sharing
from litfast.data.loader import Batch
from litfast.engine.costs import Cost, Costs, Network, SectionCost
from litfast.phase import Phase, Schedule

CPU = torch.device("cpu")
MS = Cost(per_row=1e-3)


def phase(**options: object) -> Phase:
    torch.manual_seed(0)
    teacher, student = litfast.create("resnet14", classes=4), litfast.create("resnet8", classes=4)
    schedule = Schedule(epochs=1, lr=0.1)
    words = {"beta": 0.0, "bn_stats": "ir", "sections": schedule, "finetune": schedule} | options
    return next(litfast.methods.lit(teacher, student, **words))


def made_up() -> Costs:
    section = SectionCost(name="s", teacher=MS, student=MS, ir_bytes=1, gradient_bytes=1)
    return Costs(batch=64, stem=MS, sections=(section,) * 3, head=MS)


def test_costs_are_measured_without_a_trace() -> None:
    trained = phase()
    before = {key: value.clone() for key, value in trained.model.state_dict().items()}
    torch.manual_seed(5)
    batch = Batch(torch.randn(8, 3, 8, 8), torch.zeros(8, dtype=torch.int64))
    drawn = torch.get_rng_state()
    found = sharing.measured(trained, batch, device=CPU, rounds=1)
    assert torch.equal(torch.get_rng_state(), drawn)
    after = trained.model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert found.batch == 8 and [section.name for section in found.sections] == ["layer1", "layer2", "layer3"]
    assert [section.ir_bytes for section in found.sections] == [4 * 16 * 64, 4 * 32 * 16, 4 * 64 * 4]
    weights = sum(p.numel() for p in trained.branches[0].params)
    assert found.sections[0].gradient_bytes == 4 * weights
    for section in found.sections:
        assert section.teacher.at(8) > 0 and section.student.at(8) > section.teacher.at(8) / 10
    assert found.together() > found.stem.at(8) > 0


@pytest.mark.parametrize("options", [{"beta": 0.5}, {"ir_input": "student"}, {"bn_stats": "both"}])
def test_sections_that_need_each_other_are_not_shared_out(options: dict[str, object]) -> None:
    trained = phase(**options)
    assert trained.line is None
    batch = Batch(torch.randn(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"^plan: phase 'sections' must have independent sections"):
        sharing.measured(trained, batch, device=CPU)


def test_predictions_go_by_powers_of_two_and_every_way() -> None:
    document = json.loads(json.dumps(sharing.predict(made_up(), 6, Network())))
    assert document["one_process_s"] == pytest.approx(64e-3 * 8)
    found = [(row["ranks"], row["relay"], row["split"]) for row in document["predictions"]]
    assert found == [(world, *way) for world in (1, 2, 4, 6) for way in sharing.WAYS]
    for row in document["predictions"]:
        assert row["step_s"] == max(block["step_s"] for block in row["blocks"])
        assert row["speedup"] == pytest.approx(document["one_process_s"] / row["step_s"])
    assert sharing.worlds(1) == [1] and sharing.worlds(1024)[-2:] == [512, 1024]


@pytest.mark.parametrize("ranks", [0, 1025])
def test_the_number_of_ranks_is_bounded(ranks: int) -> None:
    with pytest.raises(ValueError, match=f"^plan: --ranks must lie in 1 to 1024, got {ranks}$"):
        sharing.predict(made_up(), ranks, Network())
