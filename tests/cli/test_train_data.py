"""`litfast train` on a folder of images, through every loader."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import Result

from litfast.data import sets

Litfast = Callable[..., Result]
LOADERS = ("resident", pytest.param("dali", marks=pytest.mark.dali), "torch")
RECIPE = """
[data]
name = "image_folder"
batch = 16
crop = 1
[student]
model = "resnet8"
[method]
name = "scratch"
[train]
epochs = 2
lr = 0.05
[engine]
precision = "fp32"
mode = "eager"
threads = 1
log_every = 1
"""
OWN = """
import torch
from litfast.data.sets import load

class Pictures:
    def __init__(self, split, classes=None):
        self._split, self.classes = split, classes

    def __len__(self):
        return len(self._split)

    def __getitem__(self, i):
        return self._split.images[i], int(self._split.labels[i])

def pictures(train=96):
    images = load("synthetic", size=8, train=train, val=16, test=16)
    return Pictures(images.train, images.classes), Pictures(images.test), Pictures(images.val)

def pairs():
    items = [(torch.zeros(3, 8, 8, dtype=torch.uint8), [0, 1])] * 16
    return type("Train", (list,), {"classes": 2})(items), items

def wrong():
    return 3
"""


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of 8x8 PNG files: 96 train, 16 val, 16 test."""
    root = tmp_path_factory.mktemp("images")
    images = sets.load("synthetic", size=8, train=96, val=16, test=16)
    for split in ("train", "val", "test"):
        samples: Any = getattr(images, split)
        for i, (pixels, label) in enumerate(zip(samples.images, samples.labels, strict=True)):
            place = root / split / f"class{int(label)}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(place / f"{i:02}.png")
    return root


@pytest.fixture
def mine(folder: Path, tmp_path: Path) -> Path:
    """A copy of the folder, to be spoilt."""
    return Path(shutil.copytree(folder, tmp_path / "mine"))


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "folder.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def run(litfast: Litfast, recipe: Path, tmp_path: Path) -> Callable[..., Result]:
    """run(key=value, ...): a training of its own with these keys of [data] set, into tmp_path / "run"."""

    def train(*words: str, **data: Any) -> Result:
        keys = [part for key, value in data.items() for part in ("--set", f"data.{key}={value}")]
        return litfast("train", recipe, "--device", "cpu", *keys, *words, "--out", tmp_path / "run")

    return train


@pytest.mark.parametrize("loader", LOADERS)
def test_a_folder_trains_through_each_loader(
    loader: str, run: Callable[..., Result], folder: Path, tmp_path: Path, litfast: Litfast
) -> None:
    result = run(root=folder, loader=loader)
    assert result.exit_code == 0, result.output
    assert f"loader: {loader} (asked for)\n" in result.stderr
    mark = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (mark["loader"], mark["left_out"]) == (f"loader: {loader} (asked for)", [])
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    speed = found["throughput"]["train"]
    for place in (*rows, speed):
        assert 0 < place["data_wait"] < 1
        whole, loaded, stepped = (
            place[key] for key in ("samples_per_s", "loader_samples_per_s", "step_samples_per_s")
        )
        assert 1 / whole == pytest.approx(1 / loaded + 1 / stepped)
    assert found["advice"] == "" or found["advice"] in result.stdout
    again = litfast("eval", tmp_path / "run", "--device", "cpu", "--json")
    assert json.loads(again.stdout)["accuracy"] == found["test_accuracy"]["student"]


def test_auto_decodes_a_small_folder_once_says_so_and_stays_with_it(
    run: Callable[..., Result], folder: Path, tmp_path: Path, litfast: Litfast
) -> None:
    result = run(root=folder)
    assert "loader: resident (its images take 24 KiB of the " in result.stderr
    mark = tmp_path / "run" / "run.json"
    said = json.loads(mark.read_text())["loader"]
    assert said.startswith("loader: resident (its images take 24 KiB")
    assert 'loader = "resident"' in (tmp_path / "run" / "config.toml").read_text()
    mark.write_text(json.dumps(json.loads(mark.read_text()) | {"status": "running"}))
    resumed = litfast("train", "--resume", "--out", tmp_path / "run")
    assert resumed.exit_code == 0, resumed.output
    assert "loader:" not in resumed.stderr and json.loads(mark.read_text())["loader"] == said


def test_the_plan_names_the_loader(run: Callable[..., Result], folder: Path) -> None:
    assert "loader: resident (its images" in run("--dry-run", root=folder).stdout
    assert json.loads(run("--dry-run", "--json", root=folder).stdout)["loader"] == "resident"


@pytest.mark.parametrize("loader", LOADERS)
def test_a_run_killed_within_an_epoch_resumes_to_bit_equal_weights(
    loader: str, recipe: Path, folder: Path, tmp_path: Path
) -> None:
    """Ctrl-C writes a checkpoint in the middle of an epoch; the resumed run is killed and resumed again."""
    words = ["--device", "cpu", "--set", f"data.root={folder}", "--set", f"data.loader={loader}"]
    words += ["--set", "train.epochs=30"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert _start(recipe, *words, "--out", str(whole)).wait(120) == 0
    stopped = _start(recipe, *words, "--out", str(parts))
    _wait_for(parts / "checkpoints" / "last.pt")
    stopped.send_signal(signal.SIGINT)
    assert stopped.wait(60) == 130
    last = parts / "checkpoints" / "last.pt"
    written = last.stat().st_mtime_ns
    killed = _start("--resume", "--out", str(parts))
    deadline = time.monotonic() + 60
    while last.exists() and last.stat().st_mtime_ns == written and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait(60)
    assert not (parts / "results.json").exists(), "the run was over before it could be killed"
    assert _start("--resume", "--out", str(parts)).wait(120) == 0
    ours, expected = (load_file(out / "student.safetensors") for out in (parts, whole))
    assert [key for key in expected if not torch.equal(ours[key], expected[key])] == []


def _start(*words: str | Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "litfast", "train", *map(str, words)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} never came"
        time.sleep(0.005)


@pytest.mark.parametrize("loader", LOADERS)
def test_a_bad_image_stops_the_run_in_one_line_that_names_it(
    loader: str, run: Callable[..., Result], mine: Path
) -> None:
    bad = mine / "train" / "class2" / "06.png"
    bad.write_bytes(bad.read_bytes()[:50])
    result = run(root=mine, loader=loader, workers=1)
    assert result.exit_code == 1
    *_, last = result.stderr.strip().splitlines()
    assert str(bad) in last and "must be a readable image, got" in last and "Traceback" not in result.output


@pytest.mark.parametrize("loader", LOADERS)
def test_bad_images_are_left_out_counted_and_named_where_that_is_asked_for(
    loader: str, run: Callable[..., Result], mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bad = [mine / "train" / "class2" / "06.png", mine / "test" / "class1" / "05.png"]
    bad[0].write_bytes(b"no image")
    bad[1].write_bytes(b"")
    result = run(root=mine, loader=loader, on_error="skip")
    assert result.exit_code == 0, result.output
    (said,) = [line for line in result.stderr.splitlines() if line.startswith("data: ")]
    assert said.startswith("data: 2 of 128 images left out, they cannot be decoded: ")
    assert all(f"{file} (" in said for file in bad)
    left_out = json.loads((tmp_path / "run" / "run.json").read_text())["left_out"]
    assert [name.split(" (")[0] for name in left_out] == [str(file) for file in bad]
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["samples"] == {"train": 95, "test": 15}


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda root: Image.new("RGB", (9, 9)).save(root / "train/class0/00.png"), "as the other images are"),
        (lambda root: shutil.rmtree(root / "test" / "class3"), "class3"),
        (lambda root: shutil.rmtree(root / "train"), "must hold the folders train and test"),
        (lambda root: [shutil.rmtree(root / split) for split in ("train", "val", "test")], "got nothing"),
        (lambda root: [file.unlink() for file in (root / "train/class1").iterdir()], "class1"),
    ],
    ids=["another size", "a class missing in one split", "no train", "empty folder", "empty class"],
)
def test_a_wrong_folder_is_told_in_one_line(
    spoil: Callable[[Path], Any], line: str, run: Callable[..., Result], mine: Path
) -> None:
    spoil(mine)
    result = run(root=mine)
    assert result.exit_code == 1 and "Traceback" not in result.output
    *_, last = result.stderr.strip().splitlines()
    assert line in last


@pytest.mark.parametrize(
    ("data", "code", "line"),
    [
        ({"loader": "tape"}, 2, "data.loader must be one of auto, dali, resident, torch, got 'tape'"),
        ({"on_error": "ignore"}, 2, "data.on_error must be one of raise, skip, got 'ignore'"),
        ({"workers": -1}, 1, "data: workers must be 0 or more, got -1"),
        ({"size": 0}, 1, "size must be"),
        (
            {"options.sise": 3},
            1,
            "of image_folder must be one of size, got 'sise'; did you mean 'size'?",
        ),
        ({"mean": "[0.5]"}, 1, "mean must hold 3 numbers, one a channel, got 1"),
        ({"batch": 97}, 1, "batch must be at most the 96 training samples, got 97"),
        ({"name": "mine.py:pictures"}, 1, "data: mine.py must be a Python file, got no such file"),
    ],
)
def test_wrong_words_are_told_in_one_line(
    data: dict[str, Any], code: int, line: str, run: Callable[..., Result], folder: Path
) -> None:
    result = run(**{"root": folder, **data})
    assert result.exit_code == code, result.output
    assert line in result.stderr and result.stderr.count("\n") <= 2 and "Traceback" not in result.output


def test_a_dataset_of_ones_own_trains(run: Callable[..., Result], tmp_path: Path, litfast: Litfast) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    result = run(name=f"{tmp_path}/mine.py:pictures", **{"options.train": 64})
    assert result.exit_code == 0, result.output
    assert "loader: torch (not resident, a Dataset of one's own is read anew in every epoch" in result.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["samples"] == {"train": 64, "test": 16}
    again = litfast("eval", tmp_path / "run", "--device", "cpu", "--json")
    assert json.loads(again.stdout)["accuracy"] == results["test_accuracy"]["student"]


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({"name": "pictures", "loader": "resident"}, "resident must be able to serve pictures, got: a Da"),
        ({"name": "pictures", "loader": "dali"}, "loader dali must be able to serve pictures, got"),
        ({"name": "pictures", "on_error": "skip"}, "on_error must be raise for a Dataset of one's own"),
        ({"name": "pictures", "options.trian": 3}, "must take the given data.root and options, got"),
        ({"name": "picture"}, "got 'picture'; did you mean 'pictures'?"),
        ({"name": "pairs"}, "labels of pairs must be one class an image, got several attributes"),
        ({"name": "wrong"}, "or (train, test) or (train, test, val) Datasets, got int"),
    ],
)  # fmt: skip
def test_a_wrong_set_of_ones_own_is_told_in_one_line(
    data: dict[str, Any], line: str, run: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    result = run(**{**data, "name": f"{tmp_path}/mine.py:{data['name']}"})
    assert result.exit_code == 1 and line in result.stderr and "Traceback" not in result.output
