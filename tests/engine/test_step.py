from __future__ import annotations

import traceback
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from litfast.data.loader import Batch
from litfast.data.resident import ResidentLoader
from litfast.engine.prepare import prepared
from litfast.engine.step import Step
from litfast.phase import OPTIMIZERS, Branch, Losses, Phase, Schedule

CPU = torch.device("cpu")


@pytest.fixture
def batch(data: ResidentLoader) -> Batch:
    return next(iter(data.batches(0)))


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))


def stepped(
    phase: Phase, batch: Batch, *, steps: int = 1, precision: str = "fp32"
) -> list[dict[str, Tensor]]:
    with prepared(phase, CPU):
        step = Step(phase, precision=precision, device=CPU)
        return [step(batch, step=i, progress=i / steps) for i in range(steps)]


def test_a_step_is_one_update_by_the_gradient_at_the_schedules_learning_rate(
    phase: Callable[..., Phase], toy: nn.Module, batch: Batch
) -> None:
    weight = toy.linear.weight
    loss = cross_entropy(toy(batch.images), batch.target)
    (gradient,) = torch.autograd.grad(loss, [weight])
    expected = weight.detach() - 0.3 * 0.1 * gradient  # warmup_factor 0.1
    words = {"lr": 0.3, "warmup": 1, "momentum": 0.0, "weight_decay": 0.0}
    (metrics,) = stepped(phase(toy, **words), batch)
    torch.testing.assert_close(weight.detach(), expected)
    assert metrics == {"toy.loss": loss}
    assert not metrics["toy.loss"].requires_grad


def test_a_branch_that_trains_every_second_step_is_left_alone_in_between(
    phase: Callable[..., Phase], batch: Batch
) -> None:
    model = nn.ModuleDict({"often": nn.Linear(1, 1), "seldom": nn.Linear(1, 1)})
    schedule = Schedule(epochs=1, lr=0.1)
    trace: list[str] = []

    def branch(name: str, every: int) -> Branch:
        def loss(_: Batch) -> Losses:
            trace.append(name)
            return {"loss": model[name](torch.ones(1)).sum()}

        params = tuple(model[name].parameters())
        return Branch(name=name, params=params, loss=loss, schedule=schedule, every=every)

    metrics = stepped(phase(model, branches=(branch("often", 1), branch("seldom", 2))), batch, steps=4)
    assert trace == ["often", "seldom", "often", "often", "seldom", "often"]
    assert [set(values) for values in metrics] == [{"often.loss", "seldom.loss"}, {"often.loss"}] * 2


def test_a_branch_after_another_sees_its_update_and_takes_none_of_its_gradient(
    phase: Callable[..., Phase], batch: Batch
) -> None:
    model = nn.ParameterList([nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(1.0))])
    plain = Schedule(epochs=1, lr=0.5, momentum=0.0, weight_decay=0.0)
    first = Branch(name="a", params=(model[0],), loss=lambda _: {"loss": model[0] * model[1]}, schedule=plain)
    second = Branch(
        name="b",
        params=(model[1],),
        loss=lambda _: {"loss": 2 * model[0] * model[1]},
        schedule=plain,
        after=("a",),
    )
    stepped(phase(model, branches=(first, second)), batch)
    assert model[0].item() == 0.5  # 1 - 0.5 * 1
    assert model[1].item() == 0.5  # 1 - 0.5 * (2 * 0.5): the gradient of the first loss (1) is not in it


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_branchs_loss_leaves_no_gradient_in_another_branchs_parameters(
    accumulate: int, batch: Batch
) -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"critic": nn.Linear(192, 1), "maker": nn.Linear(192, 192)})
    flat = Batch(batch.images.flatten(1), batch.target)

    def loss(batch: Batch) -> Losses:
        return {"loss": model["critic"](model["maker"](batch.images)).mean()}

    schedule = Schedule(epochs=1, lr=0.1)
    branches = tuple(
        Branch(name=name, params=tuple(model[name].parameters()), loss=loss, schedule=schedule, after=after)
        for name, after in (("critic", ()), ("maker", ("critic",)))
    )
    phase = Phase(name="play", model=model, observe=lambda b: b, branches=branches, trains=(model,))
    with prepared(phase, CPU):
        step = Step(phase, precision="fp32", device=CPU, accumulate=accumulate)
        step.compute(flat, branches[:1])
        assert all(parameter.grad is None for parameter in branches[1].params)
        kept = [(parameter.grad, parameter.grad.clone()) for parameter in branches[0].params]
        step.compute(flat, branches[1:])
        assert all(parameter.grad is not None for parameter in branches[1].params)
        for parameter, (gradient, value) in zip(branches[0].params, kept, strict=True):
            assert parameter.grad is gradient and torch.equal(gradient, value)


def test_observing_runs_without_gradient(toy: nn.Module, batch: Batch, phase: Callable[..., Phase]) -> None:
    plain = phase(toy)
    seen: list[bool] = []

    def observe(batch: Batch) -> Batch:
        seen.append(toy(batch.images).requires_grad)
        return batch

    watched = Phase(name="play", model=toy, observe=observe, branches=plain.branches, trains=(toy,))
    stepped(watched, batch)
    assert seen == [False]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_bf16_computes_in_bf16_and_keeps_parameters_statistics_and_optimizer_in_fp32(
    optimizer: str, net: nn.Sequential, batch: Batch, phase: Callable[..., Phase]
) -> None:
    dtypes: list[torch.dtype] = []
    net[0].register_forward_hook(lambda _, __, out: dtypes.append(out.dtype))
    ours = phase(net, optimizer=optimizer)
    with prepared(ours, CPU):
        step = Step(ours, precision="bf16", device=CPU)
        losses = [step(batch, step=i, progress=0.0)["toy.loss"].item() for i in range(30)]
    assert set(dtypes) == {torch.bfloat16}
    assert losses[-1] < 0.5 * losses[0]
    floats = [value for value in net.state_dict().values() if value.is_floating_point()]
    state = step.state()["optimizers"]["toy"]["state"]
    floats += [value for slots in state.values() for value in slots.values()]
    assert {value.dtype for value in floats} == {torch.float32}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_bf16_keeps_the_losses_gradients_and_state_of_lit_in_fp32(
    optimizer: str, lit: Any, batch: Batch
) -> None:
    run = lit(beta=0.5, schedule={"optimizer": optimizer, "lr": 1e-3})
    ours = next(run.phases)
    with prepared(ours, CPU):
        step = Step(ours, precision="bf16", device=CPU, ema=0.9)
        kept = [*step(batch, step=0, progress=0.0).values()]
        kept += [p.grad for p in ours.branches[0].params]
        kept += [value for slots in step.optimizers["student"].state.values() for value in slots.values()]
        kept += [*run.student.state_dict().values(), *step.state()["average"].values()]
    assert {value.dtype for value in kept if value.is_floating_point()} == {torch.float32}


def test_modes_and_gradient_flags_are_set_for_the_phase_and_given_back(
    net: nn.Sequential, phase: Callable[..., Phase]
) -> None:
    teacher = nn.Linear(1, 1)
    net[0].bias.requires_grad_(False)  # by the user, before the phase
    schedule = Schedule(epochs=1, lr=0.1)
    params = (net[4].weight, net[0].bias)
    branch = Branch(name="a", params=params, loss=lambda _: {}, schedule=schedule)
    ours = Phase(
        name="play", model=net, observe=lambda b: b, branches=(branch,), trains=(net[4],), frozen=(teacher,)
    )
    with prepared(ours, CPU):
        assert {id(p) for p in (*net.parameters(), *teacher.parameters()) if p.requires_grad} == set(
            map(id, params)
        )
        assert net[4].training and not net[1].training and not teacher.training
    assert [p.requires_grad for p in net.parameters()] == [True, False, True, True, True, True]
    assert all(p.requires_grad for p in teacher.parameters())
    assert not any(module.training for module in net.modules())


def test_no_gradient_is_left_behind_when_a_phase_is_over(
    net: nn.Sequential, phase: Callable[..., Phase], batch: Batch
) -> None:
    stepped(phase(net), batch)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_steps_state_carries_optimizers_and_the_branches_own_buffers(
    batch: Batch, phase: Callable[..., Phase]
) -> None:
    def made() -> tuple[nn.Module, nn.Module, Step]:
        torch.manual_seed(0)
        model, memory = nn.Linear(4, 1), nn.BatchNorm1d(4, affine=False)  # any module with buffers

        def loss(_: Batch) -> Losses:
            return {"loss": model(memory(torch.rand(8, 4))).square().mean()}

        schedule = Schedule(epochs=1, lr=0.1, optimizer="adam")
        branch = Branch(
            name="a", params=tuple(model.parameters()), loss=loss, schedule=schedule, state=memory
        )
        return model, memory, Step(phase(model, branches=(branch,)), precision="fp32", device=CPU)

    model, memory, step = made()
    step(batch, step=0, progress=0.0)
    again, fresh_memory, resumed = made()
    again.load_state_dict(model.state_dict())
    resumed.load_state(deepcopy(step.state()))
    assert torch.equal(fresh_memory.running_mean, memory.running_mean)
    for one in (step, resumed):
        torch.manual_seed(1)
        one(batch, step=1, progress=0.0)
    assert torch.equal(again.weight, model.weight)


def test_the_state_of_other_branches_or_optimizers_is_refused(
    toy: nn.Module, phase: Callable[..., Phase]
) -> None:
    def step(**words: Any) -> Step:
        return Step(phase(toy, **words), precision="fp32", device=CPU)

    message = r"train: the checkpoint must be of branches toy \(adam\), got toy \(sgd\)"
    with pytest.raises(ValueError, match=message):
        step(optimizer="adam").load_state(step().state())


class NoHostReads(TorchDispatchMode):
    """Refuses every op that waits for the device to bring a value to the host.

    The fused ops may read the scale of a CPU gradient in their backward: they never do on another device.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "equal", "is_nonzero"):
            callers = {frame.filename for frame in traceback.extract_stack()}
            assert any(file.endswith("litfast/ops/_autograd.py") for file in callers), (
                f"{name} waits for the device"
            )
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_a_step_of_lit_reads_nothing_back_to_the_host(beta: float, lit: Any, batch: Batch) -> None:
    for ours in lit(beta=beta, noise=0.1, bn_stats="both").phases:
        with prepared(ours, CPU):
            step = Step(ours, precision="fp32", device=CPU)
            step(batch, step=0, progress=0.0)  # LIT checks its preconditions on the first batch
            with NoHostReads():
                step(batch, step=1, progress=0.0)


def test_the_host_read_detector_detects() -> None:
    with NoHostReads(), pytest.raises(AssertionError, match="_local_scalar_dense waits for the device"):
        torch.ones(1).item()
