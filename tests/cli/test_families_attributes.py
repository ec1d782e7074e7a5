"""The shipped CelebA recipe, small: generators of attributes, and on a Dataset of one's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

Litfast = Callable[..., Result]
OPTIONS = "data.options={attributes=['Male','Young'],size=8,centre_crop=16}"
SMALL = (
    "data.batch=8",
    "teacher={model='stargan2',train={epochs=1,lr=0.001,optimizer='adam'},options={width=4}}",
    "student={chain=[1,1],options={width=4}}",
    "discriminator.width=4",
    *(f"{phase}={{epochs=1,lr=0.001,optimizer='adam'}}" for phase in ("sections", "finetune")),
    "scores.epochs=1",
    "engine={mode='eager',precision='fp32',threads=1}",
)
OWN = """
from torch.utils.data import TensorDataset
from litfast.data.sets import load

def pictures():
    found = load("synthetic", size=8, train=24, val=8, test=8)
    sets = [TensorDataset(split.images, split.labels) for split in (found.train, found.test)]
    sets[0].classes = found.classes
    return tuple(sets)
"""
SCRATCH = ("method={name='scratch'}", "teacher=none", "sections=none", "finetune=none", "student.chain=none")


def sets(*words: str) -> list[str]:
    return [part for word in words for part in ("--set", word)]


@pytest.fixture
def celeba(tmp_path: Path) -> Path:
    """24 faces to train on, 2 to validate, 10 to test."""
    faces = tmp_path / "img_align_celeba"
    faces.mkdir()
    rows = range(36)
    for i in rows:
        pixels = np.random.default_rng(i).integers(0, 256, (20, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(faces / f"{i:06}.jpg")
    listed = "".join(f"{i:06}.jpg {2 * (i % 2) - 1} {2 * (i % 3 > 0) - 1}\n" for i in rows)
    (tmp_path / "list_attr_celeba.txt").write_text(f"{len(rows)}\nMale Young \n{listed}")
    splits = "".join(f"{i:06}.jpg {(i >= 24) + (i >= 26)}\n" for i in rows)
    (tmp_path / "list_eval_partition.txt").write_text(splits)
    return tmp_path


def test_a_chain_of_generators_is_trained_on_attributes_and_scored(
    celeba: Path, litfast: Litfast, tmp_path: Path
) -> None:
    words = ("celeba_stargan6_stargan2", *sets(f"data.root={celeba}", OPTIONS, *SMALL))
    result = litfast("train", *words, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert list(found["scores"]) == ["teacher", "student-1", "student"]
    assert list(found["phases"]) == ["teacher", "sections-1", "finetune-1", "sections-2", "finetune-2"]
    assert {scores["translations"] for scores in found["scores"].values()} == {20}
    assert found["scores"]["student"]["extractor"].startswith("ResNet-20 trained on celeba")
    assert json.loads((tmp_path / "run" / "model.json").read_text())["classes"] == ["Male", "Young"]
    judged = json.loads(litfast("eval", tmp_path / "run", "--json").stdout)
    assert list(judged["scores"]) == ["teacher", "student"]


def test_a_classifier_of_attributes_is_refused(celeba: Path, litfast: Litfast, tmp_path: Path) -> None:
    own = ("student.model=resnet8", "student.options=none", "train={epochs=1,lr=0.1}")
    words = sets(f"data.root={celeba}", OPTIONS, *SMALL, *SCRATCH, *own)
    result = litfast("train", "celeba_stargan6_stargan2", *words, "--out", tmp_path / "run")
    assert result.exit_code == 1 and result.stderr.count("\n") == 1, result.output
    assert "labels of celeba must be one class an image, got several attributes" in result.stderr
    assert not (tmp_path / "run").exists()


def test_generators_train_on_a_dataset_of_ones_own(litfast: Litfast, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    data = f"data={{name='{tmp_path / 'own.py'}:pictures',limit=16}}"
    words = ("celeba_stargan6_stargan2", *sets(data, *SMALL, "student.chain=[1]"))
    result = litfast("train", *words, "--out", tmp_path / "run", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["samples"] == {"train": 16, "test": 8}
    assert list(document["scores"]) == ["teacher", "student"]
