from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from litfast import __version__

Litfast = Callable[..., Result]


def test_eval_of_a_run_repeats_its_reported_accuracy(finished: Path, litfast: Litfast) -> None:
    found = json.loads(litfast("eval", finished, "--json").stdout)
    reported = json.loads((finished / "results.json").read_text())["test_accuracy"]["student"]
    assert found["accuracy"] == pytest.approx(reported) and found["samples"] == 64


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("model", "weights", "accuracy"),
    [("resnet56", "resnet56-4bfd9763.th", 92.6), ("resnet20", "resnet20-12fca82f.th", 91.5)],
)
def test_published_checkpoints_reach_their_accuracy(
    model: str, weights: str, accuracy: float, shared_data: Path, litfast: Litfast
) -> None:
    folder, file = shared_data / "cifar-10-batches-bin", shared_data / "checkpoints" / weights
    result = litfast(
        "eval", "--model", model, "--weights", file, "--data", "cifar10", "--root", folder, "--json"
    )
    assert json.loads(result.stdout)["accuracy"] == pytest.approx(accuracy, abs=0.2)


def test_bench_of_a_run_measures_both_and_saves_what_it_found(
    finished: Path, litfast: Litfast, tmp_path: Path
) -> None:
    words = [
        "--batch",
        "1,4",
        "--mode",
        "eager",
        "--precision",
        "fp32",
        "--seconds",
        "0.02",
        "--out",
        tmp_path,
    ]
    document = json.loads(litfast("bench", finished, *words, "--json").stdout)
    assert [model["name"] for model in document["models"]] == ["teacher", "student"]
    assert [model["depth"] for model in document["models"]] == [14, 8]
    assert all(model["accuracy"] is not None for model in document["models"])
    assert {ratio["batch"] for ratio in document["ratios"]} == {1, 4}
    assert {file.name for file in tmp_path.iterdir()} >= {"bench.json", "bench.md", "bench.png"}
    assert "| 4 | eager | fp32 | student |" in (tmp_path / "bench.md").read_text()
    assert "speed-up" in litfast("bench", finished, *words).stdout


def test_bench_of_runs_and_names_holds_all_to_the_first(
    finished: Path, litfast: Litfast, tmp_path: Path
) -> None:
    twin = tmp_path / "twin"
    shutil.copytree(finished, twin, ignore=shutil.ignore_patterns("checkpoints", "tensorboard"))
    words = ["--student", "resnet8", "--student", "resnet14", "--mode", "eager", "--precision", "fp32"]
    words += ["--batch", "2", "--seconds", "0.01", "--clients", "1", "--out", tmp_path / "new" / "all.svg"]
    result = litfast("bench", finished, twin, *words, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    names = ["teacher", "finished", "twin", "resnet8", "resnet14"]
    assert [model["name"] for model in document["models"]] == names
    assert [ratio["contender"] for ratio in document["ratios"]] == names[1:]
    assert [model["accuracy"] is None for model in document["models"]] == [False] * 3 + [True] * 2
    assert all(row["gate"] and row["loads"][0]["requests"] > 0 for row in document["rows"])
    timms = ("model", "infer_samples_per_sec", "infer_step_time", "infer_batch_size", "infer_img_size")
    assert all(key in document["rows"][0] for key in (*timms, "infer_gmacs", "param_count"))
    assert {file.name for file in (tmp_path / "new").iterdir()} == {"all.json", "all.md", "all.svg"}
    assert not (finished / "bench.json").exists()


def test_bench_of_two_names_needs_no_run(litfast: Litfast) -> None:
    words = [
        "--teacher",
        "resnet14",
        "--student",
        "resnet8",
        "--image",
        "3x16x16",
        "--batch",
        "2",
        "--mode",
        "eager",
    ]
    result = litfast("bench", *words, "--precision", "fp32", "--seconds", "0.02", "--json")
    assert [m["name"] for m in json.loads(result.stdout)["models"]] == ["resnet14", "resnet8"]


@pytest.mark.parametrize(
    ("names", "size", "input", "macs"),
    [
        (("vdcnn17", "vdcnn9"), ["--length", 64], {"shape": [64], "alphabet": 69}, 30_887_936),
        (
            ("stargan2", "stargan1"),
            ["--image", "3x16x16"],
            {"shape": [13, 16, 16], "alphabet": None},
            65_273_856,
        ),
    ],
)
def test_bench_measures_texts_and_generators(
    names: tuple[str, str], size: list[object], input: dict[str, object], macs: int, litfast: Litfast
) -> None:
    words = ["--teacher", names[0], "--student", names[1], *size, "--batch", "2", "--mode", "eager"]
    document = json.loads(litfast("bench", *words, "--seconds", "0.02", "--json").stdout)
    assert document["input"] == input
    assert document["models"][1]["macs"] == macs
    assert all(row["gate"] and row["samples_per_s"] > 0 for row in document["rows"])
    assert {row["precision"] for row in document["rows"]} == {"fp32", "bf16"}


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["eval"], 2, "either a run folder or --model must be given"),
        (["eval", "--model", "resnet20"], 2, "--model needs --weights FILE and --data NAME"),
        (["eval", "nowhere"], 1, "nowhere must hold a run"),
        (["bench"], 2, "bench: a run folder, --teacher or --student must be given, got none"),
        (["bench", "--student", "resnet8", "--mode", "eagr"], 2, "got 'eagr'; did you mean 'eager'?"),
        (["bench", "--student", "resnet8", "--clients", "x"], 2, "--clients must be whole numbers"),
        (["bench", "--student", "resnet8", "--batch", "0"], 2, "batches must be 1 or more, got [0]"),
        (["bench", "--student", "resnet8", "--batch", "1,1"], 2, "batches must differ, got 1, 1"),
        (["bench", "--student", "resnet8", "--threads", "0"], 2, "threads must be 1 or more, got 0"),
        (["bench", "--student", "resnet8", "--out", "b.json"], 2, "--out must be a folder or a picture"),
        (["bench", "--student", "resnet8", "--image", "0x8x8"], 2, "--image must be CxHxW, got '0x8x8'"),
        (["bench", "nowhere", "./nowhere"], 2, "runs must differ, got nowhere twice"),
        (["bench", "--student", "vdcnn9", "--length", "0"], 2, "--length must be at least 1, got 0"),
        (["report", "nowhere", "nowhere"], 2, "report: runs must differ, got nowhere twice"),
        (
            ["bench", "--student", "resnet8", "--student", "resnet8"],
            1,
            "models must have names of their own, got resnet8 (student) twice",
        ),
        (
            ["bench", "--teacher", "resnet14", "--student", "resnet8", "--batch", "one"],
            2,
            "--batch must be whole numbers",
        ),
        (["bench", "--teacher", "resnet14", "--student", "resnet9"], 1, "model must be one of"),
        (["bench", "nowhere"], 1, "nowhere must hold a run"),
        (["bench", "nowhere", "--length", "64"], 2, "--alphabet must come with named models alone"),
        (
            ["bench", "--teacher", "resnet14", "--student", "resnet8", "--image", "32x32"],
            2,
            "--image must be CxHxW, got '32x32'",
        ),
        (
            ["bench", "--teacher", "resnet14", "--student", "resnet8", "--length", "64"],
            1,
            "--length must be left out with models of images [3, 32, 32], got 64",
        ),
        (
            ["bench", "--teacher", "vdcnn9", "--student", "vdcnn9", "--image", "3x32x32"],
            1,
            "--image must be left out with models of texts [1014], got 3x32x32",
        ),
        (
            ["bench", "--teacher", "vdcnn9", "--student", "resnet8"],
            1,
            "resnet8 must read what vdcnn9 does, texts [1014], got images [3, 32, 32]",
        ),
    ],
)
def test_bad_words_get_one_clear_line(words: list[str], code: int, line: str, litfast: Litfast) -> None:
    result = litfast(*words)
    assert result.exit_code == code, result.output
    assert line in result.stderr and result.stderr.count("\n") == 1


def test_info_names_what_there_is(litfast: Litfast) -> None:
    document = json.loads(litfast("info", "--json").stdout)
    assert document["litfast"] == __version__
    assert "reference" in {backend["name"] for backend in document["backends"]}
    assert (
        "digits" in document["recipes"] and "resnet110" in document["models"] and "lit" in document["methods"]
    )
    assert "resnet110" in litfast("info").stdout


def test_version_and_help_answer(litfast: Litfast) -> None:
    assert litfast("--version").stdout.strip() == f"litfast {__version__}"
    for command in ("train", "eval", "bench", "info"):
        assert litfast(command, "--help").exit_code == 0
