"""Whole runs of texts, of chains, of generations and of some sections alone."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import Result

from litfast import build, config
from litfast.engine import evaluate
from litfast.models import Ensemble, create, vdcnn

Litfast = Callable[..., Result]
TEXTS = """
[data]
name = "amazon_polarity"
root = "ROOT"
batch = 16
options = {length = 64}
[teacher]
model = "vdcnn9"
[teacher.train]
epochs = 1
lr = 0.01
[student]
model = "vdcnn9"
[method]
name = "lit"
alpha = 0.9
beta = 0.05
unfreeze = "all"
[sections]
epochs = 1
lr = 0.01
[finetune]
epochs = 1
lr = 0.01
[engine]
precision = "fp32"
mode = "eager"
threads = 1
log_every = 1
"""
KD = ("method={name='kd'}", "sections=none", "finetune=none", "distill={epochs=1,lr=0.01}")
CHAINED = ("student.model=none", "student.chain=[17,9]")
SCRATCH = ("method={name='scratch'}", "sections=none", "finetune=none", "teacher=none")
TRAIN = "train={epochs=1,lr=0.01}"
GAN = ("method={name='adversarial'}", "sections=none", "finetune=none", "teacher=none", TRAIN)
IMAGES = ("engine.mode=eager", "data.options={size=8,train=96,val=16,test=32}", "sections.epochs=1")
SMALL = ("teacher.train.epochs=1", *IMAGES)
GENERATIONS = ("teacher.model=resnet8", "student.model=none", "student.chain=[8,8]", "student.init=none")
BORN_AGAIN = (*GENERATIONS, "sections=none", "finetune=none", "distill={epochs=1,lr=0.05}")


def sets(*words: str) -> list[str]:
    return [part for word in words for part in ("--set", word)]


def state(run: Path, name: str = "student") -> dict[str, Tensor]:
    return dict(load_file(run / f"{name}.safetensors"))


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def results(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "results.json").read_text())
    return found


@pytest.fixture(scope="module", autouse=True)
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """VDCNN of few channels, which trains in a second, and a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(vdcnn, "WIDTHS", (4, 8, 8, 8))
        patch.setattr(vdcnn, "HIDDEN", 16)
        yield


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of 48 reviews to train on, one of them empty, one long and one with an unknown character."""
    draw = random.Random(0)
    words = (("bad", "poor", "awful", "sad"), ("fine", "good", "great", "nice"))

    def row(i: int) -> str:
        return f'"{i % 2 + 1}","{i}","{" ".join(draw.choice(words[i % 2]) for _ in range(8))}"\n'

    odd = ['"1","",""\n', f'"2","x","{"y" * 200}"\n', '"1","caf\u00e9",""\n']
    root = tmp_path_factory.mktemp("reviews")
    (root / "train.csv").write_text("".join([*map(row, range(45)), *odd]))
    (root / "test.csv").write_text("".join(map(row, range(16))))
    (root / "texts.toml").write_text(TEXTS.replace("ROOT", str(root)))
    return root / "texts.toml"


@pytest.fixture(scope="module")
def texts(reviews: Path, litfast: Litfast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of LIT on texts, what it said on stderr in said.txt."""
    out = tmp_path_factory.mktemp("texts") / "lit"
    result = litfast("train", reviews, "--out", out)
    assert result.exit_code == 0, result.output
    (out / "said.txt").write_text(result.stderr)
    return out


def test_a_run_on_texts_says_what_the_reviews_hold(texts: Path) -> None:
    said = (texts / "said.txt").read_text()
    assert "train: 48 texts, 1 empty, 1 cut at 64 characters; 1 of " in said
    assert "test: 16 texts, 0 empty, 0 cut at 64 characters; 0 of " in said
    assert "loader: resident" in said
    found = results(texts)
    assert (found["unit"], found["samples"]) == ("texts", {"train": 48, "test": 16})
    assert set(found["test_accuracy"]) == {"teacher", "student"}


def test_the_student_of_texts_is_made_again_from_its_document_and_card(texts: Path) -> None:
    document = json.loads((texts / "model.json").read_text())
    assert document["model"] == {"name": "vdcnn9", "classes": 2, "blocks": None, "alphabet": 69}
    assert document["input"]["shape"] == [64] and document["input"]["alphabet"] == 69
    assert document["classes"] == ["negative", "positive"]
    create(**document["model"]).load_state_dict(state(texts))
    card = (texts / "README.md").read_text()
    assert "% of 16 texts |" in card and "| 48 texts of amazon_polarity |" in card
    assert "| 64 character ids below 69 |" in card


def test_a_run_on_texts_is_evaluated_and_benched(texts: Path, litfast: Litfast) -> None:
    judged = json.loads(litfast("eval", texts, "--json").stdout)
    assert judged["accuracy"] == results(texts)["test_accuracy"]["student"]
    assert (judged["model"], judged["data"], judged["samples"]) == ("vdcnn9", "amazon_polarity", 16)
    words = ("--mode", "eager", "--precision", "fp32", "--batch", "2", "--seconds", "0.02", "--json")
    result = litfast("bench", texts, *words)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["input"]["shape"] == [64] and len(document["rows"]) == 2


@pytest.mark.parametrize(
    "words",
    [(*KD, "student.model=none", "student.chain=[9,9]"), (*SCRATCH, TRAIN)],
    ids=["kd of two generations", "scratch"],
)
def test_other_methods_train_on_some_of_the_texts(
    words: tuple[str, ...], reviews: Path, litfast: Litfast, tmp_path: Path
) -> None:
    some = sets(*words, "data.val=8", "data.limit=32")
    result = litfast("train", reviews, *some, "--out", tmp_path / "run", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["samples"] == {"train": 32, "test": 16}
    assert all(phase["best"] is not None for phase in document["phases"].values())


def test_the_plan_of_texts_counts_texts(reviews: Path, litfast: Litfast, tmp_path: Path) -> None:
    words = sets("student.model=none", "student.chain=[17,9]", "data.val=8")
    result = litfast("train", reviews, *words, "--dry-run", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "amazon_polarity: 40 train, 16 test, 8 val texts, batch 16" in result.stdout
    assert "train: 48 texts, 1 empty" in result.stdout
    for name in ("teacher", "sections-1", "finetune-1", "sections-2", "finetune-2"):
        assert name in result.stdout
    assert not (tmp_path / "run").exists()


def test_a_chain_stopped_in_its_second_link_ends_bit_equal(
    reviews: Path, litfast: Litfast, stopped: Litfast, tmp_path: Path
) -> None:
    words = ("train", reviews, *sets(*CHAINED), "--out")
    assert (done := litfast(*words, tmp_path / "whole")).exit_code == 0, done.output
    halted = stopped("sections-2", *words, tmp_path / "halted")
    assert halted.exit_code == 143, halted.output
    assert not (tmp_path / "halted" / "results.json").exists()
    resumed = litfast("train", "--resume", "--out", tmp_path / "halted")
    assert resumed.exit_code == 0, resumed.output
    for name in ("teacher", "student-1", "student"):
        assert same(state(tmp_path / "whole", name), state(tmp_path / "halted", name))
    found = results(tmp_path / "halted")
    assert list(found["test_accuracy"]) == ["teacher", "student-1", "student"]
    assert [row["name"] for row in found["models"]] == ["teacher", "student-1", "student"]
    assert list(found["phases"]) == ["teacher", "sections-1", "finetune-1", "sections-2", "finetune-2"]
    assert found["test_accuracy"] == results(tmp_path / "whole")["test_accuracy"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["data.crop=4"], "recipe: data.crop must be left out for texts, got 4"),
        (["data.workers=2"], "recipe: data.workers must be left out for texts, got 2"),
        (["data.loader=dali"], "recipe: data.loader must be auto or resident for texts, got 'dali'"),
        (["data.on_error=skip"], "recipe: data.on_error must be raise for texts, got 'skip'"),
        (["student.model=resnet8"], "a model of texts must be named for amazon_polarity (vdcnn9, "),
        (["data.name=digits", "data.root=none", "data.options=none"], "a model of images must be named for "),
        (["data.options.length=56"], "VDCNN: texts must be at least 57 characters long, got 56"),
        (["data.options.lenght=64"], "did you mean 'length'?"),
        (["data.limit=0"], "recipe: data.limit must be from 1 to 48, got 0"),
        (["data.val=8", "data.limit=41"], "recipe: data.limit must be from 1 to 40, got 41"),
        (["data.limit=8"], "batch must be at most the 8 training samples, got 16"),
        (["data.val=48"], "count must be between 1 and 47, got 48"),
        ([*GAN], "method 'adversarial' must have a generator, got 'vdcnn9'"),
        ([*GAN, "student.model=stargan1"], "must have a set of images, got amazon_polarity, one of texts"),
        (["student.options.alphabet=30"], "options of vdcnn9 must leave out alphabet, which the data"),
        (["student.options.classes=3"], "options of vdcnn9 must leave out classes, which the data"),
        (["student.chain=[17,9]"], "student.model or student.chain must be given, got both"),
        (["student.model=none"], "student.model or student.chain must be given, got none"),
        ([*CHAINED, "student.chain=[17,10]"], "got 'vdcnn10'; did you mean 'vdcnn1"),
        ([*CHAINED, "student.blocks=[1,1,1,1]"], "student.blocks must be left out with student.chain, got"),
        ([*CHAINED, *SCRATCH, TRAIN], "student.chain must be left out for method 'scratch', which has no"),
        ([*KD, "student.sections=['section1']"], "student.sections must be left out for method 'kd', got"),
        (
            ["student.sections=['section1']", "method.train_sections=['section2']"],
            "method.train_sections must be among student.sections ['section1'], got ['section2']",
        ),
        (["engine.keep=best"], "engine.keep must be last without validation samples, got 'best'"),
    ],
)
def test_bad_recipes_get_one_line_and_leave_no_folder(
    words: list[str], line: str, reviews: Path, litfast: Litfast, tmp_path: Path
) -> None:
    result = litfast("train", reviews, *sets(*words), "--out", tmp_path / "run")
    assert result.exit_code in (1, 2), result.output
    assert line in result.stderr.splitlines()[-1]
    assert [text for text in result.stderr.splitlines() if text.startswith("litfast: ")] == [
        result.stderr.splitlines()[-1]
    ]
    assert not (tmp_path / "run").exists()


def test_a_link_of_another_width_is_named(recipe: Path, litfast: Litfast, tmp_path: Path) -> None:
    words = ("teacher.model=resnext20", "student.model=none", "student.chain=[20,20]", "student.init=none")
    narrower = sets(*IMAGES, *words, "student.options={cardinality=4,width=8}")
    result = litfast("train", recipe, *narrower, "--out", tmp_path / "run")
    assert result.exit_code == 1 and result.stderr.count("\n") == 1, result.output
    assert "check_chain: in link 1 of 2, student " in result.stderr and "equal widths" in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("variant", ["ban", "ban+l", "cwtm", "dkpp"])
def test_generations_are_judged_one_by_one_and_together(
    variant: str, recipe: Path, litfast: Litfast, tmp_path: Path
) -> None:
    words = sets(*SMALL, *BORN_AGAIN, f"method={{name='ban',variant='{variant}'}}")
    result = litfast("train", recipe, *words, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    accuracy = results(tmp_path / "run")["test_accuracy"]
    assert list(accuracy) == ["teacher", "student-1", "student", "ensemble"]
    assert f"ensemble of all generations: {accuracy['ensemble']:.2f} %" in result.stdout
    _, data = build.data(config.load(str(tmp_path / "run" / "config.toml")))
    generations = [create("resnet8", classes=len(data.classes)) for _ in range(2)]
    for model, name in zip(generations, ("student-1", "student"), strict=True):
        model.load_state_dict(state(tmp_path / "run", name))
    assert evaluate(Ensemble(generations), data.test).accuracy == accuracy["ensemble"]


@pytest.mark.parametrize("epochs", [0, 1])
def test_sections_that_are_not_compressed_stay_the_teachers(
    epochs: int, recipe: Path, litfast: Litfast, tmp_path: Path
) -> None:
    words = sets(*SMALL, "student.sections=['layer3']", f"finetune.epochs={epochs}", "student.init=none")
    result = litfast("train", recipe, *words, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert config.load(str(tmp_path / "run" / "config.toml")).student.blocks == (2, 2, 1)
    teacher, student = state(tmp_path / "run", "teacher"), state(tmp_path / "run")
    others = {key for key in teacher if not key.startswith("layer3.")}
    assert others == {key for key in student if not key.startswith("layer3.")}
    assert same({key: teacher[key] for key in others}, {key: student[key] for key in others})
    assert {key for key in student if key not in others} < {key for key in teacher if key not in others}


def test_an_unknown_section_names_the_nearest(recipe: Path, litfast: Litfast, tmp_path: Path) -> None:
    result = litfast("train", recipe, *sets("student.sections=['layr3']"), "--out", tmp_path / "run")
    assert result.exit_code == 1 and result.stderr.count("\n") == 1, result.output
    assert "student.sections must be one of layer1, layer2, layer3, got 'layr3'; did you mean 'layer3'?" in (
        result.stderr
    )
    assert not (tmp_path / "run").exists()


def test_blocks_alone_compress_as_much_as_they_say(recipe: Path, litfast: Litfast, tmp_path: Path) -> None:
    words = sets(*SMALL, "student.blocks=[1,2,1]", "finetune.epochs=0")
    result = litfast("train", recipe, *words, "--out", tmp_path / "run", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "run" / "model.json").read_text())["model"]["blocks"] == [1, 2, 1]
    assert "layer2.1.conv1.weight" in state(tmp_path / "run")
