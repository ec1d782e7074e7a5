from __future__ import annotations

from pathlib import Path

import pytest

from litfast.data import screen, sets
from litfast.data.describe import describe
from litfast.data.loader import UNLABELLED
from litfast.data.sets.image_set import Files
from litfast.data.sets.unlabelled import unlabelled


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def paths(files: object) -> list[str]:
    assert isinstance(files, Files) and set(files.labels.tolist()) == {UNLABELLED}
    return list(files.paths)


def test_a_flat_folder_is_split_at_random_and_each_time_alike(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{i}.jpg" for i in range(18)), "deep/er/x.PNG", "deep/y.webp", "notes.txt", ".z.jpg")
    found = unlabelled(tmp_path, classes=3, test=0.25)
    assert not found.labelled and found.classes == ("0", "1", "2")
    assert (len(found.train), len(found.test), found.val) == (15, 5, None)
    both = sorted(paths(found.train) + paths(found.test))
    assert both == sorted([*(f"{i}.jpg" for i in range(18)), "deep/er/x.PNG", "deep/y.webp"])
    assert paths(unlabelled(tmp_path, classes=3, test=0.25).test) == paths(found.test)
    screen.check_labels(found)  # no label is a class, and none has to be


def test_folders_train_and_test_are_the_splits_and_class_folders_mean_nothing(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.jpg", "train/2.jpg", "val/b/3.jpg")
    found = sets.load("unlabelled", tmp_path, classes=["cat", "dog"], size=8)
    assert paths(found.train) == ["train/2.jpg", "train/a/1.jpg"] and paths(found.test) == ["val/b/3.jpg"]
    assert found.classes == ("cat", "dog") and found.size == 8


def test_a_description_counts_samples_alone(tmp_path: Path) -> None:
    touch(tmp_path, "1.jpg", "2.jpg")
    assert describe(unlabelled(tmp_path, classes=2))["splits"] == {
        "train": {"samples": 1},
        "test": {"samples": 1},
    }


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({}, r"unlabelled: classes must be the teacher's, how many or their names, got none"),
        ({"classes": 2, "test": 1.0}, r"unlabelled: test must lie between 0 and 1, got 1.0"),
        ({"classes": 2, "size": 0}, r"unlabelled: size must be at least 1, got 0"),
        ({"classes": 2}, r"unlabelled: .* must hold at least 2 images, got 1"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, object], line: str, tmp_path: Path) -> None:
    touch(tmp_path, "1.jpg")
    with pytest.raises(ValueError, match=line):
        unlabelled(tmp_path, **options)


def test_an_empty_folder_and_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must hold at least 1 image \(.*\), got none"):
        unlabelled(tmp_path, classes=2)
    with pytest.raises(ValueError, match=r"must hold at least 1 image \(.*\), got no folder"):
        unlabelled(tmp_path / "missing", classes=2)
