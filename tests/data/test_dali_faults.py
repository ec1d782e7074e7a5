from __future__ import annotations

import io
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import litfast
from litfast.data.dali import DaliLoader
from litfast.data.sets.image_set import Files, Images, Members, Samples

pytest.importorskip("nvidia.dali", reason="nvidia.dali is not installed (pip install 'litfast[dali]')")

COUNT = 40


def encoded(kind: str = "JPEG", width: int = 32, height: int = 24, seed: int = 0) -> bytes:
    file = io.BytesIO()
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(values).save(file, kind)
    return file.getvalue()


def files(folder: Path, **replaced: bytes) -> Files:
    """Forty images, of which some are replaced."""
    paths = tuple(f"i{i}.jpg" for i in range(COUNT))
    for i, path in enumerate(paths):
        (folder / path).write_bytes(replaced.get(f"i{i}", encoded(seed=i)))
    return Files(root=folder, paths=paths, labels=torch.arange(COUNT))


def loader(samples: Samples, **options: Any) -> DaliLoader:
    given = {"batch": 4, "mean": (0.5,) * 3, "std": (0.5,) * 3, "train": False, "seed": 0}
    return DaliLoader(samples, **{**given, **options})


BROKEN = {
    "cut off in the middle": (encoded()[:400], r"400 bytes that DALI cannot decode \(.+\)"),
    "without its last bytes": (encoded()[:-10], r"\d+ bytes that DALI cannot decode \(.+\)"),
    "no image": (b"<html>", r"6 bytes that DALI cannot decode \(.+\)"),
    "empty": (b"", r"0 bytes that DALI cannot decode \(.+\)"),
    "a PNG cut off": (encoded("PNG")[:700], r"700 bytes that DALI cannot decode \(.+\)"),
}


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("broken", list(BROKEN))
def test_a_broken_file_is_named(broken: str, train: bool, tmp_path: Path) -> None:
    content, reason = BROKEN[broken]
    made = loader(files(tmp_path, i21=content), train=train)
    where = re.escape(str(tmp_path / "i21.jpg"))
    with pytest.raises(ValueError, match=f"^dali: {where} must be a readable image, got: {reason}$"):
        list(made.batches(0))


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    made = loader(files(tmp_path))
    list(made.batches(0))
    (tmp_path / "i30.jpg").unlink()
    with pytest.raises(ValueError, match=r"i30\.jpg must be a readable image, got: No such file"):
        list(made.batches(1))


def test_the_first_file_is_named_when_it_gives_the_size(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"dali: .*i0\.jpg must be a readable image, got: 1 bytes that"):
        loader(files(tmp_path, i0=b"x"))


def test_a_loader_goes_on_after_a_broken_file(tmp_path: Path) -> None:
    made = loader(files(tmp_path, i21=b"<html>"))
    with pytest.raises(ValueError, match="i21"):
        list(made.batches(0))
    assert next(made.batches(0)).target.tolist() == [0, 1, 2, 3]
    assert len(list(made.batches(0, 6))) == 4
    (tmp_path / "i21.jpg").write_bytes(encoded())
    assert len(list(made.batches(0))) == 10


def test_a_broken_file_among_those_made_ahead_disturbs_no_other_epoch(tmp_path: Path) -> None:
    made = loader(files(tmp_path, i9=b"<html>"))
    assert next(made.batches(0)).target.tolist() == [0, 1, 2, 3]
    assert len(list(made.batches(0, 3))) == 7


@pytest.mark.parametrize(
    ("options", "size", "message"),
    [
        ({}, (32, 20), "must be 32x24 pixels as the other images are, got 32x20; `size` makes them equal"),
        ({"crop": 2, "train": True}, (33, 24), "must be 32x24 pixels as .*, got 33x24; `size` .* equal"),
        ({"centre_crop": 24}, (23, 40), "must be at least 24x24 pixels for centre_crop, got 23x40"),
        ({"centre_crop": 24, "size": 8}, (40, 23), "must be at least 24x24 pixels .*, got 40x23"),
    ],
)
def test_an_image_of_a_wrong_size_is_named(
    options: dict[str, Any], size: tuple[int, int], message: str, tmp_path: Path
) -> None:
    made = loader(files(tmp_path, i21=encoded("PNG", *size)), **options)
    with pytest.raises(ValueError, match=rf"^dali: .*i21\.jpg {message}$"):
        list(made.batches(0))


def test_any_size_is_served_where_a_size_is_asked_for(tmp_path: Path) -> None:
    made = loader(files(tmp_path, i21=encoded("PNG", 13, 40)), size=16)
    assert {tuple(batch.images.shape) for batch in made.batches(0)} == {(4, 3, 16, 16)}


def test_a_broken_member_is_named_with_its_archive(tmp_path: Path) -> None:
    contents = [encoded(seed=i) for i in range(8)]
    contents[5] = contents[5][:300]
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for i, content in enumerate(contents):
            info = tarfile.TarInfo(f"{i}.jpg")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    with tarfile.open(tmp_path / "a.tar") as tar:
        offset, size = torch.tensor([(member.offset_data, member.size) for member in tar]).T
    where = {"tars": (tmp_path / "a.tar",), "tar": torch.zeros(8, dtype=torch.int64)}
    members = Members(offset=offset, size=size, keys=tuple("abcdefgh"), labels=torch.arange(8), **where)
    made = loader(members)
    with pytest.raises(ValueError, match=r"a\.tar:f must be a readable image, got: 300 bytes"):
        list(made.batches(0))
    (tmp_path / "a.tar").unlink()
    with pytest.raises(ValueError, match=r"a\.tar:a must be a readable image, got: No such file"):
        list(made.batches(0))


RAW = torch.zeros(5, 3, 6, 6, dtype=torch.uint8)
NAMES = Files(root=Path(), paths=("a", "b"), labels=torch.arange(3))


@pytest.mark.parametrize(
    ("samples", "change", "error", "message"),
    [
        (RAW.float(), {}, TypeError, r"images must be uint8, got torch\.float32"),
        (RAW[0], {}, ValueError, r"images must be \[N, C, H, W\] with N at least 1, got \[3, 6, 6\]"),
        (RAW[:4], {}, ValueError, r"labels must be \[4\] or \[4, A\], one an image, got \[5\]"),
        (NAMES, {}, ValueError, r"labels must be \[2\] or \[2, A\], one an image, got \[3\]"),
        (RAW, {"mean": (0.5,)}, ValueError, "mean must hold 3 numbers, one a channel, got 1"),
        (RAW, {"std": (0.5,) * 4}, ValueError, "std must hold 3 numbers, one a channel, got 4"),
        (RAW, {"batch": 0}, ValueError, "batch must be at least 1, got 0"),
        (RAW, {"crop": -1}, ValueError, "crop must be at least 0, got -1"),
        (
            RAW,
            {"num_shards": 3},
            ValueError,
            "batch must be at most the 5 training samples over 3 shards, got 2",
        ),
    ],
)
def test_bad_arguments_are_named(
    samples: Any, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    given = samples if isinstance(samples, Files) else Images(images=samples, labels=torch.arange(5))
    with pytest.raises(error, match=f"^DaliLoader: {message}$"):
        loader(given, **{"batch": 2, "train": True, **change})


def test_without_dali_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(
        ValueError, match=r"^DaliLoader: nvidia.dali must be installed .*litfast\[dali\].*, got: "
    ):
        loader(Images(images=RAW, labels=torch.arange(5)))


def test_dali_is_not_imported_before_it_is_used_and_says_nothing_on_stdout(tmp_path: Path) -> None:
    files(tmp_path, i39=encoded()[:-10])
    program = f"""
import sys, torch
from pathlib import Path
import litfast.data.dali as module
from litfast.data.sets.image_set import Files
assert "nvidia" not in sys.modules
paths = tuple(f"i{{i}}.jpg" for i in range({COUNT}))
samples = Files(root=Path({str(tmp_path)!r}), paths=paths, labels=torch.arange({COUNT}))
made = module.DaliLoader(samples, batch=4, mean=(0.5,) * 3, std=(0.5,) * 3, train=False)
try:
    list(made.batches(0))
except ValueError:
    pass
next(made.batches(0))
"""
    environment = {"PYTHONPATH": str(Path(litfast.__file__).parent.parent), "PATH": ""}
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
