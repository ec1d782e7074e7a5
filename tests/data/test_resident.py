from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from litfast.data import Batch, Loader, ResidentLoader

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def raw(n: int, channels: int = 3, height: int = 6, width: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    images = torch.randint(0, 256, (n, channels, height, width), generator=generator, dtype=torch.uint8)
    return images, torch.arange(n)


def loader(n: int = 50, **options: Any) -> ResidentLoader:
    images, labels = raw(n)
    labels = options.pop("labels", labels)
    return ResidentLoader(images, labels, **{"batch": 8, "mean": MEAN, "std": STD, "train": True, **options})


def normalised(images: Tensor) -> Tensor:
    """What torchvision's ToTensor and Normalize do."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (MEAN, STD))
    return (images.float() / 255 - mean) / std


def same(one: Batch, other: Batch) -> bool:
    return torch.equal(one.images, other.images) and torch.equal(one.target, other.target)


def test_it_is_a_loader() -> None:
    made: Loader = loader(50)
    assert (made.samples, len(made), made.batch, made.steps) == (50, 50, 8, 6)
    assert loader(50, train=False).steps == 7


def test_without_augmentation_an_image_is_only_normalised() -> None:
    images, _ = raw(50)
    for batch in loader().batches(0):
        assert torch.equal(batch.images, normalised(images[batch.target]))


def test_an_epoch_is_a_permutation_short_of_its_last_partial_batch() -> None:
    seen = torch.cat([batch.target for batch in loader(50).batches(3)])
    assert len(seen) == 48 == len(seen.unique())
    assert seen.tolist() != sorted(seen.tolist())


@pytest.mark.parametrize("flip", [False, True])
def test_crop_and_flip_are_those_of_the_zero_padded_raw_image(flip: bool) -> None:
    n, crop = 300, 2
    images, _ = raw(n, height=5, width=7)
    made = ResidentLoader(
        images, torch.arange(n), batch=n, mean=MEAN, std=STD, train=True, crop=crop, flip=flip
    )
    (batch,) = made.batches(0)
    padded = F.pad(images, (crop,) * 4)
    offsets = [(y, x) for y in range(2 * crop + 1) for x in range(2 * crop + 1)]
    crops = torch.stack([padded[:, :, y : y + 5, x : x + 7] for y, x in offsets])
    candidates = torch.cat([crops, crops.flip(-1)] if flip else [crops])
    drawn = []
    for image, index in zip(batch.images, batch.target.tolist(), strict=True):
        hits = [i for i, crop_ in enumerate(candidates[:, index]) if torch.equal(normalised(crop_), image)]
        assert len(hits) == 1
        drawn.append(hits[0])
    counts = torch.bincount(torch.tensor(drawn) % 25, minlength=25)
    assert counts.min() >= 2 and counts.max() <= 30  # 12 expected of each offset
    mirrored = sum(hit >= 25 for hit in drawn)
    assert 110 <= mirrored <= 190 if flip else mirrored == 0


def test_an_epoch_depends_on_seed_and_epoch_alone() -> None:
    options = {"crop": 2, "flip": True, "seed": 1}
    first, again = loader(**options), loader(**options)
    list(first.batches(0))  # a loader keeps no position
    assert all(same(a, b) for a, b in zip(first.batches(4), again.batches(4), strict=True))
    assert not same(next(first.batches(4)), next(first.batches(5)))
    assert not same(next(first.batches(4)), next(loader(**{**options, "seed": 2}).batches(4)))
    assert not same(next(loader(seed=0).batches(1)), next(loader(seed=1).batches(0)))


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("start", [0, 3, 6, 7])
def test_an_epoch_begun_late_delivers_the_rest_to_the_bit(train: bool, start: int) -> None:
    made = loader(50, train=train, crop=2, flip=True)
    rest = list(islice(made.batches(2), start, None))
    late = list(made.batches(2, start))
    assert len(late) == len(rest) == max(made.steps - start, 0)
    assert all(same(a, b) for a, b in zip(late, rest, strict=True))


def test_loading_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(loader(crop=2, flip=True).batches(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_evaluation_keeps_the_order_and_masks_what_fills_up_the_last_batch() -> None:
    images, labels = raw(50)
    batches = list(loader(50, train=False, crop=2, flip=True).batches(0))
    assert {tuple(batch.images.shape) for batch in batches} == {(8, 3, 6, 6)}
    target = torch.cat([batch.target for batch in batches])
    assert torch.equal(target[:50], labels) and target[50:].tolist() == [-100] * 6
    assert torch.equal(torch.cat([batch.images for batch in batches])[:50], normalised(images))
    assert all(same(a, b) for a, b in zip(batches, loader(50, train=False).batches(9), strict=True))
    assert torch.equal(raw(50)[1], labels)


def test_a_set_smaller_than_a_batch_can_be_evaluated() -> None:
    (batch,) = loader(3, train=False).batches(0)
    assert batch.target.tolist() == [0, 1, 2, *[-100] * 5]


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batches_come_in_the_asked_layout_and_type(channels_last: bool, dtype: torch.dtype) -> None:
    batch = next(loader(channels_last=channels_last, dtype=dtype).batches(0))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert batch.images.is_contiguous(memory_format=layout)
    assert batch.images.dtype == dtype and batch.target.dtype == torch.int64
    exact = next(loader().batches(0)).images
    assert torch.equal(batch.images, exact.to(dtype))


def test_gray_images_and_non_contiguous_input_are_served() -> None:
    images, labels = raw(20, channels=1, height=4, width=9)
    turned = images.transpose(2, 3)
    made = ResidentLoader(turned, labels, batch=20, mean=(0.5,), std=(0.2,), train=False)
    (batch,) = made.batches(0)
    assert torch.equal(batch.images, (turned.float() / 255 - 0.5) / 0.2)


GOOD: dict[str, Any] = {"images": raw(5)[0], "labels": raw(5)[1], "batch": 2, "mean": MEAN, "std": STD}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": raw(5)[0].float()}, TypeError, r"images must be uint8, got torch\.float32"),
        ({"labels": torch.arange(5.0)}, TypeError, r"labels must be int64, got torch\.float32"),
        ({"images": raw(5)[0][0]}, ValueError, r"images must be \[N, C, H, W\] with N .*, got \[3, 6, 6\]"),
        ({"images": raw(5)[0][:0]}, ValueError, r"images must be .* N at least 1, got \[0, 3, 6, 6\]"),
        (
            {"labels": torch.arange(4)},
            ValueError,
            r"labels must be \[5\] or \[5, A\], one .*, got \[4\]",
        ),
        ({"mean": (0.5,)}, ValueError, "mean must hold 3 numbers, one a channel, got 1"),
        ({"std": (0.5,) * 4}, ValueError, "std must hold 3 numbers, one a channel, got 4"),
        ({"batch": 0}, ValueError, "batch must be at least 1, got 0"),
        ({"crop": -1}, ValueError, "crop must be at least 0, got -1"),
        ({"batch": 6}, ValueError, "batch must be at most the 5 training samples, got 6"),
        ({"num_shards": 3}, ValueError, "batch must be at most the 5 training samples over 3 shards, got 2"),
        ({"shard_id": 2, "num_shards": 2}, ValueError, r"shard_id must lie in \[0, 2\), the shards, got 2"),
        ({"shard_id": -1}, ValueError, r"shard_id must lie in \[0, 1\), the shards, got -1"),
        ({"labels": torch.zeros(5, 1, 1).long()}, ValueError, r"labels must be .*, got \[5, 1, 1\]"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {**GOOD, **change}
    with pytest.raises(error, match=f"ResidentLoader: {message}"):
        ResidentLoader(arguments.pop("images"), arguments.pop("labels"), train=True, **arguments)


def static(like: Batch) -> Batch:
    """Room of the same shapes, dtypes and strides, poisoned."""
    return Batch(torch.full_like(like.images, torch.nan), torch.full_like(like.target, 7))


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("start", [0, 4])
@pytest.mark.parametrize("options", [{}, {"dtype": torch.bfloat16, "channels_last": False}])
def test_batches_are_written_into_given_tensors(train: bool, start: int, options: dict[str, Any]) -> None:
    made = loader(50, train=train, crop=2, flip=True, **options)
    room = static(next(made.batches(0)))
    places = [tensor.data_ptr() for tensor in room]
    late = made.batches(1, start, copy_into=room)
    for batch, wanted in zip(late, made.batches(1, start), strict=True):
        assert same(batch, wanted)
        assert all(got is given for got, given in zip(batch, room, strict=True))
    assert [tensor.data_ptr() for tensor in room] == places


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"images": torch.empty(4, 3, 6, 6)},
            r"images must be torch.float32 \[8, 3, 6, 6\] on cpu, got",
        ),
        ({"images": torch.empty(8, 3, 6, 6).half()}, "images must be torch.float32 .*, got torch.float16"),
        ({"images": torch.empty(8, 3, 6, 6)}, "images must be dense in torch.channels_last, got strides"),
        ({"images": torch.empty(8, 3, 6, 6, device="meta")}, r"images must be .* on cpu, got .* on meta"),
        ({"target": torch.empty(8)}, r"target must be torch.int64 \[8\] on cpu, got torch.float32 \[8\]"),
        ({"target": torch.empty(8, 2).long()}, r"target must be torch.int64 \[8\] on cpu, got .* \[8, 2\]"),
        ({"target": torch.arange(16)[::2]}, "target must be dense in torch.contiguous_format, got strides"),
    ],
)
def test_tensors_that_no_batch_fits_into_are_named_at_once(change: dict[str, Tensor], message: str) -> None:
    made = loader(50)
    room = next(made.batches(0))._replace(**change)
    with pytest.raises(ValueError, match=rf"\AResidentLoader: copy_into.{message}.*\Z"):
        made.batches(0, copy_into=room)


@pytest.mark.parametrize("train", [True, False])
def test_attributes_come_as_a_row_a_sample(train: bool) -> None:
    _, index = raw(50)
    attributes = torch.stack([index, index * 2, index * 3], 1)
    made = loader(50, train=train, labels=attributes)
    batches = list(made.batches(0))
    assert {tuple(batch.target.shape) for batch in batches} == {(8, 3)}
    target = torch.cat([batch.target for batch in batches])
    known = target[:, 0] >= 0
    assert torch.equal(target[known], attributes[target[known][:, 0]])
    assert train or target[50:].tolist() == [[-100] * 3] * 6
    assert known.sum() == (48 if train else 50)


@pytest.mark.parametrize("train", [True, False])
def test_shards_share_an_epoch_out(train: bool) -> None:
    options = {"train": train, "crop": 2, "flip": True}
    whole = loader(50, batch=12, **options)
    parts = [loader(50, batch=4, shard_id=rank, num_shards=3, **options) for rank in range(3)]
    assert {part.steps for part in parts} == {whole.steps} and {len(part) for part in parts} == {50}
    for together, *shares in zip(whole.batches(2), *(part.batches(2) for part in parts), strict=True):
        for rank, share in enumerate(shares):
            assert torch.equal(share.images, together.images[rank::3])
            assert torch.equal(share.target, together.target[rank::3])


def test_an_interrupted_epoch_goes_on_bit_for_bit_in_a_new_loader() -> None:
    options = {"crop": 2, "flip": True, "seed": 3}
    first = loader(50, **options)
    whole = list(loader(50, **options).batches(7))
    seen = list(islice(first.batches(7), 4))
    again = loader(50, **options)
    again.load_state(first.state())
    resumed = [*seen, *again.batches(7, 4)]
    assert len(resumed) == len(whole)
    assert all(same(a, b) for a, b in zip(resumed, whole, strict=True))


def test_a_changed_batch_size_keeps_every_samples_crop_and_flip() -> None:
    small, large = (
        {
            int(target): image
            for batch in loader(48, batch=size, crop=2, flip=True).batches(1)
            for image, target in zip(*batch, strict=True)
        }
        for size in (4, 16)
    )
    assert small.keys() == large.keys()
    assert all(torch.equal(small[index], large[index]) for index in small)


def test_the_callers_images_and_labels_stay_as_they_are() -> None:
    images, labels = raw(50)
    before = images.clone(), labels.clone()
    made = ResidentLoader(images, labels, batch=8, mean=MEAN, std=STD, train=False, crop=2, flip=True)
    list(made.batches(0))
    assert torch.equal(images, before[0]) and torch.equal(labels, before[1])


@pytest.mark.gpu
def test_the_gpu_sees_the_same_epoch() -> None:
    options = {"crop": 2, "flip": True}
    here, there = loader(**options).batches(1), loader(**options, device="cuda").batches(1)
    for a, b in zip(here, there, strict=True):
        assert b.images.is_cuda and torch.equal(a.target, b.target.cpu())
        assert torch.equal(b.images.cpu(), a.images)  # both look the value up


@pytest.mark.gpu
@pytest.mark.parametrize("train", [True, False])
def test_on_a_gpu_no_step_waits_for_the_device(train: bool) -> None:
    made = loader(50, device="cuda", train=train, crop=2, flip=True, labels=torch.zeros(50, 2).long())
    room = next(made.batches(0))
    batches = made.batches(0, copy_into=room)
    next(batches)
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert sum(1 for _ in batches) == made.steps - 1
    finally:
        torch.cuda.set_sync_debug_mode("default")
