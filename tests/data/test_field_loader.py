"""Samples of several inputs: what a Dataset may hold, and the batches of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from litfast.data import sets
from litfast.data.draws import draws
from litfast.data.field_loader import FieldLoader
from litfast.data.loader import IGNORED, Batch
from litfast.data.sets.field_set import Fields, FieldSet, alphabets, is_fields, read


class Rows(list[Any]):
    """A map-style Dataset."""


def item(i: int, **changes: Any) -> tuple[dict[str, Any], Any]:
    return {
        "ids": [i, i + 1, 3],
        "mask": torch.tensor([True, i > 1, False]),
        "dose": [i / 2],
    } | changes, i % 4


def samples(count: int = 11) -> Fields:
    return read(Rows(map(item, range(count))), 4)


def test_a_dataset_becomes_a_tensor_an_input() -> None:
    found = samples()
    assert {name: (list(x.shape), x.dtype) for name, x in found.inputs.items()} == {
        "ids": ([11, 3], torch.int64),
        "mask": ([11, 3], torch.int64),
        "dose": ([11, 1], torch.float32),
    }
    assert found.labels.tolist() == [i % 4 for i in range(11)] and found.inputs["ids"][5].tolist() == [
        5,
        6,
        3,
    ]
    assert alphabets(found) == {"ids": 12, "mask": 2}
    assert found.at(torch.tensor([7, 2])).inputs["dose"].tolist() == [[3.5], [1.0]]
    assert is_fields(Rows([item(0)])) and not is_fields(Rows([(torch.ones(3, 4, 4), 1)]))


@pytest.mark.parametrize(
    ("row", "line"),
    [
        (7, "data: sample 1 of Rows must be (inputs by name, label), got int"),
        (item(1, ids=[1]), "sample 1 of Rows must have inputs {'ids': [3], 'mask': [3], 'dose': [1]} as the"),
        (({**item(1)[0]}, 4), "sample 1 of Rows: label must be a whole number from 0 to 3, got 4"),
        (({**item(1)[0]}, "two"), "label must be a whole number from 0 to 3, got 'two'"),
        (item(1, ids="abc"), "sample 1 of Rows: input 'ids' must be numbers, got str"),
        (item(1, dose=[]), "sample 1 of Rows: input 'dose' must be real numbers, got torch.float64 [0]"),
    ],
)
def test_what_is_no_sample_is_named_in_one_line(row: Any, line: str) -> None:
    with pytest.raises((ValueError, TypeError)) as refused:
        read(Rows([item(0), row]), 4)
    assert line in str(refused.value) and "\n" not in str(refused.value)


def test_an_id_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="ids of input 'ids' must be 0 or more, got -1"):
        alphabets(read(Rows([item(-1, mask=[0, 0, 0])]), 4))


def test_a_batch_has_every_input_of_the_samples_that_are_drawn() -> None:
    given = samples()
    loader = FieldLoader(given, batch=3, train=True, seed=4)
    assert (loader.samples, len(loader), loader.batch, loader.steps) == (11, 11, 3, 3)
    order = draws(11, batch=3, train=True, seed=4, epoch=2).index
    batches = list(loader.batches(2))
    for name, value in given.inputs.items():
        assert torch.equal(torch.cat([images[name] for images, _ in batches]), value[order])
    assert torch.equal(torch.cat([target for _, target in batches]), given.labels[order])
    (last,) = loader.batches(2, 2)
    assert torch.equal(last.images["ids"], batches[2].images["ids"])
    assert loader.state() == {}


def test_evaluation_fills_the_last_batch_up_and_batches_go_where_they_are_told() -> None:
    loader = FieldLoader(samples(), batch=4, train=False)
    assert torch.cat([target for _, target in loader.batches(0)])[-1] == IGNORED
    place = Batch(
        {"ids": torch.zeros(4, 3).long(), "mask": torch.zeros(4, 3).long(), "dose": torch.zeros(4, 1)},
        torch.zeros(4).long(),
    )
    for fresh, static in zip(loader.batches(0), loader.batches(0, copy_into=place), strict=True):
        assert static is place and torch.equal(static.target, fresh.target)
        assert all(torch.equal(static.images[name], value) for name, value in fresh.images.items())


OWN = """
class Rows(list):
    classes = ["a", "b"]
    alphabet = 9

def texts(width=3):
    rows = [({"ids": [i] * width, "mask": [1] * width}, i % 2) for i in range(6)]
    return Rows(rows), Rows(rows[:WHICH])
"""


@pytest.fixture
def own(tmp_path: Path) -> Callable[..., Any]:
    def load(which: str = "2", **options: Any) -> Any:
        file = tmp_path / "mine.py"
        file.write_text(OWN.replace(":WHICH", which))
        return sets.load(f"{file}:texts", **options)

    return load


def test_a_file_of_ones_own_gives_a_set_of_fields(own: Callable[..., Any]) -> None:
    found = own(":2", width=4)
    assert isinstance(found, FieldSet) and found.classes == ("a", "b") and found.val is None
    assert found.alphabets == {"ids": 9, "mask": 2} and found.shapes == {"ids": (4,), "mask": (4,)}
    assert (len(found.train), len(found.test)) == (6, 2)
    with pytest.raises(ValueError, match="Rows must hold at least one sample, got none"):
        own(":0")
