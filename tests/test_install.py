"""What an installation promises: metadata, pinned versions, data, a build that says what it lacks."""

from __future__ import annotations

import importlib.resources
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

import litfast
from litfast.ops import backends, build_info

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _names(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=!~\[; ]", requirement)[0] for requirement in requirements}


def _python(code: str) -> str:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


def _configure(tmp_path: Path, **environment: str) -> str:
    """What CMake says to a build that must fail."""
    cmake = shutil.which("cmake")
    if not cmake:
        pytest.skip("no cmake on the PATH")
    command = [cmake, "-S", str(ROOT), "-B", str(tmp_path / "build")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    assert done.returncode != 0
    return done.stderr


def test_the_version_is_the_metadatas() -> None:
    assert PROJECT["version"] == litfast.__version__


def test_every_requirement_but_dali_has_an_exact_version_in_constraints() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", pin) for pin in pins)
    extras = PROJECT["optional-dependencies"]
    wanted = _names(PROJECT["dependencies"] + extras["bench"] + extras["test"] + extras["dev"])
    assert wanted <= {pin.split("==")[0] for pin in pins}
    assert "torch==2.13.0" in pins


def test_package_data_is_there() -> None:
    package = importlib.resources.files("litfast")
    assert package.joinpath("py.typed").is_file()
    assert package.joinpath("recipes", "digits.toml").is_file()
    assert package.joinpath("data", "sets", "digits.csv.gz").is_file()


def test_the_kernels_include_no_torch_header() -> None:
    sources = [path for path in (ROOT / "csrc").rglob("*") if path.is_file()]
    assert sources
    includes = [line for path in sources for line in path.read_text().splitlines() if "#include" in line]
    assert not [line for line in includes if re.search(r"torch|ATen|c10|caffe", line)]


@pytest.mark.skipif(
    os.environ.get("LITFAST_NATIVE", "").lower() in ("off", "0", "false", "no"),
    reason="LITFAST_NATIVE is off",
)
def test_the_compiled_half_is_built() -> None:
    assert backends()[0] == ("cpp", None)
    assert build_info() is not None


def test_without_the_compiled_half_the_reference_serves_and_says_why() -> None:
    code = (
        "import sys; sys.modules['litfast._C'] = None\n"
        "import torch, litfast\n"
        "from litfast.ops import backends, build_info\n"
        "print(backends()[0][1], build_info())\n"
        "print(litfast.ir_loss([torch.ones(3)], [torch.zeros(3)]).item())"
    )
    why, value = _python(code).splitlines()
    assert re.match(r"no litfast._C \(.+\); install litfast with a C\+\+ compiler and .* None$", why)
    assert float(value) == 1


def test_a_build_without_a_compiler_says_what_to_install(tmp_path: Path) -> None:
    said = _configure(tmp_path, CXX=str(tmp_path / "none"))
    assert "no C++ compiler found; install one (Debian: apt install g++" in said
    assert "or set LITFAST_NATIVE=off in the environment to install the pure-Python package" in said


def test_a_wrong_cuda_switch_is_named(tmp_path: Path) -> None:
    said = _configure(tmp_path, LITFAST_CUDA="maybe")
    assert "litfast: LITFAST_CUDA must be auto, on or off, got maybe" in said


def test_the_installed_torch_is_one_that_the_metadata_allows() -> None:
    (requirement,) = (r for r in PROJECT["dependencies"] if r.startswith("torch"))
    least = tuple(int(part) for part in requirement.removeprefix("torch>=").split("."))
    assert tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2]) >= least
