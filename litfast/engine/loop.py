"""The training loop: phases one after another, each epoch by epoch, checkpointed on the way."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch

from litfast.carried import reset
from litfast.data.loader import Loader
from litfast.engine import lock, modes, patience, rng
from litfast.engine.evaluate import Evaluation, evaluate
from litfast.engine.meters import Clock, Journal, Sums, Window
from litfast.engine.nonfinite import (
    REWINDS,
    Fault,
    NonFinite,
    Series,
    faults,
    hopeless,
    spoilt,
    without,
)
from litfast.engine.patience import exhausted, updated, validation_losses
from litfast.engine.prepare import prepared
from litfast.engine.ranks import Ranks
from litfast.engine.report import Report
from litfast.engine.step import Runner, Step
from litfast.engine.store import Progress, Store, Weights
from litfast.phase import Phase

SPEEDS = (
    "samples_per_s",
    "loader_samples_per_s",
    "step_samples_per_s",
    "data_wait",
)  # of every epoch's report


SEEDS = 1_000_003  # from a rank's random numbers to the next one's


@dataclass(kw_only=True, slots=True)
class Loop:
    """Every phase of a run in turn, with what `litfast.train` was told."""

    data: Loader
    val: Loader | None
    device: torch.device | None
    out: Path | None
    seed: int
    precision: str
    keep: str
    on_nan: str
    log_every: int
    step: dict[str, Any]  # options of the step and of how it is run
    store: Store
    ranks: Ranks
    journal: Journal = field(default_factory=lambda: Journal(None))
    best_weights: Weights | None = None
    notes: list[str] = field(default_factory=list)

    def phases(self, phases: Iterable[Phase], resume: bool) -> Iterator[Report]:
        """Every phase in turn; those before the newest checkpoint are loaded, not trained."""
        writes = self.out if self.ranks.is_first else None
        with nullcontext() if writes is None else lock.held(writes):
            newest = self._newest() if resume else None
            reached = Progress(**newest["progress"]) if newest else Progress()
            under_way = newest is not None and "step" in newest
            offset = newest["journal"] if newest else 0
            self.journal = Journal(writes, offset=offset, step=reached.global_step)
            at = Progress()
            try:
                for phase in rng.seeded(phases, self.seed):
                    at = at.next(phase.name)
                    device = self.device or next(phase.model.parameters()).device
                    with prepared(phase, device):
                        if at.index < reached.index or (at.index == reached.index and not under_way):
                            at = self.store.restore_finished(phase, at.index)
                            yield self._report("phase", phase, at, restored=True)
                        else:
                            begun = newest if under_way and at.index == reached.index else None
                            at = yield from self._trained(phase, at, device, begun)
                self.store.tidy()
            finally:
                self.journal.close()

    def _newest(self) -> dict[str, Any] | None:
        found = self.ranks.from_first(self.store.latest)
        self.notes += self.store.notes
        self.store.notes.clear()
        return found

    def _trained(
        self, phase: Phase, at: Progress, device: torch.device, begun: dict[str, Any] | None
    ) -> Generator[Report, None, Progress]:
        """Train a phase from its start, or from a checkpoint of it; again from the newest at a rewind."""
        modes.check(self.step["mode"], self.step["branches"], device)
        left_out: set[int] = set()
        while True:
            step, runner = modes.make(phase, device, ranks=self.ranks, **self.step)
            self.ranks.broadcast(phase.model.state_dict().values())
            rng.seed(self.seed + at.index + SEEDS * self.ranks.rank)
            self.best_weights = None
            if begun is not None:
                at, self.best_weights = self.store.restore(phase, step, begun)
                self._restore_own(begun, step)
                step.stop(exhausted(phase.branches, at.waits))
                at.left_out = sorted(left_out.union(at.left_out))
            elif self.on_nan == "rewind":
                self._save(phase, at, step)
            try:
                yield from self._phase(phase, at, step, runner)
            except NonFinite as bad:
                if self.on_nan != "rewind" or len(at.left_out) == REWINDS:
                    raise
                begun, left_out = self._newest(), {*at.left_out, bad.step}
                self.notes.append(f"{bad}: gone back to it, and that batch is left out")
            else:
                return at

    def _phase(self, phase: Phase, at: Progress, step: Step, runner: Runner) -> Iterator[Report]:
        patience.check(phase, self.val)
        while at.epoch < phase.epochs and step.active:
            yield from self._epoch(phase, at, step, runner)
            at.epoch, at.step = at.epoch + 1, 0
            step.settle()
            found = self._validate(phase, at, step)
            means = {**Sums(at.sums).means(self.data.batch), **found}
            report = self._report("epoch", phase, at, means)
            self._write(report, at)
            at.sums = {}
            self._save(phase, at, step)
            yield report
        if step.average is not None:
            step.average.adopt()
        if self.best_weights is not None:
            phase.model.load_state_dict(self.best_weights)
        self.store.finish(at, phase, self.journal.offset)
        if at.skipped:
            self.notes.append(f"{phase.name}: {at.skipped} steps were left out in all")
        yield self._report("phase", phase, at)

    def _epoch(self, phase: Phase, at: Progress, step: Step, runner: Runner) -> Iterator[Report]:
        """The rest of epoch `at.epoch` from step `at.step`; closing the generator saves a checkpoint."""
        if at.step == 0:  # a text begins anew
            reset(phase.model, *phase.frozen)
        window, clock = Window(), Clock(self.data.batch * self.ranks.world)
        place = getattr(runner, "inputs", None)  # of a captured step
        batches = self.data.batches(at.first_epoch + at.epoch, at.step, copy_into=place)
        for batch in clock.timed(batches):
            if at.global_step not in at.left_out:
                progress = at.epoch + at.step / self.data.steps
                window.add(at.global_step, runner(batch, step=at.global_step, progress=progress))
            self.notes += step.notes
            step.notes.clear()
            at.step, at.global_step = at.step + 1, at.global_step + 1
            means: Mapping[str, float] = {}
            if at.step % self.log_every == 0 or at.step == self.data.steps:
                means = self._read(window, phase, at)
            speed = clock.read()
            if at.step == self.data.steps:
                at.sums |= {name: [value, 1] for name, value in speed.items()}
            try:
                yield self._report("step", phase, at, {**means, **speed})
            except GeneratorExit:
                # a resumed run meets the bad batch again, and rewinds then
                with suppress(NonFinite) if self.on_nan == "rewind" else nullcontext():
                    if self.ranks.whole:  # else none can say where all of them stand
                        step.settle()
                        self._read(window, phase, at)
                        self._save(phase, at, step)
                raise

    def _read(self, window: Window, phase: Phase, at: Progress) -> Mapping[str, float]:
        series: Series = window.read(self.ranks)
        if found := faults(series):
            self._say(found, phase, at)
            series = without(series, found)
        sums = Sums(at.sums)
        sums.add(series)
        at.sums = sums.state
        means = sums.means(self.data.batch)
        if at.step == self.data.steps and (branch := hopeless(means)) is not None:
            epoch = f"epoch {at.epoch + 1} of {phase.epochs}"
            self._fail(phase, branch, f"be finite at some step, got none in {epoch}", at.global_step)
        return means

    def _say(self, found: Sequence[Fault], phase: Phase, at: Progress) -> None:
        """Note what a guarded step left out; where that is not what was asked for, it is an error."""
        step = found[0][0]
        branches = [branch for at_step, branch in found if at_step == step]
        first = at.global_step - at.step  # of this epoch
        parts = self.ranks.gather(spoilt(self.data, at.first_epoch + at.epoch, step - first))
        samples = next((part for part in parts if "not finite" in part), parts[0])
        where = f"step {step} (epoch {at.epoch + 1} of {phase.epochs}, {samples})"
        steps = len({at_step for at_step, _ in found})
        at.skipped += steps
        if self.on_nan == "skip":
            more = f"; {steps - 1} more since" if steps > 1 else ""
            names = ", ".join(branches)
            self.notes.append(f"{phase.name}: {where} is left out of {names}: not finite{more}")
            return
        self._fail(phase, branches[0], f"be finite, got a non-finite one at {where}", step)

    def _fail(self, phase: Phase, branch: str, said: str, step: int) -> NoReturn:
        kept = "the last good checkpoint is kept" if self.out else "no checkpoint was asked for"
        raise NonFinite(f"train: loss of phase {phase.name!r}, branch {branch!r} must {said}; {kept}", step)

    def _validate(self, phase: Phase, at: Progress, step: Step) -> dict[str, float]:
        """Evaluate, and stop branches that no longer learn; their validation losses by "branch.val_loss"."""
        if self.val is None:
            return {}
        with nullcontext() if step.average is None else step.average.in_place():
            options: dict[str, Any] = {"precision": self.precision, "ranks": self.ranks}
            found = evaluate(phase.model, self.val, **options) if phase.scored else None
            at.last = None if found is None else asdict(found)
            if found is not None and (at.best is None or found.beats(Evaluation(**at.best))):
                at.best = at.last
                if self.keep == "best":
                    self.best_weights = {k: v.detach().clone() for k, v in phase.model.state_dict().items()}
            watched = [branch for branch in step.active if branch.schedule.patience]
            losses = validation_losses(step, watched, self.val, ranks=self.ranks) if watched else {}
        at.waits = updated(at.waits, losses)
        for name in exhausted(step.active, at.waits):
            step.stop([name])
            best, since = at.waits[name]
            epochs = f"{since:.0f} epoch{'s' if since > 1 else ''}"
            self.notes.append(
                f"{phase.name}: branch {name} stopped after epoch {at.epoch} of {phase.epochs}: its "
                f"validation loss has not improved on {best:.4g} for {epochs}"
            )
        return {f"{name}.val_loss": loss for name, loss in losses.items()}

    def _report(
        self,
        kind: str,
        phase: Phase,
        at: Progress,
        metrics: Mapping[str, float] | None = None,
        restored: bool = False,
    ) -> Report:
        metrics = dict(metrics or {})
        notes, self.notes = tuple(self.notes), []
        return Report(
            kind=kind,
            phase=phase.name,
            index=at.index,
            epoch=at.epoch,
            epochs=phase.epochs,
            step=at.step,
            steps=self.data.steps,
            samples_per_s=metrics.pop("samples_per_s", 0.0),
            data_wait=metrics.pop("data_wait", 0.0),
            metrics=metrics,
            val=None if kind == "step" or at.last is None else Evaluation(**at.last),
            best_accuracy=None if at.best is None else at.best["accuracy"],
            restored=restored,
            notes=notes,
        )

    def _write(self, report: Report, at: Progress) -> None:
        row: dict[str, Any] = {"phase": report.phase, "epoch": report.epoch, **report.metrics}
        for name in SPEEDS:
            row[name] = getattr(report, name)
        if report.val is not None:
            row |= {"val_accuracy": report.val.accuracy, "val_loss": report.val.loss}
            if report.val.perplexity is not None:
                row["val_perplexity"] = report.val.perplexity
        self.journal.write(at.global_step, row)

    def _save(self, phase: Phase, at: Progress, step: Step) -> None:
        own = {"data": self.data.state(), "rng": rng.state(step.device)}
        self.store.save(at, phase, step, self.best_weights, self.journal.offset, self.ranks.gather(own))

    def _restore_own(self, saved: dict[str, Any], step: Step) -> None:
        """Take up this rank's random state and, with as many ranks as before, its loader's."""
        every = saved.get("ranks") or [saved]  # older checkpoints are of one rank
        if self.ranks.rank < len(every):
            rng.restore(every[self.ranks.rank]["rng"], step.device)
        if len(every) == self.ranks.world:
            self.data.load_state(every[self.ranks.rank].get("data", {}))
