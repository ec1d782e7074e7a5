"""`litfast export`, and a run of deep compression from recipe to file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import Result

from litfast import lfc
from litfast.models import create, load_weights

Litfast = Callable[..., Result]
RECIPE = """
[data]
name = "synthetic"
options = {size = 8, train = 64, val = 8, test = 32}
batch = 32
[teacher]
model = "lenet300"
[teacher.train]
epochs = 1
lr = 0.05
[student]
model = "lenet300"
[method]
name = "deep_compression"
removed = {linear = 0.9, ip3 = 0.5}
bits = 3
[prune]
epochs = 1
lr = 0.01
[share]
epochs = 1
lr = 0.001
[engine]
precision = "fp32"
mode = "eager"
threads = 1
"""


@pytest.fixture(scope="module")
def compressed(hasty: None, litfast: Litfast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of deep compression."""
    folder = tmp_path_factory.mktemp("deep")
    (folder / "deep.toml").write_text(RECIPE)
    result = litfast("train", folder / "deep.toml", "--out", folder / "run")
    assert result.exit_code == 0, result.output
    return folder / "run"


def test_a_run_of_deep_compression_reports_the_bytes_of_its_lfc_file(compressed: Path) -> None:
    results = json.loads((compressed / "results.json").read_text())
    teacher, student = results["models"]
    assert student["weights_bytes"] == (compressed / "student.lfc").stat().st_size
    assert teacher["weights_bytes"] > 5 * student["weights_bytes"]
    assert list(results["phases"]) == ["teacher", "prune", "share"]


def test_the_file_of_a_run_is_its_student_and_says_how_to_make_it(compressed: Path) -> None:
    state = load_file(compressed / "student.safetensors")
    model = create(**(lfc.spec(compressed / "student.lfc") or {}))
    load_weights(model, compressed / "student.lfc")
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_export_writes_an_lfc_file_and_says_how_small_it_is(
    compressed: Path, litfast: Litfast, tmp_path: Path
) -> None:
    file = tmp_path / "x.lfc"
    result = litfast("export", compressed, "--out", file)
    size, fp32 = file.stat().st_size, 4 * (192 * 300 + 300 + 30_000 + 100 + 400 + 4)
    said = f"{file}: {size:,} bytes on disk, {fp32 / size:.2f} times smaller than the {fp32:,} of its numbers"
    assert (result.exit_code, result.stdout.strip()) == (0, f"{said} in fp32; loads back bit for bit")
    state = load_file(compressed / "student.safetensors")
    assert all(torch.equal(value, state[key]) for key, value in lfc.load(file).items())
    assert size == (compressed / "student.lfc").stat().st_size
    assert json.loads(litfast("export", compressed, "--out", file, "--json").stdout) == {
        "file": str(file),
        "format": "lfc",
        "fold": False,
        "bytes": size,
        "fp32_bytes": fp32,
        "ratio": fp32 / size,
        "difference": 0.0,
        "tolerance": 0.0,
        "batches": [],
    }


def test_export_writes_safetensors_of_the_same_bits(
    compressed: Path, litfast: Litfast, tmp_path: Path
) -> None:
    file = tmp_path / "x.safetensors"
    assert litfast("export", compressed, "--format", "safetensors", "--out", file).exit_code == 0
    ours, theirs = load_file(file), load_file(compressed / "student.safetensors")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "safetensors"], "export: --out must be another file than the run's own weights, got "),
        (
            ["--format", "lfcx"],
            "export: --format must be one of lfc, onnx, safetensors, torch, got 'lfcx'; did you mean 'lfc'?",
        ),
        (
            ["--out", "student.bin"],
            "export: --out must end in .lfc, by which it is recognised, got student.bin",
        ),
        (["--format", "torch", "--out", "x.torch"], "export: --out must end in .pt2, by which it is recog"),
        (
            ["--fold"],
            "export: --fold must go with a format that computes (onnx, torch), got lfc, whose weights",
        ),
    ],
)
def test_export_refuses_in_one_line(
    words: list[str], message: str, compressed: Path, litfast: Litfast
) -> None:
    result = litfast("export", compressed, *words)
    assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1


def test_a_folder_without_a_run_is_refused(litfast: Litfast, tmp_path: Path) -> None:
    result = litfast("export", tmp_path)
    assert result.exit_code == 2 and "must hold a run" in result.stderr


def test_a_file_that_loads_back_with_other_bits_is_no_export(
    compressed: Path, litfast: Litfast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flipped = {key: -value for key, value in lfc.load(compressed / "student.lfc").items()}
    monkeypatch.setattr(lfc, "load", lambda file: flipped)
    (tmp_path / "x.lfc").write_text("an earlier one")
    result = litfast("export", compressed, "--out", tmp_path / "x.lfc")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["an earlier one"]
    assert result.exit_code == 1 and "must load back bit for bit, got other weights" in result.stderr


@pytest.mark.parametrize(("format", "suffix"), [("onnx", "onnx"), ("torch", "pt2")])
def test_a_program_computes_the_student_in_a_fresh_process_without_litfast(
    format: str, suffix: str, finished: Path, litfast: Litfast, tmp_path: Path
) -> None:
    file = tmp_path / f"x.{suffix}"
    result = litfast("export", finished, "--format", format, "--fold", "--out", file, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["batches"] == [1, 5] and document["difference"] <= document["tolerance"] <= 1e-4
    assert (document["bytes"], document["fold"]) == (file.stat().st_size, True)


def test_a_student_without_batch_norms_has_nothing_to_fold(
    compressed: Path, litfast: Litfast, tmp_path: Path
) -> None:
    result = litfast("export", compressed, "--format", "torch", "--fold", "--out", tmp_path / "x.pt2")
    assert (result.exit_code, list(tmp_path.iterdir())) == (1, [])
    said = "folding: model must have batch norms behind convolutions, got no batch norm"
    assert said in result.stderr and result.stderr.count("\n") == 1
