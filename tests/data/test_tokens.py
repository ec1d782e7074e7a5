from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from litfast.data.draws import draws
from litfast.data.loader import IGNORED, Batch, Loader
from litfast.data.sets.text_set import Texts
from litfast.data.tokens import StreamLoader, TokenLoader


def texts(count: int = 23, length: int = 7) -> Texts:
    """Sample i lies in row 2 i + 1, begins with i and has the label 100 + i."""
    tokens = torch.zeros(2 * count + 3, length, dtype=torch.uint8)
    rows = 2 * torch.arange(count) + 1
    tokens[rows] = torch.randint(1, 69, (count, length), generator=torch.Generator().manual_seed(0)).byte()
    tokens[rows, 0] = torch.arange(count, dtype=torch.uint8)
    return Texts(tokens=tokens, labels=100 + torch.arange(count), rows=rows)


def token_loader(given: Texts | None = None, **options: Any) -> TokenLoader:
    return TokenLoader(given or texts(), **{"batch": 5, "train": True, **options})


def seen(loader: Loader, epoch: int = 0, start: int = 0) -> list[tuple[list[Any], list[Any]]]:
    return [(images.tolist(), target.tolist()) for images, target in loader.batches(epoch, start)]


def test_a_text_comes_with_its_label_and_training_shows_each_at_most_once() -> None:
    given = texts()
    loader = token_loader(given)
    assert (loader.samples, len(loader), loader.batch, loader.steps) == (23, 23, 5, 4)
    batches = list(loader.batches(3))
    tokens, target = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert tokens.dtype == target.dtype == torch.int64
    assert torch.equal(tokens, given.tokens[given.rows[target - 100]].long())
    assert len(set(target.tolist())) == 20


def test_the_order_is_that_of_every_loader() -> None:
    loader = token_loader(seed=4)
    order = draws(23, batch=5, train=True, seed=4, epoch=2).index
    assert torch.equal(torch.cat([target for _, target in loader.batches(2)]), 100 + order)
    assert seen(loader, 2) == seen(token_loader(seed=4), 2)
    assert seen(loader, 2) != seen(loader, 1) and seen(loader, 2) != seen(token_loader(seed=5), 2)


def test_evaluation_keeps_the_order_and_fills_the_last_batch_up() -> None:
    batches = list(token_loader(train=False).batches(0))
    target = torch.cat([target for _, target in batches])
    assert target.tolist() == [*range(100, 123), IGNORED, IGNORED]
    assert {batch.images.shape for batch in batches} == {(5, 7)}


@pytest.mark.parametrize("train", [True, False])
def test_shards_share_an_epoch(train: bool) -> None:
    shards = [token_loader(train=train, batch=3, shard_id=i, num_shards=3) for i in range(3)]
    assert {shard.steps for shard in shards} == {2 if train else 3}
    targets = [y for shard in shards for _, target in seen(shard) for y in target if y != IGNORED]
    assert len(targets) == len(set(targets)) == (18 if train else 23)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
@pytest.mark.parametrize("resident", [True, False])
def test_tokens_come_in_the_type_asked_for(dtype: torch.dtype, resident: bool) -> None:
    loader = token_loader(dtype=dtype, resident=resident)
    assert {batch.images.dtype for batch in loader.batches(0)} == {dtype}
    assert seen(loader) == seen(token_loader())


def stream_loader(words: int = 101, **options: Any) -> StreamLoader:
    return StreamLoader(torch.arange(words), **{"batch": 3, "length": 4, "train": True, **options})


def test_streams_go_on_from_step_to_step_and_the_target_is_the_next_word() -> None:
    loader = stream_loader()
    assert (loader.steps, loader.samples, len(loader)) == (8, 24, 24)
    inputs, targets = (torch.cat(parts, dim=1) for parts in zip(*loader.batches(0), strict=True))
    assert inputs.dtype == targets.dtype == torch.int64
    assert inputs.tolist() == [[*range(first, first + 32)] for first in (0, 33, 66)]
    assert torch.equal(targets, inputs + 1)
    assert seen(loader, 0) == seen(loader, 7)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("words", [2, 5, 13, 100, 101, 102])
@pytest.mark.parametrize("num_shards", [1, 2])
def test_evaluation_predicts_every_word_but_the_first_exactly_once(
    dtype: torch.dtype, words: int, num_shards: int
) -> None:
    ids = torch.arange(words, dtype=dtype)
    predicted: list[int] = []
    for shard in range(num_shards):
        options: dict[str, Any] = {"shard_id": shard, "num_shards": num_shards}
        loader = StreamLoader(ids, batch=3, length=4, train=False, **options)
        assert loader.samples == loader.steps * 3 * num_shards
        for batch in loader.batches(0):
            assert batch.images.shape == batch.target.shape == (3, 4)
            real = batch.target != IGNORED
            assert torch.equal(batch.target[real], batch.images[real] + 1)
            predicted += batch.target[real].tolist()
    assert sorted(predicted) == [*range(1, words)]


@pytest.mark.parametrize("train", [True, False])
def test_shards_take_the_streams_one_after_the_other(train: bool) -> None:
    whole = stream_loader(batch=6, train=train)
    shards = [stream_loader(train=train, shard_id=i, num_shards=2) for i in range(2)]
    for (x, y), *parts in zip(whole.batches(0), *(shard.batches(0) for shard in shards), strict=True):
        # what stands where the target is ignored is of no account
        assert torch.equal(y, torch.cat([part.target for part in parts]))
        both = torch.cat([part.images for part in parts])
        assert torch.equal(x[y != IGNORED], both[y != IGNORED])


LOADERS = [token_loader, stream_loader]


@pytest.mark.parametrize("make", LOADERS)
@pytest.mark.parametrize("train", [True, False])
def test_an_epoch_goes_on_from_any_step(make: Any, train: bool) -> None:
    whole = seen(make(train=train), 2)
    for start in range(len(whole) + 1):
        loader = make(train=train)
        loader.load_state(make(train=train).state())
        assert seen(loader, 2, start) == whole[start:]


@pytest.mark.parametrize("make", LOADERS)
def test_batches_are_new_tensors_or_written_to_those_given(make: Any) -> None:
    loader = make(train=False)
    whole = seen(loader)
    assert [(b.images.tolist(), b.target.tolist()) for b in list(loader.batches(0))] == whole
    shape = next(iter(loader.batches(0))).images.shape
    into = Batch(torch.full(shape, -1), torch.full_like(torch.tensor(whole[0][1]), -1))
    got = []
    for batch in loader.batches(0, copy_into=into):
        assert batch.images is into.images and batch.target is into.target
        got.append((batch.images.tolist(), batch.target.tolist()))
    assert got == whole


def test_writing_to_a_batch_does_not_change_the_set() -> None:
    given, ids = texts(), torch.arange(101)
    loaders: list[Loader] = [
        token_loader(given, dtype=torch.uint8),
        token_loader(given, dtype=torch.uint8, resident=True),
        StreamLoader(ids, batch=1, length=4, train=True),
        StreamLoader(ids, batch=1, length=4, train=False),
    ]
    for loader in loaders:
        before = seen(loader)
        for batch, (_, target) in zip(loader.batches(0), before, strict=True):
            assert batch.images.is_contiguous() and batch.target.is_contiguous()
            batch.images.zero_()
            assert batch.target.tolist() == target
            batch.target.zero_()
        assert seen(loader) == before


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"tokens": torch.zeros(50, 7)}, TypeError, "tokens must be uint8"),
        ({"labels": torch.zeros(23)}, TypeError, "labels must be int64"),
        (
            {"tokens": torch.zeros(50, dtype=torch.uint8)},
            ValueError,
            r"be \[M, L\], .* got \[50\]",
        ),
        ({"tokens": torch.zeros(9, 0, dtype=torch.uint8)}, ValueError, r"both at least 1, got \[9, 0\]"),
        ({"rows": torch.ones(23, dtype=torch.uint8)}, TypeError, "rows must be int32 or int64, got"),
        ({"rows": torch.arange(22)}, ValueError, r"must be \[N\] with N at least 1, got \[23\] and \[22\]"),
        ({"rows": torch.arange(23) + 28}, ValueError, r"rows must lie in \[0, 49\), got 28 to 50"),
        ({"batch": 0}, ValueError, "batch must be at least 1, got 0"),
        ({"batch": 24}, ValueError, "batch must be at most the 23 training samples, got 24"),
        ({"num_shards": 2**60, "train": False}, ValueError, "batch must make at most 2,147,483,648 samples"),
        ({"dtype": torch.float32}, TypeError, "dtype must be uint8, int32 or int64, got torch.float32"),
        ({"shard_id": 2, "num_shards": 2}, ValueError, "shard_id must lie in \\[0, 2\\), the shards, got 2"),
    ],
)
def test_texts_that_cannot_be_loaded_are_refused(
    change: dict[str, Any], error: type[Exception], said: str
) -> None:
    fields: dict[str, Tensor] = vars(texts())
    given = Texts(**{name: change.pop(name, value) for name, value in fields.items()})
    with pytest.raises(error, match=f"TokenLoader: .*{said}"):
        token_loader(given, **change)


@pytest.mark.parametrize(
    ("ids", "change", "error", "said"),
    [
        (torch.zeros(9), {}, TypeError, "ids must be int32 or int64, got torch.float32"),
        (
            torch.zeros(1, dtype=torch.int64),
            {},
            ValueError,
            r"ids must be \[N\] with N at least 2, got \[1\]",
        ),
        (torch.arange(12), {}, ValueError, "ids must hold more than 3 streams of 4 words, got 12"),
        (torch.arange(99), {"length": 0}, ValueError, "length must be at least 1, got 0"),
        (torch.arange(99), {"batch": 0}, ValueError, "batch must be at least 1, got 0"),
        (torch.arange(99), {"shard_id": 1}, ValueError, "shard_id must lie in \\[0, 1\\), the shards, got 1"),
    ],
)
def test_streams_that_cannot_be_cut_are_refused(
    ids: Tensor, change: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=f"StreamLoader: {said}"):
        StreamLoader(ids, **{"batch": 3, "length": 4, "train": True, **change})


@pytest.mark.gpu
@pytest.mark.parametrize("resident", [True, False])
def test_a_gpu_sees_the_same_batches(resident: bool) -> None:
    for train in (True, False):
        loader = token_loader(train=train, device="cuda", resident=resident)
        assert seen(loader) == seen(token_loader(train=train))
        into = Batch(
            torch.empty(5, 7, dtype=torch.uint8, device="cuda"), torch.empty(5, device="cuda").long()
        )
        got = [(b.images.tolist(), b.target.tolist()) for b in loader.batches(0, copy_into=into)]
        assert got == seen(loader)
        assert seen(stream_loader(train=train, device="cuda")) == seen(stream_loader(train=train))
