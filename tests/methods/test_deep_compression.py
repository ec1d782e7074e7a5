from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import litfast
from litfast import lfc
from litfast.data import sets
from litfast.data.resident import ResidentLoader
from litfast.methods import deep_compression
from litfast.models import SectionedModel, create
from litfast.phase import Phase, Schedule

PRUNE = Schedule(epochs=2, lr=0.01)
SHARE = Schedule(epochs=2, lr=0.001)
OPTIONS: dict[str, Any] = {
    "removed": {"conv": 0.5, "linear": 0.9, "ip2": 0.7},
    "bits": {"conv": 4, "linear": 3},
}


def made(seed: int) -> SectionedModel:
    torch.manual_seed(seed)
    return create("lenet5", classes=4, channels=1, size=[16, 16])


@pytest.fixture(scope="module")
def images() -> ResidentLoader:
    """Two batches of 16."""
    found = sets.load("synthetic", size=16, channels=1, train=32)
    return ResidentLoader(
        found.train.images, found.train.labels, batch=16, mean=found.mean, std=found.std, train=True
    )


def phases(teacher: SectionedModel, student: SectionedModel, **options: Any) -> Iterator[Phase]:
    return deep_compression(teacher, student, **{"prune": PRUNE, "share": SHARE, **OPTIONS, **options})


def run(reports: Iterator[litfast.Report]) -> None:
    for _ in reports:
        pass


def weights(model: SectionedModel) -> dict[str, Tensor]:
    return {key: value for key, value in model.state_dict().items() if key.endswith("weight")}


@pytest.fixture(scope="module")
def trained(images: ResidentLoader) -> tuple[SectionedModel, SectionedModel, dict[str, Tensor]]:
    """The teacher, the compressed student, and what the student was behind its first phase."""
    teacher, student = made(0), made(1)
    between: dict[str, Tensor] = {}

    def watched() -> Iterator[Phase]:
        for phase in phases(teacher, student):
            if phase.name == "share":
                between.update({name: m.weight.detach().clone() for name, m in layers(student)})
            yield phase

    run(litfast.train(watched(), images))
    return teacher, student, between


def layers(student: SectionedModel) -> list[tuple[str, Any]]:
    return [(name, student.model.get_submodule(name)) for name in ("conv1", "conv2", "ip1", "ip2")]


def test_each_layer_keeps_what_is_not_removed_and_shares_as_many_values_as_its_bits_allow(
    trained: tuple[SectionedModel, SectionedModel, dict[str, Tensor]],
) -> None:
    teacher, student, _ = trained
    expected = {"conv1": (0.5, 16), "conv2": (0.5, 16), "ip1": (0.9, 8), "ip2": (0.7, 8)}
    for name, layer in layers(student):
        removed, values = expected[name]
        nonzero = layer.weight[layer.weight != 0]
        assert len(nonzero) == layer.weight.numel() - round(removed * layer.weight.numel())
        assert 1 < len(nonzero.unique()) <= values
    assert list(student.state_dict()) == list(teacher.state_dict())


def test_the_removed_weights_are_the_teachers_smallest_and_both_phases_train_the_rest(
    trained: tuple[SectionedModel, SectionedModel, dict[str, Tensor]],
) -> None:
    teacher, student, between = trained
    for (name, layer), (_, before) in zip(layers(student), layers(teacher), strict=True):
        zero = layer.weight == 0
        assert before.weight[zero].abs().max() <= before.weight[~zero].abs().min()
        assert torch.equal(zero, between[name] == 0)
        assert not torch.equal(layer.weight, between[name])
        assert not torch.equal(layer.bias, before.bias)


def test_the_teacher_is_not_touched_and_the_student_begins_as_its_copy() -> None:
    teacher, student = made(0), made(1)
    before = copy.deepcopy(teacher.state_dict())
    phase = next(phases(teacher, student, removed=0.0))
    assert phase.frozen == (teacher,)
    x = torch.randn(2, 1, 16, 16)
    assert torch.equal(student(x), teacher(x))
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())


def test_a_compressed_student_comes_back_from_its_file_bit_for_bit(
    trained: tuple[SectionedModel, SectionedModel, dict[str, Tensor]], tmp_path: Path
) -> None:
    state = trained[1].state_dict()
    size = lfc.save(tmp_path / "x.lfc", state)
    assert all(torch.equal(value, state[key]) for key, value in lfc.load(tmp_path / "x.lfc").items())
    assert size < sum(4 * value.numel() for value in state.values()) / 5


def test_pruning_in_rounds_removes_the_same_share_of_what_is_left() -> None:
    teacher, student = made(0), made(1)
    kept, names = [], []
    for phase in phases(teacher, student, removed=0.875, rounds=3):
        names.append(phase.name)
        kept.append(float((student.model.get_submodule("ip1").weight != 0).float().mean()))  # type: ignore
    assert names == ["prune-1", "prune-2", "prune-3", "share"]
    assert kept == pytest.approx([0.5, 0.25, 0.125, 0.125])


def test_one_round_names_its_phases_as_its_schedules() -> None:
    assert [phase.name for phase in phases(made(0), made(1))] == ["prune", "share"]


@pytest.mark.parametrize("stop", [("step", 1), ("epoch", 1), ("phase", 1), ("step", 5), ("epoch", 3)])
def test_an_interrupted_run_ends_bit_identical(
    stop: tuple[str, int], images: ResidentLoader, tmp_path: Path
) -> None:
    teacher, whole, last = made(0), made(1), made(2)
    options = {"ema": 0.5, "accumulate": 2, "precision": "bf16"} if stop == ("step", 5) else {}
    run(litfast.train(phases(teacher, whole), images, **options))
    kind, left = stop
    reports: Any = litfast.train(phases(teacher, made(3)), images, out=tmp_path, **options)
    for report in reports:
        left -= report.kind == kind
        if not left:
            break
    reports.close()
    run(litfast.train(phases(teacher, last), images, out=tmp_path, resume=True, **options))
    state = whole.state_dict()
    assert [key for key, value in last.state_dict().items() if not torch.equal(value, state[key])] == []


@pytest.mark.parametrize("schedule", [{"optimizer": "adamw"}, {"weight_decay": 0.1}])
def test_zeros_stay_zero_whatever_the_optimizer(schedule: dict[str, Any], images: ResidentLoader) -> None:
    teacher, student = made(0), made(1)
    one = Schedule(epochs=1, lr=0.01, **schedule)
    run(litfast.train(phases(teacher, student, prune=one, share=one), images))
    zeros = {name: layer.weight == 0 for name, layer in layers(student)}
    smallest = teacher.state_dict()["ip1.weight"].abs().flatten().sort(stable=True).indices
    assert zeros["ip1"].flatten()[smallest[: round(0.9 * len(smallest))]].all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"removed": 1.0},
            "removed of layer conv1 must be at least 0 and leave one or more of its 500 weights",
        ),
        (
            {"removed": {"conv": 0.5, "linear": 0.5, "ip2": 0.9999}},
            "of layer ip2 must .* of its 2000 weights, got",
        ),
        ({"removed": -0.1}, "removed of layer conv1 must be at least 0 .* got -0.1"),
        (
            {"removed": {"conv3": 0.5}},
            "deep_compression: removed must be one of .*, got 'conv3'; did you mean",
        ),
        ({"bits": 9}, "bits of layer conv1 must be a whole number from 1 to 8, got 9"),
        ({"bits": {"conv": 8}}, "bits must have a number for layer ip1 or linear, got conv"),
        ({"rounds": 0}, "rounds must be 1 or more, got 0"),
    ],
)
def test_an_option_that_cannot_be_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(
        ValueError, match=f"^deep_compression: .*{message.removeprefix('deep_compression: ')}"
    ):
        next(phases(made(0), made(1), **options))


def test_another_network_as_student_is_refused() -> None:
    with pytest.raises(ValueError, match="copy_model: student must have the teacher's keys and shapes, got"):
        next(phases(made(0), create("lenet5", classes=5, channels=1, size=[16, 16])))
