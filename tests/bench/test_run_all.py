"""benchmarks/run_all.py: what becomes of pytest-benchmark's numbers, and of what failed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from litfast.bench import record


@pytest.fixture(scope="module")
def run_all(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("run_all")


def entry(test: str, contender: str, median: float, **extra: Any) -> dict[str, Any]:
    stats = {"median": median, "q1": 0.9 * median, "q3": 1.1 * median, "rounds": 9, "mean": median}
    return {"name": test, "group": "kd", "stats": stats, "extra_info": {"contender": contender, **extra}}


EAGER = {"contender": "eager", "rounds": 9, "median_ms": 1500.0, "speedup": 3.0, "p10": 2.5, "p90": 3.5}


def test_a_contender_comes_with_those_that_were_timed_in_its_rounds(run_all: ModuleType) -> None:
    entries = [entry("test_op[kd]", "cpp", 0.5, peak_bytes=40, against=[EAGER]), entry("b", "resnet20", 2.0)]
    ours, eager, alone = run_all.rows(entries, failed=())
    times = {"median_ms": 500.0, "q1_ms": 450.0, "q3_ms": 550.0}
    head = {"group": "kd", "check": "test_op[kd]"}
    assert ours == {**head, "contender": "cpp", "rounds": 9, **times, "peak_bytes": 40}
    assert eager == {**head, "of": "cpp", **EAGER}
    assert (alone["contender"], alone["median_ms"], "speedup" in alone) == ("resnet20", 2000.0, False)


def test_a_test_that_failed_gives_no_rows(run_all: ModuleType) -> None:
    entries = [entry("a", "cpp", 0.5, against=[EAGER]), entry("b", "cpp", 0.5)]
    assert [row["check"] for row in run_all.rows(entries, failed={"a": "errs"})] == ["b"]


def test_a_suite_becomes_a_record_named_by_suite_and_device(
    run_all: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real run of a suite in which one test passes, one fails and one is skipped."""
    suite = tmp_path / "bench_tiny.py"
    suite.write_text(
        "import pytest\n"
        "def test_green(benchmark):\n"
        "    benchmark.group = 'sums'\n"
        "    other = {'contender': 'slow', 'median_ms': 2.0, 'speedup': 2.0, 'tie': False}\n"
        "    benchmark.extra_info.update(contender='fast', against=[other])\n"
        "    benchmark.pedantic(lambda: sum(range(9)), setup=lambda: None, rounds=3)\n"
        "def test_red():\n    assert False, 'errs'\n"
        "def test_absent():\n    pytest.skip('no GPU')\n"
    )
    monkeypatch.setattr(run_all, "device", lambda: "abacus")
    for name in ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER"):  # nothing is timed where tests share the cores
        monkeypatch.delenv(name, raising=False)
    assert run_all.run_suite("tiny", suite, tmp_path) is False
    written = record.read(tmp_path / "tiny_abacus.json")
    assert written["checks"] == {"test_green": True, "test_red": False}
    assert [row["contender"] for row in written["results"]] == ["fast", "slow"]
    assert written["results"][0]["rounds"] == 3
    assert (list(written["failed"]), written["skipped"]) == (["test_red"], {"test_absent": "no GPU"})
    assert "fast is 2.00x as fast" in capsys.readouterr().out


@pytest.mark.parametrize(("gpu", "name"), [(None, "cpu"), ({"name": "NVIDIA H200"}, "h200")])
def test_a_record_names_the_device(
    run_all: ModuleType, monkeypatch: pytest.MonkeyPatch, gpu: dict[str, str] | None, name: str
) -> None:
    monkeypatch.setattr(run_all.machine, "describe", lambda: {"gpu": gpu})
    assert run_all.device() == name


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
    said = capsys.readouterr().err
    assert "--only must be one of data, latency, low_rank, models, ops, step, got opps" in said
