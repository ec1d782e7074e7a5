"""Small shards as webdataset writes them, and tars that must be refused."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from litfast.data.decode import decode_all
from litfast.data.sets.image_set import Members
from litfast.data.sets.webdataset import webdataset, write_index

Entry = tuple[str, bytes]


def png(seed: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write(path: Path, entries: list[Entry], kind: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=kind) as archive:
        for name, content in entries:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def sample(key: str, label: int, seed: int = 0) -> list[Entry]:
    return [(f"{key}.png", png(seed)), (f"{key}.cls", str(label).encode())]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "train-000.tar", sample("a/0", 2, 0) + sample("a/1", 0, 1))
    write(tmp_path / "train-001.tar", sample("a/0", 1, 2))
    write(tmp_path / "test-000.tar", sample("b", 1, 3))
    return tmp_path


def test_samples_are_found_in_their_order_and_read_where_they_lie(folder: Path) -> None:
    found = webdataset(folder, size=None)
    train = found.train
    assert isinstance(train, Members)
    assert train.keys == ("a/0", "a/1", "a/0") and train.labels.tolist() == [2, 0, 1]
    assert train.tar.tolist() == [0, 0, 1] and [tar.name for tar in train.tars] == [
        "train-000.tar",
        "train-001.tar",
    ]
    assert [train.read(i) for i in range(3)] == [png(0), png(1), png(2)]
    assert train.name(2) == f"{folder}/train-001.tar:a/0"
    assert (found.classes, found.val, found.flip) == (("0", "1", "2"), None, True)
    assert decode_all(train).images.shape == (3, 3, 4, 5)
    assert webdataset(folder, size=2).size == 2


def test_labels_come_from_json_too_and_other_members_are_passed_over(folder: Path) -> None:
    noise: list[Entry] = [("a/.hidden.png", b""), ("readme", b""), ("x/y", b"")]
    first: list[Entry] = [
        ("0.JPG", b"image"),
        ("0.json", json.dumps({"label": 1}).encode()),
        ("0.txt", b"words"),
    ]
    second: list[Entry] = [
        ("1.json", b"{}"),
        ("1.cls", b" 0\n"),
        ("1.seg.png", b"mask"),
        ("1.jpeg", b"other"),
    ]
    write(folder / "test-000.tar", noise + first + second)
    test = webdataset(folder).test
    assert isinstance(test, Members)
    assert test.labels.tolist() == [1, 0] and test.keys == ("0", "1")
    assert [test.read(i) for i in range(2)] == [b"image", b"other"]


def test_val_is_the_test_split_where_there_is_no_other(folder: Path) -> None:
    write(folder / "val-000.tar", sample("v", 0))
    both = webdataset(folder)
    assert isinstance(both.val, Members) and both.val.keys == ("v",)
    (folder / "test-000.tar").unlink()
    one = webdataset(folder)
    assert isinstance(one.test, Members) and one.test.keys == ("v",) and one.val is None


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_are_followed_in_every_tar_format(kind: int, folder: Path) -> None:
    key = "/".join(["d" * 40] * 3 + ["f" * 60])
    write(folder / "test-000.tar", sample(key, 1, 7), kind)
    test = webdataset(folder).test
    assert isinstance(test, Members) and test.keys == (key,) and test.read(0) == png(7)


def test_classes_may_be_more_than_the_training_labels_show(folder: Path) -> None:
    assert len(webdataset(folder, classes=5).classes) == 5
    write(folder / "train-001.tar", sample("a", 4))
    with pytest.raises(
        ValueError, match=r"training labels of .* must use every number .*, got 4 and no 1; give"
    ):
        webdataset(folder)
    assert webdataset(folder, classes=5).train.labels.tolist() == [2, 0, 4]
    with pytest.raises(ValueError, match=rf"the label of {folder}/train-001\.tar:a must be below 3, got 4"):
        webdataset(folder, classes=3)


def special(name: str, kind: bytes, target: str = "") -> Callable[[Path], None]:
    def add(path: Path) -> None:
        with tarfile.open(path, "w") as archive:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member)

    return add


def holding(*entries: Entry) -> Callable[[Path], object]:
    return lambda path: write(path, list(entries))


def cut(keep: Callable[[int], int]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        with path.open("r+b") as file:
            file.truncate(keep(path.stat().st_size))

    return spoil


def damaged(path: Path) -> None:
    """The second header overwritten: tarfile would end the archive there in silence."""
    with tarfile.open(path) as archive:
        at = archive.getmembers()[1].offset
    raw = bytearray(path.read_bytes())
    raw[at : at + 300] = b"x" * 300
    path.write_bytes(raw)


IMAGE: Entry = ("k.png", b"image")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda path: path.write_bytes(gzip.compress(path.read_bytes())),
            "{0} must be an uncompressed tar, got gzip",
        ),
        (lambda path: path.write_bytes(b"BZh91AY" + bytes(9)), "{0} must be an uncompressed tar, got bzip2"),
        (lambda path: path.write_bytes(b""), "{0} must be a whole tar, got: empty file"),
        (lambda path: path.write_bytes(b"no tar" * 200), "{0} must be a whole tar, got: "),
        (holding(), "{0} must hold at least 1 sample, got none"),
        (holding(IMAGE), r"{0}:k must have one label \(cls, json\), got png"),
        (holding(("k.cls", b"1")), r"{0}:k must have one image \(jpg, jpeg, png\), got cls"),
        (holding(IMAGE, ("k.jpg", b""), ("k.cls", b"1")), r"{0}:k must have one image .*, got png, jpg"),
        (holding(IMAGE, ("l.cls", b"1"), ("k.cls", b"1")), r"{0}:k must have one label .*, got png"),
        (holding(IMAGE, ("k.cls", b"dog")), r"{0}:k\.cls must hold a whole number from 0 on, got b'dog'"),
        (holding(IMAGE, ("k.cls", b"")), r"{0}:k\.cls must hold a whole number from 0 on, got b''"),
        (holding(IMAGE, ("k.cls", b"-1")), r"{0}:k\.cls must hold a whole number from 0 on, got b'-1'"),
        (holding(IMAGE, ("k.cls", b"3")), "label of {0}:k must be below 3, got 3"),
        (
            holding(IMAGE, ("k.cls", bytes(1 << 21))),
            r"{0}:k\.cls must hold a whole number .*, got 2097152 bytes",
        ),
        (holding(IMAGE, ("k.json", b'{"label": true}')), r'{0}:k\.json must hold .* under "label", got b'),
        (holding(IMAGE, ("k.json", b"[]")), r'{0}:k\.json must hold a whole number from 0 on under "label"'),
        (
            holding(IMAGE, ("k.json", b'{"lab')),
            r'{0}:k\.json must hold a whole number from 0 on under "label"',
        ),
        (holding(("../k.png", b""), ("../k.cls", b"0")), r"names in {0} must stay below it, got \.\./k\.png"),
        (holding(("/etc/k.png", b"")), "names in {0} must stay below it, got /etc/k.png"),
        (holding(("a/../../k.png", b"")), "names in {0} must stay below it"),
        (
            special("k.png", tarfile.SYMTYPE, "/etc/passwd"),
            r"{0} must hold plain files only, got a link: k\.png",
        ),
        (special("k.png", tarfile.LNKTYPE, "k.cls"), r"{0} must hold plain files only, got a link: k\.png"),
        (special("k.png", tarfile.FIFOTYPE), r"{0} must hold plain files only, got something else: k\.png"),
        (cut(lambda size: 600), r"{0} must be a whole tar, got: unexpected end of data after b\.png"),
        (cut(lambda size: 1024 + 100), r"{0} must end with a block of zeros, got none after b\.png"),
        (
            cut(lambda size: 2048),
            r"{0} must end with a block of zeros, got none after b\.cls; it is truncated",
        ),
        (
            cut(lambda size: 1024),
            r"{0} must end with a block of zeros, got none after b\.png; it is truncated",
        ),
        (damaged, r"{0} must end with a block of zeros, got none after b\.png; it is truncated or damaged"),
    ],
)
def test_a_spoilt_tar_is_named_with_its_key(
    spoil: Callable[[Path], object], message: str, folder: Path
) -> None:
    path = folder / "test-000.tar"
    spoil(path)
    with pytest.raises(ValueError, match="webdataset: .*" + message.format(path)):
        webdataset(folder)


def test_every_cut_of_a_tar_is_refused(folder: Path) -> None:
    path = folder / "test-000.tar"
    whole = path.read_bytes()
    assert len(png(3)) < 512
    for kept in range(0, 2048 + 512, 64):  # two headers and two contents, then zeros
        path.write_bytes(whole[:kept])
        with pytest.raises(ValueError, match=rf"webdataset: {path}"):
            webdataset(folder)


@pytest.mark.parametrize("name", ["test-000.tar.gz", "train-9.tgz", "train-9.tar.zst"])
def test_packed_shards_are_refused_by_name(name: str, folder: Path) -> None:
    (folder / name).write_bytes(b"")
    with pytest.raises(
        ValueError, match=rf"webdataset: {folder} must hold uncompressed tars only, got {name}"
    ):
        webdataset(folder)
    for path in folder.glob("*.tar"):
        path.unlink()
    with pytest.raises(
        ValueError, match=rf"{folder} must hold uncompressed train-\*\.tar and .*, got {name}"
    ):
        webdataset(folder)


def test_a_missing_split_is_named(folder: Path) -> None:
    (folder / "test-000.tar").unlink()
    with pytest.raises(
        ValueError, match=r"must hold uncompressed train-\*\.tar .*, got train-000\.tar, train-001"
    ):
        webdataset(folder)
    with pytest.raises(ValueError, match=r"/no must hold .*, got neither"):
        webdataset(folder / "no")
    with pytest.raises(ValueError, match="webdataset: size must be at least 1, got 0"):
        webdataset(folder, size=0)


def test_the_index_is_that_of_dalis_own_tool(tmp_path: Path) -> None:
    entries = [("./x/0.png", png(0)), ("./x/0.seg.PNG", b"m"), ("./x/0.cls", b"1"), *sample("y.d/1", 3)]
    tar = write(tmp_path / "train-000.tar", entries, tarfile.USTAR_FORMAT)
    write_index(tar, tmp_path / "ours.idx")
    wds2idx = pytest.importorskip("wds2idx", reason="DALI's own index tool comes with nvidia-dali")
    with wds2idx.IndexCreator(str(tar), str(tmp_path / "theirs.idx"), verbose=False) as creator:
        creator.create_index()
    assert (tmp_path / "ours.idx").read_bytes() == (tmp_path / "theirs.idx").read_bytes()
    size = len(png(0))
    second = 512 + -(-size // 512) * 512 + 512
    assert (tmp_path / "ours.idx").read_text().splitlines()[:2] == [
        "v1.2 2",
        f"png 512 {size} ./x/0.png seg.PNG {second} 1 ./x/0.seg.PNG cls {second + 1024} 1 ./x/0.cls",
    ]


def test_the_offsets_of_the_index_are_right_after_long_names(tmp_path: Path) -> None:
    tar = write(tmp_path / "a.tar", sample("k" * 150, 0, 5), tarfile.PAX_FORMAT)
    write_index(tar, tmp_path / "a.idx")
    _, line = (tmp_path / "a.idx").read_text().splitlines()
    offset, size = map(int, line.split()[1:3])
    assert tar.read_bytes()[offset : offset + size] == png(5)


def test_a_name_that_would_break_the_index_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    tar = write(tmp_path / "a.tar", sample("a b", 0))
    with pytest.raises(
        ValueError, match=rf"write_index: names in {tar} must be without white space, got 'a b\.png'"
    ):
        write_index(tar, tmp_path / "a.idx")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_an_interrupted_index_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tar = write(tmp_path / "a.tar", sample("a", 0))
    (tmp_path / "a.idx").write_text("old")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_index(tar, tmp_path / "a.idx")
    assert {path.name: path.stat().st_size for path in tmp_path.iterdir()}.keys() == {"a.tar", "a.idx"}
    assert (tmp_path / "a.idx").read_text() == "old"


def test_samples_can_be_chosen(folder: Path) -> None:
    train = webdataset(folder).train
    assert isinstance(train, Members)
    chosen = train.at(torch.tensor([2, 0]))
    assert chosen.keys == ("a/0", "a/0") and [chosen.read(i) for i in range(2)] == [png(2), png(0)]
