"""`litfast data fetch` from a server in this process, `litfast data info` on small folders."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from PIL import Image
from rich.console import Console
from typer.testing import Result

from litfast.cli import _console
from litfast.cli.data import _Bars
from litfast.data import DATASETS, ImageSet
from litfast.data.fetch import SOURCES
from litfast.data.sets.celeba import STARGAN, celeba
from litfast.data.sets.image_folder import image_folder
from litfast.data.sets.webdataset import webdataset

Litfast = Callable[..., Result]
RECORDS = b"".join(bytes([label]) + bytes([17 * label]) * 3072 for label in (3, 9, 3))


@pytest.fixture
def cifar10(tmp_path: Path) -> Path:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    (folder / "data_batch_1.bin").write_bytes(RECORDS)
    (folder / "test_batch.bin").write_bytes(RECORDS[:3073])
    return folder


def packed(folder: Path) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        archive.add(folder, folder.name)
    return content.getvalue()


class Handler(BaseHTTPRequestHandler):
    content = b""
    silent = False

    def do_GET(self) -> None:
        if not self.path.endswith("cifar-10-binary.tar.gz"):
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        half = len(self.content) // 2
        self.wfile.write(self.content[:half])
        if self.silent:
            self.wfile.flush()
            time.sleep(5)
        self.wfile.write(self.content[half:])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def mirror(cifar10: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server that has an archive whose checksum counts as the published one."""
    content = packed(cifar10)
    sums = {"cifar-10-binary.tar.gz": hashlib.md5(content).hexdigest()}
    monkeypatch.setitem(SOURCES, "cifar10", replace(SOURCES["cifar10"], files=sums))
    monkeypatch.setattr(Handler, "content", content)
    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads, running.block_on_close = True, False
    thread = Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{running.server_address[1]}"
    running.shutdown()
    thread.join()
    running.server_close()


def test_fetch_brings_a_set_that_info_then_describes(mirror: str, tmp_path: Path, litfast: Litfast) -> None:
    words = ["data", "fetch", "cifar10", "--root", tmp_path / "new", "--mirror", mirror]
    result = litfast(*words)
    folder = tmp_path / "new" / "cifar-10-batches-bin"
    assert result.exit_code == 0 and result.stdout == f"cifar10 lies in {folder}\n"
    assert json.loads(litfast(*words, "--json").stdout) == {"name": "cifar10", "folder": str(folder)}
    assert "airplane" not in litfast("data", "info", folder).stdout  # no names beside: classes are numbers
    assert json.loads(litfast("data", "info", folder, "--json").stdout)["name"] == "cifar10"


def test_info_prints_one_document(cifar10: Path, litfast: Litfast) -> None:
    result = litfast("data", "info", cifar10, "--json")
    document = json.loads(result.stdout)
    assert document["path"] == str(cifar10) and document["format"] == "CIFAR-10, binary"
    train = document["splits"]["train"]
    assert (train["samples"], train["by_class"]["3"], train["by_class"]["9"]) == (3, 2, 1)
    assert document["splits"]["test"]["samples"] == 1
    assert document["mean"] == pytest.approx([(51 + 153 + 51) / 3 / 255] * 3)
    assert document["sizes"] == {"32x32": 3} and (document["archive"], document["sheet"]) == (None, None)


def test_info_prints_a_table(cifar10: Path, litfast: Litfast) -> None:
    shown = litfast("data", "info", cifar10).stdout
    for words in (
        "CIFAR-10, binary (cifar10)",
        "train 3, test 1",
        "3: 2",
        "32x32 (3)",
        "all 3 training images",
    ):
        assert words in shown


def test_info_writes_a_contact_sheet(cifar10: Path, tmp_path: Path, litfast: Litfast) -> None:
    sheet = tmp_path / "sheet.png"
    result = litfast("data", "info", cifar10, "--sheet", sheet)
    assert result.stdout.endswith(f"contact sheet: {sheet}\n")
    with Image.open(sheet) as drawn:
        assert drawn.width > 500


def test_info_knows_the_embedded_sets_by_name(litfast: Litfast) -> None:
    document = json.loads(litfast("data", "info", "digits", "--json").stdout)
    assert document["format"] == "embedded" and document["splits"]["test"]["samples"] == 400


def test_info_says_that_an_archive_is_one(cifar10: Path, tmp_path: Path, litfast: Litfast) -> None:
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(packed(cifar10))
    shown = litfast("data", "info", archive).stdout
    assert shown == f"{archive} is a tar.gz archive of: CIFAR-10, binary; unpack it, then name the folder\n"
    document = json.loads(litfast("data", "info", archive, "--json").stdout)
    assert (document["archive"], document["name"]) == ("tar.gz", "cifar10")


def test_info_of_texts_counts_words(
    tmp_path: Path, litfast: Litfast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "text").mkdir()
    for split in ("train", "valid", "test"):
        (tmp_path / "text" / f"{split}.txt").write_text("one two\n")
    assert "3 words with the ends of 1 lines" in litfast("data", "info", tmp_path / "text").stdout
    result = litfast("data", "info", tmp_path / "text", "--sheet", tmp_path / "a.png")
    assert result.exit_code == 1 and "--sheet needs images, got the texts of text" in result.stderr


def test_info_of_reviews_counts_texts_and_classes(
    tmp_path: Path, litfast: Litfast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "reviews").mkdir()
    for split in ("train", "test"):
        (tmp_path / "reviews" / f"{split}.csv").write_text('"1","a","b"\n"2","c","d"\n"2","","e"\n')
    shown = litfast("data", "info", tmp_path / "reviews").stdout
    assert "amazon_polarity" in shown and "negative: 1, positive: 2" in shown


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["fetch", "cifar11"], 2, "NAME must be one of"),
        (["fetch", "celeba"], 1, "celeba must be brought by hand"),
        (["fetch", "mnist", "--mirror", "ftp://x"], 1, "mirror must be an http:// or https:// address"),
        (["info", "nowhere"], 1, "nowhere must be a folder or an archive, got nothing of that name"),
        (
            ["info", "cifar10"],
            1,
            "cifar10 must be named by the folder that holds it, got its name; litfast data",
        ),
        (["info", "."], 1, "must hold a known set (CIFAR-10, binary: data_batch_*.bin"),
        (["info", "digits", "--sheet", "a.jpg"], 2, "--sheet must name a .png file"),
    ],
)
def test_bad_words_get_one_clear_line(
    words: list[str], code: int, line: str, litfast: Litfast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = litfast("data", *words)
    assert result.exit_code == code, result.output
    assert line in result.stderr and result.stderr.count("\n") == 1 and result.stdout == ""


def test_a_server_that_has_it_not_is_one_line(mirror: str, tmp_path: Path, litfast: Litfast) -> None:
    result = litfast("data", "fetch", "cifar100", "--root", tmp_path / "new", "--mirror", mirror)
    assert result.exit_code == 1 and result.stderr.count("\n") == 1
    assert "cifar-100-binary.tar.gz: HTTP 404" in result.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_what_has_arrived(
    number: signal.Signals, code: int, mirror: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Handler, "silent", True)
    words = ["data", "fetch", "cifar10", "--root", str(tmp_path / "new"), "--mirror", mirror]
    environment = os.environ | {"PYTHONPATH": str(Path(_console.__file__).parents[2])}
    command = [sys.executable, "-m", "litfast", *words]
    running = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    part = tmp_path / "new" / "cifar-10-binary.tar.gz.part"
    while running.poll() is None and not part.exists():
        time.sleep(0.05)
    running.send_signal(number)
    assert running.wait(3) == code
    assert running.stderr is not None
    with running.stderr as stream:
        assert stream.read() == (
            "litfast: stopped; what has arrived is kept, the same command goes on from there\n"
        )
    assert {path.name for path in (tmp_path / "new").iterdir()} == {part.name}


def test_bars_move_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal in (True, False):
        screen = io.StringIO()
        monkeypatch.setattr(_console, "err", Console(file=screen, force_terminal=terminal, width=100))
        with _Bars() as bars:
            bars.of_bytes("a.tar.gz", 1_000_000, 2_000_000)
            bars.of_bytes("a.tar.gz", 2_000_000, 2_000_000)
        assert ("2.0/2.0 MB" in screen.getvalue()) == terminal and bool(screen.getvalue()) == terminal


def jpeg(colour: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (178, 218), (colour, 0, 0)).save(content, "JPEG")
    return content.getvalue()


def as_folder(root: Path) -> None:
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            (root / split / name / "1.jpg").write_bytes(jpeg(255))
    (root / "train" / "dog" / "2.jpg").write_bytes(b"no image")


def as_shards(root: Path) -> None:
    for split in ("train", "test"):
        with tarfile.open(root / f"{split}-0.tar", "w") as archive:
            for key, label in (("a", 0), ("b", 1)):
                for suffix, content in (("cls", str(label).encode()), ("jpg", jpeg(255))):
                    info = tarfile.TarInfo(f"{key}.{suffix}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))


def as_celeba(root: Path) -> None:
    names = [f"{i:06d}.jpg" for i in range(1, 4)]
    (root / "img_align_celeba").mkdir()
    for name in names:
        (root / "img_align_celeba" / name).write_bytes(jpeg(255))
    attributes = " ".join((*STARGAN, "Bald"))
    rows = "".join(f"{name} {' 1 -1' * 3}\n" for name in names)
    (root / "list_attr_celeba.txt").write_text(f"3\n{attributes}\n{rows}")
    partition = "".join(f"{name} {split}\n" for split, name in enumerate(names))
    (root / "list_eval_partition.txt").write_text(partition)


@pytest.mark.parametrize(
    ("make", "reader", "format", "train"),
    [
        (as_folder, image_folder, "image folder", 3),
        (as_shards, webdataset, "webdataset", 2),
        (as_celeba, celeba, "CelebA", 1),
    ],
)
def test_info_describes_and_draws_encoded_images(
    make: Callable[[Path], None],
    reader: Callable[..., ImageSet],
    format: str,
    train: int,
    tmp_path: Path,
    litfast: Litfast,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(DATASETS, reader.__name__, reader)
    make(tmp_path)
    result = litfast("data", "info", tmp_path, "--json", "--all", "--sheet", tmp_path / "sheet.png")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["name"], document["format"]) == (reader.__name__, format)
    assert document["splits"]["train"]["samples"] == train and set(document["sizes"]) == {"178x218"}
    assert document["mean"] == pytest.approx([1, 0, 0], abs=0.02)
    bad = 1 if make is as_folder else 0
    assert len(document["undecodable"]) == bad and (tmp_path / "sheet.png").exists()
    (tmp_path / "sheet.png").unlink()
    shown = litfast("data", "info", tmp_path).stdout
    assert f"{format} ({reader.__name__})" in shown and "178x218" in shown
    assert f"{'1' if bad else 'none'} of {train} looked at" in shown
