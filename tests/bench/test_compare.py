"""The document of a comparison: its keys, its sizes, its ratios and when there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from litfast.bench import compare, lane, latency, modes, quick, record, report
from litfast.models import Input

from .conftest import convnet, texts

FAST: dict[str, Any] = {
    "input": Input((3, 8, 8)),
    "batches": (1, 2),
    "modes": ("eager",),
    "precisions": ("fp32",),
    "seconds": 0.01,
    "threads": 1,
}


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "BLOCK_S", 1e-4)
    monkeypatch.setattr(latency, "MAX_ROUNDS", 7)


def test_the_document_has_stable_keys_and_is_json() -> None:
    document = compare({"teacher": convnet(8, blocks=3), "student": convnet(8)}, **FAST)
    assert list(document) == [
        "input", "device", "threads", "energy", "models", "rows", "ratios", "checks", "machine",
    ]  # fmt: skip
    sizes = {"name", "depth", "parameters", "macs", "weights_bytes"}
    assert set(document["models"][0]) == {*sizes, "accuracy", "perplexity"}
    assert set(document["ratios"][0]) == {
        "baseline", "contender", "mode", "precision", "batch", "check", "speedup", "p10", "p90", "rounds",
        "tie", "reason", "loads",
    }  # fmt: skip
    assert document["checks"] == {"eager fp32 batch 1": True, "eager fp32 batch 2": True}
    assert json.loads(json.dumps(document, allow_nan=False)) == document


@pytest.mark.parametrize(
    ("model", "input", "said", "macs"),
    [
        (
            convnet(4),
            Input((3, 8, 8)),
            {"shape": [3, 8, 8], "alphabet": None},
            64 * 9 * (3 * 4 + 4 * 4) + 4 * 4,
        ),
        (texts(), Input((20,), alphabet=9), {"shape": [20], "alphabet": 9}, 20 * 3 * 4 * 6 + 6 * 4),
    ],
    ids=["images", "texts"],
)
def test_the_document_says_what_the_models_read(
    model: nn.Module, input: Input, said: dict[str, Any], macs: int
) -> None:
    document = compare({"one": model}, **FAST | {"input": input})
    assert document["input"] == said
    assert document["models"][0]["macs"] == macs
    assert all(row["gate"] for row in document["rows"])


def test_sizes_are_counted_and_what_is_given_is_kept() -> None:
    deep, shallow = convnet(8, blocks=3), convnet(8)
    document = compare(
        {"deep": deep, "shallow": shallow},
        accuracies={"deep": 97.5},
        weights_bytes={"shallow": 5},
        **FAST,
    )
    first, second = document["models"]
    assert (first["name"], first["depth"], first["accuracy"]) == ("deep", 5, 97.5)
    assert first["parameters"] == sum(parameter.numel() for parameter in deep.parameters())
    assert first["macs"] == 64 * 9 * (3 * 8 + 3 * 8 * 8) + 8 * 4
    counters = 3 * 8  # num_batches_tracked of three batch norms, int64
    assert first["weights_bytes"] == 4 * (first["parameters"] + 2 * 3 * 8) + counters
    assert (second["weights_bytes"], second["accuracy"]) == (5, None)


def test_a_ratio_is_teacher_over_student(monkeypatch: pytest.MonkeyPatch) -> None:
    def clocked(contender: lane.Lane) -> list[float]:
        return [0.006] if contender.contender == "teacher" else [0.002]

    monkeypatch.setattr(latency, "block", clocked)
    (found,) = compare({"teacher": convnet(8), "student": convnet(4)}, **FAST | {"batches": (2,)})["ratios"]
    assert (found["baseline"], found["contender"]) == ("teacher", "student")
    assert found["speedup"] == pytest.approx(3.0)
    assert found["tie"] is False and found["reason"] is None


def test_a_red_gate_gives_a_reason_and_no_speedup(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def wrong_when_narrow(model: nn.Module, *_: object) -> modes.Runner:
        factor = 2.0 if model[0].out_channels == 4 else 1.0
        return lambda images: factor * model(images)

    monkeypatch.setitem(modes.MODES, "wrong", wrong_when_narrow)
    document = compare(
        {"teacher": convnet(8), "student": convnet(4)},
        **FAST | {"modes": ("eager", "wrong"), "batches": (2,)},
    )
    eager, wrong = document["ratios"]
    assert eager["speedup"] > 0
    assert wrong["speedup"] is None and wrong["p10"] is None and wrong["tie"] is None
    assert wrong["reason"].startswith(
        "student: outputs differ from its eager fp32 outputs by 1 of the largest"
    )
    assert document["checks"] == {"eager fp32 batch 2": True, "wrong fp32 batch 2": False}
    # the record takes the green cell's speed-up, and would refuse one in the red cell
    record.write(tmp_path / "r.json", command="c", results=document["ratios"], checks=document["checks"])
    wrong["speedup"] = 2.0
    with pytest.raises(ValueError, match="must rest on passed checks, got failed: wrong fp32 batch 2"):
        record.write(tmp_path / "r.json", command="c", results=document["ratios"], checks=document["checks"])


def test_what_one_contender_does_wrong_leaves_the_others_their_speedups(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def only_right_when_wide(model: nn.Module, *_: object) -> modes.Runner:
        if model[0].out_channels == 2:
            raise RuntimeError("too narrow")
        factor = 2.0 if model[0].out_channels == 4 else 1.0
        return lambda images: factor * model(images)

    monkeypatch.setitem(modes.MODES, "some", only_right_when_wide)
    models = {"teacher": convnet(8), "right": convnet(6), "wrong": convnet(4), "absent": convnet(2)}
    document = compare(models, **FAST | {"modes": ("some",), "batches": (2,)})
    right, wrong, absent = document["ratios"]
    assert right["speedup"] > 0 and wrong["speedup"] is absent["speedup"] is None
    assert document["checks"] == {"some fp32 batch 2, right": True, "some fp32 batch 2, wrong": False}
    record.write(tmp_path / "r.json", command="c", results=document, checks=document["checks"])


def test_a_mode_that_cannot_run_is_no_check_but_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(model: nn.Module, *_: object) -> modes.Runner:
        raise RuntimeError("no compiler")

    monkeypatch.setitem(modes.MODES, "absent", absent)
    document = compare(
        {"teacher": convnet(8), "student": convnet(4)}, **FAST | {"modes": ("absent",), "batches": (2,)}
    )
    assert document["checks"] == {}
    assert document["ratios"][0]["reason"] == "teacher: no compiler; student: no compiler"


def test_the_quick_look_is_eager_fp32_at_batch_1_and_128() -> None:
    document = quick(
        {"teacher": convnet(4), "student": convnet(4)}, input=Input((3, 8, 8)), accuracies={"student": 90.0}
    )
    cells = [(row["mode"], row["precision"], row["batch"]) for row in document["rows"]]
    assert cells == [("eager", "fp32", 1)] * 2 + [("eager", "fp32", 128)] * 2
    assert document["models"][1]["accuracy"] == 90.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accuracies": {"studnt": 1.0}}, "accuracies must be keyed by teacher, student, got studnt"),
        ({"weights_bytes": {"x": 1}}, "weights_bytes must be keyed by teacher, student, got x"),
        ({"accuracies": {"student": 101.0}}, "accuracy of student must lie in 0 to 100 percent, got 101.0"),
    ],
)
def test_a_bad_argument_gets_one_clear_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare({"teacher": convnet(4), "student": convnet(4)}, **FAST | change)


def test_one_model_alone_is_measured_without_a_ratio() -> None:
    document = compare({"student": convnet(4)}, **FAST)
    assert [model["name"] for model in document["models"]] == ["student"] and document["ratios"] == []
    assert [column.header for column in report.summary(document).columns] == ["", "student"]


def test_every_further_model_is_held_to_the_first() -> None:
    models = {"teacher": convnet(8), "one": convnet(4), "two": convnet(4)}
    ratios = compare(models, **FAST | {"batches": (2,)})["ratios"]
    assert [(ratio["baseline"], ratio["contender"]) for ratio in ratios] == [
        ("teacher", "one"),
        ("teacher", "two"),
    ]
