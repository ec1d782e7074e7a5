"""Energy of a call, where the machine counts it: RAPL for processors, NVML for NVIDIA's GPUs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True, slots=True)
class Meter:
    """Counters of energy, all of which belong to one device.

    Attributes:
        source: what counts, for people.
        read: joules of every counter, since whenever.
        ranges: joules at which a counter begins anew (infinite: never).
    """

    source: str
    read: Callable[[], list[float]]
    ranges: tuple[float, ...]

    def spent(self, before: Sequence[float], after: Sequence[float]) -> float:
        """Joules between two readings, less than a range apart."""
        readings = zip(before, after, self.ranges, strict=True)
        return sum((late - early) % around for early, late, around in readings)


def find(device: torch.device) -> Meter | str:
    """The meter of a device, or the line that says why there is none."""
    return _nvml(device) if device.type == "cuda" else _rapl(POWERCAP)


def per_call(meter: Meter, call: Callable[[], object], seconds: float) -> float:
    """Joules of one of the calls that fill so many seconds, at least one.

    All that the device draws meanwhile counts: what it draws idle, and what others have it do.
    """
    calls, before, started = 0, meter.read(), perf_counter()
    while not calls or perf_counter() - started < seconds:
        call()
        calls += 1
    return meter.spent(before, meter.read()) / calls


def _rapl(root: Path) -> Meter | str:
    """One counter a package; its subdomains are in it, and "psys" would count it twice."""
    packages = {
        (zone / "name").read_text(encoding="ascii").strip(): zone
        for zone in sorted(root.glob("intel-rapl:*"))
        if zone.name.count(":") == 1
    }
    zones = {name: zone for name, zone in packages.items() if name.startswith("package")}
    if not zones:
        return f"there is no RAPL counter of a processor in {root}"

    def read() -> list[float]:
        return [_joules(zone / "energy_uj") for zone in zones.values()]

    try:
        read()
    except OSError as error:
        return f"the RAPL counters cannot be read ({error.strerror}); they are root's"
    ranges = tuple(_joules(zone / "max_energy_range_uj") for zone in zones.values())
    return Meter(f"RAPL {', '.join(zones)}", read, ranges)


def _joules(file: Path) -> float:
    return int(file.read_text(encoding="ascii")) / 1e6


def _nvml(device: torch.device) -> Meter | str:
    """The GPU's own counter since its driver was loaded (Volta and later)."""
    try:
        import pynvml
    except ImportError:
        return "the package nvidia-ml-py is not installed (pip install 'litfast[bench]')"
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError as error:
        return f"NVML: {error}"
    return Meter("NVML", lambda: [pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3], (float("inf"),))
