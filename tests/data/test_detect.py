"""Folders and archives told apart by their names, and by their first labels where names do not tell."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from litfast.data.detect import FASHION, LAYOUTS, MNIST, detect

FOLDERS = {
    "CIFAR-10, binary": ("cifar10", ["data_batch_1.bin", "test_batch.bin", "batches.meta.txt"]),
    "CIFAR-10, Python pickles": ("cifar10", ["data_batch_1", "data_batch_2", "test_batch", "batches.meta"]),
    "CIFAR-100, binary": ("cifar100", ["train.bin", "test.bin", "fine_label_names.txt"]),
    "CIFAR-100, Python pickles": ("cifar100", ["train", "test", "meta", "file.txt~"]),
    "IDX": ("mnist", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte"]),
    "CelebA": ("celeba", ["list_attr_celeba.txt", "img_align_celeba/000001.jpg"]),
    "Amazon reviews, CSV": ("amazon_polarity", ["train.csv", "test.csv", "readme.txt"]),
    "text corpus": ("text", ["train.txt", "valid.txt", "test.txt"]),
    "Penn Treebank": ("text", ["ptb.train.txt", "ptb.valid.txt", "ptb.test.txt", "ptb.char.train.txt"]),
    "WikiText": ("text", ["wiki.train.tokens", "wiki.valid.tokens.gz", "wiki.test.tokens"]),
    "image folder": ("image_folder", ["train/a/1.jpg", "train/b/1.JPEG", "test/a/2.png"]),
}


def fill(folder: Path, files: list[str]) -> Path:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(b"")
    return folder


def pack(archive: Path, files: list[str], top: str = "") -> Path:
    with tarfile.open(archive, f"w:{archive.suffix[1:].replace('tar', '')}") as opened:  # type: ignore[call-overload]
        for file in files:
            opened.addfile(tarfile.TarInfo(top + file))
    return archive


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_is_known_by_its_files(kind: str, tmp_path: Path) -> None:
    name, files = FOLDERS[kind]
    found = detect(fill(tmp_path / "set", files))
    assert (found.name, found.format, found.archive) == (name, kind, None)


@pytest.mark.parametrize("kind", FOLDERS)
@pytest.mark.parametrize("top", ["", "top/", "./top/"])
def test_an_archive_of_such_a_folder_is_known_and_said_to_be_one(kind: str, top: str, tmp_path: Path) -> None:
    name, files = FOLDERS[kind]
    found = detect(pack(tmp_path / "set.tar.gz", files, top))
    assert (found.name, found.format, found.archive) == (name, kind, "tar.gz")


def test_a_zip_archive_is_known_too(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        opened.writestr("top/train.bin", b"")
        opened.writestr("top/test.bin", b"")
    found = detect(tmp_path / "a.zip")
    assert (found.name, found.archive) == ("cifar100", "zip")


def test_every_layout_is_tried_here() -> None:
    assert {layout.format for layout in LAYOUTS} == {*FOLDERS, "webdataset"}


@pytest.mark.parametrize("packed", [False, True])
def test_mnist_and_fashion_mnist_differ_by_their_first_labels(packed: bool, tmp_path: Path) -> None:
    for name, labels in (("mnist", MNIST), ("fashion_mnist", FASHION)):
        folder = fill(tmp_path / labels.hex(), ["train-images-idx3-ubyte"])
        content = bytes([0, 0, 8, 1, 0, 0, 0, 10]) + labels
        file = folder / f"train-labels-idx1-ubyte{'.gz' if packed else ''}"
        file.write_bytes(gzip.compress(content) if packed else content)
        assert detect(folder).name == name
    folder = fill(tmp_path / "FashionMNIST", FOLDERS["IDX"][1])
    assert detect(folder).name == "fashion_mnist"


def test_the_amazon_sets_differ_by_their_classes(tmp_path: Path) -> None:
    folder = fill(tmp_path, ["train.csv", "test.csv"])
    (folder / "train.csv").write_text('"2","good","yes ""5"" stars"\n"1","bad","no"\n')
    assert detect(folder).name == "amazon_polarity"
    (folder / "train.csv").write_text('"2","good","yes"\n"5","best","no"\n')
    assert detect(folder).name == "amazon_full"


def shard(path: Path, names: list[str]) -> Path:
    with tarfile.open(path, "w") as opened:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 1
            opened.addfile(info, io.BytesIO(b"0"))
    return path


def test_a_webdataset_is_a_folder_of_shards_and_a_shard_says_what_it_is(tmp_path: Path) -> None:
    one = shard(tmp_path / "train-0000.tar", ["a.b/0001.seg.jpg", "a.b/0001.cls"])
    assert (detect(tmp_path).name, detect(tmp_path).archive) == ("webdataset", None)
    assert (detect(one).format, detect(one).archive) == ("webdataset shard", "tar")


def test_a_folder_with_some_other_archive_is_no_webdataset(tmp_path: Path) -> None:
    shard(tmp_path / "train-a.tar", ["notes.txt", "1.jpg", "2.cls"])
    with pytest.raises(
        ValueError, match=r"must hold a known set .*webdataset: train-\*.tar\), got train-a.tar$"
    ):
        detect(tmp_path)


def test_a_folder_that_is_nothing_known_says_what_was_looked_for(tmp_path: Path) -> None:
    fill(tmp_path, ["notes.txt", "a/b.txt"])
    with pytest.raises(ValueError) as caught:
        detect(tmp_path)
    line = str(caught.value)
    assert all(layout.words in line for layout in LAYOUTS) and line.endswith("got a, notes.txt")
    assert "\n" not in line
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match=r"got no files$"):
        detect(tmp_path / "none")


def test_a_path_one_step_short_gets_a_hint(tmp_path: Path) -> None:
    fill(tmp_path / "cifar-10-batches-bin", FOLDERS["CIFAR-10, binary"][1])
    with pytest.raises(ValueError, match=f"; {tmp_path}/cifar-10-batches-bin holds CIFAR-10, binary$"):
        detect(tmp_path)


def test_what_is_not_there_or_no_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=f"{tmp_path}/no must be a folder or an archive, got nothing of that"
    ):
        detect(tmp_path / "no")
    (tmp_path / "a.txt").write_text("words")
    with pytest.raises(ValueError, match="must be a folder or an archive, got another file"):
        detect(tmp_path / "a.txt")
    (tmp_path / "cut.tar.gz").write_bytes(gzip.compress(b"words" * 1000)[:-9])
    with pytest.raises(ValueError, match=r"cut.tar.gz must be a whole tar.gz archive"):
        detect(tmp_path / "cut.tar.gz")


def test_of_a_large_folder_only_a_part_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, [f"train/{c}/{i}.jpg" for c in range(30) for i in range(30)])
    monkeypatch.setattr("litfast.data.detect.NARROW", 2)
    from litfast.data.detect import _below

    assert len(list(_below(tmp_path))) == 4
    assert detect(tmp_path).name == "image_folder"
