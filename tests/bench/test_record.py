"""A record is whole, says where its numbers come from, and refuses a speed-up on a red check."""

from __future__ import annotations

import json
import os
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from litfast.bench import record

GREEN = {"gate": True}


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "digits.json"
    results = {"rows": [{"p50_ms": 1.25}], "speedup": 2.5}
    written = record.write(path, command="litfast bench", results=results, checks=GREEN, note="x")
    assert record.read(path) == written
    assert list(written) == [
        "schema", "name", "command", "commit", "dirty", "date", "machine", "checks", "results", "note",
    ]  # fmt: skip
    assert written["name"] == "digits"
    assert written["results"] == results and written["checks"] == GREEN and written["note"] == "x"
    assert written["machine"]["torch"]
    assert datetime.fromisoformat(written["date"]).utcoffset() is not None


@pytest.mark.parametrize(
    "results",
    [
        {"speedup": 2.0},
        {"rows": [{"a": 1}, {"inner": {"speedup_p50": 2.0}}]},
    ],
)
def test_a_speedup_on_a_red_check_is_refused(tmp_path: Path, results: Any) -> None:
    path = tmp_path / "r.json"
    with pytest.raises(
        ValueError, match=r"record: results.*speedup.* must rest on passed checks, got failed: gate"
    ):
        record.write(path, command="c", results=results, checks={"fine": True, "gate": False})
    assert not path.exists()


def test_times_without_a_speedup_may_stand_beside_a_red_check(tmp_path: Path) -> None:
    results = {"p50_ms": 2.0, "speedup": None}
    record.write(tmp_path / "r.json", command="c", results=results, checks={"gate": False})
    assert record.read(tmp_path / "r.json")["results"] == results


def test_a_speedup_that_names_its_check_rests_on_that_one(tmp_path: Path) -> None:
    checks = {"fp32": True, "bf16": False}
    good = [{"check": "fp32", "speedup": 2.0}, {"check": "bf16", "speedup": None}]
    record.write(tmp_path / "r.json", command="c", results=good, checks=checks)
    for name in ("bf16", "unknown"):
        with pytest.raises(ValueError, match=rf"results\[0\].speedup must .* got failed: {name}"):
            record.write(
                tmp_path / "r.json", command="c", results=[{"check": name, "speedup": 2.0}], checks=checks
            )


def test_an_extra_key_is_held_to_the_same_rules(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"headline\.speedup must rest on passed checks"):
        record.write(
            tmp_path / "r.json", command="c", results={}, checks={"g": False}, headline={"speedup": 2}
        )
    with pytest.raises(ValueError, match="extra keys must differ from the record's own, got machine"):
        record.write(tmp_path / "r.json", command="c", results={}, checks={}, machine="mine")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_what_json_lacks_is_refused_and_leaves_no_file(tmp_path: Path, value: object) -> None:
    with pytest.raises(ValueError, match="record: results must hold plain finite values, got: "):
        record.write(tmp_path / "r.json", command="c", results=value, checks={})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_failed_write_keeps_the_older_record_and_leaves_nothing_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    path = tmp_path / "r.json"
    record.write(path, command="old", results=1, checks={})

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, broken, full)
    with pytest.raises(OSError, match="No space left"):
        record.write(path, command="new", results=2, checks={})
    assert record.read(path)["command"] == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_torn_or_foreign_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text('{"schema": "litf')
    with pytest.raises(ValueError, match=r"record: .*r.json must be a JSON record"):
        record.read(path)
    for foreign in ({"schema": "other/9"}, [1, 2]):
        path.write_text(json.dumps(foreign))
        with pytest.raises(ValueError, match=r"must have schema 'litfast.record/1', got"):
            record.read(path)


def _git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_the_commit_of_a_checkout_and_whether_it_is_dirty(tmp_path: Path) -> None:
    root = tmp_path.resolve()
    assert record._checkout(root) == (None, None)  # no repository
    _git(root, "init", "-q")
    assert record._checkout(root) == (None, None)  # no commit
    (root / "file").write_text("1")
    _git(root, "add", ".")
    _git(root, "commit", "-q", "-m", "one")
    commit = _git(root, "rev-parse", "HEAD")
    assert record._checkout(root) == (commit, False)
    (root / "file").write_text("2")
    assert record._checkout(root) == (commit, True)


def test_a_repository_above_the_installed_package_is_not_its_commit(tmp_path: Path) -> None:
    _git(tmp_path, "init", "-q")
    _git(tmp_path, "commit", "-q", "--allow-empty", "-m", "foreign")
    inner = tmp_path / "site-packages"
    inner.mkdir()
    assert record._checkout(inner.resolve()) == (None, None)


def test_a_machine_without_git_writes_null(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert record._checkout(tmp_path) == (None, None)
