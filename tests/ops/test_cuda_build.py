"""The CUDA kernels as nvcc compiles them for sm_90: 16-byte loads, no register spilled, no local memory."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from litfast.ops import build_info

ROOT = Path(__file__).resolve().parents[2]
MEMORY = re.compile(r"\b(LDG|STG|LDS|STS|LDL|STL|BAR)\.?([\w.]*)")


def _disassembler() -> str | None:
    """nvdisasm of the CUDA toolkit, or the one that comes with triton."""
    triton = importlib.util.find_spec("triton")
    beside = Path(triton.origin).parent / "backends/nvidia/bin" if triton and triton.origin else None
    return shutil.which("nvdisasm") or (shutil.which("nvdisasm", path=str(beside)) if beside else None)


def _compile(source: str, folder: Path) -> tuple[Path, str]:
    """The machine code, and what the compiler says of its resources."""
    nvcc = shutil.which("nvcc")
    if not nvcc:
        pytest.skip("no nvcc on the PATH")
    code = folder / f"{source}.cubin"
    command = [
        nvcc,
        "-std=c++17",
        "-O3",
        "-DNDEBUG",
        "-arch=sm_90",
        "-cubin",
        "-Xptxas",
        "-v",
        "-o",
        str(code),
    ]
    done = subprocess.run([*command, str(ROOT / "csrc/cuda" / source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return code, done.stderr


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The kernel of the losses."""
    return _compile("lit.cu", tmp_path_factory.mktemp("cuda"))


def _accesses(code: Path) -> list[str]:
    """Memory instructions and barriers, in the order of the machine code."""
    disassembler = _disassembler()
    if not disassembler:
        pytest.skip("no nvdisasm on the PATH or in triton")
    text = subprocess.run([disassembler, "-c", str(code)], capture_output=True, text=True, check=True)
    return [match.group(0) for match in MEMORY.finditer(text.stdout)]


@pytest.fixture(scope="module")
def accesses(compiled: tuple[Path, str]) -> list[str]:
    """Of the kernel of the losses."""
    return _accesses(compiled[0])


def _assert_in_registers(report: str, accesses: list[str]) -> None:
    assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in report
    assert not re.search(r"[1-9]\d* bytes (stack frame|spill)", report)
    assert not [name for name in accesses if name.startswith(("LDL", "STL"))]


@pytest.mark.slow
def test_no_register_is_spilled_and_no_local_memory_used(
    compiled: tuple[Path, str], accesses: list[str]
) -> None:
    _assert_in_registers(compiled[1], accesses)


@pytest.mark.slow
def test_two_blocks_fit_on_a_multiprocessor(compiled: tuple[Path, str]) -> None:
    registers = re.search(r"Used (\d+) registers", compiled[1])
    assert registers
    assert int(registers.group(1)) <= 65536 // (256 * 2)


def _flights(accesses: list[str]) -> Iterator[int]:
    """Lengths of the runs of 16-byte loads that no other access interrupts."""
    flight = 0
    for name in accesses:
        if name.startswith("LDG.E.128"):
            flight += 1
        elif flight:
            yield flight
            flight = 0


@pytest.mark.slow
def test_elements_move_in_16_bytes_and_eight_loads_are_in_flight(accesses: list[str]) -> None:
    flights = list(_flights(accesses))
    pairs, penalties = 9, 3
    # Equal sizes of student and teacher (5 pairs of dtypes) put 8 loads in flight, the mixed ones 6.
    assert sum(flight >= 8 for flight in flights) >= 5 * penalties
    assert sum(flight >= 6 for flight in flights) >= pairs * penalties
    assert sum(name.startswith("STG.E.128") for name in accesses) >= pairs * penalties


def test_backward_moves_16_bytes_at_a_time_and_nothing_else_but_single_elements(tmp_path: Path) -> None:
    code, report = _compile("scale.cu", tmp_path)
    accesses = _accesses(code)
    _assert_in_registers(report, accesses)
    registers = re.search(r"Used (\d+) registers", report)
    assert registers
    assert int(registers.group(1)) <= 65536 // (256 * 4)
    assert list(_flights(accesses)) == [4, 4, 4]  # fp32, bf16, and fp16 out of fp32
    loads, stores = ([name for name in accesses if name.startswith(kind)] for kind in ("LDG", "STG"))
    assert len(loads) == 3 * 4 + 3 + 1  # vectors, single elements, the scale
    assert sum(name.startswith("STG.E.128") for name in stores) == 4 + 4 + 2
    assert len(stores) == 4 + 4 + 2 + 3


def test_the_build_names_its_architectures() -> None:
    info = build_info()
    if info is None or not info["cuda_archs"]:
        pytest.skip("a build without CUDA")
    assert info["cuda_archs"].split() == ["80", "90", "100"]
