"""The captured step, a tape of ops for the CUDA graph; test_graph_gpu.py has the real one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from litfast.data.loader import Batch
from litfast.engine.graph import WARM_UP, GraphStep
from litfast.engine.prepare import prepared
from litfast.engine.step import Step
from litfast.phase import Branch, Coefficient, Losses, Phase, Schedule

from .tape import TapeCapture

CPU = torch.device("cpu")
CHECKED = 2  # replays of the check against eager


class Net(nn.Module):
    """Linear, batch norm, dropout, linear: weights, statistics and random numbers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.last = nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.norm(self.first(images.flatten(1))).relu()
        return self.last(nn.functional.dropout(hidden, 0.3))


class Ours:
    """A net, its phase and step; `graph` is the captured way to run it."""

    def __init__(self, make: Callable[..., Phase], *, captured: bool, **options: Any) -> None:
        words = options.pop("words", {})
        self.net = Net()
        self.phase = make(self.net, **{"lr": 0.1, "schedule": "cosine", "epochs": 1, **words})
        loss: Any = options.pop("loss", None)
        if loss is not None:
            self.phase = make(self.net, loss=lambda batch: loss(self.net, batch), lr=0.1)
        self.step = Step(self.phase, precision="fp32", device=CPU, captured=captured, **options)
        self.capture = TapeCapture()
        self.graph = GraphStep(self.step, self.capture, rows=4)

    def train(self, batches: list[Batch], *, run: Any) -> list[dict[str, float]]:
        torch.manual_seed(7)
        said = []
        with prepared(self.phase, CPU):
            for at, batch in enumerate(batches):
                metrics = run(batch, step=at, progress=at / len(batches))
                said.append({name: value.item() for name, value in metrics.items()})
        return said


def batches(sizes: list[int]) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [
        Batch(torch.randn(n, 3, 2, 2, generator=generator), torch.randint(4, (n,), generator=generator))
        for n in sizes
    ]


def both(
    phase: Callable[..., Phase], sizes: list[int], **options: Any
) -> tuple[Ours, Ours, list[dict[str, float]], list[dict[str, float]]]:
    graph, eager = Ours(phase, captured=True, **options), Ours(phase, captured=True, **options)
    said = graph.train(batches(sizes), run=graph.graph)
    return graph, eager, said, eager.train(batches(sizes), run=eager.step)


def assert_same(ours: Ours, theirs: Ours) -> None:
    expected = theirs.net.state_dict()
    for name, value in ours.net.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0, msg=name)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"words": {"optimizer": "adam", "lr": 0.01}},
        {"words": {"optimizer": "adamw", "lr": 0.01, "clip": 0.1}},
        {"words": {"momentum": 0.0, "clip": 0.5}},
        {"accumulate": 2},
        {"ema": 0.9},
    ],
    ids=["sgd", "adam", "adamw clipped", "clipped", "in parts", "averaged"],
)
def test_replays_are_the_eager_steps_to_the_bit(phase: Callable[..., Phase], options: dict[str, Any]) -> None:
    """Learning rates move on, momentum accumulates, random numbers differ from replay to replay."""
    graph, eager, said, expected = both(phase, [16] * 9, **options)
    assert graph.step.notes == []
    assert (graph.capture.records, graph.capture.replays) == (1, CHECKED + 8)
    assert_same(graph, eager)
    assert said == expected  # through the ring of four rows, more than twice around
    if graph.step.average is not None and eager.step.average is not None:
        theirs = eager.step.average.state()
        assert all(torch.equal(value, theirs[name]) for name, value in graph.step.average.state().items())


def falling(net: Net, phase: Callable[..., Phase], schedule: Schedule, *, frozen: bool) -> Phase:
    """A loss with a coefficient that falls from 4 to 1, or (`frozen`) with its value as the host reads it."""
    coefficient = Coefficient(4.0, 1.0, epochs=schedule.epochs)

    def loss(batch: Batch) -> Losses:
        factor = coefficient.at(0) if frozen else coefficient.value.float()
        return {"loss": factor * cross_entropy(net(batch.images), batch.target)}

    params = tuple(net.parameters())
    branch = Branch(name="toy", params=params, loss=loss, schedule=schedule, coefficients=(coefficient,))
    return phase(net, branches=(branch,))


def test_a_coefficient_moves_on_from_replay_to_replay(phase: Callable[..., Phase]) -> None:
    schedule = Schedule(epochs=1, lr=0.1)
    make = [
        lambda net, **_: falling(net, phase, schedule, frozen=False),
        lambda net, **_: falling(net, phase, schedule, frozen=True),
    ]
    graph, eager, said, expected = both(make[0], [16] * 6)
    assert graph.step.notes == [] and graph.capture.replays == CHECKED + 5
    assert_same(graph, eager)
    assert said == expected
    frozen = Ours(make[1], captured=True)
    frozen.train(batches([16] * 6), run=frozen.step)
    assert not torch.equal(frozen.net.last.weight, eager.net.last.weight)


def test_the_tape_would_show_a_frozen_learning_rate(phase: Callable[..., Phase]) -> None:
    ours = Ours(phase, captured=False)  # the learning rate is a number of the host
    ours.train(batches([16] * 3), run=ours.graph)
    assert "weights are" in ours.step.notes[0] and "off the eager ones" in ours.step.notes[0]


def test_the_last_partial_batch_runs_eagerly_and_costs_no_capture(phase: Callable[..., Phase]) -> None:
    graph, eager, said, expected = both(phase, [16, 16, 16, 6] * 3)
    assert_same(graph, eager)
    assert said == expected
    assert graph.capture.records == 1
    assert graph.capture.replays == CHECKED + 8  # all but the first and the three partial ones


def test_a_change_of_shape_is_captured_anew(phase: Callable[..., Phase]) -> None:
    graph, eager, said, expected = both(phase, [16] * 4 + [8] * 4)
    assert_same(graph, eager)
    assert said == expected
    assert graph.capture.records == 2
    assert graph.capture.runs == 2 * WARM_UP
    assert graph.capture.replays == 2 * CHECKED + 3 + 3


def test_the_captured_step_reads_the_batch_from_memory_of_its_own(phase: Callable[..., Phase]) -> None:
    given = batches([16] * 4)
    ours = Ours(phase, captured=True)
    copies = [Batch(*(tensor.clone() for tensor in batch)) for batch in given]
    ours.train(given, run=ours.graph)
    for batch, copy in zip(given, copies, strict=True):
        assert torch.equal(batch.images, copy.images) and torch.equal(batch.target, copy.target)


class HostRead:
    def __call__(self, net: Net, batch: Batch) -> Losses:
        loss = cross_entropy(net(batch.images), batch.target)
        return {"loss": loss * min(1.0, loss.item())}


class HostNumber:
    """A coefficient that the host counts up: frozen in a replay."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, net: Net, batch: Batch) -> Losses:
        self.calls += 1
        return {"loss": cross_entropy(net(batch.images), batch.target) * self.calls}


def test_an_op_that_cannot_be_captured_leaves_it_to_eager_with_one_line(
    phase: Callable[..., Phase],
) -> None:
    graph, eager, said, expected = both(phase, [16] * 5, loss=HostRead())
    assert graph.step.notes == [
        "play: the step is not captured: "
        "operation not permitted when stream is capturing: _local_scalar_dense"
    ]
    assert (graph.capture.records, graph.capture.replays) == (1, 0)
    assert_same(graph, eager)  # warm-up and the failed capture have left no trace
    assert said == expected


def test_replays_that_differ_from_eager_leave_it_to_eager_with_one_line(phase: Callable[..., Phase]) -> None:
    ours = Ours(phase, captured=True, loss=HostNumber())
    ours.train(batches([16] * 5), run=ours.graph)
    (note,) = ours.step.notes
    assert note.startswith("play: the step is not captured: after two steps its weights are")
    assert ours.capture.replays == CHECKED


def seldom_phase(net: nn.ModuleDict) -> Phase:
    def branch(name: str, every: int) -> Branch:
        def loss(batch: Batch) -> Losses:
            return {"loss": net[name](batch.images.flatten(1)).square().mean()}

        schedule = Schedule(epochs=1, lr=0.1)
        params = tuple(net[name].parameters())
        return Branch(name=name, params=params, loss=loss, schedule=schedule, every=every)

    return Phase(
        name="play",
        model=net,
        observe=lambda batch: batch,
        branches=(branch("often", 1), branch("seldom", 3)),
        trains=tuple(net.children()),
    )


@pytest.fixture
def seldom() -> Iterator[tuple[Phase, Step, TapeCapture, GraphStep]]:
    torch.manual_seed(0)
    ours = seldom_phase(nn.ModuleDict({"often": nn.Linear(12, 2), "seldom": nn.Linear(12, 2)}))
    with prepared(ours, CPU):
        step, capture = Step(ours, precision="fp32", device=CPU, captured=True), TapeCapture()
        yield ours, step, capture, GraphStep(step, capture, rows=4)


def test_every_set_of_branches_that_trains_has_a_capture(seldom: Any) -> None:
    _, _, capture, graph = seldom
    said = [set(graph(batch, step=at, progress=0.0)) for at, batch in enumerate(batches([16] * 9))]
    assert said == [{"often.loss", "seldom.loss"}, {"often.loss"}, {"often.loss"}] * 3
    assert capture.records == 2
    assert capture.replays == 2 * CHECKED + 8


def test_a_stopped_branch_leaves_the_captured_step(seldom: Any) -> None:
    ours, step, capture, graph = seldom
    given = batches([16] * 6)
    for at in (0, 3, 3):
        graph(given[at], step=at, progress=0.0)
    step.stop(["often"])
    kept = [parameter.clone() for parameter in ours.branches[0].params]
    moving = [parameter.clone() for parameter in ours.branches[1].params]
    for batch in given:
        assert set(graph(batch, step=3, progress=0.0)) == {"seldom.loss"}
    assert capture.records == 2
    assert all(torch.equal(a, b) for a, b in zip(kept, ours.branches[0].params, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(moving, ours.branches[1].params, strict=True))


def test_the_captured_memory_is_handed_out_and_a_batch_that_is_in_it_already_is_not_copied(
    phase: Callable[..., Phase], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, ours = Ours(phase, captured=True), Ours(phase, captured=True)
    given = batches([16] * 6)
    plain.train(given, run=plain.graph)
    assert ours.graph.inputs is None
    copied: list[Tensor] = []
    places: list[Batch] = []
    copy = Tensor.copy_

    def noted(self: Tensor, *args: Any, **words: Any) -> Tensor:
        copied.append(self)
        return copy(self, *args, **words)

    def run(batch: Batch, **words: Any) -> dict[str, Tensor]:
        place = ours.graph.inputs
        if place is None:
            return ours.graph(batch, **words)
        places.append(place)
        for static, tensor in zip(place, batch, strict=True):
            static.copy_(tensor)
        with monkeypatch.context() as patch:
            patch.setattr(Tensor, "copy_", noted)
            return ours.graph(place, **words)

    ours.train(given, run=run)
    assert len(places) == 4 and all(place is places[0] for place in places)
    assert not any(tensor is static for tensor in copied for static in places[0])
    assert_same(ours, plain)
