"""Folders of images: what is found, in which order, and what is refused. No image is opened to list one."""

from __future__ import annotations

import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from litfast.data.decode import decode_all
from litfast.data.sets.image_folder import image_folder
from litfast.data.sets.image_set import Files


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    touch(tmp_path, "train/dog/2.jpg", "train/dog/1.JPG", "train/cat/b.jpeg", "train/cat/a.Png")
    touch(tmp_path, "train/ant/deep/er/x.webp", "train/ant/y.bmp")
    touch(tmp_path, "test/dog/9.jpg", "test/cat/9.tiff", "test/ant/9.ppm")
    return tmp_path


def paths(files: object) -> list[str]:
    assert isinstance(files, Files)
    return list(files.paths)


def test_classes_are_numbered_by_name_and_files_sorted_within(folder: Path) -> None:
    found = image_folder(folder)
    assert found.classes == ("ant", "cat", "dog")
    assert paths(found.train) == [
        "train/ant/deep/er/x.webp",
        "train/ant/y.bmp",
        "train/cat/a.Png",
        "train/cat/b.jpeg",
        "train/dog/1.JPG",
        "train/dog/2.jpg",
    ]
    assert found.train.labels.tolist() == [0, 0, 1, 1, 2, 2] and found.train.labels.dtype == torch.int64
    assert paths(found.test) == ["test/ant/9.ppm", "test/cat/9.tiff", "test/dog/9.jpg"]
    assert isinstance(found.train, Files) and found.train.name(5) == str(folder / "train/dog/2.jpg")
    assert (found.val, found.size, found.centre_crop, found.flip) == (None, None, None, True)
    assert (found.mean, found.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert image_folder(str(folder), size=64).size == 64


def test_other_and_hidden_files_are_passed_over(folder: Path) -> None:
    before = image_folder(folder)
    touch(folder, "train/README.md", "train/dog/labels.txt", "train/dog/._1.jpg", "train/.git/x.jpg")
    touch(folder, "train/cat/.hidden/x.jpg", ".DS_Store", "train/.z.jpg")
    after = image_folder(folder)
    assert paths(after.train) == paths(before.train) and after.classes == before.classes


@pytest.mark.parametrize("name", ["val", "valid"])
def test_val_is_the_test_split_where_there_is_no_other(name: str, folder: Path) -> None:
    touch(folder, *(f"{name}/{kind}/v.png" for kind in ("ant", "cat", "dog")))
    both = image_folder(folder)
    assert paths(both.val)[0] == f"{name}/ant/v.png" and paths(both.test)[0] == "test/ant/9.ppm"
    (folder / "test").rename(folder / "unused")
    one = image_folder(folder)
    assert paths(one.test)[0] == f"{name}/ant/v.png" and one.val is None


def test_linked_folders_and_files_are_followed(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    touch(elsewhere, "e.jpg")
    (folder / "train/dog/linked").symlink_to(elsewhere)
    (folder / "train/dog/3.jpg").symlink_to(elsewhere / "e.jpg")
    assert paths(image_folder(folder).train)[-2:] == ["train/dog/3.jpg", "train/dog/linked/e.jpg"]


def removed(*names: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        for name in names:
            if (folder / name).is_dir():
                (folder / name).rename(folder / f"z{name.replace('/', '_')}")
            else:
                (folder / name).unlink()

    return spoil


def added(*names: str) -> Callable[[Path], None]:
    return lambda folder: touch(folder, *names)


def emptied(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (removed("test"), r"{0} must hold the folders train and test \(or val, or valid\), got train, ztest"),
        (removed("train"), r"{0} must hold the folders train and test .*, got test, ztrain"),
        (emptied, r"{0} must hold the folders train and test .*, got nothing"),
        (lambda folder: folder.rename(folder.with_name("away")), r"{0} must hold .*, got no folder"),
        (added("val/a/1.jpg", "valid/a/1.jpg"), r"{0} must hold .*, got both val and valid"),
        (removed("test/cat"), r"{0}/test must hold the class folder cat, as train does, got none"),
        (removed("train/cat"), r"{0}/test must hold no class folder cat, as train does, got one"),
        (removed("test/cat", "test/dog"), r"{0}/test must hold the class folder cat and 1 more, as train"),
        (removed("test/cat/9.tiff"), r"{0}/test/cat must hold at least 1 image \(\.jpg, .*\), got none"),
        (removed("train/cat/b.jpeg", "train/cat/a.Png"), r"{0}/train/cat must hold at least 1 image"),
        (added("train/stray.png"), r"{0}/train must hold its images in a folder a class, got stray\.png"),
        (
            lambda folder: (folder / "train/ant/deep/er/up").symlink_to(folder / "train/ant"),
            r"{0}/train/ant/deep/er/up must not lead back to a folder above it",
        ),
    ],
)
def test_a_spoilt_folder_is_named_with_the_rule(
    spoil: Callable[[Path], None], message: str, folder: Path
) -> None:
    spoil(folder)
    with pytest.raises(ValueError, match="image_folder: " + message.format(folder)):
        image_folder(folder)


def test_splits_of_empty_folders_are_named(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
    with pytest.raises(
        ValueError, match=rf"image_folder: {tmp_path}/train must hold a folder a class, got none"
    ):
        image_folder(tmp_path)


def test_a_size_below_one_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="image_folder: size must be at least 1, got 0"):
        image_folder(folder, size=0)


def test_what_is_no_image_shows_when_it_is_decoded(folder: Path) -> None:
    train = image_folder(folder).train
    assert isinstance(train, Files)
    with pytest.raises(
        ValueError, match=rf"decode: {folder}/train/ant/deep/er/x\.webp must be a readable image"
    ):
        decode_all(train)


@pytest.mark.slow
def test_a_hundred_thousand_files_are_listed_in_seconds(tmp_path: Path) -> None:
    for split, count in (("train", 990), ("test", 10)):
        for kind in range(100):
            below = tmp_path / split / f"{kind:03}"
            below.mkdir(parents=True)
            for i in range(count):
                (below / f"{i:06}.jpg").touch()
    start = time.perf_counter()
    found = image_folder(tmp_path)
    assert time.perf_counter() - start < 5
    assert len(found.train) == 99_000 and len(found.test) == 1_000


@pytest.mark.shared_data
def test_real_jpegs_are_listed_and_decoded(shared_data: Path, tmp_path: Path) -> None:
    with tarfile.open(shared_data / "cifar10-jpeg.tar.xz") as archive:
        for member in archive:  # the test split comes first
            if "/train/" in member.name:
                break
            if member.name.endswith(("/0000.jpg", "/0001.jpg")):
                archive.extract(member, tmp_path, filter="data")
    folder = tmp_path / "cifar10-jpeg"
    (folder / "train").symlink_to(folder / "test")
    found = image_folder(folder)
    assert len(found.classes) == 10 and isinstance(found.train, Files)
    images = decode_all(found.train).images
    assert images.shape == (20, 3, 32, 32) and images.float().std() > 30
