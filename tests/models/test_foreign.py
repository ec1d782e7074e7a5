from __future__ import annotations

import copy
import json
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from litfast.models import check_pair, copy_blocks, copy_ends, create, is_foreign
from litfast.models.foreign import reads
from litfast.models.inference import Inference, agreement
from litfast.models.sectioned import check_sections

from . import third_party

FILE = third_party.__file__


def test_a_foreign_name_says_where_the_model_comes_from() -> None:
    assert is_foreign("timm:resnet18") and is_foreign("some/net.py:make")
    assert not is_foreign("resnet18")


def test_a_file_says_by_its_parameters_what_it_reads() -> None:
    assert [reads(f"{FILE}:{name}") for name in ("preact", "text", "vgg")] == ["images", "texts", None]
    assert reads("timm:resnet18") == "images"


@pytest.mark.parametrize("name", ["vgg", "preact", "transformer"])
def test_the_spec_of_a_files_model_makes_it_again(name: str) -> None:
    model = create(f"{FILE}:{name}", classes=5, size=(16, 16))
    again = create(**json.loads(json.dumps(model.spec)))
    assert again.names == model.names and again.spec == model.spec
    assert type(again.model) is type(model.model)
    assert model(torch.zeros(1, 3, 16, 16)).shape == (1, 5)


def test_a_text_model_is_told_its_alphabet() -> None:
    model = create(f"{FILE}:text", classes=3, alphabet=7, size=(12,))
    assert model.spec is not None and model.spec["alphabet"] == 7 and "channels" not in model.spec
    assert model(torch.zeros(2, 12, dtype=torch.int64)).shape == (2, 3)


def test_blocks_are_those_that_stay_and_their_weights_can_be_the_teachers() -> None:
    name = f"{FILE}:transformer"
    teacher, student = create(name, size=(16, 16)), create(name, size=(16, 16), blocks=(1, 2, 1))
    assert student.names == ("encoder.layers[0:1]", "encoder.layers[1:3]", "encoder.layers[3:4]")
    copy_ends(teacher, student)
    assert list(copy_blocks(teacher, student).values()) == [[0], [0, 1], [0]]
    taught, learned = teacher.model.encoder.layers, student.model.encoder.layers
    for theirs, ours in zip((taught[0], taught[2], taught[3], taught[4]), learned, strict=True):
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    assert torch.equal(student.model.fc.weight, teacher.model.fc.weight)


def test_boundaries_may_be_named() -> None:
    named = create(f"{FILE}:preact", boundaries=["blocks.0", "blocks[1:6]"])
    assert named.names == ("blocks.0", "blocks[1:6]")
    family = create("resnet14", boundaries=["layer1.0", "layer3"])
    assert family.names == ("layer1.0", "layer3")
    assert family.spec is not None and create(**family.spec).names == family.names
    assert create("resnet14", boundaries="auto").names == ("layer1", "layer2", "layer3")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nowhere.py:net", {}, "create: nowhere.py must be a Python file, got no such file"),
        (f"{FILE}:vg", {}, r"create: function of .* must be one of .*, got 'vg'; did you mean 'vgg'\?"),
        (f"{FILE}:vgg", {"depth": 3}, "create: .*:vgg must take classes, depth, got: got an unexpected"),
        (
            f"{FILE}:text",
            {},
            "create: .*:text must take classes, got: missing a required argument: 'alphabet'",
        ),
        (
            f"{FILE}:vgg",
            {},
            "create: size of what .*vgg reads must be given to find its boundaries, got none",
        ),
    ],
)
def test_what_a_file_cannot_give_is_one_line(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        create(name, **options)
    assert "\n" not in str(raised.value)


def test_a_function_must_return_a_module(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("def net(classes):\n    return classes\n")
    with pytest.raises(TypeError, match=r"net\.py:net must return an nn\.Module, got int"):
        create(f"{tmp_path}/net.py:net")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1 / 0", "must be a Python file that can be imported, got: ZeroDivisionError: division by zero"),
        ("def net():\n    assert False", "net.py:net must make a model, got AssertionError"),
        (
            "from torch import nn\nnet = nn.ReLU",
            "net.py:net must return a model with parameters, got ReLU",
        ),
    ],
)
def test_what_a_files_own_code_raises_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(text)
    with pytest.raises(ValueError, match=message) as raised:
        create(f"{tmp_path}/net.py:net", size=(8, 8))
    assert "\n" not in str(raised.value)


def test_a_model_that_does_not_take_the_size_says_so_where_its_sections_are_needed(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("from torch import nn\ndef net():\n    return nn.Linear(5, 2)")
    made = create(f"{tmp_path}/net.py:net", size=(8, 8))
    refusal = (
        r"lit: teacher must have sections, got none: sections: Linear must take input \[2, 3, 8, 8\], got"
    )
    with pytest.raises(ValueError, match=refusal):
        check_sections("lit", teacher=made)


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A stand-in for timm that notes what it was asked for."""
    asked: list[dict[str, Any]] = []

    def create_model(name: str, **options: Any) -> nn.Module:
        asked.append({"name": name, **options})
        return third_party.PreActResNet(classes=options["num_classes"], channels=options["in_chans"])

    module: Any = ModuleType("timm")
    module.list_models = lambda: ["net18", "vit_tiny"]
    module.create_model = create_model
    fixed = {"net18": False, "vit_tiny": True}
    module.models = SimpleNamespace(
        get_pretrained_cfg=lambda name: SimpleNamespace(fixed_input_size=fixed[name])
    )
    monkeypatch.setitem(sys.modules, "timm", module)
    return asked


def test_timm_is_asked_for_the_classes_and_channels_and_a_fixed_size(timm: list[dict[str, Any]]) -> None:
    model = create("timm:net18", classes=7, channels=1, size=(16, 16), drop_rate=0.1)
    create("timm:vit_tiny", size=(16, 16))
    assert timm == [
        {"name": "net18", "num_classes": 7, "in_chans": 1, "drop_rate": 0.1},
        {"name": "vit_tiny", "num_classes": 10, "in_chans": 3, "img_size": (16, 16)},
    ]
    assert model.names == ("blocks[0:2]", "blocks[2:4]", "blocks[4:6]")
    with pytest.raises(ValueError, match="model must be one of timm's 2, got 'net17'; near are net18"):
        create("timm:net17", size=(16, 16))
    with pytest.raises(ValueError, match=r"timm:net18\.tag must take .*, got KeyError: 'net18.tag'"):
        create("timm:net18.tag", size=(16, 16))


def test_without_timm_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        ValueError, match=r"timm must be installed for timm:net \(pip install 'litfast\[timm\]'\)"
    ):
        create("timm:net")


@pytest.mark.parametrize(("name", "first"), [("resnet18", "layer1"), ("vit_tiny_patch16_224", "blocks[0:3]")])
def test_models_of_the_real_timm_are_cut(name: str, first: str) -> None:
    try:
        import timm  # noqa: F401
    except (ImportError, RuntimeError) as error:  # torchvision of another torch raises a RuntimeError
        pytest.skip(f"timm cannot be imported: {error}")
    model = create(f"timm:{name}", classes=3, size=(32, 32)).eval()
    assert len(model.names) == 4 and model.names[0] == first
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(model.observe(x)[1], model(x))


def test_a_model_that_fx_cannot_follow_has_no_sections_and_says_why() -> None:
    model = create(f"{FILE}:branching", classes=5, size=[16, 16]).eval()
    assert model.names == model.sections == ()
    assert re.fullmatch("sectioned: forward of Branching must be traceable by torch.fx, got .*", model.uncut)
    x = torch.randn(2, 3, 16, 16)
    irs, logits = model.observe(x)
    assert irs[0] is x and torch.equal(logits, model(x)) and logits.shape == (2, 5)
    assert set(model.head.state_keys) == set(model.state_dict())
    assert agreement(Inference(model), x).logits < 1e-6
    again = create(**json.loads(json.dumps(model.spec)))
    again.load_state_dict(copy.deepcopy(model).state_dict())
    assert torch.equal(again.eval()(x), logits)


def test_boundaries_may_be_none() -> None:
    model = create(f"{FILE}:preact", size=[16, 16], boundaries=[])
    assert model.names == () and model.uncut == "boundaries are none"
    assert create("resnet8", boundaries=[]).names == ()


def test_a_pair_needs_sections() -> None:
    line = (
        "check_pair: student must have sections, got none: sectioned: forward of Branching must be traceable"
    )
    with pytest.raises(ValueError, match=line):
        check_pair(create("resnet8"), create(f"{FILE}:branching", size=[16, 16]), torch.randn(2, 3, 16, 16))
