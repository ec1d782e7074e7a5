"""Batches of images from every loader and from what one would write without litfast, interleaved.

Contenders: "pil", torch's DataLoader with the augmentation of the published LIT code image by image (pad,
crop, flip, to tensor, normalise) and as many workers as there are cores; "torch", "dali" and "resident",
litfast's loaders; "batched crop", the usual loader of a set that stays on the device (pad once, gather a
window an image, flip by a mask, normalise), as in cifar10-airbench. All deliver fp32. Images of "arrays" lie
in memory, those of "jpeg" in a folder of JPEG files. A run is RUN batches in the middle of an epoch; what a
loader has prefetched when the clock starts is part of it, PREFETCHED batches of RUN at most. A folder of
100,000 files shows how long a loader takes to its first batch, and that its memory stays flat.
"""

from __future__ import annotations

import gc
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from litfast.bench.interleave import Run, interleave
from litfast.data.dali import DaliLoader
from litfast.data.loader import Batch, Loader
from litfast.data.resident import ResidentLoader
from litfast.data.sets.image_folder import image_folder
from litfast.data.sets.image_set import Files, Images
from litfast.data.torch_loader import TorchLoader
from litfast.engine.trial import reason

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CORES = len(os.sched_getaffinity(0))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CROP = 4
RUN, PREFETCHED = 48, 4
SECONDS = 20.0  # a case: all contenders together
GATE = 0.1  # between means of 1,000 images or more, deviations of one pixel's order
PAUSE = 0.3  # workers fill their queues again
FOLDER, EPOCHS, EPOCH_STEPS = 100_000, 4, 200  # files; epochs, of each the last steps
GROWTH = 1.1  # of what a process holds, from the first epoch to any later one
SAMPLES = {"arrays": 50_000, "jpeg": 10_000}

Maker = Callable[[], Iterator[Batch]]


@dataclass(frozen=True, kw_only=True)
class Case:
    source: str
    batch: int

    def __str__(self) -> str:
        return f"{self.source} 32x32 B={self.batch}"


CASES = (Case(source="arrays", batch=128), Case(source="arrays", batch=1024), Case(source="jpeg", batch=128))


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Images | Files]:
    """Smooth random images, in memory and as JPEG files of quality 75."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(SAMPLES["arrays"], 3, 8, 8, generator=generator)
    images = torch.cat(
        [(255 * F.interpolate(part, 32, mode="bicubic")).clamp(0, 255).byte() for part in coarse.split(5000)]
    )
    labels = torch.arange(len(images)) % 10
    root = tmp_path_factory.mktemp("jpeg")
    paths = tuple(f"{i:05}.jpg" for i in range(SAMPLES["jpeg"]))
    for path, image in zip(paths, images, strict=False):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(root / path, quality=75)
    files = Files(root=root, paths=paths, labels=labels[: len(paths)].clone())
    return {"arrays": Images(images=images, labels=labels), "jpeg": files}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_loader(request: pytest.FixtureRequest, case: Case, samples: dict[str, Images | Files]) -> None:
    iterators, absent = present(makers(case, samples[case.source]), case)
    try:
        measure(request, case, iterators, absent)
    finally:
        iterators.clear()
        gc.collect()


@pytest.mark.parametrize("name", ["dali", "torch"])
def test_start_of_a_large_folder(request: pytest.FixtureRequest, name: str, large: Path) -> None:
    """From the name of a folder to the first batch; then what the process holds after each of some epochs."""
    makers: dict[str, Callable[..., Loader]] = {
        "dali": DaliLoader,
        "torch": partial(TorchLoader, workers=CORES),
    }
    loaders: list[Loader] = []

    def start() -> Batch:
        files = image_folder(large).train
        options: dict[str, Any] = {"batch": 128, "mean": MEAN, "std": STD, "train": True, "device": DEVICE}
        loaders.append(makers[name](files, **options))
        return next(loaders[-1].batches(0))

    try:
        start()
    except ValueError as error:  # DALI is not installed
        pytest.skip(reason(error))
    benchmark: BenchmarkFixture = request.getfixturevalue("benchmark")  # unused, it would complain
    benchmark.group = f"start of a folder of {FOLDER:,} files"
    benchmark.pedantic(start, rounds=3)
    held = []
    for epoch in range(EPOCHS):
        for _ in loaders[-1].batches(epoch, loaders[-1].steps - EPOCH_STEPS):
            pass
        held.append(resident_bytes())
    benchmark.extra_info.update(contender=name, resident_bytes=held)
    assert max(held) <= GROWTH * held[0], f"resident bytes after each epoch: {held}"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FOLDER links to ten JPEG files, one a class: a file system has a limit of links to one."""
    root = tmp_path_factory.mktemp("large")
    for split, files in (("train", FOLDER), ("test", 10)):
        for label in range(10):
            (root / split / str(label)).mkdir(parents=True)
            Image.new("RGB", (32, 32), (20 * label, 120, 30)).save(root / f"{label}.jpg")
        for i in range(files):
            (root / split / str(i % 10) / f"{i:06}.jpg").hardlink_to(root / f"{i % 10}.jpg")
    return root


def resident_bytes() -> int:
    """What this process holds in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def measure(
    request: pytest.FixtureRequest, case: Case, iterators: dict[str, Iterator[Batch]], absent: dict[str, str]
) -> None:
    """Rounds of all contenders; ours is the fastest loader that serves the case."""
    runs: dict[str, Run] = {name: partial(run, iterator) for name, iterator in iterators.items()}
    ours = "resident" if "resident" in runs else "dali"
    others = {name: run for name, run in runs.items() if name != ours}
    benchmark: BenchmarkFixture = request.getfixturevalue("benchmark")  # unused, it would complain
    benchmark.group = str(case)
    rows = interleave(benchmark, runs[ours], others, device=DEVICE, seconds=SECONDS, pause=PAUSE)
    median: float = benchmark.stats.stats.median  # type: ignore[union-attr]  # set by pedantic
    benchmark.extra_info.update(contender=ours, images_per_s=RUN * case.batch / median, absent=absent)
    for row in rows:
        row.update(images_per_s=1000 * RUN * case.batch / row["median_ms"])
    benchmark.extra_info["against"] = rows


def run(batches: Iterator[Batch]) -> None:
    """RUN batches; each is dropped when the next one comes."""
    for _ in range(RUN):
        next(batches)


def makers(case: Case, samples: Images | Files) -> dict[str, Maker | str]:
    """By name, how a contender's endless batches are made; or why it does not serve the case."""
    augmented = {"batch": case.batch, "mean": MEAN, "std": STD, "train": True, "crop": CROP, "flip": True}
    common: dict[str, Any] = {**augmented, "device": DEVICE}
    found: dict[str, Maker | str] = {
        "pil": lambda: published(samples, case.batch),
        "torch": lambda: endless(TorchLoader(samples, workers=CORES, **common)),
        "dali": lambda: endless(DaliLoader(samples, **common)),
    }
    if isinstance(samples, Images):
        found["resident"] = lambda: endless(ResidentLoader(samples.images, samples.labels, **common))
        found["batched crop"] = lambda: batched_crop(samples, case.batch)
    else:
        found |= dict.fromkeys(("resident", "batched crop"), "its images are decoded once, before training")
    return found


def present(found: dict[str, Maker | str], case: Case) -> tuple[dict[str, Iterator[Batch]], dict[str, str]]:
    """The contenders that run here, each after batches that look like those of "pil"; the absent ones."""
    iterators: dict[str, Iterator[Batch]] = {}
    absent: dict[str, str] = {}
    expected: Tensor | None = None  # mean and deviation of all, mean of the first row and column: of "pil"
    for name, maker in found.items():
        if isinstance(maker, str):
            absent[name] = maker
            continue
        try:
            iterators[name] = maker()
            batches = [next(iterators[name]) for _ in range(2 * PREFETCHED)]
        except ValueError as error:  # a library that is not installed
            absent[name] = reason(error)
            iterators.pop(name, None)
            continue
        seen = torch.cat([batch.images for batch in batches])
        assert seen.shape == (2 * PREFETCHED * case.batch, 3, 32, 32) and seen.dtype == torch.float32
        found_by = torch.stack([seen.mean(), seen.std(), seen[:, :, 0].mean(), seen[..., 0].mean()]).cpu()
        expected = found_by if expected is None else expected
        assert torch.allclose(found_by, expected, atol=GATE), f"{name}: {found_by}, pil: {expected}"
    return iterators, absent


def endless(loader: Loader) -> Iterator[Batch]:
    for epoch in count():
        yield from loader.batches(epoch)


class Published(Dataset[tuple[Tensor, int]]):
    """An image at a time, as torchvision's RandomCrop, RandomHorizontalFlip, ToTensor and Normalize do."""

    def __init__(self, samples: Images | Files) -> None:
        self.samples = samples
        self.mean, self.std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        if isinstance(self.samples, Images):
            image = Image.fromarray(self.samples.images[i].permute(1, 2, 0).numpy())
        else:
            image = Image.open(io.BytesIO(self.samples.read(i))).convert("RGB")
        image = ImageOps.expand(image, CROP)
        top, left = torch.randint(2 * CROP + 1, (2,)).tolist()
        image = image.crop((left, top, left + 32, top + 32))
        if torch.rand(1) < 0.5:
            image = ImageOps.mirror(image)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        return pixels.float().div(255).sub_(self.mean).div_(self.std), int(self.samples.labels[i])


def published(samples: Images | Files, batch: int) -> Iterator[Batch]:
    loader = DataLoader(
        Published(samples),
        batch_size=batch,
        shuffle=True,
        drop_last=True,
        num_workers=CORES,
        persistent_workers=True,
        pin_memory=DEVICE.type == "cuda",
    )
    while True:
        for images, target in loader:
            yield Batch(images.to(DEVICE, non_blocking=True), target.to(DEVICE, non_blocking=True))


def batched_crop(samples: Images, batch: int) -> Iterator[Batch]:
    """A permutation an epoch, all of its crops and flips at once per batch."""
    mean, std = (torch.tensor(values, device=DEVICE).view(1, 3, 1, 1) for values in (MEAN, STD))
    raw = F.pad(samples.images.to(DEVICE), (CROP,) * 4)
    padded = ((raw.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)
    labels = samples.labels.to(DEVICE)
    rows, columns = (
        torch.arange(32, device=DEVICE).view(1, 32, 1),
        torch.arange(32, device=DEVICE).view(1, 1, 32),
    )
    while True:
        order = torch.randperm(len(labels), device=DEVICE)
        for chosen in order.split(batch)[: len(labels) // batch]:
            top, left = torch.randint(2 * CROP + 1, (2, len(chosen), 1, 1), device=DEVICE)
            views = padded.permute(0, 2, 3, 1)[chosen.view(-1, 1, 1), rows + top, columns + left]
            images = views.permute(0, 3, 1, 2)
            flipped = torch.rand(len(chosen), 1, 1, 1, device=DEVICE) < 0.5
            yield Batch(torch.where(flipped, images.flip(-1), images), labels[chosen])
