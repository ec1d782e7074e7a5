from __future__ import annotations

import json

import pytest
import torch

from litfast.models import MODELS, SectionedModel, create


def test_every_name_makes_a_sectioned_model() -> None:
    layers = ("layer1", "layer2", "layer3")
    with torch.device("meta"):
        models = {name: create(name) for name in MODELS}
    assert all(isinstance(model, SectionedModel) for model in models.values())
    assert {name: model.names for name, model in models.items()} == {
        **{f"resnet{n}": layers for n in (8, 14, 20, 32, 44, 56, 110)},
        **{f"resnext{n}": layers for n in (20, 32, 44, 56, 110)},
        **{f"preresnet{n}": layers for n in (20, 56, 110, 164)},
        **{f"vgg{n}": tuple(f"section{i}" for i in range(1, 6)) for n in (11, 13, 16, 19)},
        **{f"vdcnn{n}": ("section1", "section2", "section3", "section4") for n in (9, 17, 29, 49)},
        **{f"stargan{n}": ("bottleneck",) for n in (6, 4, 2, 1)},
        **{
            name: ("section1", "section2", "section3") for name in ("maxout", "fitnet1", "fitnet2", "fitnet4")
        },
        "lenet300": ("ip2",),
        "lenet5": ("conv2", "ip1"),
        "lstm_lm": ("layer1", "layer2"),
    }


def test_the_spec_survives_json_and_makes_the_same_model_again() -> None:
    model = create("resnet20", classes=5, channels=1, blocks=(1, 2, 1), option="B")
    assert model.spec is not None
    again = create(**json.loads(json.dumps(model.spec)))
    assert again.spec == model.spec
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }


@pytest.mark.parametrize(
    ("name", "options"), [("resnet8", {"inner": [3, 5, 7]}), ("vgg11", {"widths": [2, 3, 4, 5, 6, 7, 8, 9]})]
)
def test_the_spec_of_a_slimmed_model_holds_its_widths(name: str, options: dict[str, list[int]]) -> None:
    spec = json.loads(json.dumps(create(name, **options).spec))
    assert spec.items() >= options.items()
    state = create(**spec).state_dict()
    norms = [len(value) for key, value in state.items() if key.endswith((".bn1.weight", ".bn.weight"))]
    assert norms == next(iter(options.values()))


def test_blocks_replace_those_of_the_name() -> None:
    model = create("resnet56", blocks=(3, 1, 2)).model
    assert [len(getattr(model, name)) for name in ("layer1", "layer2", "layer3")] == [3, 1, 2]


def test_the_global_seed_decides_the_weights() -> None:
    torch.manual_seed(3)
    first = create("resnet8").state_dict()
    torch.manual_seed(3)
    second = create("resnet8").state_dict()
    other = create("resnet8").state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_an_unknown_model_names_the_nearest() -> None:
    with pytest.raises(
        ValueError, match=r"model must be one of .*, got 'resnt20'; did you mean 'resnet20'\?"
    ):
        create("resnt20")


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(
        ValueError, match=r"option of resnet20 must be one of inner, option, width, got 'optin'; did you mean"
    ):
        create("resnet20", optin="B")


def test_a_maxout_network_refuses_blocks() -> None:
    with pytest.raises(ValueError, match=r"^create: blocks of a maxout network must be left out, got \[1\]$"):
        create("fitnet1", blocks=[1])


def test_a_resnet_may_be_thinner() -> None:
    thin = create("resnet8", width=4)
    assert thin.spec is not None and thin.spec["width"] == 4
    irs, _ = thin.eval().observe(torch.randn(1, 3, 8, 8))
    assert [ir.shape[1] for ir in irs] == [4, 4, 8, 16]
