"""What a record says about the machine, and what it does not say."""

from __future__ import annotations

import getpass
import json
import os
import platform
import re
import stat
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from litfast.bench import machine


def test_the_machine_is_described_by_what_decides_a_measurement() -> None:
    found = machine.describe()
    assert list(found) == [
        "cpu", "cores", "threads", "isa", "ram_gib", "os", "python", "torch", "cuda", "gpu", "triton",
        "litfast", "compiler", "load",
    ]  # fmt: skip
    assert found["cpu"] and 1 <= found["cores"] <= (os.cpu_count() or 1)
    assert found["threads"] == torch.get_num_threads()
    assert found["torch"] == torch.__version__
    assert set(found["isa"]) <= set(machine.ISA_FLAGS)
    assert json.loads(json.dumps(found)) == found


def test_it_holds_no_host_name_user_or_folder() -> None:
    text = json.dumps(machine.describe())
    assert not re.search(r"(?<!\w)/\w+", text)
    for secret in (platform.node(), os.getcwd(), str(Path.home())):
        assert len(secret) < 2 or secret not in text
    assert getpass.getuser() not in re.findall(r"\w+", text)


def test_flags_are_read_from_the_first_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    info = (
        "model name\t: Some CPU\nflags\t\t: fpu avx2 avx512_bf16\n\nmodel name\t: Other\nflags\t: amx_bf16\n"
    )
    monkeypatch.setattr(Path, "read_text", lambda self, encoding: info)
    found = machine.describe()
    assert found["cpu"] == "Some CPU"
    assert found["isa"] == ["avx2", "avx512_bf16"]


def test_a_machine_without_cpuinfo_or_compiler_is_described_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def absent(self: Path, encoding: str) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", absent)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    found = machine.describe()
    assert found["cpu"] and found["isa"] == []
    assert found["compiler"] is None


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell script as compiler")
def test_the_compiler_of_CXX_is_named_without_its_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = tmp_path / "fancy++"
    fake.write_text('#!/bin/sh\necho "$0 99.1"\necho more\n')
    fake.chmod(fake.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("CXX", str(fake))
    assert machine.compiler() == "fancy++ 99.1"


def test_the_version_of_triton_is_read_without_importing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)  # importing it would raise
    monkeypatch.setattr(machine.metadata, "version", lambda package: f"{package} 9")
    assert machine.describe()["triton"] == "triton 9"


@pytest.mark.parametrize(
    ("device", "asked"), [("cpu", "cuda"), ("cuda:1", torch.device("cuda:1"))], ids=["cpu", "cuda"]
)
def test_the_gpu_that_is_named_is_the_one_in_use(
    device: str, asked: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = SimpleNamespace(name="one", major=9, minor=0, total_memory=2**30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda of: gpu if of == asked else None)
    assert machine.describe(device)["gpu"]["name"] == "one"
