"""Whole runs of generators: trained on the spot and loaded, scored, stopped, benched and refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import Result

from litfast.models import Discriminator, create, with_domain

Litfast = Callable[..., Result]
SCHEDULE = 'epochs = 1\noptimizer = "adam"\nlr = 1e-3\nbetas = [0.5, 0.999]'
RECIPE = f"""
[data]
name = "image_folder"
root = "ROOT"
batch = 8
[teacher]
model = "stargan2"
options = {{width = 4}}
[teacher.train]
{SCHEDULE}
[student]
model = "stargan1"
options = {{width = 4}}
[discriminator]
width = 4
[method]
name = "lit_generator"
[scores]
epochs = 1
[sections]
{SCHEDULE}
[finetune]
{SCHEDULE}
[engine]
precision = "fp32"
mode = "eager"
threads = 1
log_every = 1
"""
NO_TEACHER = ("teacher=none", "sections=none", "finetune=none")
ADVERSARIAL = (*NO_TEACHER, "method={name='adversarial',critic_steps=2}", "train={epochs=1,lr=0.001}")


def sets(*words: str) -> list[str]:
    return [part for word in words for part in ("--set", word)]


def state(run: Path, name: str = "student") -> dict[str, Tensor]:
    return dict(load_file(run / f"{name}.safetensors"))


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def results(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "results.json").read_text())
    return found


def pictures(root: Path, classes: tuple[str, ...], side: int = 8) -> Path:
    """Noise, a class of each colour."""
    for split, count in (("train", 12), ("test", 5)):
        for colour, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                draw = np.random.default_rng([colour, i, count])
                pixels = draw.integers(0, 120, (side, side, 3), dtype=np.uint8)
                pixels[..., colour] += 120
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("pictures"), ("green", "red"))


@pytest.fixture(scope="module")
def gan(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "gan.toml"
    path.write_text(RECIPE.replace("ROOT", str(folder)))
    return path


@pytest.fixture(scope="module")
def lit(gan: Path, litfast: Litfast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of LIT, its teacher trained on the spot; what it printed is in said.txt."""
    out = tmp_path_factory.mktemp("lit") / "run"
    result = litfast("train", gan, "--out", out)
    assert result.exit_code == 0, result.output
    (out / "said.txt").write_text(result.stdout)
    return out


@pytest.fixture(scope="module")
def scratch(gan: Path, litfast: Litfast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run without a teacher."""
    out = tmp_path_factory.mktemp("scratch") / "run"
    result = litfast("train", gan, *sets(*ADVERSARIAL), "--out", out)
    assert result.exit_code == 0, result.output
    return out


def test_a_run_leaves_generators_their_discriminator_scores_and_a_picture(lit: Path) -> None:
    promised = {"teacher", "student", "discriminator", "classifier"}
    assert {f"{name}.safetensors" for name in promised} <= {path.name for path in lit.iterdir()}
    with Image.open(lit / "translations.png") as picture:
        assert picture.size[0] > 96
    Discriminator(2, image_size=8, width=4).load_state_dict(state(lit, "discriminator"))
    found = results(lit)
    assert list(found["scores"]) == ["teacher", "student"] and "test_accuracy" not in found
    assert list(found["phases"]) == ["teacher", "sections", "finetune"]
    for scores in found["scores"].values():
        assert scores["extractor"].startswith("ResNet-20 trained on ") and "1 epoch" in scores["extractor"]
        assert (scores["images"], scores["translations"]) == (10, 10)
    said = (lit / "said.txt").read_text()
    assert "FID" in said and f"translations: {lit / 'translations.png'}" in said


def test_the_student_is_made_again_from_its_document_and_reads_what_that_says(lit: Path) -> None:
    document = json.loads((lit / "model.json").read_text())
    student = create(**document["model"])
    student.load_state_dict(state(lit))
    images, domain = torch.zeros(1, 3, 8, 8), torch.eye(len(document["classes"]))[:1]
    given = with_domain(images, domain)
    assert (
        list(given.shape[1:]) == document["input"]["shape"] and "with_domain" in document["input"]["planes"]
    )
    assert student(given).shape == images.shape
    assert document["scores"] == results(lit)["scores"]["student"]
    card = (lit / "README.md").read_text()
    assert "FID of 10 translations" in card and "| domains | green, red |" in card and "with_domain" in card


def test_the_teacher_of_a_run_teaches_again_with_its_discriminator_and_judge(
    lit: Path, gan: Path, litfast: Litfast, tmp_path: Path
) -> None:
    given = {
        "teacher.train": "none",
        "teacher.weights": lit / "teacher.safetensors",
        "discriminator.weights": lit / "discriminator.safetensors",
        "scores.extractor": lit / "classifier.safetensors",
    }
    words = sets(*(f"{key}={value}" for key, value in given.items()), "finetune.epochs=0")
    result = litfast("train", gan, *words, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert same(state(lit, "teacher"), state(tmp_path / "run", "teacher"))
    assert same(state(lit, "discriminator"), state(tmp_path / "run", "discriminator"))
    teacher, student = state(tmp_path / "run", "teacher"), state(tmp_path / "run")
    ends = [key for key in student if not key.startswith("bottleneck.")]
    assert ends and all(torch.equal(student[key], teacher[key]) for key in ends)
    assert not (tmp_path / "run" / "classifier.safetensors").exists()
    before, after = (results(run)["scores"]["teacher"] for run in (lit, tmp_path / "run"))
    assert after["extractor"] == before["extractor"]
    assert after["fid"] == pytest.approx(before["fid"], rel=1e-3)


def test_runs_are_scored_side_by_side(lit: Path, scratch: Path, litfast: Litfast) -> None:
    (lit / "translations.png").unlink()
    result = litfast("eval", lit, "--with", f"scratch={scratch}", "--json")
    assert result.exit_code == 0, result.output
    scores = json.loads(result.stdout)["scores"]
    assert list(scores) == ["teacher", "student", "scratch"]
    for name, expected in results(lit)["scores"].items():
        assert scores[name]["fid"] == pytest.approx(expected["fid"], rel=1e-3)
    assert (lit / "translations.png").exists()
    assert f"translations: {scratch / 'translations.png'}" in litfast("eval", scratch).stdout


def test_what_cannot_stand_beside_gets_one_line(
    lit: Path, gan: Path, scratch: Path, finished: Path, litfast: Litfast, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(scratch, other)
    document = json.loads((other / "model.json").read_text())
    (other / "model.json").write_text(json.dumps(document | {"classes": ["cat", "dog"]}))
    for words, line in (
        (["--with", "x"], "--with must be NAME=RUN with a name of its own, got 'x'"),
        (["--with", f"student={scratch}"], "--with must be NAME=RUN with a name of its own, got 'student="),
        (["--with", f"x={tmp_path}"], "must hold a run (run.json), got none"),
        (["--with", f"x={finished}"], "--with must name a generator's run, got"),
        (["--with", f"x={other}"], "must be of the domains green, red, got cat, dog"),
        (["--precision", "bf16"], "--precision must be fp32 for a generator's scores, got 'bf16'"),
    ):
        result = litfast("eval", lit, *words)
        assert result.exit_code in (1, 2) and result.stderr.count("\n") == 1, result.output
        assert line in result.stderr and result.stdout == ""
    result = litfast("eval", finished, "--with", f"x={scratch}")
    assert result.exit_code == 1 and "--with must come with a generator's run" in result.stderr


def test_generators_are_benched(lit: Path, litfast: Litfast) -> None:
    words = ("--mode", "eager", "--precision", "fp32", "--batch", "2", "--seconds", "0.02", "--json")
    result = litfast("bench", lit, *words)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["input"]["shape"] == [5, 8, 8] and len(document["rows"]) == 2


def test_the_plan_names_generator_and_discriminator(gan: Path, litfast: Litfast) -> None:
    result = litfast("train", gan, "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    assert [(row["phase"], row["branch"]) for row in json.loads(result.stdout)["branches"]] == [
        ("teacher", "discriminator"),
        ("teacher", "generator"),
        ("sections", "bottleneck"),
        ("finetune", "generator"),
    ]


@pytest.mark.parametrize("phase", ["teacher", "finetune"])
def test_a_stopped_run_ends_bit_equal(
    phase: str, lit: Path, gan: Path, litfast: Litfast, stopped: Litfast, tmp_path: Path
) -> None:
    assert stopped(phase, "train", gan, "--out", tmp_path / "run").exit_code == 143
    result = litfast("train", "--resume", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    for name in ("teacher", "student", "discriminator", "classifier"):
        assert same(state(lit, name), state(tmp_path / "run", name)), name
    assert results(tmp_path / "run")["scores"] == results(lit)["scores"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["teacher.train=none", "teacher.weights=LIT/teacher.safetensors"], "discriminator.weights must be"),
        (["discriminator.weights=LIT/student.safetensors"], "load_weights: "),
        (["discriminator.width=0"], "Discriminator: width must be at least 1, got 0"),
        (["discriminator.depth=3"], "recipe: key must be one of discriminator."),
        (["data.mean=[0.5,0.5,0.5]"], "data.mean must be left out for generators"),
        (["data.std=[0.5,0.5,0.5]"], "data.std must be left out for generators"),
        (["data.size=10"], "image sides must be multiples of 4 from 8 pixels on, got 10 x 10"),
        (["data.size=4"], "image sides must be multiples of 4 from 8 pixels on, got 4 x 4"),
        (["data.batch=25"], "batch must be at most the 24 training samples, got 25"),
        (["method.name=lit"], "method 'lit' must have a classifier, got 'stargan2'"),
        (
            [*ADVERSARIAL, "student.model=resnet8"],
            "method 'adversarial' must have a generator, got 'resnet8'",
        ),
        ([*ADVERSARIAL, "student.model=stargan3"], "got 'stargan3'; did you mean 'stargan"),
        (["student.options.width=8"], "student stem must match the teacher's output"),
        (["student.options.channels=1"], "options of stargan1 must leave out channels, which the data"),
        (["student.sections=['bottleneck']"], "student.sections must be left out for method 'lit_generator'"),
        (["method.alpha=0.5"], "method.* of method 'lit_generator' must be one of "),
        (["scores.extractor=LIT/none.pt"], "weights must be an existing file, got "),
        (["scores.extractor=LIT/student.safetensors"], "must be a classifier that `Classifier.save` wrote"),
        (["scores.images=1"], "scores.images must be 2 or more, got 1"),
        (["scores.epochs=0"], "scores.epochs must be 1 or more, got 0"),
        (["engine.keep=best"], "engine.keep must be last without validation samples, got 'best'"),
        (["sections.patience=2"], "patience must come with validation samples"),
    ],
)
def test_bad_recipes_get_one_line_and_leave_no_folder(
    words: list[str], line: str, lit: Path, gan: Path, litfast: Litfast, tmp_path: Path
) -> None:
    given = sets(*(word.replace("LIT", str(lit)) for word in words))
    result = litfast("train", gan, *given, "--out", tmp_path / "run")
    assert result.exit_code in (1, 2) and result.stderr.count("\n") == 1, result.output
    assert line in result.stderr and result.stderr.startswith("litfast: ") and result.stdout == ""
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("split", "left"), [("test", True), ("test", False), ("train", True)])
def test_a_domain_without_images_is_named(
    split: str, left: bool, gan: Path, folder: Path, litfast: Litfast, tmp_path: Path
) -> None:
    root = tmp_path / "pictures"
    shutil.copytree(folder, root)
    shutil.rmtree(root / split / "red")
    if left:
        (root / split / "red").mkdir()
    result = litfast("train", gan, *sets(f"data.root={root}"), "--out", tmp_path / "run")
    assert result.exit_code == 1 and result.stderr.count("\n") == 1, result.output
    assert "image_folder: " in result.stderr and "red" in result.stderr
    assert not (tmp_path / "run").exists()
