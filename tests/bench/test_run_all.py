"""benchmarks/run_all.py: what becomes of pytest-benchmark's numbers, and of what failed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "run_all.py"


@pytest.fixture(scope="module")
def run_all() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_all", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def entry(contender: str, median: float, spread: float = 0.0, **extra: Any) -> dict[str, Any]:
    stats = {"median": median, "q1": median - spread, "q3": median + spread, "rounds": 9}
    stats |= {"min": median, "mean": median, "stddev": 0.0}
    return {"group": "kd", "stats": stats, "extra_info": {"contender": contender, **extra}}


def test_each_contender_is_set_against_the_baseline_and_the_roof(run_all: ModuleType) -> None:
    entries = [
        entry("triad", 0.25, roof=True),
        entry("reference", 2.0, spread=0.5, baseline=True),
        entry("cpp", 0.5, spread=0.1, bytes=10**9),
        entry("compile", 1.8, spread=0.4),
    ]
    triad, reference, cpp, compiled = run_all.rows(entries, passed=True)
    assert triad["speedup"] is None and reference["speedup"] is None
    assert (cpp["speedup"], cpp["tie"], cpp["of_roof"], cpp["gb_per_s"]) == (4.0, False, 0.5, 2.0)
    assert cpp["median_ms"] == 500
    assert compiled["tie"] is True


def test_a_suite_that_failed_gives_no_speedup(run_all: ModuleType) -> None:
    entries = [entry("reference", 2.0, baseline=True), entry("cpp", 0.5)]
    assert [row["speedup"] for row in run_all.rows(entries, passed=False)] == [None, None]


def test_what_was_skipped_or_failed_is_told_with_its_reason(run_all: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "outcomes.xml"
    path.write_text(
        "<testsuites><testsuite><testcase name='a'><skipped message='cpp: not built'/></testcase>"
        "<testcase name='b'><failure message='errs 1&#10;more'>x</failure></testcase><testcase name='c'/>"
        "</testsuite></testsuites>"
    )
    assert run_all.read_outcomes(path) == ({"a": "cpp: not built"}, {"b": "errs 1"})
    assert run_all.read_outcomes(tmp_path / "absent") == ({}, {})


def test_an_unknown_suite_is_wrong_usage(
    run_all: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run_all.main(["--out", str(tmp_path), "--only", "opps"])
    assert caught.value.code == 2
    assert "--only must be one of models, ops, got opps" in capsys.readouterr().err
