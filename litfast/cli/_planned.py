"""What `litfast plan` expected of a run's student against what it takes now."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from litfast import config
from litfast.bench import plan
from litfast.engine.rundir import RunDirectory
from litfast.models import Input
from litfast.models.sectioned import SectionedModel


def verify(
    expected: config.PlanConfig | None,
    models: Mapping[str, SectionedModel],
    *,
    input: Input,
    seconds: float = 1.0,
) -> dict[str, Any]:
    """`{"plan": plan.verify(...)}` of "teacher" and "student"; empty without a plan."""
    if expected is None:
        return {}
    pair = (models["teacher"], models["student"])
    return {"plan": plan.verify(expected, *pair, input=input, seconds=seconds)}


def expected(run: Path) -> config.PlanConfig | None:
    """The plan in a run's recipe; None where it was not planned."""
    return config.parse(RunDirectory.open(run).config()).plan


def checks(document: Mapping[str, Any]) -> dict[str, bool]:
    """Whether the student could be measured: what a record of its speed-up rests on."""
    return {"plan": document["plan"]["reason"] is None} if "plan" in document else {}


def lines(document: Mapping[str, Any]) -> list[str]:
    """What was found, a line each; none without a plan."""
    return plan.lines(document["plan"]) if "plan" in document else []
