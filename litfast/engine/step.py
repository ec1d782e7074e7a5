"""One training step of any phase: observe without gradient, then every branch's loss, backward and update."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from litfast.carried import carried
from litfast.data.loader import Batch
from litfast.engine import carry, optim
from litfast.engine.average import Average
from litfast.engine.guard import METRIC, Guard
from litfast.engine.joint_norm import JointBatchNorm, statistics
from litfast.engine.parts import combined, parts
from litfast.engine.ranks import ALONE, Pending, Ranks
from litfast.engine.streams import Serial, Streams
from litfast.phase import Branch, Phase

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}  # what autocast computes in

Result = TypeVar("Result")
Function = Callable[..., Any]
Lost = list[dict[str, Tensor]]  # the losses of the parts of a batch
UnderWay = dict[str, tuple[Lost, Pending]]
Runner = Callable[..., dict[str, Tensor]]  # called as a Step is


class Step:
    """The eager step. Branches run one by one: a branch's activations are freed before the next starts.

    What was observed stays until the last branch has run. In LIT the first section has the largest
    activations and makes the peak, where all later sections' IRs must be there: freeing them as they are
    used would save nothing.

    Args:
        phase: what trains.
        precision: "fp32", or "bf16" or "fp16" (autocast; losses, batch-norm statistics and optimizer state
            stay fp32). In fp16 every branch has a loss scale of its own, and the device leaves out an update
            whose gradients are not finite.
        device: where the model lives.
        accumulate: equal parts of a batch that go through the models one by one; a branch's gradient is the
            mean over the parts, which for losses that are means is the gradient of the whole batch. Batch
            norm sees parts.
        ema: decay of an average of the model's weights, kept beside; None keeps none.
        captured: the step will be captured (see `optim.make`).
        streams: where the branches run; None runs them one after another.
        ranks: who trains together, each on its part of every batch. A branch's gradient is the mean over
            them; it is under way while the next branch computes, unless that one comes `after` it.
        sync_batch_norm: batch norms take the statistics of all ranks' parts; else each its own part's.
        on_nan: other than "raise", a branch whose loss or gradient is not finite is left out of a step, and
            every branch has a metric "nonfinite" that says so.

    Attributes:
        notes: what a faster way to run this step has to say; whoever reports it empties the list.
    """

    def __init__(
        self,
        phase: Phase,
        *,
        precision: str,
        device: torch.device,
        accumulate: int = 1,
        ema: float | None = None,
        captured: bool = False,
        streams: Streams | None = None,
        ranks: Ranks = ALONE,
        sync_batch_norm: bool = True,
        on_nan: str = "raise",
    ) -> None:
        self.phase = phase
        self.precision = precision
        self.device = device
        self.accumulate = accumulate
        self.stopped: set[str] = set()
        self.notes: list[str] = []
        self.ranks = ranks
        self.placement: dict[str, Any] | None = None  # of sections on ranks, where they are shared out
        joint = sync_batch_norm and ranks.world > 1
        self._norms: AbstractContextManager[object] = JointBatchNorm(ranks) if joint else nullcontext()
        self._streams: Streams = streams or Serial()
        self._states = carried(phase.model, *phase.frozen)
        self.wrap(lambda function: function)
        self.average = None if ema is None else Average(phase.model, ema)
        self._guard = None if on_nan == "raise" else Guard(phase)
        scaled = precision == "fp16"
        skips = scaled or on_nan == "skip"
        self.optimizers = {
            branch.name: optim.make(branch.params, branch.schedule, captured=captured, skips=skips)
            for branch in phase.branches
        }
        # one that is not enabled passes everything through
        self.scalers = {b.name: GradScaler(device.type, enabled=scaled) for b in phase.branches}

    def __call__(self, batch: Batch, *, step: int, progress: float) -> dict[str, Tensor]:
        """Train on one batch, at the rates and coefficients of `progress` epochs.

        Metrics stay on the device.
        """
        due = self.due(step)
        self.set_lr(due, progress)
        return self.compute(batch, due)

    def due(self, step: int) -> tuple[Branch, ...]:
        """The branches that train at this step."""
        return tuple(branch for branch in self.active if step % branch.every == 0)

    @property
    def active(self) -> tuple[Branch, ...]:
        """The branches that have not been stopped."""
        return tuple(branch for branch in self.phase.branches if branch.name not in self.stopped)

    def stop(self, names: Iterable[str]) -> None:
        """Freeze branches: parameters, batch-norm statistics and all; they leave the step."""
        self.stopped |= set(names)
        still = {id(parameter) for branch in self.active for parameter in branch.params}
        frozen = [p for b in self.phase.branches for p in b.params if id(p) not in still]
        for parameter in frozen:
            parameter.requires_grad_(False)
            parameter.grad = None
        for module in self.phase.trains:
            if not any(parameter.requires_grad for parameter in module.parameters()):
                module.eval()

    def wrap(self, around: Callable[[Function], Function]) -> None:
        """Put `around` around the phase's own functions: `observe` and every branch's loss."""
        self._observe = around(self.phase.observe)
        self._losses = {branch.name: around(branch.loss) for branch in self.phase.branches}

    def set_lr(self, due: Sequence[Branch], progress: float, factor: float = 1.0) -> None:
        """`factor` times the learning rates and the losses' coefficients at `progress` epochs.

        They are all that a step takes from the host.
        """
        for branch in due:
            optim.set_lr(self.optimizers[branch.name], factor * branch.schedule.lr_at(progress))
            for coefficient in branch.coefficients:
                coefficient.set(factor * coefficient.at(progress))

    def compute(self, batch: Batch, due: Sequence[Branch]) -> dict[str, Tensor]:
        """The step's work on the device: observe, then loss, backward and update of every branch in turn."""
        if self._guard is not None:
            self._guard.begin()
        around = autocast(self.device, self.precision)
        with self._streams.observing(due), torch.no_grad(), around, self._norms:
            observations = self._in_turn(self._observe, parts(batch, self.accumulate))
        metrics: dict[str, Tensor] = {}
        under_way: UnderWay = {}
        for branch in due:
            metrics |= self._updated([other for other in due if other.name in branch.after], under_way)
            with self._streams.running(branch):
                under_way[branch.name] = self._gradients(branch, observations)
                if self.ranks.world == 1:  # nothing to wait for
                    metrics |= self._update(branch, *under_way.pop(branch.name))
        metrics |= self._updated(due, under_way)
        self._streams.join()
        if self._guard is not None:
            self._guard.end()
        if self.average is not None:
            self.average.update()
        words = batch.target[0].numel()  # of a sample that is a window of text: "correct" counts samples
        if words > 1:
            metrics |= {name: value / words for name, value in metrics.items() if name.endswith(".correct")}
        return metrics

    def settle(self) -> None:
        """Give all ranks the same batch-norm statistics, their mean, where each moves its own."""
        if isinstance(self._norms, nullcontext):
            own = statistics(self.phase.model)
            self.ranks.mean(own + ([] if self.average is None else self.average.of(own)))

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, the step is this rank's own: a trial that the others may not live through alike."""
        kept = self.ranks, self._norms
        self.ranks, self._norms = ALONE, nullcontext()
        try:
            yield
        finally:
            self.ranks, self._norms = kept

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs besides the model: optimizers, scales, average, branches' own state."""
        return {
            "kinds": self._kinds,
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "scalers": {name: scaler.state_dict() for name, scaler in self.scalers.items()},
            "branches": {
                b.name: carry.joined(b.state, self.ranks) for b in self.phase.branches if b.state is not None
            },
            "average": None if self.average is None else self.average.state(),
            "placement": self.placement,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave.

        Raises:
            ValueError: the state of other branches, of other optimizers, without the average or the scales.
        """
        if state["kinds"] != self._kinds:
            ours, theirs = _listed(self._kinds), _listed(state["kinds"])
            raise ValueError(f"train: the checkpoint must be of branches {ours}, got {theirs}")
        average = state.get("average")
        if (average is None) != (self.average is None):
            ours, theirs = ("none", "one") if self.average is None else ("one", "none")
            raise ValueError(f"train: the checkpoint must hold {ours} average of weights (ema), got {theirs}")
        self._load_scalers(state.get("scalers", {}))  # older checkpoints have none
        for name, optimizer in self.optimizers.items():
            optim.load(optimizer, state["optimizers"][name])
        for branch in self.phase.branches:
            if branch.state is not None:
                carry.take(branch.state, state["branches"][branch.name], self.ranks, self.accumulate)
        if self.average is not None:
            self.average.load_state(state["average"])

    @property
    def _kinds(self) -> dict[str, str]:
        return {branch.name: branch.schedule.optimizer for branch in self.phase.branches}

    def _load_scalers(self, states: dict[str, dict[str, Any]]) -> None:
        for name, scaler in self.scalers.items():
            state = states.get(name, {})
            if bool(state) != scaler.is_enabled():
                ours, theirs = ("a", "none") if scaler.is_enabled() else ("no", "one")
                raise ValueError(f"train: the checkpoint must hold {ours} loss scale (fp16), got {theirs}")
            scaler.load_state_dict(state)

    def _gradients(self, branch: Branch, observations: Sequence[Any]) -> tuple[Lost, Pending]:
        """The losses of the batch's parts, and the mean gradient of all ranks, which is under way."""
        self.optimizers[branch.name].zero_grad(set_to_none=True)
        losses = self._in_turn(partial(self._backward, branch), observations)
        shared = [p.grad for p in branch.params if p.grad is not None]
        if self._guard is not None:  # whose verdict is to be the same on all ranks
            shared += [part["loss"] for part in losses]
        return losses, self.ranks.begin_mean(shared)

    def _updated(self, branches: Sequence[Branch], under_way: UnderWay) -> dict[str, Tensor]:
        """Update those of the branches whose gradients are under way; their metrics."""
        metrics: dict[str, Tensor] = {}
        for branch in branches:
            if branch.name in under_way:
                with self._streams.running(branch):
                    metrics |= self._update(branch, *under_way.pop(branch.name))
        return metrics

    def _update(self, branch: Branch, losses: Lost, mean: Pending) -> dict[str, Tensor]:
        mean.wait()
        optimizer, scaler = self.optimizers[branch.name], self.scalers[branch.name]
        bad = None
        if self._guard is not None:
            values = [part["loss"] for part in losses]
            bad = self._guard.check(branch, values, optimizer, scaled=scaler.is_enabled())
        if branch.schedule.clip is not None:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(branch.params, branch.schedule.clip, foreach=True)
        scaler.step(optimizer)
        scaler.update()
        metrics = {name: combined(name, [part[name] for part in losses]) for name in losses[0]}
        if self._guard is not None and bad is not None:
            self._guard.undo(branch.name, bad)
            metrics[METRIC] = bad
        return {f"{branch.name}.{name}": value for name, value in metrics.items()}

    def _in_turn(self, function: Callable[[Any], Result], parts: Sequence[Any]) -> list[Result]:
        """The results of a function; each part goes on from what that part of the batch before left."""
        results = []
        for number, part in enumerate(parts):
            if self._states is not None:
                self._states.turn(number)
            results.append(function(part))
        if self._states is not None:
            self._states.turn(0)
        return results

    def _backward(self, branch: Branch, observation: Any) -> dict[str, Tensor]:
        """Add the gradient of one part of the batch; its losses, detached."""
        with autocast(self.device, self.precision), self._norms:
            losses = self._losses[branch.name](observation)
        loss = losses["loss"] if self.accumulate == 1 else losses["loss"] / self.accumulate
        # a generator's loss reaches the discriminator; with one branch nothing else takes a gradient
        inputs = list(branch.params) if len(self.phase.branches) > 1 else None
        self.scalers[branch.name].scale(loss).backward(inputs=inputs)
        return {name: value.detach() for name, value in losses.items()}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Autocast to what `precision` says; in fp32 nothing."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None)


def _listed(kinds: dict[str, str]) -> str:
    return ", ".join(f"{name} ({optimizer})" for name, optimizer in kinds.items())
