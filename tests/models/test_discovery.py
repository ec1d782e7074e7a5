from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from litfast.models import create, sectioned
from litfast.models.discovery import candidates, measure
from litfast.models.stages import auto

from .third_party import PatchTransformer, PreActResNet, SmallVGG, TextClassifier

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
IDS = torch.randint(11, (2, 5), generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])


def test_candidates_are_what_the_whole_pass_runs_through_lists_included() -> None:
    assert candidates(PreActResNet()) == [
        "conv",
        *("blocks.0", "blocks.1", "blocks.2", "blocks.2.bn1", "blocks.3", "blocks.4", "blocks.4.bn1"),
        *("blocks.5", "bn", "fc"),
    ]
    assert candidates(SmallVGG(repeats=1))[:6] == [
        "features",
        *(f"features.{at}" for at in range(5)),
    ]


def test_a_shortcut_around_a_module_takes_it_off_the_line() -> None:
    class Skipping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = (nn.Linear(2, 2) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.last(self.second(x) + x)

    assert candidates(Skipping()) == ["first", "last"]


def test_a_module_that_is_called_again_is_no_place_to_cut() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.twice, self.last = (nn.Linear(2, 2) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.twice(self.twice(self.first(x))))

    assert candidates(Shared()) == ["first", "last"]
    assert sectioned(Shared(), auto(Shared(), torch.zeros(1, 2))).names == ("first",)


def test_every_candidate_with_parameters_may_end_a_section() -> None:
    model = PreActResNet().eval()
    expected = model(IMAGES)
    for boundary in measure(model, IMAGES):
        irs, logits = sectioned(model, [boundary.name]).observe(IMAGES)
        assert tuple(irs[1].shape[1:]) == boundary.shape
        assert torch.equal(logits, expected)


def test_shares_are_of_the_whole_model() -> None:
    found = {row.name: row for row in measure(create("resnet14").model, IMAGES)}
    assert found["layer3"].kind == "Sequential" and found["layer3"].shape == (64, 4, 4)
    total = sum(
        found[name].parameters_share for name in ("conv1", "bn1", "layer1", "layer2", "layer3", "linear")
    )
    assert total == pytest.approx(1)
    assert found["layer3"].parameters == found["layer3.0"].parameters + found["layer3.1"].parameters
    assert all(0 < row.time_share < 1 for row in found.values())


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (create("resnet20").model, ("layer1", "layer2", "layer3")),
        (create("vgg11").model, ("section1", "section2", "section3", "section4", "section5")),
        (SmallVGG(), ("features[0:10]", "features[10:20]")),
        (PreActResNet(), ("blocks[0:2]", "blocks[2:4]", "blocks[4:6]")),
        (PatchTransformer(), ("encoder.layers[0:2]", "encoder.layers[2:4]", "encoder.layers[4:6]")),
        (PatchTransformer(8), tuple(f"encoder.layers[{at}:{at + 2}]" for at in (0, 2, 4, 6))),
        (nn.Sequential(nn.Flatten(), nn.Linear(768, 8), nn.ReLU(), nn.Linear(8, 4)), ("1",)),
    ],
    ids=["resnet", "vgg", "flat vgg", "one list", "encoder", "deep encoder", "layers"],
)
def test_auto_takes_the_ends_of_stages_or_equal_shares(model: nn.Module, names: tuple[str, ...]) -> None:
    assert auto(model, IMAGES) == names
    irs, logits = sectioned(model, names).eval().observe(IMAGES)
    assert torch.equal(logits, model(IMAGES)) and len(irs) == len(names) + 1


def test_a_pool_that_flattens_leaves_the_last_stage_a_stage() -> None:
    class Flattening(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer1 = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1))
            self.layer2 = nn.Sequential(nn.Conv2d(4, 8, 1, 16), nn.Conv2d(8, 8, 1))
            self.pool = nn.Flatten()
            self.fc = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.pool(self.layer2(self.layer1(x))))

    assert auto(Flattening(), IMAGES) == ("layer1", "layer2")


def test_modes_and_statistics_are_left_as_they_were() -> None:
    model = PreActResNet().train()
    model.bn.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    auto(model, IMAGES)
    assert model.training and not model.bn.training
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_a_forward_pass_that_decides_by_values_is_refused_in_one_line() -> None:
    class Deciding(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return -x if x.sum() > 0 else x

    with pytest.raises(ValueError, match=r"forward of Deciding must be traceable by torch\.fx, got .*"):
        candidates(Deciding())


@pytest.mark.parametrize("form", [tuple, dict], ids=["tuple", "mapping"])
def test_a_mask_reaches_every_section(form: Callable[..., Any]) -> None:
    model = TextClassifier().eval()
    inputs = ("input_ids", "attention_mask")
    batch = form(zip(inputs, (IDS, MASK), strict=True)) if form is dict else (IDS, MASK)
    split = sectioned(model, auto(model, batch, inputs), inputs=inputs)
    assert split.names == ("encoder.layer[0:2]", "encoder.layer[2:4]")
    irs, logits = split.observe(batch)
    assert torch.equal(logits, model(IDS, MASK)) and torch.equal(split(batch), logits)
    assert not torch.equal(logits, model(IDS))
    assert torch.equal(split.sections[1](irs[1], batch), irs[2])


def test_inputs_that_are_not_named_keep_their_defaults() -> None:
    model = TextClassifier().eval()
    split = sectioned(model, ["encoder.layer[0:2]", "encoder.layer[2:4]"])
    assert split.inputs == ("input_ids",)
    assert torch.equal(split.observe(IDS)[1], model(IDS))
    with pytest.raises(ValueError, match=r"inputs must be among forward's input_ids, .*, got mask"):
        sectioned(model, ["encoder"], inputs=["mask"])


@pytest.mark.parametrize("train", [False, True])
def test_the_encoder_of_torch_is_cut_between_its_layers_to_the_bit(train: bool) -> None:
    model = PatchTransformer(2).train(train)
    torch.manual_seed(1)
    expected = model(IMAGES)
    torch.manual_seed(1)
    _, logits = sectioned(model, ["encoder.layers.0", "encoder.layers.1"]).observe(IMAGES)
    assert torch.equal(logits, expected)
