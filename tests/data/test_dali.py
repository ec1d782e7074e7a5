from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import litfast
from litfast.data.dali import DaliLoader
from litfast.data.draws import draws
from litfast.data.loader import Batch, Loader
from litfast.data.sets.image_set import Files, Images, Members, Samples

pytest.importorskip("nvidia.dali", reason="nvidia.dali is not installed (pip install 'litfast[dali]')")

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
COUNT, BATCH = 50, 8


def pixels(n: int = COUNT, channels: int = 3, height: int = 6, width: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(n)
    return torch.randint(0, 256, (n, channels, height, width), generator=generator, dtype=torch.uint8)


def png(image: Tensor) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "PNG")
    return file.getvalue()


def as_images(raw: Tensor, folder: Path) -> Images:
    return Images(images=raw, labels=torch.arange(len(raw)))


def as_files(raw: Tensor, folder: Path) -> Files:
    """Names of unequal length, one of them no ASCII."""
    paths = tuple(f"ü{'x' * (i % 7)}{i}.png" for i in range(len(raw)))
    for path, image in zip(paths, raw, strict=True):
        (folder / path).write_bytes(png(image))
    return Files(root=folder, paths=paths, labels=torch.arange(len(raw)))


def as_members(raw: Tensor, folder: Path) -> Members:
    tars = (folder / "0.tar", folder / "1.tar")
    halves = torch.arange(len(raw)).tensor_split(2)
    places = []
    for path, half in zip(tars, halves, strict=True):
        with tarfile.open(path, "w") as tar:
            for i in half.tolist():
                content = png(raw[i])
                info = tarfile.TarInfo(f"{i}.png")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        with tarfile.open(path) as tar:
            places += [(tars.index(path), member.offset_data, member.size) for member in tar]
    tar_, offset, size = torch.tensor(places).T
    keys = tuple(map(str, range(len(raw))))
    return Members(tars=tars, tar=tar_, offset=offset, size=size, keys=keys, labels=torch.arange(len(raw)))


KINDS = {"images": as_images, "files": as_files, "members": as_members}


@pytest.fixture(params=list(KINDS))
def samples(request: pytest.FixtureRequest, tmp_path: Path) -> Samples:
    return KINDS[request.param](pixels(), tmp_path)


def loader(samples: Samples, **options: Any) -> DaliLoader:
    return DaliLoader(samples, **{"batch": BATCH, "mean": MEAN, "std": STD, "train": True, **options})


def expected(raw: Tensor, epoch: int, crop: int, flip: bool, seed: int = 0) -> Tensor:
    """The whole epoch, image by image, from the draws that every loader has in common."""
    options = {"batch": BATCH, "train": True, "crop": crop, "flip": flip, "seed": seed}
    index, top, left, mirrored, _ = draws(len(raw), epoch=epoch, **options)
    padded, (height, width) = F.pad(raw, (crop,) * 4), raw.shape[2:]
    cut = [
        padded[i, :, y : y + height, x : x + width].flip(-1 if m else ())
        for i, y, x, m in zip(index, top, left, mirrored, strict=True)
    ]
    return normalised(torch.stack(cut))


def normalised(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (MEAN, STD))
    return ((images.float() / 255 - mean) / std).to(dtype)


def epoch_of(batches: Any) -> tuple[Tensor, Tensor]:
    kept = list(batches)
    return torch.cat([batch.images for batch in kept]), torch.cat([batch.target for batch in kept])


def same(one: Batch, other: Batch) -> bool:
    return torch.equal(one.images, other.images) and torch.equal(one.target, other.target)


def close(one: Tensor, other: Tensor) -> bool:
    """Equal up to the rounding of another order of the same three operations."""
    return bool(torch.allclose(one, other, rtol=0, atol=1e-6))


def test_it_is_a_loader(samples: Samples) -> None:
    made: Loader = loader(samples)
    assert (made.samples, len(made), made.batch, made.steps) == (50, 50, 8, 6)
    assert loader(samples, train=False).steps == 7


@pytest.mark.parametrize(("crop", "flip"), [(0, False), (3, True)])
def test_samples_crops_and_flips_are_those_of_the_draws(samples: Samples, crop: int, flip: bool) -> None:
    made = loader(samples, crop=crop, flip=flip)
    for epoch in (0, 1, 7):
        images, target = epoch_of(made.batches(epoch))
        assert torch.equal(target, draws(COUNT, batch=BATCH, train=True, seed=0, epoch=epoch).index)
        assert close(images, expected(pixels(), epoch, crop, flip))


@pytest.mark.parametrize("crop", [1, 2, 4, 5, 6, 7])
def test_every_offset_is_hit_exactly(crop: int) -> None:
    """DALI takes an array's offset as a fraction, and rounds."""
    raw = pixels(400)
    images, _ = epoch_of(loader(as_images(raw, Path()), crop=crop).batches(0))
    assert close(images, expected(raw, 0, crop, False))


def test_a_batch_depends_on_seed_epoch_and_step_alone(samples: Samples) -> None:
    options = {"crop": 2, "flip": True, "seed": 1}
    made, again = loader(samples, **options), loader(samples, **options)
    whole = list(made.batches(4))
    assert all(same(a, b) for a, b in zip(whole, again.batches(4), strict=True))
    for start in (0, 3, 6, 7):
        late = list(made.batches(4, start))
        assert len(late) == max(6 - start, 0)
        assert all(same(a, b) for a, b in zip(late, whole[start:], strict=True))
    assert not same(whole[0], next(made.batches(5)))
    assert not same(whole[0], next(loader(samples, **{**options, "seed": 2}).batches(4)))


def test_an_abandoned_iterator_and_two_at_once_disturb_nobody(samples: Samples) -> None:
    made = loader(samples, crop=2, flip=True)
    whole = [list(made.batches(epoch)) for epoch in (0, 1)]
    for taken in (1, 2, 5):
        list(islice(made.batches(1), taken))
        assert all(same(a, b) for a, b in zip(made.batches(0), whole[0], strict=True))
    unread = made.batches(0)
    both = zip(made.batches(0), made.batches(1), *whole, strict=True)
    assert all(same(a, c) and same(b, d) for a, b, c, d in both)
    assert same(next(unread), whole[0][0])


def test_an_old_batch_survives_the_next_ones(samples: Samples) -> None:
    batches = loader(samples).batches(0)
    first = next(batches)
    kept = first.images.clone()
    list(batches)
    assert torch.equal(first.images, kept)


def test_batches_are_written_into_given_tensors(samples: Samples) -> None:
    made = loader(samples, crop=1, dtype=torch.bfloat16)
    images = torch.empty(BATCH, 3, 6, 5, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    into = Batch(images, torch.empty(BATCH, dtype=torch.int64))
    for given, fresh in zip(made.batches(2, copy_into=into), made.batches(2), strict=True):
        assert given.images is into.images and given.target is into.target
        assert same(given, fresh)


@pytest.mark.parametrize("start", [1, 3, 6])
def test_a_restored_loader_goes_on_to_the_bit(samples: Samples, start: int, tmp_path: Path) -> None:
    options = {"crop": 2, "flip": True}
    unbroken = loader(samples, **options)
    list(unbroken.batches(0))
    ran = list(islice(unbroken.batches(1), start))
    assert len(ran) == start
    state = unbroken.state()
    assert (state["epoch"], state["step"], state["dali"].dtype) == (1, start, torch.uint8)
    torch.save(state, tmp_path / "state.pt")
    fresh = loader(samples, **options)
    assert fresh.state() == {}
    fresh.load_state(torch.load(tmp_path / "state.pt", weights_only=True))
    rest = list(fresh.batches(1, start))
    assert all(same(a, b) for a, b in zip(rest, unbroken.batches(1, start), strict=True))
    assert all(same(a, b) for a, b in zip(fresh.batches(2), unbroken.batches(2), strict=True))


def test_a_state_is_that_of_the_batch_yielded_last_also_of_a_restored_run(tmp_path: Path) -> None:
    samples = as_files(pixels(), tmp_path)
    first = loader(samples)
    whole = list(first.batches(0))
    list(islice(first.batches(0, 1), 2))
    second = loader(samples)
    second.load_state(first.state())
    running = second.batches(0, 3)
    assert same(next(running), whole[3])
    third = loader(samples)
    third.load_state(second.state())
    assert [same(a, b) for a, b in zip(third.batches(0, 4), whole[4:], strict=True)] == [True, True]


def test_any_other_state_changes_nothing(samples: Samples) -> None:
    made = loader(samples)
    whole = list(made.batches(0))
    other = loader(samples)
    list(islice(other.batches(3), 2))
    for state in ({}, {"place": 3}, other.state(), {**other.state(), "version": "0", "epoch": 0}):
        made.load_state(state)
        assert all(same(a, b) for a, b in zip(made.batches(0, 2), whole[2:], strict=True))


def test_another_process_restores_the_epoch(tmp_path: Path) -> None:
    """As a resumed run does: nothing but the files and the state is left."""
    samples = as_files(pixels(), tmp_path)
    made = loader(samples, crop=2, flip=True)
    list(islice(made.batches(3), 2))
    torch.save({"state": made.state(), "paths": list(samples.paths)}, tmp_path / "saved.pt")
    program = f"""
import sys, torch
from pathlib import Path
from litfast.data.dali import DaliLoader
from litfast.data.sets.image_set import Files
folder = Path({str(tmp_path)!r})
saved = torch.load(folder / "saved.pt")
samples = Files(root=folder, paths=tuple(saved["paths"]), labels=torch.arange({COUNT}))
made = DaliLoader(samples, batch={BATCH}, mean={MEAN}, std={STD}, train=True, crop=2, flip=True)
made.load_state(saved["state"])
torch.save([tuple(batch) for batch in made.batches(3, 2)], folder / "rest.pt")
"""
    environment = {"PYTHONPATH": str(Path(litfast.__file__).parent.parent), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
    rest = [Batch(*batch) for batch in torch.load(tmp_path / "rest.pt")]
    assert all(same(a, b) for a, b in zip(rest, made.batches(3, 2), strict=True))


@pytest.mark.parametrize("train", [True, False])
def test_shards_share_an_epoch_out(samples: Samples, train: bool) -> None:
    shards = [
        loader(samples, train=train, shard_id=i, num_shards=3, crop=2, flip=True, batch=4) for i in range(3)
    ]
    assert {shard.steps for shard in shards} == {4 if train else 5}
    seen = torch.cat([epoch_of(shard.batches(1))[1] for shard in shards])
    seen = seen[seen >= 0]
    assert len(seen) == len(seen.unique()) == (48 if train else 50)


def test_evaluation_keeps_the_order_and_masks_what_fills_up_the_last_batch(samples: Samples) -> None:
    made = loader(samples, train=False, crop=2, flip=True)
    images, target = epoch_of(made.batches(5))
    assert images.shape == (56, 3, 6, 5)
    assert target.tolist() == [*range(COUNT), *[-100] * 6]
    assert close(images[:COUNT], normalised(pixels()))
    assert torch.equal(samples.labels, torch.arange(COUNT))


def test_attributes_are_delivered_and_masked(tmp_path: Path) -> None:
    labels = torch.arange(2 * 10).view(10, 2)
    samples = Images(images=pixels(10), labels=labels)
    _, target = epoch_of(loader(samples, train=False).batches(0))
    assert torch.equal(target[:10], labels) and target[10:].eq(-100).all() and target.shape == (16, 2)


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_batches_come_in_the_asked_layout_and_type(
    samples: Samples, channels_last: bool, dtype: torch.dtype
) -> None:
    made = loader(samples, channels_last=channels_last, dtype=dtype, train=False)
    batch = next(made.batches(0))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert batch.images.is_contiguous(memory_format=layout)
    assert batch.images.dtype == dtype and batch.target.dtype == torch.int64
    exact, unit = normalised(pixels()[:BATCH]), torch.finfo(dtype).eps
    torch.testing.assert_close(batch.images.float(), exact, rtol=unit, atol=1e-6)
