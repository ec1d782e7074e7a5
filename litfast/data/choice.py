"""Which loader serves a set: the resident one where the set fits, else DALI where it runs, else torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch

from litfast.data.dali import DaliLoader
from litfast.data.decode import decode_all
from litfast.data.loader import Loader
from litfast.data.resident import ResidentLoader
from litfast.data.sets.image_set import Images, ImageSet, Source
from litfast.data.sets.items import Items
from litfast.data.shape import image_shape
from litfast.data.torch_loader import TorchLoader

SHARE = 0.25  # of the free memory: what a resident set may take where nobody asked for it
MOST_WORKERS = 16
WORTH_SAYING = 0.1  # share of the time that a step waits
CGROUP = Path("/sys/fs/cgroup")


class Choice(NamedTuple):
    """A loader's name, and one line why it was taken."""

    name: str
    why: str


def choose(name: str, images: ImageSet, *, device: str | torch.device) -> Choice:
    """The loader for all splits of a set.

    Args:
        name: "resident", "dali" or "torch", or "auto": resident where the decoded set takes at most a quarter
            of the device's free memory, else DALI where it is installed and runs, else torch.
        device: where the batches go.

    Raises:
        ValueError: the named loader cannot serve the set here; the reason is given.
    """
    place = torch.device(device)
    refused = {
        "resident": lambda share: _not_resident(images, place, share),
        "dali": lambda _: _not_dali(images, place),
        "torch": lambda _: "",
    }
    if name != "auto":
        if reason := refused[name](1.0):
            raise ValueError(f"data: loader {name} must be able to serve {images.name}, got: {reason}")
        return Choice(name, "asked for")
    reasons: list[str] = []
    for known, reason_of in refused.items():
        if not (reason := reason_of(SHARE)):
            why = "; ".join(reasons) or f"its images take {in_bytes(_bytes(images))} of {_place(place)}"
            return Choice(known, why)
        reasons.append(f"not {known}, {reason}")
    raise AssertionError("the torch loader serves every set")


def make(
    name: str,
    samples: Source,
    *,
    centre_crop: int | None = None,
    size: int | None = None,
    workers: int | None = None,
    **options: Any,
) -> Loader:
    """The named loader over one split.

    Args:
        name: what `choose` said.
        centre_crop, size: of encoded samples, as `ImageSet` describes them.
        workers: processes of the torch loader, threads of DALI; None: one a core, but no process for images
            that are decoded already, and at most 16.
        options: keyword arguments that all loaders take.
    """
    if workers is not None and workers < 0:
        raise ValueError(f"data: workers must be 0 or more, got {workers}")
    if name == "dali" and not isinstance(samples, Items):
        return DaliLoader(samples, centre_crop=centre_crop, size=size, threads=workers or None, **options)
    if name == "torch":
        if workers is None:
            workers = 0 if isinstance(samples, Images) else min(_cores(), MOST_WORKERS)
        return TorchLoader(samples, centre_crop=centre_crop, size=size, workers=workers, **options)
    assert not isinstance(samples, Items)
    decoded = samples
    if not isinstance(decoded, Images):
        decoded = decode_all(decoded, centre_crop=centre_crop, size=size)
    return ResidentLoader(decoded.images, decoded.labels, **options)


def advice(name: str, images: ImageSet, share: float, *, device: str | torch.device) -> str:
    """One line for a run by the named loader whose steps waited for `share` of the time; empty if little."""
    if share <= WORTH_SAYING:
        return ""
    waited = f"waited for data {100 * share:.0f} % of the time"
    if name == "resident":
        return f"{waited}: the set is resident already, larger batches may help"
    if name == "dali":
        return f"{waited}: data.loader=resident may help where the set fits into memory"
    reason = _not_dali(images, torch.device(device))
    helps = f"more data.workers may help ({reason})" if reason else "data.loader=dali may help"
    return f"{waited}: {helps}"


def _not_resident(images: ImageSet, device: torch.device, share: float) -> str:
    splits = _splits(images)
    if any(isinstance(samples, Items) for samples in splits):
        return "a Dataset of one's own is read anew in every epoch"
    needed, free = _bytes(images), free_memory(device)
    if needed <= share * free:
        return ""
    of = "" if share == 1 else f"{share:.0%} of "
    return f"its images take {in_bytes(needed)}, more than {of}the {in_bytes(free)} free on {device}"


def _not_dali(images: ImageSet, device: torch.device) -> str:
    if any(isinstance(samples, Items) for samples in _splits(images)):
        return "a Dataset of one's own needs the torch loader"
    return _missing(device)


@cache
def _missing(device: torch.device) -> str:
    """Why DALI cannot run there; empty where it can deliver one small batch."""
    if find_spec("nvidia") is None or find_spec("nvidia.dali") is None:
        return "DALI is not installed: pip install nvidia-dali-cuda130"
    tiny = Images(images=torch.zeros(1, 1, 4, 4, dtype=torch.uint8), labels=torch.zeros(1, dtype=torch.int64))
    try:
        loader = DaliLoader(tiny, batch=1, mean=(0.0,), std=(1.0,), train=False, device=device)
        list(loader.batches(0))
    except Exception as error:  # DALI raises RuntimeError for whatever a driver or a device lacks
        return f"DALI does not run on {device}: {' '.join(str(error).split())[:200]}"
    return ""


def _splits(images: ImageSet) -> Sequence[Source]:
    return [samples for samples in (images.train, images.test, images.val) if samples is not None]


def _bytes(images: ImageSet) -> int:
    """Of all splits decoded; all images have the first one's shape."""
    shape = image_shape(images.train, centre_crop=images.centre_crop, size=images.size)
    return sum(map(len, _splits(images))) * shape[0] * shape[1] * shape[2]


def free_memory(device: torch.device) -> int:
    """Bytes that may still be taken, on a GPU or on the host (within its control group's limit)."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    try:
        limit, used = ((CGROUP / f"memory.{name}").read_text() for name in ("max", "current"))
        return min(free, int(limit) - int(used))
    except (OSError, ValueError):  # no such group, or "max": no limit
        return free


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _place(device: torch.device) -> str:
    return f"the {in_bytes(free_memory(device))} free on {device}"


def in_bytes(number: int) -> str:
    """A number of bytes for people, in powers of 1024."""
    power = next((power for power in (30, 20, 10) if number >= 1 << power), 0)
    value = number / (1 << power)
    return f"{value:{'.3g' if value < 999.5 else '.0f'}} {['B', 'KiB', 'MiB', 'GiB'][power // 10]}"
