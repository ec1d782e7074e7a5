from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import litfast
from litfast import config
from litfast.engine.rundir import MARK, RunDirectory, latest_unfinished, next_free


def made(path: Path, status: str = "running") -> RunDirectory:
    run = RunDirectory.create(path)
    run.write(MARK, {"status": status, "litfast": "0.1.0"})
    return run


def test_a_new_run_gets_an_empty_folder_with_its_parents(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "a" / "b")
    assert run.path.is_dir() and not list(run.path.iterdir())
    assert RunDirectory.create(run.path).path == run.path  # an empty folder is free


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        ("finished", "a finished run; pass --overwrite to replace it"),
        ("running", "an unfinished run; pass --resume to continue it or --overwrite to start anew"),
    ],
)
def test_an_earlier_run_is_only_replaced_when_asked(status: str, remedy: str, tmp_path: Path) -> None:
    made(tmp_path / "run", status).write_text("README.md", "earlier")
    with pytest.raises(ValueError) as caught:
        RunDirectory.create(tmp_path / "run")
    assert str(caught.value) == f"run: {tmp_path / 'run'} must be free, got {remedy}"
    assert (tmp_path / "run" / "README.md").read_text() == "earlier"
    RunDirectory.create(tmp_path / "run", overwrite=True)
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize(
    "files", [{"thesis.txt": "mine"}, {"thesis.txt": "mine", MARK: '{"status": "of another tool"}'}]
)
def test_a_foreign_folder_is_never_written_into_or_deleted(files: dict[str, str], tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match="must be empty or hold a run, got a folder with other files in it"):
        RunDirectory.create(tmp_path, overwrite=True)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == files


def test_a_folder_whose_mark_is_torn_is_not_deleted(tmp_path: Path) -> None:
    (tmp_path / MARK).write_text('{"status": ')
    with pytest.raises(ValueError, match=r"run: .*run.json must be valid JSON, got: "):
        RunDirectory.create(tmp_path, overwrite=True)
    assert (tmp_path / MARK).exists()


def test_a_file_is_no_run_folder(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(ValueError, match="must be a folder, got a file"):
        RunDirectory.create(tmp_path / "run", overwrite=True)


def test_only_a_run_is_opened(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"^run: {tmp_path} must hold a run \(run.json\), got none$"):
        RunDirectory.open(tmp_path)
    assert RunDirectory.open(made(tmp_path / "run", "finished").path).status == "finished"


def test_what_is_written_is_read(tmp_path: Path) -> None:
    run = made(tmp_path)
    run.write("results.json", {"accuracy": 98.5})
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    assert run.read("results.json") == {"accuracy": 98.5}
    assert run.rows() == [{"step": 1}, {"step": 2}]
    assert not list(tmp_path.glob("*.part"))


def test_a_missing_file_asks_whether_the_run_is_finished(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must hold results.json, got no such file; is the run finished\?"):
        made(tmp_path).read("results.json")


def test_the_resolved_recipe_of_a_run_can_be_run_again(tmp_path: Path) -> None:
    settings = config.load("digits", ["sections.epochs=3"])
    run = made(tmp_path)
    run.write_config(config.dump(settings))
    assert config.parse(run.config()) == settings == config.load(str(tmp_path / "config.toml"))


def test_weights_are_written_under_the_models_plain_keys_bit_for_bit(tmp_path: Path) -> None:
    model = litfast.create("resnet8", classes=4).to(memory_format=torch.channels_last)
    size = made(tmp_path).write_weights("student.safetensors", model)
    written = load_file(tmp_path / "student.safetensors")
    assert "conv1.weight" in written
    assert {key: value.shape for key, value in written.items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }
    assert all(torch.equal(value, written[key]) for key, value in model.state_dict().items())
    assert size == (tmp_path / "student.safetensors").stat().st_size


def test_a_half_written_file_never_takes_the_place_of_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made(tmp_path)
    run.write("results.json", {"accuracy": 1.0})

    def crash(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        run.write("results.json", {"accuracy": 2.0})
    assert json.loads((tmp_path / "results.json").read_text()) == {"accuracy": 1.0}


def test_next_free_counts_up_to_the_first_free_number(tmp_path: Path) -> None:
    assert next_free(tmp_path, "digits") == tmp_path / "digits-1"
    for name in ("digits-1", "digits-2", "digits-4", "digits-small-3"):
        (tmp_path / name).mkdir()
    assert next_free(tmp_path, "digits") == tmp_path / "digits-3"


def test_latest_unfinished_is_the_newest_open_run_of_that_recipe(tmp_path: Path) -> None:
    folders = {
        "digits-1": "running",
        "digits-2": "running",
        "digits-3": "finished",
        "digits-small-1": "running",
    }
    for age, (name, status) in enumerate(folders.items()):
        mark = made(tmp_path / name, status).path / MARK
        os.utime(mark, (age, age))
    assert latest_unfinished(tmp_path, "digits") == tmp_path / "digits-2"
    os.utime(tmp_path / "digits-1" / MARK, (9, 9))
    assert latest_unfinished(tmp_path, "digits") == tmp_path / "digits-1"


def test_nothing_to_resume_says_so(tmp_path: Path) -> None:
    made(tmp_path / "digits-1", "finished")
    with pytest.raises(ValueError, match="must hold an unfinished digits run to resume, got none"):
        latest_unfinished(tmp_path, "digits")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("run.json", "[1]", r"run.json must be a table, got a list"),
        ("run.json", "[" * 100_000, r"run.json must be valid JSON, got: "),
        ("model.json", '{"model": 3}', r"model.json must hold 'model' of type dict, got 3"),
        ("metrics.jsonl", '{"epoch": 0}\n{"epo', r"metrics.jsonl must hold JSON in every line, got: "),
        ("metrics.jsonl", "3\n", r"metrics.jsonl must hold a table in every line, got other values"),
    ],
)
def test_a_spoilt_file_gets_one_line(name: str, text: str, said: str, tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    (run.path / name).write_text(text)
    with pytest.raises(ValueError, match=f"^run: .*{said}"):
        run.rows() if name == "metrics.jsonl" else run.read(name)
