"""A number is a record: what was run, on which commit and machine, what was checked, what came out."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from litfast.bench import machine

SCHEMA = "litfast.record/1"
_OWN = ("schema", "name", "command", "commit", "dirty", "date", "machine", "checks", "results")


def write(
    path: str | Path, *, command: str, results: Any, checks: Mapping[str, bool], **extra: Any
) -> dict[str, Any]:
    """Write one JSON record, whole or not at all, and return it.

    Its keys are schema, name (the file's stem), command, commit and dirty (of the checkout that this code
    runs from; null outside one), date (UTC), machine, checks, results, then `extra`.

    No speed-up is written on a failed check: a value under a key that contains "speedup" needs every check
    green or, where the object around it names its own as `"check": NAME`, that one.

    Args:
        path: the file; its folder is made.
        command: the line that measures it again.
        results: anything that JSON holds.
        checks: outcome by name.

    Raises:
        ValueError: a speed-up on a failed check, an extra key of the record's own, a value that JSON lacks.
        OSError: the file cannot be written; an older one is intact.
    """
    taken = sorted(set(extra) & set(_OWN))
    if taken:
        raise ValueError(f"record: extra keys must differ from the record's own, got {', '.join(taken)}")
    _refuse_on_red({"results": results, **extra}, checks)
    path = Path(path)
    commit, dirty = _checkout(Path(__file__).resolve().parents[2])
    document = {
        "schema": SCHEMA,
        "name": path.stem,
        "command": command,
        "commit": commit,
        "dirty": dirty,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine.describe(),
        "checks": dict(checks),
        "results": results,
        **extra,
    }
    _write_whole(path, _json(document))
    return document


def read(path: str | Path) -> dict[str, Any]:
    """Read what `write` wrote.

    Raises:
        ValueError: not a record, or of another schema.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"record: {path} must be a JSON record, got: {error}") from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != SCHEMA:
        raise ValueError(f"record: {path} must have schema {SCHEMA!r}, got {schema!r}")
    return dict(document)


def _refuse_on_red(document: Any, checks: Mapping[str, bool]) -> None:
    for where, check in _speedups(document, ""):
        needed = list(checks) if check is None else [check]
        red = [name for name in needed if not checks.get(name, False)]
        if red:
            raise ValueError(f"record: {where} must rest on passed checks, got failed: {', '.join(red)}")


def _speedups(value: Any, where: str) -> Iterator[tuple[str, str | None]]:
    """Where a speed-up stands, and the check that it names."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            here = f"{where}.{key}".lstrip(".")
            if "speedup" in str(key).lower() and inner is not None:
                yield here, value.get("check")
            yield from _speedups(inner, here)
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from _speedups(inner, f"{where}[{index}]")


def _json(document: Any) -> str:
    try:
        return json.dumps(document, indent=1, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ValueError(f"record: results must hold plain finite values, got: {error}") from error


def _write_whole(path: Path, text: str) -> None:
    """Written aside, synced, renamed: a reader sees the old record or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.part")
    try:
        with open(aside, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise


def _checkout(root: Path) -> tuple[str | None, bool | None]:
    """Commit of the checkout whose root is `root`, and whether files differ from it.

    A copy installed inside another repository has that one above it, not as its root: no commit.
    """
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root:
        return None, None
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    if commit is None:
        return None, None
    return commit, bool(_git(root, "status", "--porcelain"))


def _git(root: Path, *arguments: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False
        )
    except OSError:  # no git on this machine
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
