"""Targets: recipes as text and as tables, `--set`, and the JSON that a run leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tomli_w
from hypothesis import strategies as st

from litfast import build, config
from litfast.build.method import method_options
from litfast.engine.rundir import RunDirectory

from .harness import Target
from .spoil import any_bytes, plain, spoilt_table, values

SHIPPED = [
    config.recipes()[name] for name in ("digits", "cifar10_resnet56_resnet20", "ptb_lstm650_groupreduce")
]
TABLES = [config.read(file) for file in SHIPPED]
SAID = "recipe|--set|Schedule|method|data|load|engine|hold_out|synthetic|augment|create|[A-Za-z]+Loader"
TEXTS = [
    b"x = " + b"[" * 5000,
    b"x = " + b"9" * 5000,
    b"x = {a" + b".a" * 3000 + b" = 1}",
    b"[student]\nmodel = 3\n",
    b"a = 1\na = 2\n",
    b"\xff\xfe",
]


def whole(said: config.Config) -> None:
    """A recipe that was taken says the same when it is written and read again; then build looks at it."""
    written = config.dump(said)
    assert repr(config.parse(written)) == repr(said)
    tomli_w.dumps(written)
    method_options(said)
    build.models.check_kinds(said)
    build.resolve(said)


def recipe_text(content: bytes, folder: Path) -> None:
    file = folder / "recipe.toml"
    file.write_bytes(content)
    whole(config.load(str(file)))


def recipe_table(table: Any, folder: Path) -> None:
    whole(config.parse(table))


def recipe_sets(texts: list[str], folder: Path) -> None:
    whole(config.load("digits", texts))


def data_table(table: Any, folder: Path) -> None:
    """The data of a recipe: the loaders of every split are made, and one batch of each."""
    said = config.parse({"student": {"model": "resnet8"}, "data": table})
    _, found = build.data(build.resolve(said))
    for split in ("train", "val", "test"):
        loader = found.loader(split)
        if loader is not None:
            batch = next(iter(loader.batches(0)))
            assert len(batch.images) == len(batch.target)


def model_json(document: Any, folder: Path) -> None:
    """`teacher.run` of a run whose model.json is another: no weights but the run's own."""
    (folder / "run").mkdir()
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    (folder / "run" / "model.json").write_bytes(text)
    said = config.load("digits", [f"teacher={{run = {json.dumps(str(folder / 'run'))}}}"])
    assert said.teacher is not None and said.teacher.weights is not None
    assert Path(said.teacher.weights).resolve().parent == (folder / "run").resolve()


def run_files(case: tuple[str, bytes], folder: Path) -> None:
    """A run's folder with one file spoilt."""
    name, content = case
    for other, text in RUN.items():
        (folder / other).write_bytes(content if other == name else text)
    run = RunDirectory.open(folder)
    assert isinstance(run.status, str) and isinstance(run.read("model.json"), dict)
    assert all(isinstance(row, dict) for row in run.rows())
    whole(config.parse(run.config()))


RUN = {
    "run.json": b'{"litfast": "0.1.0", "status": "finished"}',
    "model.json": b'{"model": {"name": "resnet8"}, "input": {"shape": [3, 8, 8]}, "classes": ["a", "b"]}',
    "metrics.jsonl": b'{"epoch": 0, "loss": 1.5}\n{"epoch": 1}\n',
    "config.toml": tomli_w.dumps(TABLES[0]).encode(),
}
MODEL = {
    "model": {"name": "resnet8", "blocks": [1, 1, 1], "boundaries": None, "classes": 4, "channels": 3},
    "weights": "student.safetensors",
}
DEEP = b"[" * 100_000
KEYS = [
    *(
        "seed",
        "data.batch",
        "data.name",
        "data.options",
        "teacher.weights",
        "teacher.train",
        "student.blocks",
    ),
    *("student.model", "student.init", "method.beta", "method.name", "sections.lr", "sections.epochs"),
    *("engine.threads", "engine.device", "engine.ema", "plan", "x", "", ".", "a..b", "data.batch.x"),
]
toml = st.one_of(
    st.sampled_from(
        ["1", "-1", "1e400", "nan", "inf", "9" * 400, "9" * 5000, "[", "[" * 3000, "{}", "none", "''"]
    ),
    st.sampled_from(
        ["1979-05-27", "1\nseed = 2", '"\\ud800"', "[1, 'a']", "{a = 1}", "true", '"..."', "auto"]
    ),
    st.text(max_size=10),
)
sets_texts = st.lists(
    st.one_of(st.builds("{}={}".format, st.sampled_from(KEYS), toml), st.text(max_size=10)), max_size=3
)
tables = spoilt_table(TABLES, values).filter(lambda table: isinstance(table, dict))
DATA: list[dict[str, Any]] = [
    {"name": "digits", "batch": 32, "val": 100},
    {"name": "digits", "batch": 8, "limit": 64, "mean": [0.5], "std": [0.5], "crop": 1, "flip": False},
    {"name": "synthetic", "batch": 4, "options": {"train": 16, "size": 8}},
]


def _target(
    name: str, run: Callable[[Any, Path], object], cases: Any, says: str, *also: type[Exception]
) -> Target:
    return Target(name=name, cases=cases, run=run, says=says, refusals=(ValueError, *also))


RECIPES = [
    _target("recipe text", recipe_text, any_bytes(*(file.read_bytes() for file in SHIPPED), *TEXTS), SAID),
    _target("recipe table", recipe_table, tables, SAID),
    _target("--set", recipe_sets, sets_texts, SAID),
    _target("data table", data_table, spoilt_table(DATA, values), SAID, TypeError),
    _target(
        "model.json",
        model_json,
        st.one_of(spoilt_table([MODEL], plain), any_bytes(json.dumps(MODEL).encode(), DEEP)),
        SAID,
    ),
    _target(
        "run folder",
        run_files,
        st.sampled_from(sorted(RUN)).flatmap(
            lambda name: st.tuples(st.just(name), any_bytes(RUN[name], DEEP))
        ),
        f"run: |{SAID}",
    ),
]
