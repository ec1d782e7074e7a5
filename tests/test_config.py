from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from litfast import config
from litfast.config import Config, coerce, load, parse
from litfast.phase import Schedule

PLAIN: dict[str, Any] = {
    "student": {"model": "resnet8"},
    "teacher": {"model": "resnet14", "weights": "teacher.th"},
    "method": {"name": "lit", "beta": 0.5, "weights": [1.0, 2.0, 3.0]},
    "sections": {"epochs": 3, "lr": 0.1, "schedule": "steps", "milestones": [1, 2]},
    "finetune": {"epochs": 1, "lr": 1},
}


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "plain.toml"
    path.write_text(tomli_w.dumps(PLAIN))
    return str(path)


def changed(key: str, value: Any) -> dict[str, Any]:
    """PLAIN with the dotted `key` set."""
    table = {name: dict(child) for name, child in PLAIN.items()}
    *parents, last = key.split(".")
    child: dict[str, Any] = table
    for parent in parents:
        child = child.setdefault(parent, {})
    child[last] = value
    return table


@pytest.mark.parametrize("name", sorted(config.recipes()))
def test_a_shipped_recipe_survives_the_round_trip_through_toml(name: str, tmp_path: Path) -> None:
    recipe = load(name)
    path = tmp_path / "resolved.toml"
    path.write_text(tomli_w.dumps(config.dump(recipe)))
    assert load(str(path)) == parse(config.dump(recipe)) == recipe


def test_the_recipes_that_the_readme_names_are_shipped() -> None:
    resnets = {
        f"cifar10_{pair}" for pair in ("resnet110_resnet20", "resnet110_resnet32", "resnet56_resnet20")
    }
    assert {"digits", *resnets} <= set(config.recipes())


@pytest.mark.parametrize(("data", "student"), [("cifar10", "resnext20"), ("cifar100", "resnext32")])
def test_the_papers_resnext_recipes_are_shipped(data: str, student: str) -> None:
    recipe = load(f"{data}_resnext110_{student}")
    assert recipe.teacher is not None
    named = (recipe.data.name, recipe.teacher.model, recipe.student.model)
    assert named == (data, "resnext110", student)


def test_a_recipe_becomes_typed_values(recipe: str) -> None:
    ours = load(recipe)
    assert ours.phases["sections"] == Schedule(epochs=3, lr=0.1, schedule="steps", milestones=(1, 2))
    assert isinstance(ours.phases["finetune"].lr, float)
    assert ours.method.name == "lit"
    assert ours.method.options == {"beta": 0.5, "weights": [1.0, 2.0, 3.0]}
    assert (ours.seed, ours.data.name, ours.engine.keep) == (0, "digits", "last")


def test_set_changes_nested_keys_and_makes_missing_tables(recipe: str) -> None:
    ours = load(
        recipe, ["sections.epochs=8", "method.beta=0", "data.batch = 32", "engine.keep=best", "seed=7"]
    )
    assert ours.phases["sections"].epochs == 8
    assert ours.method.options["beta"] == 0
    assert (ours.data.batch, ours.engine.keep, ours.seed) == (32, "best", 7)


def test_set_takes_lists_and_quoted_and_bare_strings(recipe: str) -> None:
    ours = load(recipe, ["student.blocks=[1, 2, 1]", "data.root=../some data/here", 'data.name="cifar10"'])
    assert ours.student.blocks == (1, 2, 1)
    assert (ours.data.root, ours.data.name) == ("../some data/here", "cifar10")
    assert load(recipe, ["data.mean=[0, 1]"]).data.mean == (0.0, 1.0)
    assert load(recipe, ["engine.deterministic=true"]).engine.deterministic is True


def test_set_none_takes_the_default_of_a_key_an_option_and_a_whole_table(recipe: str) -> None:
    ours = load(recipe, ["data.batch=none", "method.beta=none", "method.weights=none", "finetune=none"])
    assert ours.data.batch == 64
    assert ours.method.options == {}
    assert set(ours.phases) == {"sections"}


def test_a_later_set_wins_over_an_earlier_one(recipe: str) -> None:
    assert load(recipe, ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize("text", ["seed", "=1", " = 1"])
def test_set_without_a_key_or_a_value_is_refused(recipe: str, text: str) -> None:
    with pytest.raises(ValueError, match="--set: must be written key=value, got "):
        load(recipe, [text])


def test_set_below_a_value_is_refused(recipe: str) -> None:
    with pytest.raises(
        ValueError, match=r"--set: 'epochs' in 'sections\.epochs\.x=1' must be a table, got the value 3"
    ):
        load(recipe, ["sections.epochs.x=1"])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "sections.epoch",
            3,
            r"^recipe: key must be .* got 'sections.epoch'; did you mean 'sections.epochs'\?$",
        ),
        ("data.bach", 3, r"^recipe: key must be one of data.batch, .* did you mean 'data.batch'\?$"),
        ("teacher.train.lrr", 3, r"^recipe: key must be .* did you mean 'teacher.train.lr'\?$"),
        (
            "sede",
            3,
            r"^recipe: key must be one of data, discriminator, engine, .* got 'sede'; did you mean 'seed'\?$",
        ),
        ("studnet.model", "resnet8", r"^recipe: key must be .* got 'studnet'; did you mean 'student'\?$"),
        (
            "engine.keep",
            "bets",
            r"^recipe: engine.keep must be one of best, last, got 'bets'; did you mean 'best'\?$",
        ),
        (
            "engine.precision",
            "fp8",
            r"^recipe: engine.precision must be one of auto, bf16, fp16, fp32, got 'fp8'",
        ),
        (
            "engine.mode",
            "warp",
            r"^recipe: engine.mode must be one of auto, compile, compile-graph, eager, graph, got 'warp'",
        ),
        (
            "engine.branches",
            "all",
            r"^recipe: engine.branches must be one of auto, parallel, serial, got 'all'",
        ),
        ("engine.accumulate", 0, r"^recipe: engine.accumulate must be 1 or more, got 0$"),
        ("engine.accumulate", 7, r"^recipe: engine.accumulate must divide data.batch \d+, got 7$"),
        ("engine.ema", 1.0, r"^recipe: engine.ema must lie between 0 and 1, got 1.0$"),
        (
            "engine.teacher_precision",
            "fp8",
            r"^recipe: engine.teacher_precision must be one of auto, bf16, fp16, fp32, got 'fp8'",
        ),
        (
            "engine.relay",
            True,
            r"^recipe: engine.relay must be false unless engine.distributed is 'sections', got true$",
        ),
        ("engine.log_every", 0, r"^recipe: engine.log_every must be 1 or more, got 0$"),
        ("data.batch", "many", r"^recipe: data.batch must be of type int, got 'many'$"),
        ("data.batch", 1.5, r"^recipe: data.batch must be of type int, got 1.5$"),
        ("data.batch", True, r"^recipe: data.batch must be of type int, got True$"),
        ("data.root", 5, r"^recipe: data.root must be of type str, got 5$"),
        ("data.mean", [0.5, "x"], r"^recipe: data.mean must be of type float, got 'x'$"),
        (
            "sections.betas",
            [0.9],
            r"^recipe: sections.betas must be of type tuple\[float, float\], got \[0.9\]$",
        ),
        ("sections.lr", False, r"^recipe: sections.lr must be of type float, got False$"),
        ("sections.lr", -1, r"^recipe: \[sections\] Schedule: lr must be positive and finite, got -1.0$"),
        ("data", 3, r"^recipe: data must be a table, got 3$"),
        ("method", "lit", r"^recipe: method must be a table, got 'lit'$"),
        ("teacher.train", 3, r"^recipe: teacher.train must be a table, got 3$"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_its_path(key: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(changed(key, value))


@pytest.mark.parametrize(
    ("key", "missing"),
    [("student", "student"), ("sections.lr", "sections.lr")],
)
def test_a_missing_key_is_named_with_its_path(key: str, missing: str) -> None:
    with pytest.raises(ValueError, match=f"^recipe: {missing} must be given, got no such key$"):
        parse(changed(key, None))


def test_a_teacher_is_loaded_or_trained_never_both_or_neither() -> None:
    rule = r"recipe: teacher.weights \(a file\) or \[teacher.train\] \(a table\) must be given, got "
    with pytest.raises(ValueError, match=rule + "none"):
        parse(changed("teacher.weights", None))
    with pytest.raises(ValueError, match=rule + r"both \(--set teacher.train=none drops the table\)"):
        parse(changed("teacher.train", {"epochs": 1, "lr": 0.1}))


def test_the_remedy_for_a_teacher_with_both_works(recipe: str) -> None:
    both = ["teacher.train.epochs=1", "teacher.train.lr=0.1"]
    with pytest.raises(ValueError, match="got both"):
        load(recipe, both)
    ours = load(recipe, [*both, "teacher.train=none"])
    assert ours.teacher is not None and ours.teacher.train is None


def test_a_file_that_is_not_toml_or_not_there_gets_one_line(tmp_path: Path) -> None:
    torn = tmp_path / "torn.toml"
    torn.write_text("[data\n")
    with pytest.raises(ValueError, match=r"^recipe: .*torn.toml must be valid TOML, got: [^\n]+$"):
        load(str(torn))
    torn.write_bytes(b"seed = '\xff'")
    with pytest.raises(ValueError, match=r"^recipe: .*torn.toml must be valid TOML, got: [^\n]+$"):
        load(str(torn))
    absent = r"^recipe: absent.toml must be a readable TOML file, got: No such file or directory$"
    with pytest.raises(ValueError, match=absent):
        load("absent.toml")


def test_an_unknown_recipe_names_the_nearest_shipped_one() -> None:
    with pytest.raises(
        ValueError, match=r"^recipe: name must be one of .* got 'digit'; did you mean 'digits'\?"
    ):
        load("digit")


def test_dump_leaves_out_what_has_no_value_and_keeps_every_default_explicit() -> None:
    table = config.dump(parse(PLAIN))
    assert "root" not in table["data"] and "train" not in table["teacher"]
    assert table["data"]["batch"] == 64 and table["engine"]["log_every"] == 20
    assert table["method"] == PLAIN["method"]
    assert table["sections"]["milestones"] == [1, 2]


def test_a_config_made_in_python_with_an_option_of_none_still_round_trips() -> None:
    ours = parse(changed("method.weights", None))
    assert parse(config.dump(ours)) == ours
    assert isinstance(ours, Config)


NEW: dict[str, tuple[str, Any]] = {
    "student.sections": ('["layer3"]', ("layer3",)),
    "student.blocks": ("[1, 2, 1]", (1, 2, 1)),
    "student.options": ("{ width = 4 }", {"width": 4}),
    "data.limit": ("400", 400),
    "discriminator.width": ("32", 32),
    "discriminator.weights": ("d.safetensors", "d.safetensors"),
    "scores.extractor": ("inception-2015-12-05.pt", "inception-2015-12-05.pt"),
    "scores.epochs": ("3", 3),
    "scores.images": ("500", 500),
}


@pytest.mark.parametrize("key", [*NEW, "student.chain"])
def test_keys_of_every_family_survive_the_round_trip(key: str, recipe: str, tmp_path: Path) -> None:
    chained = ["student.model=none"] if key == "student.chain" else []
    text, expected = NEW.get(key, ("[17, 9]", (17, 9)))
    ours = load(recipe, [*chained, f"{key}={text}"])
    table, _, name = key.partition(".")
    assert getattr(getattr(ours, table), name) == expected
    path = tmp_path / "resolved.toml"
    path.write_text(tomli_w.dumps(config.dump(ours)))
    assert load(str(path)) == parse(config.dump(ours)) == ours


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("discriminator.widht", 3, "did you mean 'discriminator.width'?"),
        ("score.epochs", 3, "did you mean 'scores'?"),
        ("scores.epochs", 0, "scores.epochs must be 1 or more, got 0"),
        ("scores.images", 1, "scores.images must be 2 or more, got 1"),
        ("scores.images", "all", "scores.images must be of type int"),
        ("student.chain", [17, 9], r"student\.model or student\.chain must be given, got both"),
        ("student.chain", ["vdcnn9"], "student.chain must be of type int, got 'vdcnn9'"),
        ("student.sections", "layer3", "student.sections must be of type"),
        ("data.limit", 1.5, "data.limit must be of type int, got 1.5"),
    ],
)
def test_wrong_keys_of_every_family_are_named(key: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(changed(key, value))


@pytest.mark.parametrize(("key", "value"), [("sections", ["layer3"]), ("blocks", [1]), ("weights", "a.pt")])
def test_a_chain_leaves_out_what_is_of_one_student(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"student\.{key} must be left out with student\.chain, got"):
        parse({**PLAIN, "student": {"chain": [9], key: value}})


def test_a_list_is_taken_where_a_number_would_do_too() -> None:
    assert coerce(int | Sequence[str] | None, ["a", "b"], "x") == ("a", "b")
    assert coerce(int | Sequence[str] | None, 3, "x") == 3
