from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from litfast.data import cache
from litfast.data.cache import Cached, Writer, cached, folder


class Builds:
    """Builds two arrays from a source and counts how often."""

    def __init__(self, source: Path, where: Path) -> None:
        self.source, self.where, self.count = source, where, 0

    def __call__(self, writer: Writer) -> Mapping[str, Any]:
        self.count += 1
        data = np.frombuffer(self.source.read_bytes(), np.uint8)
        for part in np.array_split(data, 3):
            writer.append("bytes", part[:, None].repeat(2, 1))
        writer.append("squares", data.astype(np.int64) ** 2)
        return {"size": len(data)}

    def run(self, **options: Any) -> Cached:
        return cached("squares", self.source, self, where=self.where, **options)

    @property
    def file(self) -> Path:
        (file,) = self.where.iterdir()
        return file


@pytest.fixture
def builds(tmp_path: Path) -> Builds:
    source = tmp_path / "source"
    source.write_bytes(bytes(range(101)))
    return Builds(source, tmp_path / "cache" / "deep")


def check(found: Cached) -> None:
    numbers = torch.arange(101)
    assert torch.equal(found.arrays["bytes"], numbers.to(torch.uint8)[:, None].expand(-1, 2))
    assert torch.equal(found.arrays["squares"], numbers**2)
    assert found.facts == {"size": 101}


def test_a_file_is_built_once_and_read_afterwards(builds: Builds) -> None:
    check(builds.run())
    check(builds.run())
    assert builds.count == 1


def test_a_source_of_another_time_or_size_is_built_anew(builds: Builds) -> None:
    builds.run()
    os.utime(builds.source, ns=(1, 1))
    check(builds.run())
    assert builds.count == 2
    builds.source.write_bytes(b"\2\3")
    os.utime(builds.source, ns=(1, 1))
    assert builds.run().arrays["squares"].tolist() == [4, 9]
    assert builds.count == 3 and builds.file.exists()  # the old one is gone


def test_options_and_kinds_have_files_of_their_own(builds: Builds) -> None:
    for length in (1, 2, 1, 2):
        builds.run(length=length)
    cached("other", builds.source, builds, where=builds.where, length=1)
    assert builds.count == 3


def test_another_version_of_the_layout_is_built_anew(builds: Builds, monkeypatch: pytest.MonkeyPatch) -> None:
    builds.run()
    monkeypatch.setattr(cache, "VERSION", cache.VERSION + 1)
    check(builds.run())
    assert builds.count == 2


@pytest.mark.parametrize("kept", [0, 7, 100, 4096, 4100, -1])
def test_a_truncated_file_is_noticed_and_built_anew(builds: Builds, kept: int) -> None:
    builds.run()
    content = builds.file.read_bytes()
    builds.file.write_bytes(content[:kept])
    check(builds.run())
    assert builds.count == 2 and builds.file.read_bytes() == content


@pytest.mark.parametrize("at", [3, 10, 14, 40, 4096, 4200, -1])
def test_a_damaged_file_is_noticed_and_built_anew(builds: Builds, at: int) -> None:
    builds.run()
    content = bytearray(builds.file.read_bytes())
    content[at] ^= 4
    builds.file.write_bytes(content)
    check(builds.run())
    assert builds.count == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
def test_an_interrupted_build_leaves_nothing(builds: Builds, error: type[BaseException]) -> None:
    def interrupted(writer: Writer) -> Mapping[str, Any]:
        builds(writer)
        raise error

    with pytest.raises(error):
        cached("squares", builds.source, interrupted, where=builds.where)
    assert list(builds.where.iterdir()) == []
    check(builds.run())


def test_a_build_that_was_killed_is_begun_anew(builds: Builds) -> None:
    builds.run()
    aside = builds.file.with_suffix(".partial")
    builds.file.rename(aside)
    check(builds.run())
    assert builds.count == 2 and not aside.exists()


def test_an_interrupted_rebuild_leaves_the_file_that_was_there(builds: Builds) -> None:
    builds.run()
    content = builds.file.read_bytes()
    os.utime(builds.source, ns=(1, 1))

    def interrupted(writer: Writer) -> Mapping[str, Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached("squares", builds.source, interrupted, where=builds.where)
    assert builds.file.read_bytes() == content


def test_writing_to_what_was_read_changes_no_file(builds: Builds) -> None:
    builds.run().arrays["squares"].zero_()
    check(builds.run())


def test_what_was_read_outlives_a_rebuild(builds: Builds) -> None:
    before = builds.run()
    os.utime(builds.source, ns=(1, 1))
    builds.run()
    check(before)


PROGRAM = """
import sys, time
from pathlib import Path
import numpy as np
from litfast.data.cache import cached

source, log = Path(sys.argv[1]), Path(sys.argv[2])

def build(writer):
    with log.open("a") as file:
        file.write("built\\n")
    time.sleep(1)
    writer.append("x", np.arange(10))
    return {}

print("ready", flush=True)
sys.stdin.readline()
print(cached("x", source, build, where=sys.argv[3]).arrays["x"].sum().item())
"""


def test_two_processes_at_once_build_once_and_both_read(builds: Builds, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(builds.source), str(tmp_path / "log"), str(builds.where)]
    environment = {**os.environ, "PYTHONPATH": str(Path(cache.__file__).parents[2])}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, env=environment, **pipes) for _ in range(2)]
    assert [process.stdout.readline() for process in both] == ["ready\n"] * 2
    for process in both:
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.communicate()[0] for process in both] == ["45\n"] * 2
    assert (tmp_path / "log").read_text() == "built\n"


def test_the_users_cache_folder_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert folder() == tmp_path / "litfast"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder() == tmp_path / ".cache" / "litfast"
    assert folder("here") == Path("here")
