from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from litfast.data import sets
from litfast.data.screen import attributes, check_labels, said, screened
from litfast.data.sets.image_set import Files, ImageSet
from litfast.data.sets.items import Items


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImageSet:
    """Sixteen files, of which 3 and 11 are no images; 0 to 3 are also the test split."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    paths = tuple(f"{i}.png" for i in range(16))
    for path in paths:
        Image.new("RGB", (4, 4)).save(tmp_path / path)
    for i in (3, 11):
        (tmp_path / paths[i]).write_bytes(b"no image")
    train = Files(root=tmp_path, paths=paths, labels=torch.arange(16) % 4)
    return replace(sets.load("synthetic"), train=train, test=train.at(torch.arange(4)), val=None)


def test_what_cannot_be_decoded_is_left_out_of_every_split_and_named(images: ImageSet) -> None:
    kept, left_out = screened(images)
    assert (len(kept.train), len(kept.test), len(left_out)) == (14, 3, 3)
    assert isinstance(kept.train, Files)
    assert {"3.png", "11.png"} & set(kept.train.paths) == set()
    assert kept.train.labels.tolist() == [i % 4 for i in range(16) if i not in (3, 11)]
    line = said(left_out, kept)
    assert line.startswith("data: 3 of 20 images left out, they cannot be decoded: ") and "\n" not in line
    assert f"{kept.train.root}/11.png (" in line and "more" not in line


def test_a_long_list_is_cut_and_counted(images: ImageSet) -> None:
    line = said(tuple(f"{i}.png (reason)" for i in range(13)), images)
    assert line.endswith("9.png (reason), and 3 more")
    assert said((), images) == ""


def test_decoded_images_are_kept_as_they_are() -> None:
    images = sets.load("synthetic")
    assert screened(images) == (images, ())


def test_a_split_without_a_whole_image_is_refused(images: ImageSet) -> None:
    assert isinstance(images.train, Files)
    spoilt = replace(images, test=images.train.at(torch.tensor([3, 11])))
    with pytest.raises(ValueError, match="test must hold an image that can be decoded, got 2 that cannot"):
        screened(spoilt)


@pytest.mark.parametrize(("label", "sample"), [(4, 5), (-1, 0)])
def test_a_label_that_is_no_class_is_named(label: int, sample: int, images: ImageSet) -> None:
    check_labels(images)
    images.train.labels[sample] = label  # type: ignore[union-attr]
    rule = f"labels of synthetic must be from 0 to 3, got {label} for sample {sample} of train"
    with pytest.raises(ValueError, match=rule):
        check_labels(images)


def test_vectors_of_attributes_are_told_from_classes(images: ImageSet) -> None:
    assert isinstance(images.train, Files)
    columns = replace(images.train, labels=torch.zeros(16, 2, dtype=torch.int64))
    assert not attributes(images) and attributes(replace(images, train=columns))
    pair = Items(dataset=[(torch.zeros(3, 4, 4), [0, 1])])
    assert attributes(replace(images, train=pair))
    assert not attributes(replace(images, train=Items(dataset=[(torch.zeros(3, 4, 4), 1)])))
