"""fp16 under autocast with a loss scale for every branch."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import litfast
from litfast.data.loader import Batch
from litfast.data.resident import ResidentLoader
from litfast.engine import evaluate, optim
from litfast.engine.graph import GraphStep
from litfast.engine.plan import plan
from litfast.engine.prepare import prepared
from litfast.engine.snapshot import Snapshot
from litfast.engine.step import Step
from litfast.phase import Branch, Phase, Schedule

from .tape import TapeCapture
from .test_resume import assert_same, interrupted, rows, run
from .test_step import NoHostReads

CPU = torch.device("cpu")
START = 2.0**16  # torch's first scale
SKIPPING = ("sgd", "adam", "adamw")
Toys = Callable[..., Phase]


@pytest.fixture
def batch(data: ResidentLoader) -> Batch:
    return next(iter(data.batches(0)))


class Weight(nn.Module):
    """One parameter and a loss that no autocast touches: factor * w^2 / 2, whose gradient is factor * w."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0, -2.0]))
        self.factor = 1.0

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": self.factor * (self.w.square() / 2).sum()}


def made(phase: Toys, precision: str = "fp16", *, accumulate: int = 1, **words: Any) -> tuple[Weight, Step]:
    model = Weight()
    ours = phase(model, loss=model.loss, **{"lr": 0.1, **words})
    return model, Step(ours, precision=precision, device=CPU, accumulate=accumulate)


def take(step: Step, batch: Batch) -> dict[str, Tensor]:
    return step(batch, step=0, progress=0.0)


def scale(step: Step) -> float:
    (scaler,) = step.scalers.values()
    return scaler.get_scale()


@pytest.mark.parametrize("optimizer", SKIPPING)
def test_fp16_computes_in_fp16_and_keeps_all_that_is_kept_in_fp32(
    optimizer: str, lit: Any, batch: Batch
) -> None:
    run = lit(beta=0.5, schedule={"optimizer": optimizer, "lr": 1e-3})
    ours = next(run.phases)
    dtypes: set[torch.dtype] = set()
    run.student.sections[0].register_forward_hook(lambda _, __, out: dtypes.add(out.dtype))
    with prepared(ours, CPU):
        step = Step(ours, precision="fp16", device=CPU, ema=0.9)
        kept = [*step(batch, step=0, progress=0.0).values()]
        kept += [p.grad for p in ours.branches[0].params]
        kept += [value for slots in step.optimizers["student"].state.values() for value in slots.values()]
        kept += [*run.student.state_dict().values(), *step.state()["average"].values()]
    assert dtypes == {torch.float16}
    assert {value.dtype for value in kept if value.is_floating_point()} == {torch.float32}


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_lit_in_fp16_ends_near_fp32(beta: float, lit: Any, data: ResidentLoader) -> None:
    full, half = lit(beta=beta), lit(beta=beta)
    start = full.state()
    list(litfast.train(full.phases, data))
    reports = list(litfast.train(half.phases, data, precision="fp16"))
    assert all(value == value for value in reports[-2].metrics.values())
    ours, theirs, before = (
        torch.cat([v.flatten() for k, v in s.items() if k.endswith("weight")])
        for s in (half.state(), full.state(), start)
    )
    assert 0 < (ours - theirs).norm() < 0.1 * (theirs - before).norm()


@pytest.mark.parametrize("optimizer", SKIPPING)
@pytest.mark.parametrize("steps", [0, 2])
def test_an_update_that_overflows_changes_nothing_but_the_scale(
    steps: int, optimizer: str, phase: Toys, batch: Batch
) -> None:
    """Before the first step too, where torch has allocated SGD's momentum and not written it."""
    (model, step), (other, plain) = (made(phase, optimizer=optimizer) for _ in range(2))
    for _ in range(steps):
        take(step, batch), take(plain, batch)
    before = model.w.detach().clone()
    model.factor = 1e35  # finite, and infinite once it is scaled
    loss = take(step, batch)["toy.loss"]
    assert loss.isfinite() and torch.equal(model.w, before) and scale(step) == START / 2
    model.factor = 1.0
    for _ in range(2):
        take(step, batch), take(plain, batch)
    torch.testing.assert_close(model.w, other.w, rtol=0, atol=0)  # a power of two rounds nothing


@pytest.mark.parametrize("optimizer", SKIPPING)
@pytest.mark.parametrize("options", [{}, {"clip": 0.5}, {"accumulate": 4}], ids=str)
def test_the_scale_reaches_no_update(
    options: dict[str, Any], optimizer: str, phase: Toys, batch: Batch
) -> None:
    (ours, scaled), (theirs, plain) = (
        made(phase, name, optimizer=optimizer, **options) for name in ("fp16", "fp32")
    )
    for _ in range(3):
        take(scaled, batch), take(plain, batch)
    assert not torch.equal(ours.w, Weight().w)
    torch.testing.assert_close(ours.w, theirs.w, rtol=1e-6, atol=0)


def test_the_scale_grows_again(phase: Toys, batch: Batch) -> None:
    _, step = made(phase)
    interval = step.scalers["toy"].get_growth_interval()
    step.scalers["toy"].set_growth_interval(3)
    for _ in range(3):
        take(step, batch)
    assert interval > 3 and scale(step) == 2 * START


def test_every_branch_has_a_scale_of_its_own(phase: Toys, batch: Batch) -> None:
    model = nn.ModuleDict({"wild": Weight(), "calm": Weight()})
    model["wild"].factor = 1e35
    schedule = Schedule(epochs=1, lr=0.1)
    branches = tuple(
        Branch(name=name, params=tuple(part.parameters()), loss=part.loss, schedule=schedule)
        for name, part in model.items()
    )
    step = Step(phase(model, branches=branches), precision="fp16", device=CPU)
    take(step, batch)
    assert {name: one.get_scale() for name, one in step.scalers.items()} == {
        "wild": START / 2,
        "calm": START,
    }
    assert torch.equal(model["wild"].w, Weight().w) and not torch.equal(model["calm"].w, Weight().w)


def test_a_skipped_step_is_no_non_finite_loss(phase: Toys, data: ResidentLoader) -> None:
    model = Weight()
    model.factor = 1e34
    reports = list(litfast.train([phase(model, loss=model.loss, lr=1e-40)], data, precision="fp16"))
    assert reports[-1].kind == "phase"


def test_a_loss_that_is_itself_not_finite_still_ends_the_run(phase: Toys, data: ResidentLoader) -> None:
    model = Weight()
    model.factor = float("inf")
    with pytest.raises(FloatingPointError, match="loss of phase 'play', branch 'toy' must be finite"):
        list(litfast.train([phase(model, loss=model.loss)], data, precision="fp16"))


def test_rmsprop_is_refused_by_the_step_and_by_the_plan(
    phase: Toys, toy: nn.Module, data: ResidentLoader
) -> None:
    """torch has no fused one: whether to skip would have to be read on the host."""
    message = "train: optimizer must be sgd, adam or adamw with precision fp16 or on_nan skip, got rmsprop"
    with pytest.raises(ValueError, match=message):
        list(litfast.train([phase(toy, optimizer="rmsprop")], data, precision="fp16"))
    with pytest.raises(ValueError, match=message):
        list(plan([phase(toy, optimizer="rmsprop")], data, device=CPU, precision="fp16"))
    optim.make(list(toy.parameters()), Schedule(epochs=1, lr=0.1, optimizer="rmsprop"))


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_a_step_in_fp16_reads_nothing_back_to_the_host(beta: float, lit: Any, batch: Batch) -> None:
    for ours in lit(beta=beta, schedule={"clip": 1.0}).phases:
        with prepared(ours, CPU):
            step = Step(ours, precision="fp16", device=CPU)
            take(step, batch)
            with NoHostReads():
                step(batch, step=1, progress=0.0)


def test_a_checkpoint_holds_the_scale_and_how_long_it_has_held(phase: Toys, batch: Batch) -> None:
    (model, step), (_, fresh) = made(phase), made(phase)
    model.factor = 1e35
    take(step, batch)
    model.factor = 1.0
    take(step, batch)
    state = deepcopy(step.state())
    assert state["scalers"]["toy"] == {
        **fresh.scalers["toy"].state_dict(),
        "scale": START / 2,
        "_growth_tracker": 1,
    }
    fresh.load_state(state)
    assert fresh.state()["scalers"] == state["scalers"]


@pytest.mark.parametrize("stop", [("step", 6), ("phase", 1), ("step", 11)])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_resumed_run_in_fp16_ends_bit_identical(
    optimizer: str, stop: tuple[str, int], lit: Any, data: ResidentLoader, val: ResidentLoader, tmp_path: Path
) -> None:
    def made() -> Any:
        # so large a loss overflows at the first scales
        return lit(beta=0.0, loss_scale=1e3, schedule={"optimizer": optimizer, "lr": 3e-3, "clip": 0.5})

    (whole, last), engine = (made(), made()), {"precision": "fp16", "accumulate": 2}
    run(whole, data, val, tmp_path / "whole", **engine)
    interrupted(made(), data, val, tmp_path / "parts", stop, **engine)
    run(last, data, val, tmp_path / "parts", resume=True, **engine)
    assert_same(last.state(), whole.state())
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


def test_a_checkpoint_of_another_precision_is_refused(phase: Toys) -> None:
    (_, half), (_, full) = made(phase, "fp16"), made(phase, "fp32")
    with pytest.raises(ValueError, match=r"checkpoint must hold a loss scale \(fp16\), got none"):
        half.load_state(full.state())
    with pytest.raises(ValueError, match=r"checkpoint must hold no loss scale \(fp16\), got one"):
        full.load_state(half.state())


@pytest.mark.parametrize("steps", [0, 1])
def test_a_trial_gives_the_scale_back(steps: int, phase: Toys, batch: Batch) -> None:
    model, step = made(phase)
    for _ in range(steps):
        take(step, batch)
    before = deepcopy(step.state()["scalers"])
    snapshot = Snapshot(step)
    model.factor = 1e35
    take(step, batch)
    assert scale(step) == START / 2
    snapshot.restore()
    assert step.state()["scalers"] == before


@pytest.mark.parametrize("optimizer", SKIPPING)
def test_a_replayed_step_skips_and_rescales_on_the_device(
    optimizer: str, phase: Toys, data: ResidentLoader
) -> None:
    """The batch makes the overflow, so a replay sees one that its capture did not."""

    def replayed(graph: bool) -> tuple[Tensor, dict[str, Any], list[str], TapeCapture]:
        model, tape = Weight(), TapeCapture()

        def loss(batch: Batch) -> dict[str, Tensor]:
            return {"loss": batch.images.amax() * (model.w.square() / 2).sum()}

        ours = phase(model, loss=loss, lr=0.1, optimizer=optimizer)
        step = Step(ours, precision="fp16", device=CPU, captured=graph)
        runner = GraphStep(step, tape, rows=9) if graph else step
        for factor in (1.0, 1.0, 1.0, 1e35, 1.0):
            batch = next(iter(data.batches(0)))
            batch = Batch(factor * torch.ones_like(batch.images), batch.target)
            runner(batch, step=0, progress=0.0)
        return model.w.detach(), step.state()["scalers"]["toy"], step.notes, tape

    (ours, our_scale, notes, tape), (theirs, their_scale, _, _) = replayed(True), replayed(False)
    assert notes == [] and tape.records == 1 and tape.replays == 2 + 4
    assert our_scale == their_scale and our_scale["scale"] == START / 2
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)  # the learning rate is fp32 in a graph


def test_evaluation_computes_in_fp16(toy: nn.Module, val: ResidentLoader) -> None:
    seen: set[torch.dtype] = set()
    toy.register_forward_hook(lambda _, __, out: seen.add(out.dtype))
    half, full = evaluate(toy, val, precision="fp16"), evaluate(toy, val)
    assert seen == {torch.float16, torch.float32}
    assert half.loss == pytest.approx(full.loss, rel=1e-2) and half.loss != full.loss
