"""Small files in the official binary layouts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from litfast.data import load


def record(label_bytes: list[int], fill: int) -> bytes:
    """One record: its pixels are three planes (red, green, blue), red counting up from `fill`."""
    red = bytes((fill + i) % 256 for i in range(1024))
    return bytes(label_bytes) + red + bytes([7]) * 1024 + bytes([9]) * 1024


@pytest.fixture
def cifar10(tmp_path: Path) -> Path:
    (tmp_path / "data_batch_1.bin").write_bytes(record([3], 0) + record([9], 1))
    (tmp_path / "data_batch_2.bin").write_bytes(record([0], 2))
    (tmp_path / "test_batch.bin").write_bytes(record([5], 3))
    return tmp_path


@pytest.fixture
def cifar100(tmp_path: Path) -> Path:
    (tmp_path / "train.bin").write_bytes(record([19, 99], 0) + record([2, 7], 1))
    (tmp_path / "test.bin").write_bytes(record([0, 50], 2))
    return tmp_path


def test_records_become_images_and_labels_in_the_files_order(cifar10: Path) -> None:
    cifar = load("cifar10", cifar10)
    assert cifar.train.labels.tolist() == [3, 9, 0] and cifar.test.labels.tolist() == [5]
    assert cifar.train.images.shape == (3, 3, 32, 32)
    for index, image in enumerate(cifar.train.images):
        red = (torch.arange(1024) + index).remainder(256).view(32, 32)
        assert torch.equal(image[0].long(), red)
        assert (image[1] == 7).all() and (image[2] == 9).all()


def test_the_normalisation_is_that_of_the_published_checkpoints(cifar10: Path) -> None:
    cifar = load("cifar10", cifar10)
    assert (cifar.mean, cifar.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (cifar.crop, cifar.flip, cifar.val) == (4, True, None)


def test_cifar100_reads_the_fine_label(cifar100: Path) -> None:
    cifar = load("cifar100", cifar100)
    assert cifar.train.labels.tolist() == [99, 7] and cifar.test.labels.tolist() == [50]
    assert len(cifar.classes) == 100
    assert int(cifar.train.images[1, 0, 0, 0]) == 1


def test_class_names_come_from_the_meta_file_if_it_is_there(cifar10: Path) -> None:
    assert load("cifar10", cifar10).classes == tuple("0123456789")
    (cifar10 / "batches.meta.txt").write_text("\n".join("abcdefghij") + "\n\n")
    assert load("cifar10", cifar10).classes == tuple("abcdefghij")


def without(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        for path in folder.glob(name):
            path.unlink()

    return spoil


def cut(folder: Path) -> None:
    path = folder / "data_batch_1.bin"
    path.write_bytes(path.read_bytes()[:-100])


def emptied(folder: Path) -> None:
    (folder / "test_batch.bin").write_bytes(b"")


def mislabelled(folder: Path) -> None:
    (folder / "test_batch.bin").write_bytes(record([1], 0) + record([11], 0))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            without("test*"),
            r"{folder} must hold data_batch_\*\.bin and test_batch\.bin or .*, got data_batch_1.bin, data_ba",
        ),
        (
            without("data*"),
            r"{folder} must hold data_batch_\*\.bin and test_batch\.bin or .*, got test_batch\.bin",
        ),
        (without("*"), r"{folder} must hold data_batch_\*\.bin and test_batch\.bin or .*, got neither"),
        (
            cut,
            r"{folder}/data_batch_1\.bin must be a multiple of 3073 bytes, got 6046 bytes; it is truncated",
        ),
        (emptied, r"{folder}/test_batch\.bin must be a multiple of 3073 bytes, got 0 bytes"),
        (mislabelled, r"labels of {folder}/test_batch\.bin must be below 10, got 11 in record 1"),
    ],
)
def test_a_spoilt_folder_is_named_with_what_was_expected(
    spoil: Callable[[Path], None], message: str, cifar10: Path
) -> None:
    spoil(cifar10)
    with pytest.raises(ValueError, match="cifar10: .*" + message.format(folder=cifar10)):
        load("cifar10", cifar10)


def test_a_missing_cifar100_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=rf"cifar100: {tmp_path}/no must hold train\.bin and test\.bin or train and test, got neither",
    ):
        load("cifar100", tmp_path / "no")


def test_a_cifar10_file_is_no_cifar100_file(cifar100: Path) -> None:
    (cifar100 / "train.bin").write_bytes(record([1], 0))
    with pytest.raises(ValueError, match=r"train\.bin must be a multiple of 3074 bytes, got 3073 bytes"):
        load("cifar100", cifar100)
