from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from litfast import build, config
from litfast.models import Input


def changed(settings: config.Config, **data: Any) -> config.Config:
    return replace(settings, data=replace(settings.data, **data))


@pytest.fixture
def images() -> config.Config:
    words = ("data.name=synthetic", "data.options={size=8,train=64,val=16,test=16}", "data.batch=16")
    return build.resolve(config.load("digits", words))


def test_texts_are_ids_below_the_alphabet(texts: config.Config) -> None:
    settled, data = build.data(texts)
    assert (data.unit, data.input, data.attributes) == ("texts", Input((64,), alphabet=69), False)
    assert settled.data.loader == "resident" and data.loaded.startswith("loader: resident")
    batch = next(iter(data.test.batches(0)))
    assert batch.images.dtype == torch.int64 and batch.images.shape[1:] == data.input.shape
    assert int(batch.images.max()) < 69
    assert [note.partition(",")[0] for note in data.notes] == ["train: 20 texts", "test: 6 texts"]
    assert (data.form["shape"], data.form["alphabet"]) == ([64], 69)
    assert data.loader("val") is None and data.advice(0.9) == ""


def test_images_keep_their_own_normalisation_and_those_of_generators_lie_between_minus_one_and_one(
    images: config.Config, generators: config.Config
) -> None:
    _, own = build.data(images)
    assert (own.unit, own.input) == ("images", Input((3, 8, 8)))
    _, theirs = build.data(generators)
    assert (theirs.form["mean"], theirs.form["std"]) == ([0.5] * 3, [0.5] * 3)
    assert len(own.form["mean"]) == 3
    seen = torch.cat([batch.images for batch in theirs.test.batches(0)])
    assert -1 <= seen.min() < 0 < seen.max() <= 1


def test_a_limit_draws_from_what_is_not_held_out_and_leaves_that_alone(texts: config.Config) -> None:
    def rows(split: str, **data: Any) -> list[int]:
        found: list[int] = build.data(changed(texts, **data))[1].splits[split].rows.tolist()
        return found

    held, rest = rows("val", val=6), rows("train", val=6)
    some = rows("train", val=6, limit=5)
    assert len(held) == 6 and len(some) == 5 and set(some) < set(rest)
    assert not set(held) & set(rest) and len(rest) == 14
    assert rows("val", val=6, limit=5) == held and rows("test", limit=5) == list(range(6))
    assert rows("train", val=6, limit=5) == some
    assert rows("train", limit=20) == list(range(20))


def test_a_limit_serves_images_as_well(images: config.Config) -> None:
    _, data = build.data(changed(images, limit=32))
    train, val = data.loader("train"), data.loader("val")
    assert train is not None and val is not None
    assert (train.samples, val.samples, data.test.samples) == (32, 16, 16)


@pytest.mark.parametrize("limit", [-1, 0, 21])
def test_a_limit_beyond_what_there_is_is_refused(limit: int, texts: config.Config) -> None:
    with pytest.raises(ValueError, match=f"data.limit must be from 1 to 20, got {limit}"):
        build.data(changed(texts, limit=limit))


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        *(
            (key, value, "must be left out for texts")
            for key, value in {
                "mean": (0.5,),
                "std": (0.5,),
                "crop": 0,
                "flip": False,
                "centre_crop": 8,
                "size": 8,
                "workers": 1,
            }.items()
        ),
        ("loader", "torch", "must be auto or resident for texts"),
        ("loader", "dali", "must be auto or resident for texts"),
        ("on_error", "skip", "must be raise for texts"),
    ],
)
def test_what_texts_do_not_have_is_refused(key: str, value: Any, rule: str, texts: config.Config) -> None:
    with pytest.raises(ValueError) as caught:
        build.data(changed(texts, **{key: value}))
    assert str(caught.value) == f"recipe: data.{key} {rule}, got {value!r}"


def test_words_are_served_in_streams_and_counted(words: config.Config, tmp_path: Path) -> None:
    settings, data = build.data(words)
    assert (data.name, data.unit, settings.data.loader) == (tmp_path.name, "words", "resident")
    assert data.classes == ("<eos>", "a", "b", "c", "<unk>") and data.counts is not None
    assert data.counts.tolist() == [30, 30, 30, 20, 10]
    assert (data.input, data.size("train")) == (Input((7,), alphabet=5), 120)
    train, val = data.loader("train"), data.loader("val")
    assert train is not None and val is not None
    assert next(iter(train.batches(0))).target.shape == (4, 7)
    assert [next(iter(one.batches(0))).target.shape for one in (val, data.test)] == [(10, 7)] * 2
    said = "test: 120 words with the ends of lines, 10 of them (8.33 %) unknown; vocabulary 5"
    assert said in data.notes


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("val", 8, "must be left out for words"),
        ("limit", 8, "must be left out for words"),
        ("crop", 1, "must be left out for words"),
        ("loader", "torch", "must be auto or resident for words"),
        ("on_error", "skip", "must be raise for words"),
    ],
)
def test_what_words_do_not_have_is_refused(key: str, value: Any, rule: str, words: config.Config) -> None:
    with pytest.raises(ValueError) as caught:
        build.data(changed(words, **{key: value}))
    assert str(caught.value) == f"recipe: data.{key} {rule}, got {value!r}"


def test_other_sets_have_no_counts(texts: config.Config) -> None:
    assert build.data(texts)[1].counts is None
