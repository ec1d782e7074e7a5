from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from torch import nn

from litfast.data import DATASETS, ImageSet, ResidentLoader, hold_out, load


@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_a_set_is_consistent(name: str) -> None:
    images = load(name)
    assert images.name == name and images.val is not None
    for split in (images.train, images.val, images.test):
        assert split.images.dtype == torch.uint8 and split.labels.dtype == torch.int64
        assert len(split) == len(split.images) == len(split.labels)
        assert set(split.labels.tolist()) == set(range(len(images.classes)))
    channels = images.train.images.shape[1]
    assert len(images.mean) == len(images.std) == channels


def test_the_shipped_digits_are_the_published_file_and_the_licence_lies_beside() -> None:
    folder = files("litfast.data.sets")
    packed = (folder / "digits.csv.gz").read_bytes()
    assert hashlib.md5(packed).hexdigest() == "9b335364a7bfd63947c7480a5bd51f2d"
    notice = (folder / "digits.LICENSE.txt").read_text()
    assert "CC BY 4.0" in notice and "10.24432/C50P49" in notice and "Alpaydin" in notice


def test_every_digit_is_in_exactly_one_split_with_its_label() -> None:
    digits = load("digits")
    assert digits.val is not None
    splits = (digits.train, digits.val, digits.test)
    assert [len(split) for split in splits] == [1197, 200, 400]
    rows = (files("litfast.data.sets") / "digits.csv.gz").read_bytes()
    lines = [[int(value) for value in row.split(",")] for row in gzip.decompress(rows).decode().split()]
    original = sorted((*(int(v * 255 / 16 + 0.5) for v in line[:64]), line[64]) for line in lines)
    found = sorted(
        (*image.flatten().tolist(), int(label))
        for split in splits
        for image, label in zip(split.images, split.labels, strict=True)
    )
    assert found == original


def test_the_digits_split_is_stratified_and_never_moves() -> None:
    torch.manual_seed(5)
    digits = load("digits")
    assert digits.val is not None
    whole = torch.cat([digits.train.labels, digits.val.labels, digits.test.labels]).bincount()
    for split in (digits.train, digits.val, digits.test):
        share = whole * len(split) / 1797
        assert (split.labels.bincount() - share).abs().max() < 2
    fingerprint = hashlib.md5(bytes(digits.test.images.flatten().tolist())).hexdigest()
    assert fingerprint == "42b6b841e314182212d99ebb2e8a623b"


def test_normalised_training_images_have_mean_0_and_deviation_1() -> None:
    digits = load("digits")
    train = digits.train
    made = ResidentLoader(
        train.images, train.labels, batch=len(train), mean=digits.mean, std=digits.std, train=False
    )
    (batch,) = made.batches(0)
    assert batch.images.mean().abs() < 1e-3 and abs(batch.images.std() - 1) < 1e-3


def test_synthetic_images_follow_their_options_and_seed() -> None:
    made = load("synthetic", classes=3, size=9, channels=1, train=12, test=6, val=3, seed=4)
    assert made.train.images.shape == (12, 1, 9, 9) and len(made.test) == 6
    again = load("synthetic", classes=3, size=9, channels=1, train=12, test=6, val=3, seed=4)
    other = load("synthetic", classes=3, size=9, channels=1, train=12, test=6, val=3, seed=5)
    assert torch.equal(made.train.images, again.train.images)
    assert not torch.equal(made.train.images, other.train.images)


def test_synthetic_images_can_be_learned() -> None:
    torch.manual_seed(0)
    images = load("synthetic")
    made = ResidentLoader(
        images.train.images, images.train.labels, batch=32, mean=images.mean, std=images.std, train=True
    )
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for epoch in range(3):
        for batch in made.batches(epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(batch.images), batch.target).backward()
            optimizer.step()
    test = ResidentLoader(
        images.test.images, images.test.labels, batch=64, mean=images.mean, std=images.std, train=False
    )
    (batch,) = test.batches(0)
    assert (model(batch.images).argmax(1) == batch.target).float().mean() > 0.9


def test_held_out_images_are_a_seeded_part_of_the_whole() -> None:
    whole = load("synthetic", train=50).train
    rest, held_out = hold_out(whole, 12, seed=1)
    assert (len(rest), len(held_out)) == (38, 12)

    def rows(images: torch.Tensor) -> set[bytes]:
        return {bytes(image.flatten().tolist()) for image in images}

    assert rows(rest.images) | rows(held_out.images) == rows(whole.images)
    assert torch.equal(hold_out(whole, 12, seed=1)[1].images, held_out.images)
    assert not torch.equal(hold_out(whole, 12, seed=2)[1].images, held_out.images)


@pytest.mark.parametrize("count", [0, -1, 50])
def test_holding_out_all_or_nothing_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"hold_out: count must be between 1 and 49, got {count}"):
        hold_out(load("synthetic", train=50).train, count, seed=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: load("cifar11"), r"data set must be one of .*, got 'cifar11'; did you mean 'cifar10"),
        (lambda: load("cifar10"), "load: root must be the folder that holds cifar10, got none"),
        (
            lambda: load("digits", "/data"),
            "load: root must be left out for digits, which reads no files, got /data",
        ),
        (
            lambda: load("synthetic", sise=3),
            "option of synthetic must be one of .*, got 'sise'; did you mean 'size'",
        ),
    ],
)
def test_bad_calls_are_named(call: Callable[[], ImageSet], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_every_registered_set_is_documented() -> None:
    images = {
        "celeba",
        "cifar10",
        "cifar100",
        "fashion_mnist",
        "image_folder",
        "mnist",
        "unlabelled",
        "webdataset",
    }
    texts = {"amazon_polarity", "amazon_full", "text", "war_and_peace"}
    assert set(DATASETS) == images | texts | {"digits", "synthetic"}
    assert all(read.__doc__ for read in DATASETS.values())


@pytest.mark.shared_data
def test_the_real_cifar_files_are_read_whole(shared_data: Path) -> None:
    cifar = load("cifar10", shared_data / "cifar-10-batches-bin")
    assert cifar.train.images.shape == (4000, 3, 32, 32) and cifar.test.images.shape == (1000, 3, 32, 32)
    assert cifar.classes[:3] == ("airplane", "automobile", "bird") and len(cifar.classes) == 10
    assert cifar.train.labels[:5].tolist() == [6, 9, 9, 4, 1]  # frog, truck, truck, deer, automobile
    assert cifar.test.labels[:5].tolist() == [3, 8, 8, 0, 6]
    assert cifar.test.labels.bincount(minlength=10).min() > 50
