from __future__ import annotations

import os
import random
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from litfast.data import Batch, Loader, ResidentLoader
from litfast.data.sets.image_set import Files, Images, Members
from litfast.data.sets.items import Items
from litfast.data.torch_loader import TorchLoader

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
SIZE = (6, 8)  # H, W
N = 22


def arrays(n: int = N) -> Images:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (n, 3, *SIZE), generator=generator, dtype=torch.uint8)
    return Images(images=pixels, labels=torch.arange(n))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """The same images as PNG files."""
    images = arrays()
    for i, pixels in enumerate(images.images):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(tmp_path / f"{i}.png")
    return Files(root=tmp_path, paths=tuple(f"{i}.png" for i in range(N)), labels=images.labels)


def members(files: Files, tar: Path) -> Members:
    """The same files in one archive."""
    with tarfile.open(tar, "w") as archive:
        for path in files.paths:
            archive.add(files.root / path, path)
    with tarfile.open(tar) as archive:
        found = archive.getmembers()
    return Members(
        tars=(tar,),
        tar=torch.zeros(N, dtype=torch.int64),
        offset=torch.tensor([member.offset_data for member in found]),
        size=torch.tensor([member.size for member in found]),
        keys=tuple(str(i) for i in range(N)),
        labels=files.labels,
    )


class Pictures:
    """A Dataset of one's own over the same images; `form` says what an item's image is."""

    def __init__(self, form: Callable[[Tensor], Any]) -> None:
        self._images, self._form = arrays(), form

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> Any:
        return self._form(self._images.images[i]), i


OPTIONS: dict[str, Any] = {"batch": 5, "mean": MEAN, "std": STD, "train": True, "crop": 2, "flip": True}


def loader(samples: Any, **options: Any) -> TorchLoader:
    return TorchLoader(samples, **{**OPTIONS, **options})


def same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a.images, b.images) and torch.equal(a.target, b.target)
        for a, b in zip(one, other, strict=True)
    )


def resident(**options: Any) -> ResidentLoader:
    images = arrays()
    return ResidentLoader(images.images, images.labels, **{**OPTIONS, **options})


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("options", [{}, {"train": False}, {"shard_id": 1, "num_shards": 2, "seed": 4}])
def test_images_files_and_members_give_the_resident_loaders_batches(
    options: dict[str, Any], workers: int, files: Files, tmp_path: Path
) -> None:
    expected = list(resident(**options).batches(3))
    for samples in (arrays(), files, members(files, tmp_path / "all.tar")):
        made: Loader = loader(samples, workers=workers, **options)
        assert (made.samples, len(made), made.steps) == (N, N, len(expected))
        assert same(list(made.batches(3)), expected)


FORMS: dict[str, Callable[[Tensor], Any]] = {
    "PIL": lambda pixels: Image.fromarray(pixels.permute(1, 2, 0).numpy()),
    "tensor, channels first": lambda pixels: pixels,
    "tensor, channels last": lambda pixels: pixels.permute(1, 2, 0),
    "array, channels first": lambda pixels: pixels.numpy(),
    "array, channels last": lambda pixels: pixels.permute(1, 2, 0).numpy(),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_dataset_of_ones_own_gives_the_resident_loaders_batches(form: Callable[[Tensor], Any]) -> None:
    ours = loader(Items(dataset=Pictures(form)), workers=2).batches(1)
    assert same(list(ours), list(resident().batches(1)))


def test_floats_are_cropped_flipped_and_normalised_as_bytes_are() -> None:
    made = loader(Items(dataset=Pictures(lambda pixels: pixels.double() / 255)))
    for ours, expected in zip(made.batches(1), resident().batches(1), strict=True):
        torch.testing.assert_close(ours.images, expected.images)
        assert torch.equal(ours.target, expected.target)
        assert ours.images.is_contiguous(memory_format=torch.channels_last)


def noisy(pixels: Tensor) -> Tensor:
    """An augmentation of the user's, from three generators."""
    shift = torch.randint(50, ()).item() + np.random.randint(50) + random.randrange(50)
    return (pixels // 2 + shift).to(torch.uint8)


def test_a_datasets_own_randomness_follows_seed_epoch_and_sample_for_any_workers() -> None:
    made = {workers: loader(Items(dataset=Pictures(noisy)), workers=workers) for workers in (0, 1, 2)}
    epochs = {workers: [list(one.batches(epoch)) for epoch in (0, 1)] for workers, one in made.items()}
    assert same(epochs[0][0], epochs[1][0]) and same(epochs[0][1], epochs[2][1])
    assert same(
        list(loader(Items(dataset=Pictures(noisy)), crop=0, flip=False).batches(0, 2)),
        list(loader(Items(dataset=Pictures(noisy)), crop=0, flip=False).batches(0))[2:],
    )
    by_sample = [
        {int(t): image for batch in epoch for t, image in zip(batch.target, batch.images, strict=True)}
        for epoch in (
            list(loader(Items(dataset=Pictures(noisy)), crop=0, flip=False).batches(e)) for e in (0, 1)
        )
    ]
    shared = by_sample[0].keys() & by_sample[1].keys()
    assert sum(torch.equal(by_sample[0][i], by_sample[1][i]) for i in shared) < len(shared) / 4


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_draws_nothing_from_the_trainings_generators(workers: int) -> None:
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    expected = torch.rand(()), np.random.rand(), random.random()
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    list(loader(Items(dataset=Pictures(noisy)), workers=workers).batches(0))
    assert (torch.rand(()), np.random.rand(), random.random()) == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_begun_in_its_middle_goes_on_to_the_bit(workers: int, files: Files) -> None:
    made = loader(files, workers=workers)
    assert same(list(made.batches(2, 3)), list(made.batches(2))[3:])
    assert list(made.batches(2, made.steps)) == []


def test_an_epoch_that_is_left_early_does_not_disturb_the_next(files: Files) -> None:
    made = loader(files, workers=2)
    expected = list(made.batches(1))
    next(iter(made.batches(0)))
    assert same(list(made.batches(1)), expected)


@pytest.mark.parametrize(
    "form", [lambda pixels: pixels, lambda pixels: pixels / 255], ids=["bytes", "floats"]
)
def test_every_batch_is_written_to_the_given_tensors(form: Callable[[Tensor], Any]) -> None:
    made = loader(Items(dataset=Pictures(form)))
    expected = list(made.batches(0))
    place = Batch(*(torch.empty_like(tensor) for tensor in expected[0]))
    for ours, theirs in zip(made.batches(0, copy_into=place), expected, strict=True):
        assert ours.images is place.images and ours.target is place.target
        assert same([ours], [theirs])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_dtype_and_layout_are_those_asked_for(dtype: torch.dtype) -> None:
    for form in (lambda pixels: pixels, lambda pixels: pixels / 255):
        batch = next(iter(loader(Items(dataset=Pictures(form)), dtype=dtype, channels_last=False).batches(0)))
        assert batch.images.dtype == dtype and batch.images.is_contiguous()


def test_attributes_are_padded_in_every_column() -> None:
    images = arrays()
    labels = torch.stack([images.labels, images.labels % 2], dim=1)
    samples = Images(images=images.images, labels=labels)
    *_, last = loader(samples, train=False).batches(0)
    assert last.target.tolist() == [[20, 0], [21, 1], *[[-100, -100]] * 3]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", ["truncated", "text", "missing"])
def test_a_bad_file_is_named_in_one_line(damage: str, workers: int, files: Files) -> None:
    made = loader(files, workers=workers)
    bad = files.root / "7.png"
    if damage == "missing":
        bad.unlink()
    else:
        bad.write_bytes(bad.read_bytes()[:60] if damage == "truncated" else b"no image")
    with pytest.raises((ValueError, OSError), match=r"/7\.png must be") as caught:
        list(made.batches(0))
    assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)


def test_a_file_of_another_size_is_named(files: Files) -> None:
    Image.new("RGB", (9, 9)).save(files.root / "7.png")
    with pytest.raises(ValueError, match=r"7\.png must be 8x6 pixels as the other images are, got 9x9"):
        list(loader(files).batches(0))
    assert len(list(loader(files, size=4).batches(0))) == 4


def test_an_item_of_another_size_is_named() -> None:
    def grown(pixels: Tensor) -> Tensor:
        return pixels[:, :, :7] if pixels[0, 0, 0] == arrays().images[3, 0, 0, 0] else pixels

    with pytest.raises(ValueError, match=r"^data: sample 3 of Pictures must be 3x6x8 as .* got 3x6x7$"):
        list(loader(Items(dataset=Pictures(grown))).batches(0))


def test_a_dataset_that_fails_is_told_with_its_own_line() -> None:
    def fail(pixels: Tensor) -> Tensor:
        if pixels[0, 0, 0] == arrays().images[3, 0, 0, 0]:
            raise ZeroDivisionError("division by zero")
        return pixels

    rule = (
        r"sample 3 of Pictures must be readable, got ZeroDivisionError: division by zero \(.*py, line \d+\)$"
    )
    with pytest.raises(ValueError, match=rule):
        list(loader(Items(dataset=Pictures(fail)), workers=1, train=False).batches(0))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is nothing to kill with")
def test_a_killed_worker_is_one_clear_line() -> None:
    here = os.getpid()

    def kill(pixels: Tensor) -> Tensor:
        if os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return pixels

    with pytest.raises(OSError, match=r"^TorchLoader: a worker must live .* got process \d+ that was killed"):
        list(loader(Items(dataset=Pictures(kill)), workers=1).batches(0))


def test_a_signal_to_the_trainings_group_leaves_its_workers_alone() -> None:
    """torchrun sends SIGTERM to the group; the training goes on to its next step and a checkpoint."""
    here, group = os.getpid(), os.getpgrp()

    def check(pixels: Tensor) -> Tensor:
        assert os.getpid() == here or os.getpgrp() != group
        return pixels

    assert len(list(loader(Items(dataset=Pictures(check)), workers=1).batches(0))) > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch must be at least 1"),
        ({"batch": 23}, "batch must be at most the 22 training samples, got 23"),
        ({"batch": 12, "num_shards": 2}, "batch must be at most the 22 training samples over 2 shards"),
        ({"shard_id": 1}, r"shard_id must lie in \[0, 1\), the shards, got 1"),
        ({"workers": -1}, "workers must be at least 0, got -1"),
        ({"mean": (0.5,)}, "mean must hold 3 numbers, one a channel, got 1"),
        ({"size": 4}, "centre_crop and size must be none for samples that are decoded"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^TorchLoader: {message}"):
        loader(arrays(), **options)


def test_a_set_without_samples_is_refused(files: Files) -> None:
    with pytest.raises(ValueError, match="must hold at least one sample, got none"):
        loader(files.at(torch.arange(0)), train=False)
