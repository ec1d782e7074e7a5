"""What `litfast plan` expected of a run's student against what it takes now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from litfast import config
from litfast.bench import plan
from litfast.cli import _runs
from litfast.engine.rundir import RunDirectory
from litfast.models import Input
from litfast.models.sectioned import SectionedModel

Found = dict[str, Any]  # what `bench.plan.verify` says, and of which run


def verify(
    expected: config.PlanConfig | None,
    models: Mapping[str, SectionedModel],
    *,
    input: Input,
    run: Path,
    seconds: float = 1.0,
) -> list[Found]:
    """Teacher and student of a run measured as its plan was; nothing without a plan."""
    if expected is None:
        return []
    found = plan.verify(expected, models["teacher"], models["student"], input=input, seconds=seconds)
    return [{"run": str(run), **found, "check": f"plan of {run}"}]


def verify_runs(runs: Sequence[Path], seconds: float) -> list[Found]:
    """The same of those finished runs that were planned."""
    documents: list[Found] = []
    for path in runs:
        if config.parse(RunDirectory.open(path).config()).plan is not None:
            run = _runs.finished(path)
            documents += verify(run.config.plan, run.models, input=run.input, run=path, seconds=seconds)
    return documents


def checks(found: Sequence[Found]) -> dict[str, bool]:
    """Whether each student could be measured: what a record of its speed-up rests on."""
    return {document["check"]: document["reason"] is None for document in found}


def lines(found: Sequence[Found]) -> list[str]:
    """What was found, for people."""
    return [line for document in found for line in plan.lines(document)]
