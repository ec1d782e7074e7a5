from __future__ import annotations

import io
import tarfile
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from litfast.data.dali import DaliLoader
from litfast.data.sets.image_set import Files, Images, Samples

pytest.importorskip("nvidia.dali", reason="nvidia.dali is not installed (pip install 'litfast[dali]')")

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def pixels(n: int, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(n)
    return torch.randint(0, 256, (n, channels, 6, 5), generator=generator, dtype=torch.uint8)


def loader(samples: Samples, **options: Any) -> DaliLoader:
    return DaliLoader(samples, **{"mean": MEAN, "std": STD, "train": False, **options})


def normalised(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (MEAN, STD))
    return (images.float() / 255 - mean) / std


def close(one: Tensor, other: Tensor) -> bool:
    """Equal up to the rounding of another order of the same three operations."""
    return bool(torch.allclose(one, other, rtol=0, atol=1e-6))


def test_gray_arrays_and_gray_files_are_served(tmp_path: Path) -> None:
    raw = pixels(20, channels=1)
    made = loader(Images(images=raw, labels=torch.arange(20)), batch=20, mean=(0.5,), std=(0.2,))
    assert close(next(made.batches(0)).images, (raw.float() / 255 - 0.5) / 0.2)
    for i in range(2):
        Image.fromarray(raw[i, 0].numpy()).save(tmp_path / f"{i}.png")
    files = Files(root=tmp_path, paths=("0.png", "1.png"), labels=torch.arange(2))
    batch = next(loader(files, batch=2).batches(0))
    assert close(batch.images, normalised(raw[:2].expand(-1, 3, -1, -1)))


@pytest.mark.parametrize("shape", [(30, 25), (25, 40), (47, 33), (20, 20)])
def test_an_image_is_cut_to_its_middle_and_resized_as_pillow_does_it(
    shape: tuple[int, int], tmp_path: Path
) -> None:
    generator = np.random.default_rng(sum(shape))
    coarse = Image.fromarray(generator.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    image = coarse.resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
    image.save(tmp_path / "0.png")
    files = Files(root=tmp_path, paths=("0.png",), labels=torch.zeros(1, dtype=torch.int64))
    side = 20
    left, top = (image.width - side) // 2, (image.height - side) // 2
    middle = image.crop((left, top, left + side, top + side))
    short = min(shape)
    left_, top_ = (image.width - short) / 2, (image.height - short) / 2
    small = image.resize((9, 9), Image.Resampling.BILINEAR, box=(left_, top_, left_ + short, top_ + short))
    both = middle.resize((9, 9), Image.Resampling.BILINEAR)
    options = {"mean": (0.0,) * 3, "std": (1 / 255,) * 3, "batch": 1}
    cases = [({"centre_crop": side}, middle), ({"size": 9}, small), ({"centre_crop": side, "size": 9}, both)]
    for given, wanted in cases:
        (batch,) = loader(files, **options, **given).batches(0)
        got = batch.images[0].permute(1, 2, 0)
        off = (got - torch.from_numpy(np.array(wanted)).float()).abs()
        # at the border DALI repeats the last pixel, and Pillow leaves out what lies beyond
        inside, border = (2.001, 8) if "size" in given else (1e-3, 1e-3)
        assert off[1:-1, 1:-1].max() <= inside and off.max() <= border, given


@pytest.mark.shared_data
def test_jpeg_files_decode_as_pillow_decodes_them(shared_data: Path, tmp_path: Path) -> None:
    with tarfile.open(shared_data / "cifar10-jpeg.tar.xz") as tar:
        jpegs = list(islice((member for member in tar if member.name.endswith(".jpg")), 20))
        for i, member in enumerate(jpegs):
            content = tar.extractfile(member)
            assert content is not None
            (tmp_path / f"{i}.jpg").write_bytes(content.read())
    files = Files(root=tmp_path, paths=tuple(f"{i}.jpg" for i in range(20)), labels=torch.arange(20))
    decoded = [np.array(Image.open(io.BytesIO(files.read(i)))) for i in range(20)]
    wanted = torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2)
    assert close(next(loader(files, batch=20).batches(0)).images, normalised(wanted))


def test_a_turned_photograph_is_delivered_upright(tmp_path: Path) -> None:
    raw = pixels(1)[0]
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    turned = raw.rot90(1, (1, 2)).permute(1, 2, 0).contiguous()
    Image.fromarray(turned.numpy()).save(tmp_path / "0.png", exif=exif)
    files = Files(root=tmp_path, paths=("0.png",), labels=torch.zeros(1, dtype=torch.int64))
    assert close(next(loader(files, batch=1).batches(0)).images[0], normalised(raw))


def test_a_relative_root_is_that_of_the_loaders_making(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    Image.fromarray(pixels(1)[0].permute(1, 2, 0).contiguous().numpy()).save(tmp_path / "0.png")
    monkeypatch.chdir(tmp_path)
    made = loader(Files(root=Path(), paths=("0.png",), labels=torch.zeros(1, dtype=torch.int64)), batch=1)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert close(next(made.batches(0)).images, normalised(pixels(1)))
