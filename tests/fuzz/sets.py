"""Targets: the files that data sets come in."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image

from litfast.data import sets
from litfast.data.decode import FORMATS, decode
from litfast.data.sets.celeba import ATTRIBUTES, IMAGES, PARTITION
from litfast.data.sets.image_set import ImageSet
from litfast.data.sets.items import Items
from litfast.data.sets.text_set import Corpus, Texts, TextSet
from litfast.data.tokens import StreamLoader, TokenLoader

from .harness import Target
from .spoil import any_bytes

IDX = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
GOOD_IMAGES = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 28, 0, 0, 0, 28]) + bytes(range(196)) * 8
GOOD_LABELS = bytes([0, 0, 8, 1, 0, 0, 0, 2, 3, 9])
RECORD = bytes([7]) + bytes(3072)
CSV = b'"1","a ""title""","two\\nlines"\n"2","","b"\n2,bare,fields\n'
WORDS = "the cat\n\nsat on  the é mat\n<unk> <eos>\n".encode()
FACES = (
    b"3\nBlack_Hair Blond_Hair Brown_Hair Male Young\n"
    b"1.jpg -1 1 -1 1 1\n2.jpg 1 -1 -1 -1 1\n3.jpg 1 1 1 1 1\n"
)
PARTS = b"1.jpg 0\n2.jpg 1\n3.jpg 2\n"


def whole_images(found: Any, channels: int, classes: int | None = None) -> None:
    """As many labels as images, all of a class, in every split."""
    assert isinstance(found, ImageSet)
    for split in (found.train, found.test, found.val):
        if split is None:
            continue
        assert not isinstance(split, Items)
        labels = split.labels
        assert labels.dtype == torch.int64 and len(labels) == len(split) > 0
        assert int(labels.min()) >= 0 and int(labels.max()) < (classes or len(found.classes))
        if isinstance(split, sets.Images):
            assert split.images.shape[:2] == (len(split), channels) and split.images.dtype == torch.uint8


def idx(case: tuple[int, bool, bytes], folder: Path) -> None:
    at, packed, content = case
    for place, (name, good) in enumerate(zip(IDX, [GOOD_IMAGES, GOOD_LABELS] * 2, strict=True)):
        data = content if place == at else good
        zipped = packed and place == at
        (folder / (name + ".gz" * zipped)).write_bytes(gzip.compress(data) if zipped else data)
    whole_images(sets.load("mnist", folder), 1)


def idx_gzip(content: bytes, folder: Path) -> None:
    """The compressed bytes themselves spoilt."""
    for name, good in zip(IDX, [GOOD_IMAGES, GOOD_LABELS] * 2, strict=True):
        (folder / f"{name}.gz").write_bytes(gzip.compress(good))
    (folder / f"{IDX[0]}.gz").write_bytes(content)
    whole_images(sets.load("mnist", folder), 1)


def cifar_binary(case: tuple[bytes, bytes], folder: Path) -> None:
    records, names = case
    (folder / "data_batch_1.bin").write_bytes(records)
    (folder / "test_batch.bin").write_bytes(RECORD)
    (folder / "batches.meta.txt").write_bytes(names)
    whole_images(sets.load("cifar10", folder), 3, 10)


def cifar_pickle(case: tuple[bytes, bytes], folder: Path) -> None:
    batch, meta = case
    (folder / "data_batch_1").write_bytes(batch)
    (folder / "test_batch").write_bytes(BATCHES[0])
    (folder / "batches.meta").write_bytes(meta)
    whole_images(sets.load("cifar10", folder), 3, 10)


def _batches() -> list[bytes]:
    pixels = np.zeros((2, 3072), np.uint8)
    content = {b"data": pixels, b"labels": [1, 9], b"batch_label": b"one of 1", b"filenames": [b"a", b"b"]}
    return [pickle.dumps(content, protocol=protocol) for protocol in (2, 3, 4, 5)]


BATCHES = _batches()
METAS = [pickle.dumps({b"label_names": [b"a"] * 10, b"num_vis": 3072}, protocol=p) for p in (2, 4)]


def amazon(content: bytes, folder: Path) -> None:
    (folder / "train.csv").write_bytes(content)
    (folder / "test.csv").write_bytes(CSV)
    found = sets.load("amazon_polarity", folder, length=9, cache=folder / "cache")
    assert isinstance(found, TextSet)
    assert len(found.train.tokens) == len(found.train.labels) == found.counts["train"].texts > 0
    assert set(found.train.labels.tolist()) <= {0, 1} and int(found.train.tokens.max()) < found.alphabet
    nothing_half_made(folder / "cache")


def text(content: bytes, folder: Path) -> None:
    for split in ("valid", "test"):
        (folder / f"{split}.txt").write_bytes(WORDS)
    (folder / "train.txt").write_bytes(content)
    found = sets.load("text", folder, cache=folder / "cache")
    assert isinstance(found, Corpus)
    for ids in (found.train, found.val, found.test):
        assert len(ids) and int(ids.min()) >= 0 and int(ids.max()) < len(found.words)
    assert len(set(found.words)) == len(found.words) and int(found.counts.sum()) == len(found.train)
    nothing_half_made(folder / "cache")


def nothing_half_made(cache: Path) -> None:
    assert {file.suffix for file in cache.iterdir()} == {".cache"}


def cache(content: bytes, folder: Path) -> None:
    """A spoilt cache file is built anew: the result is that of the source."""
    for split in ("train", "valid", "test"):
        (folder / f"{split}.txt").write_bytes(WORDS)
    wanted = sets.load("text", folder, cache=folder / "cache")
    assert isinstance(wanted, Corpus)
    file = sorted((folder / "cache").iterdir())[0]
    whole = file.read_bytes()
    at = len(content) % len(whole)
    file.write_bytes((whole[:at] + content + whole[at + len(content) :])[: len(whole) + len(content) % 3])
    found = sets.load("text", folder, cache=folder / "cache")
    assert isinstance(found, Corpus)
    assert found.words == wanted.words and torch.equal(found.train, wanted.train)


def celeba(case: tuple[bytes, bytes], folder: Path) -> None:
    (folder / IMAGES).mkdir()
    for name in ("1.jpg", "2.jpg", "3.jpg"):
        (folder / IMAGES / name).touch()
    (folder / ATTRIBUTES).write_bytes(case[0])
    (folder / PARTITION).write_bytes(case[1])
    found = sets.load("celeba", folder)
    assert isinstance(found, ImageSet)
    for split in (found.train, found.test, found.val):
        assert (
            split is not None
            and not isinstance(split, Items)
            and set(split.labels.flatten().tolist()) <= {0, 1}
        )


def webdataset(content: bytes, folder: Path) -> None:
    (folder / "train-0.tar").write_bytes(content)
    (folder / "test-0.tar").write_bytes(TARS[0])
    whole_images(sets.load("webdataset", folder, classes=3), 3)


def _tar(members: dict[str, bytes], **kind: Any) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", **kind) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


TARS = [
    _tar({"a/0.jpg": b"jpeg", "a/0.cls": b"1", "b.png": b"png", "b.cls": b" 2\n"}),
    _tar({"0.jpg": b"x", "0.json": b'{"label": 0}'}, format=tarfile.PAX_FORMAT),
    _tar({"long" * 40 + ".jpg": b"x", "long" * 40 + ".cls": b"0"}, format=tarfile.PAX_FORMAT),
    _tar({"long" * 40 + ".jpg": b"x", "long" * 40 + ".cls": b"0"}, format=tarfile.GNU_FORMAT),
]


def image(content: bytes, folder: Path) -> None:
    pixels = decode(content, name="here", size=8)
    assert pixels.shape == (8, 8, 3) and pixels.dtype == np.uint8


def _images() -> list[bytes]:
    made = []
    for kind in FORMATS:
        packed = io.BytesIO()
        Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)).save(packed, kind)
        made.append(packed.getvalue())
    return made


small = st.sampled_from([1, 2, 3, 1, 2, 5, 0, -1])
number = st.one_of(small, st.sampled_from([1 << 31, 1 << 62]))
tensor = st.builds(
    lambda shape, dtype: torch.ones(shape, dtype=dtype),
    st.lists(st.integers(0, 5), max_size=3),
    st.sampled_from([torch.uint8, torch.int64, torch.int32, torch.float32, torch.bool]),
)
shards = st.fixed_dictionaries({"shard_id": number, "num_shards": number})


def tokens(case: tuple[Any, ...], folder: Path) -> None:
    ids, labels, rows, batch, train, dtype, shard = case
    loader = TokenLoader(
        Texts(tokens=ids, labels=labels, rows=rows), batch=batch, train=train, dtype=dtype, **shard
    )
    for step, (inputs, target) in enumerate(loader.batches(0)):
        assert inputs.shape == (batch, ids.shape[1]) and target.shape == (batch,)
        if step > 3:
            break


def streams(case: tuple[Any, ...], folder: Path) -> None:
    ids, batch, length, train, shard = case
    loader = StreamLoader(ids, batch=batch, length=length, train=train, **shard)
    for step, (inputs, target) in enumerate(loader.batches(0)):
        assert inputs.shape == target.shape == (batch, length)
        if step > 3:
            break


def _target(
    name: str, run: Callable[[Any, Path], object], cases: Any, says: str, *also: type[Exception]
) -> Target:
    return Target(name=name, cases=cases, run=run, says=says, refusals=(ValueError, *also))


rows = st.one_of(tensor, st.just(torch.arange(3)), st.just(torch.arange(3)))
SETS = [
    _target(
        "idx images and labels",
        idx,
        st.one_of(
            st.tuples(st.just(0), st.booleans(), any_bytes(GOOD_IMAGES)),
            st.tuples(st.just(1), st.booleans(), any_bytes(GOOD_LABELS)),
        ),
        "mnist: ",
    ),
    _target("idx gzip", idx_gzip, any_bytes(gzip.compress(GOOD_IMAGES, mtime=0)), "mnist: "),
    _target(
        "cifar binary",
        cifar_binary,
        st.tuples(
            any_bytes(RECORD, RECORD * 2, bytes([10]) + RECORD[1:]),
            any_bytes(b"a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n"),
        ),
        "cifar10: ",
    ),
    _target("cifar pickle", cifar_pickle, st.tuples(any_bytes(*BATCHES), any_bytes(*METAS)), "cifar10: "),
    _target("amazon csv", amazon, any_bytes(CSV, gzip.compress(CSV, mtime=0)), "amazon_polarity: "),
    _target("text corpus", text, any_bytes(WORDS, gzip.compress(WORDS, mtime=0)), "text: "),
    Target(name="cache file", cases=st.binary(max_size=5000), run=cache, says="", is_safe=True),
    _target("celeba lists", celeba, st.tuples(any_bytes(FACES), any_bytes(PARTS)), "celeba: "),
    _target("encoded image", image, any_bytes(*_images()), "decode: here "),
    _target("webdataset tar", webdataset, any_bytes(*TARS), "webdataset: "),
    _target(
        "token loader",
        tokens,
        st.tuples(
            st.one_of(tensor, st.just(torch.ones(3, 4, dtype=torch.uint8))),
            rows,
            rows,
            small,
            st.booleans(),
            st.sampled_from([torch.int64, torch.int32, torch.uint8, torch.float32]),
            st.one_of(st.just({}), shards),
        ),
        "TokenLoader: ",
        TypeError,
    ),
    _target(
        "stream loader",
        streams,
        st.tuples(
            st.one_of(tensor, st.just(torch.arange(40))),
            small,
            small,
            st.booleans(),
            st.one_of(st.just({}), shards),
        ),
        "StreamLoader: ",
        TypeError,
    ),
]
