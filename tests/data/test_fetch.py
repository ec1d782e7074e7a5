"""Sets fetched from a server in this process, under checksums of small archives in the official layouts."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from litfast.data import load
from litfast.data.fetch import SOURCES, fetch

from .conftest import Server

RECORD = bytes([3]) + bytes(3072)
CIFAR10 = {
    "data_batch_1.bin": RECORD * 2,
    "test_batch.bin": RECORD,
    "batches.meta.txt": b"a b c d e f g h i j",
}


def tar_gz(folder: str, files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def offer(server: Server, monkeypatch: pytest.MonkeyPatch, name: str, contents: dict[str, bytes]) -> None:
    """Let the server have a set's files, and let their checksums be the published ones."""
    sums = {file: hashlib.md5(content).hexdigest() for file, content in contents.items()}
    server.files |= {f"/{file}": content for file, content in contents.items()}
    addresses = (server.address,) if SOURCES[name].addresses else ()
    monkeypatch.setitem(SOURCES, name, replace(SOURCES[name], files=sums, addresses=addresses))


def left(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_cifar_becomes_a_folder_that_loads(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    archive = "cifar-10-binary.tar.gz"
    offer(server, monkeypatch, "cifar10", {archive: tar_gz("cifar-10-batches-bin", CIFAR10)})
    folder = fetch("cifar10", tmp_path)
    assert folder == tmp_path / "cifar-10-batches-bin"
    assert load("cifar10", folder).train.labels.tolist() == [3, 3]
    (tmp_path / archive).unlink()
    assert fetch("cifar10", tmp_path) == folder
    assert len(server.asked) == 1


def test_mnist_is_four_files_each_fetched_once(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = {name: name.encode() * 1000 for name in SOURCES["mnist"].files}
    offer(server, monkeypatch, "mnist", files)
    server.codes = [0, 0, 404]
    with pytest.raises(OSError, match=r"t10k-images-idx3-ubyte.gz must be had from an address"):
        fetch("mnist", tmp_path)
    seen: set[str] = set()
    folder = fetch("mnist", tmp_path, progress=lambda name, done, total: seen.add(name))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    assert len(server.asked) == 5 and seen == {name for name in files if name.startswith("t10k")}


def test_a_mirror_takes_the_official_addresss_place_and_the_checksum_stays(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server.files["/here/cifar-10-binary.tar.gz"] = tar_gz("cifar-10-batches-bin", CIFAR10)
    with pytest.raises(
        ValueError, match=r"must have md5 c32a1d4ab5d03f1284b67883e8d87530, got .* is deleted"
    ):
        fetch("cifar10", tmp_path, mirror=f"{server.address}/here/")
    assert left(tmp_path) == set()
    with pytest.raises(ValueError, match="mirror must be an http:// or https:// address, got 'file:///etc'"):
        fetch("cifar10", tmp_path, mirror="file:///etc")


def test_a_truncated_archive_is_completed_and_a_corrupted_one_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    content = tar_gz("cifar-10-batches-bin", CIFAR10)
    offer(server, monkeypatch, "cifar10", {"cifar-10-binary.tar.gz": content})
    server.cut = [len(content) // 2]
    assert len(load("cifar10", fetch("cifar10", tmp_path / "cut", pause=0.01)).train) == 2
    server.files["/cifar-10-binary.tar.gz"] = content[:-1] + b"?"
    with pytest.raises(ValueError, match="must have md5"):
        fetch("cifar10", tmp_path / "bad")
    assert left(tmp_path / "bad") == set()


def test_an_archive_that_attacks_is_refused_even_with_the_right_checksum(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    content = tar_gz("cifar-10-batches-bin", CIFAR10 | {"../../evil": b"evil"})
    offer(server, monkeypatch, "cifar10", {"cifar-10-binary.tar.gz": content})
    with pytest.raises(ValueError, match=r"extract: member 'cifar-10-batches-bin/../../evil' of"):
        fetch("cifar10", tmp_path / "in")
    assert left(tmp_path) == {"in/cifar-10-binary.tar.gz"}


@pytest.mark.parametrize("name", ["celeba", "amazon_polarity", "amazon_full"])
def test_what_has_no_plain_address_says_where_it_is_to_be_had(name: str, tmp_path: Path) -> None:
    source = SOURCES[name]
    with pytest.raises(ValueError) as caught:
        fetch(name, tmp_path)
    line = str(caught.value)
    assert all(word in line for word in (name, source.page, str(tmp_path / source.place), *source.files))
    assert "\n" not in line and left(tmp_path) == set()


def test_files_brought_by_hand_are_checked_and_unpacked(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("img_align_celeba/000001.jpg", b"a face")
    files = {"list_attr_celeba.txt": b"1\n", "list_eval_partition.txt": b"0\n"}
    files["img_align_celeba.zip"] = packed.getvalue()
    offer(server, monkeypatch, "celeba", files)
    (tmp_path / "celeba").mkdir()
    for name, content in files.items():
        (tmp_path / "celeba" / name).write_bytes(content)
    assert fetch("celeba", tmp_path) == tmp_path / "celeba"
    assert left(tmp_path / "celeba") == {*files, "img_align_celeba/000001.jpg"}
    (tmp_path / "celeba" / "list_attr_celeba.txt").write_bytes(b"2\n")
    with pytest.raises(ValueError, match=r"list_attr_celeba.txt must have md5 .*, got another file"):
        fetch("celeba", tmp_path)
    assert not server.asked


def test_an_unknown_name_gets_the_nearest_known_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data set to fetch must be one of .* did you mean 'cifar10'"):
        fetch("cifar11", tmp_path)


def test_every_source_is_complete() -> None:
    for name, source in SOURCES.items():
        assert all(re.fullmatch("[0-9a-f]{32}", md5) for md5 in source.files.values()), name
        assert bool(source.addresses) != bool(source.page), name
        assert sum(file.endswith((".tar.gz", ".zip")) for file in source.files) == bool(source.unpack), name
