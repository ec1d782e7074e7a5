"""`litfast train --dry-run`: what would happen, and how much memory it takes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.table import Table

from litfast import build
from litfast.cli import _console, _results
from litfast.config import Config, EngineConfig
from litfast.data.choice import in_bytes
from litfast.engine.plan import BranchPlan
from litfast.phase import Schedule


def show(settings: Config, *, as_json: bool) -> None:
    """Print the plan; nothing is trained or written."""
    experiment = build.experiment(settings)
    _results.check(experiment)
    branches = experiment.rehearse()
    warnings = build.warnings(experiment, branches)
    data = experiment.data
    samples = {"train": data.size("train"), "test": data.size("test")}
    if experiment.val is not None:
        samples["val"] = data.size("val")
    if as_json:
        _console.print_json(
            {
                "samples": samples,
                "loader": experiment.config.data.loader,
                "engine": asdict(settings.engine),
                "branches": [_row(b) for b in branches],
                "warnings": warnings,
            }
        )
        return
    _console.out.print(_table(branches))
    for line in warnings:
        _console.say(f"warning: {line}", _console.err, "yellow")
    for line in (*data.notes, data.loaded):
        _console.say(line)
    engine = settings.engine
    counted = ", ".join(f"{count} {name}" for name, count in samples.items())
    _console.say(
        f"{settings.data.name}: {counted} {data.unit}, "
        f"batch {settings.data.batch}; {engine.device}, {engine.precision}{_teacher(settings)}, "
        f"{engine.threads} threads, "
        f"mode {engine.mode}, branches {engine.branches}{_extras(engine)}; "
        f"at least {in_bytes(max(b.memory_bytes for b in branches))} of memory"
    )


def _table(branches: list[BranchPlan]) -> Table:
    table = Table(title="plan")
    for column in ("phase", "branch", "epochs", "steps", "optimizer", "parameters", "activations", "memory"):
        table.add_column(column, justify="left" if column in ("phase", "branch", "optimizer") else "right")
    for b in branches:
        table.add_row(
            b.phase,
            b.branch,
            str(b.schedule.epochs),
            str(b.steps),
            _optimizer(b.schedule),
            f"{b.parameters:,}",
            in_bytes(b.activation_bytes),
            in_bytes(b.memory_bytes),
        )
    return table


def _optimizer(schedule: Schedule) -> str:
    clip = "" if schedule.clip is None else f", clip {schedule.clip:g}"
    patience = "" if not schedule.patience else f", patience {schedule.patience}"
    return f"{schedule.optimizer} {schedule.lr:g} {schedule.schedule}{clip}{patience}"


def _teacher(settings: Config) -> str:
    return "" if settings.teacher is None else f" (teacher {settings.engine.teacher_precision})"


def _extras(engine: EngineConfig) -> str:
    parts = "" if engine.accumulate == 1 else f", {engine.accumulate} parts a step"
    return parts + ("" if engine.ema is None else f", ema {engine.ema:g}")


def _row(branch: BranchPlan) -> dict[str, Any]:
    return {**asdict(branch), "memory_bytes": branch.memory_bytes}
