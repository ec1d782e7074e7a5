"""Numbers about a set against the same numbers computed plainly."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from litfast.data import Images, ImageSet, load
from litfast.data import describe as describing
from litfast.data.describe import describe
from litfast.data.sets.image_set import Files, Samples
from litfast.data.sets.text import text


def image_set(train: Samples, test: Samples | None = None, attributes: tuple[str, ...] = ()) -> ImageSet:
    return ImageSet(
        name="mine",
        train=train,
        test=test or train,
        val=None,
        classes=() if attributes else ("a", "b", "c"),
        attributes=attributes,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        crop=0,
        flip=False,
    )


def test_mean_and_deviation_are_those_of_all_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(describing, "CHUNK", 4)
    images = torch.randint(0, 256, (11, 3, 7, 5), dtype=torch.uint8)
    train = Images(images=images, labels=torch.tensor([0, 1] * 5 + [0]))
    found = describe(image_set(train))
    scaled = images.double() / 255
    assert found["mean"] == pytest.approx(scaled.mean((0, 2, 3)).tolist(), abs=1e-12)
    assert found["std"] == pytest.approx(scaled.std((0, 2, 3), correction=0).tolist(), abs=1e-12)
    assert found["sizes"] == {"5x7": 11} and found["measured_on"] == 11
    assert found["splits"]["train"] == {"samples": 11, "by_class": {"a": 6, "b": 5, "c": 0}}
    json.dumps(found)


def test_attributes_are_counted_one_by_one() -> None:
    labels = torch.tensor([[1, 0], [1, 1], [1, 0]])
    train = Images(images=torch.zeros(3, 3, 4, 4, dtype=torch.uint8), labels=labels)
    found = describe(image_set(train, attributes=("Bald", "Smiling")))
    assert found["splits"]["train"] == {"samples": 3, "having": {"Bald": 3, "Smiling": 1}}


def files(folder: Path, count: int, bad: tuple[int, ...] = ()) -> Files:
    folder.mkdir()
    for i in range(count):
        content = io.BytesIO()
        Image.new("RGB", (8 + i % 2, 6), (i, 2 * i, 255)).save(content, "PNG")
        (folder / f"{i}.png").write_bytes(b"no image" if i in bad else content.getvalue())
    return Files(
        root=folder,
        paths=tuple(f"{i}.png" for i in range(count)),
        labels=torch.zeros(count, dtype=torch.int64),
    )


def test_encoded_images_are_decoded_in_part_or_all_and_bad_ones_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(describing, "LOOKED_AT", 4)
    monkeypatch.setattr(describing, "AT_ONCE", 5)
    train, test = files(tmp_path / "train", 10, bad=(1, 5)), files(tmp_path / "test", 3, bad=(2,))
    part = describe(image_set(train, test))
    assert (part["decoded"], part["measured_on"], part["sizes"]) == (4, 3, {"8x6": 2, "9x6": 1})
    assert len(part["undecodable"]) == 1 and f"{tmp_path}/train/5.png must be a" in part["undecodable"][0]
    assert part["mean"][0] == pytest.approx((0 + 2 * 48 + 7 * 54) / (48 + 48 + 54) / 255)
    seen: list[tuple[int, int]] = []
    whole = describe(image_set(train, test), everything=True, progress=lambda *now: seen.append(now))
    assert (whole["decoded"], whole["measured_on"], len(whole["undecodable"])) == (13, 8, 3)
    assert f"{tmp_path}/test/2.png" in whole["undecodable"][2]
    assert seen == [(5, 13), (10, 13), (13, 13)]


def test_a_set_without_any_good_image_has_no_mean(tmp_path: Path) -> None:
    found = describe(image_set(files(tmp_path / "train", 2, bad=(0, 1))))
    assert (found["mean"], found["std"], found["sizes"], len(found["undecodable"])) == ([], [], {}, 2)


def test_a_corpus_is_counted_in_words(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a b a\na c\n")
    (tmp_path / "valid.txt").write_text("a d\n")
    (tmp_path / "test.txt").write_text("e\nf\n")
    found = describe(text(tmp_path, cache=tmp_path / "cache"))
    assert found["splits"]["train"] == {"words": 7, "lines": 2, "unknown": 0}
    assert found["splits"]["test"] == {"words": 4, "lines": 2, "unknown": 2}
    assert found["vocabulary"] == 5 and found["most_frequent"]["a"] == 3


@pytest.mark.shared_data
def test_mnists_numbers_are_the_published_ones(shared_data: Path) -> None:
    from litfast.data.sets.idx import mnist

    found = describe(mnist(shared_data / "mnist"))
    assert found["mean"] == pytest.approx([0.1307], abs=5e-5)
    assert found["std"] == pytest.approx([0.3081], abs=5e-5)


def test_the_embedded_digits_have_the_mean_that_they_are_normalised_by() -> None:
    digits = load("digits")
    assert describe(digits)["mean"] == pytest.approx(digits.mean, abs=5e-5)
