"""bench/energy.py: counters that are read, that begin anew, and that are not there."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from litfast.bench import compare, energy, lane, latency, report
from litfast.models import Input

from .conftest import convnet


def zone(root: Path, folder: str, name: str, joules: float = 1.0) -> Path:
    place = root / folder
    place.mkdir(parents=True)
    (place / "name").write_text(f"{name}\n")
    (place / "energy_uj").write_text(f"{int(joules * 1e6)}\n")
    (place / "max_energy_range_uj").write_text("100000000\n")
    return place


def test_packages_are_summed_and_nothing_is_counted_twice(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 10)
    zone(tmp_path, "intel-rapl:0:0", "core", 7)
    zone(tmp_path, "intel-rapl:1", "package-1", 20)
    zone(tmp_path, "intel-rapl:2", "psys", 40)
    meter = energy._rapl(tmp_path)
    assert isinstance(meter, energy.Meter)
    assert meter.source == "RAPL package-0, package-1"
    assert meter.read() == [10, 20] and meter.ranges == (100, 100)


def test_a_counter_that_began_anew_has_gone_on() -> None:
    meter = energy.Meter("test", list, (100.0, float("inf")))
    assert meter.spent([99, 5], [3, 7.5]) == pytest.approx(4 + 2.5)


def test_joules_are_shared_among_the_calls() -> None:
    counter = [0.0]

    def call() -> None:
        counter[0] += 2.5

    meter = energy.Meter("test", lambda: list(counter), (float("inf"),))
    assert energy.per_call(meter, call, 0.001) == pytest.approx(2.5)


def test_a_machine_without_counters_says_so(tmp_path: Path) -> None:
    assert energy._rapl(tmp_path) == f"there is no RAPL counter of a processor in {tmp_path}"
    (zone(tmp_path, "intel-rapl:0", "package-0") / "energy_uj").unlink()
    assert energy._rapl(tmp_path) == (
        "the RAPL counters cannot be read (No such file or directory); they are root's"
    )


def test_nvml_is_asked_for_the_gpu_by_its_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    class NVMLError(Exception):
        pass

    asked: list[str] = []
    fake = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: asked.append(uuid),
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: 1500,
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="12-34"))
    meter = energy.find(torch.device("cuda"))
    assert isinstance(meter, energy.Meter) and asked == ["GPU-12-34"]
    assert meter.read() == [1.5]

    def old(handle: object) -> int:
        raise NVMLError("Not Supported")

    fake.nvmlDeviceGetTotalEnergyConsumption = old
    assert energy.find(torch.device("cuda")) == "NVML: Not Supported"
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert energy.find(torch.device("cuda")) == (
        "the package nvidia-ml-py is not installed (pip install 'litfast[bench]')"
    )


@pytest.mark.parametrize("there", [True, False])
def test_a_comparison_has_joules_or_says_why_not(
    there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if there:
        zone(tmp_path, "intel-rapl:0", "package-0")
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    monkeypatch.setattr(energy, "per_call", lambda meter, call, seconds: 0.5)
    monkeypatch.setattr(lane, "BLOCK_S", 1e-9)
    monkeypatch.setattr(latency, "MAX_ROUNDS", 1)
    cells: dict[str, Any] = {"batches": (2,), "modes": ("eager",), "precisions": ("fp32",), "seconds": 0.01}
    document = compare({"a": convnet(4)}, input=Input((3, 5, 5)), **cells)
    (row,) = document["rows"]
    if there:
        assert row["joules_per_sample"] == 0.25 and document["energy"]["source"] == "RAPL package-0"
        assert "mJ/sample" in report.markdown(document) and "| 250 |" in report.markdown(document)
    else:
        assert row["joules_per_sample"] is None
        assert report.energy(document) == f"no energy: there is no RAPL counter of a processor in {tmp_path}"
        assert "mJ/sample" not in report.markdown(document)
