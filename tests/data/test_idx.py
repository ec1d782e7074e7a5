"""Small IDX files under the official names."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from litfast.data import ImageSet
from litfast.data.sets.idx import fashion_mnist, mnist

SETS = pytest.mark.parametrize("read", [mnist, fashion_mnist])


def idx(shape: list[int], values: bytes, code: int = 8) -> bytes:
    return bytes([0, 0, code, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + values


def pixels(count: int) -> bytes:
    return bytes(i % 251 for i in range(count * 784))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, labels in (("train", [3, 9, 0]), ("t10k", [5, 1])):
        count = len(labels)
        (tmp_path / f"{split}-images-idx3-ubyte").write_bytes(idx([count, 28, 28], pixels(count)))
        (tmp_path / f"{split}-labels-idx1-ubyte").write_bytes(idx([count], bytes(labels)))
    return tmp_path


def pack(folder: Path) -> None:
    for path in list(folder.iterdir()):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()


def dotted(folder: Path) -> None:
    for path in list(folder.iterdir()):
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))


@SETS
@pytest.mark.parametrize(
    "change", [lambda folder: None, pack, dotted, lambda folder: (dotted(folder), pack(folder))]
)
def test_every_spelling_of_the_files_gives_the_same_samples(
    read: Callable[[Path], ImageSet], change: Callable[[Path], object], folder: Path
) -> None:
    change(folder)
    found = read(folder)
    assert found.train.labels.tolist() == [3, 9, 0] and found.test.labels.tolist() == [5, 1]
    assert found.train.labels.dtype == torch.int64 and found.train.images.dtype == torch.uint8
    assert found.train.images.shape == (3, 1, 28, 28)
    assert torch.equal(found.train.images.flatten().long(), torch.arange(3 * 784) % 251)
    assert found.name == read.__name__ and len(found.classes) == 10 and found.val is None


def test_digits_are_not_mirrored_and_clothes_are(folder: Path) -> None:
    assert (mnist(folder).crop, mnist(folder).flip) == (2, False)
    assert (fashion_mnist(folder).crop, fashion_mnist(folder).flip) == (4, True)
    assert fashion_mnist(folder).classes[9] == "Ankle boot"


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
WHOLE = idx([3, 28, 28], pixels(3))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (IMAGES, WHOLE[:-1], r"must hold the 2352 bytes .* for \[3, 28, 28\], got 2351"),
        (IMAGES, WHOLE + b"x", "must hold the 2352 bytes .*, got more"),
        (IMAGES, WHOLE[:10], "must hold the .* bytes .*, got 0"),
        (IMAGES, b"", "must begin with the IDX magic 00000803, got nothing"),
        (IMAGES, idx([3], bytes(3)), "must begin with the IDX magic 00000803, got 00000801"),
        (
            IMAGES,
            idx([3, 28, 28], pixels(3), code=13),
            "must begin with the IDX magic 00000803, got 00000d03",
        ),
        (IMAGES, gzip.compress(WHOLE), "must begin with the IDX magic 00000803, got 1f8b08"),
        (IMAGES, idx([3, 14, 56], pixels(3)), "must hold images of 28x28 pixels, got 14x56"),
        (IMAGES, idx([2**32 - 1, 28, 28], pixels(3)), "must hold the 3367254359280 bytes .*, got 2352"),
        (IMAGES, idx([0, 28, 28], b""), r"must hold the 0 bytes \(1 at least\)"),
        (LABELS, idx([2], bytes(2)), f"must hold a label for each of the 3 images of {IMAGES}, got 2"),
        (LABELS, idx([3], bytes([1, 10, 2])), "must be below 10, got 10 at 1"),
    ],
)
@SETS
def test_a_spoilt_file_is_named_with_the_rule(
    read: Callable[[Path], ImageSet], name: str, content: bytes, message: str, folder: Path
) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{read.__name__}: .*{folder}/{name} {message}"):
        read(folder)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda packed: packed[:-200],
        lambda packed: packed[:-8],
        lambda packed: packed[:200] + bytes(30) + packed[230:],
        lambda packed: b"plain" + packed,
    ],
    ids=["cut", "without checksum", "overwritten", "no gzip"],
)
def test_a_spoilt_packed_file_is_named(spoil: Callable[[bytes], bytes], folder: Path) -> None:
    pack(folder)
    path = folder / f"{IMAGES}.gz"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"mnist: {path} must be a whole file, got: "):
        mnist(folder)


def test_a_packed_file_is_unpacked_no_further_than_its_header_says(folder: Path) -> None:
    pack(folder)
    path = folder / f"{IMAGES}.gz"
    path.write_bytes(gzip.compress(WHOLE + bytes(50 << 20)))
    with pytest.raises(ValueError, match=r"must hold the 2352 bytes .*, got more"):
        mnist(folder)


def test_a_missing_file_is_named_in_all_its_spellings(folder: Path) -> None:
    (folder / LABELS).unlink()
    rule = r"train-labels-idx1-ubyte, train-labels\.idx1-ubyte, .*ubyte\.gz"
    with pytest.raises(ValueError, match=rf"mnist: {folder} must hold one of {rule}, got none of them"):
        mnist(folder)


@pytest.mark.shared_data
def test_the_real_mnist_is_read_whole_and_its_normalisation_is_its_own(shared_data: Path) -> None:
    real = mnist(shared_data / "mnist")
    assert real.train.images.shape == (60_000, 1, 28, 28) and len(real.test) == 3_000
    assert real.train.labels[:5].tolist() == [5, 0, 4, 1, 9] and real.test.labels[:3].tolist() == [7, 2, 1]
    values = real.train.images.double() / 255
    assert round(float(values.mean()), 4) == real.mean[0] and round(float(values.std()), 4) == real.std[0]
