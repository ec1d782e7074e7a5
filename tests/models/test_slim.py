"""Surgery by batch-norm scales: the channels that stay, and a smaller network that computes the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch

from litfast.models import Input, SectionedModel, create, load_weights, macs, parameters, sectioned
from litfast.models._slim import chosen, cuts, evenly, scales, slimmed
from litfast.models.inference import Inference, agreement

Made = Callable[..., SectionedModel]
RESNET = ("resnet8", {"blocks": (2, 1, 1), "option": "B"})
PRERESNET = ("preresnet20", {"blocks": (2, 1, 1)})
VGG = ("vgg11", {"widths": [6, 5, 8, 7, 8, 6, 8, 9]})


def made(name: str, **options: object) -> SectionedModel:
    """In eval mode and fp64, with scales, shifts and statistics that are all different."""
    torch.manual_seed(0)
    model = create(name, classes=4, **options).double()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.weight)
            torch.nn.init.normal_(module.bias)
    model(torch.randn(8, 3, 16, 16, dtype=torch.float64))
    return model.eval()


@pytest.fixture(params=[RESNET, PRERESNET, VGG], ids=["resnet", "preresnet", "vgg"])
def model(request: pytest.FixtureRequest) -> SectionedModel:
    name, options = request.param
    return made(name, **options)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 3, 16, 16, dtype=torch.float64)


def masked(model: SectionedModel, kept: dict[str, torch.Tensor]) -> SectionedModel:
    copy = deepcopy(model)
    with torch.no_grad():
        for name, mask in kept.items():
            norm = copy.model.get_submodule(name)
            norm.weight.mul_(mask)
            norm.bias.mul_(mask)
    return copy


@pytest.mark.parametrize("removed", [0.0, 0.2, 0.45])
def test_the_masked_and_the_rebuilt_network_give_equal_outputs(
    removed: float, model: SectionedModel, images: torch.Tensor
) -> None:
    kept = chosen(model, removed)
    small = slimmed(model, kept)
    with torch.no_grad():
        torch.testing.assert_close(small(images), masked(model, kept)(images), rtol=1e-12, atol=1e-12)
    assert all(torch.equal(a, b) for a, b in zip(scales(small), _kept_scales(model, kept), strict=True))


def _kept_scales(model: SectionedModel, kept: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    return [scale[mask] for scale, mask in zip(scales(model), kept.values(), strict=True)]


def test_the_rebuilt_network_is_smaller_and_its_spec_makes_it_again(model: SectionedModel) -> None:
    small = slimmed(model, chosen(model, 0.4))
    reads = Input((3, 16, 16))
    assert parameters(small) < parameters(model)
    assert macs(small, reads) < macs(model, reads)
    again = create(**json.loads(json.dumps(small.spec))).double().eval()
    again.load_state_dict(small.state_dict())
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    assert torch.equal(again(images), small(images))


def test_the_rebuilt_network_is_folded_as_any_other(model: SectionedModel) -> None:
    small = slimmed(model, chosen(model, 0.4)).float()
    found = agreement(Inference(small), torch.randn(2, 3, 16, 16))
    assert found.plain == ()
    assert found.logits < 1e-4


def test_the_network_that_is_slimmed_stays_as_it_is(model: SectionedModel) -> None:
    before, spec = deepcopy(model.state_dict()), deepcopy(model.spec)
    slimmed(model, chosen(model, 0.4))
    assert model.spec == spec
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_one_threshold_over_all_layers_removes_the_smallest(model: SectionedModel) -> None:
    every = torch.cat(scales(model)).abs()
    kept = chosen(model, 0.3)
    masks = torch.cat(list(kept.values()))
    assert int((~masks).sum()) == round(0.3 * len(every))
    assert every[~masks].max() < every[masks].min()


def test_scales_equal_to_the_threshold_go_too() -> None:
    model = made("vgg11", widths=[2] * 8)
    with torch.no_grad():
        for scale in scales(model):
            scale.copy_(torch.tensor([0.5, -1.0]))
    for removed in (1 / 16, 0.3, 0.5):
        assert all(mask.tolist() == [False, True] for mask in chosen(model, removed).values())


@pytest.mark.parametrize("multiple", [2, 4, 100])
def test_groups_stay_or_go_as_a_whole(multiple: int, model: SectionedModel) -> None:
    kept = chosen(model, 0.3, multiple) if multiple < 100 else evenly(model, 0.3, multiple)
    for scale, mask in zip(scales(model), kept.values(), strict=True):
        assert int(mask.sum()) % multiple == 0 or mask.all()
        assert mask.all() or scale.abs()[~mask].max() < scale.abs()[mask].min()
    gone = torch.cat(list(kept.values())).logical_not()
    assert multiple == 100 or 0 <= int(gone.sum()) - round(0.3 * len(gone)) < multiple


def test_nothing_is_removed_at_0(model: SectionedModel) -> None:
    assert all(mask.all() for mask in chosen(model, 0.0).values())


@pytest.mark.parametrize(("name", "options"), [RESNET, PRERESNET], ids=["resnet", "preresnet"])
def test_the_widths_of_the_sections_survive_in_a_resnet(
    name: str, options: dict[str, object], images: torch.Tensor
) -> None:
    model = made(name, **options)
    small = slimmed(model, chosen(model, 0.4))
    assert parameters(small) < parameters(model)
    assert [ir.shape for ir in small.observe(images)[0]] == [ir.shape for ir in model.observe(images)[0]]


def test_a_slimmed_network_can_be_slimmed_again(model: SectionedModel, images: torch.Tensor) -> None:
    once = slimmed(model, chosen(model, 0.2))
    kept = chosen(once, 0.2)
    torch.testing.assert_close(slimmed(once, kept)(images), masked(once, kept)(images))


def test_a_fraction_that_empties_a_layer_names_it_and_the_most_that_does_not(model: SectionedModel) -> None:
    name = cuts(model.model)[1].norm
    with torch.no_grad():
        weak = model.model.get_submodule(name).weight
        weak.mul_(1e-3)
    with pytest.raises(
        ValueError, match=r"^slimming: removed must leave every layer a channel, got 0\.6, "
    ) as e:
        chosen(model, 0.6)
    assert f"which empties {name} (at most 0." in str(e.value)
    most = float(str(e.value).rpartition("at most ")[2].split()[0])
    assert all(mask.any() for mask in chosen(model, most).values())


def test_evenly_takes_the_same_fraction_of_every_layer(model: SectionedModel) -> None:
    with torch.no_grad():
        for scale in scales(model):
            scale.fill_(1)
    for removed in (0.5, 0.999):
        for mask in evenly(model, removed).values():
            assert int(mask.sum()) == max(1, len(mask) - round(removed * len(mask)))


def test_what_cannot_be_slimmed_is_refused() -> None:
    with torch.device("meta"):
        resnext, vdcnn = create("resnext20"), create("vdcnn9")
    with pytest.raises(
        ValueError, match=r"^slimming: convolutions must not be in groups, got a ResNeXt of 8$"
    ):
        cuts(resnext.model)
    with pytest.raises(
        ValueError, match=r"^slimming: model must be a ResNet, PreResNet or VGG by name, got VDCNN$"
    ):
        cuts(vdcnn.model)
    own = sectioned(create("resnet8").model, ("layer1", "layer2", "layer3"))
    with pytest.raises(ValueError, match=r"^slimming: model must be made by litfast.create, got one without"):
        slimmed(own, chosen(own, 0.0))


@pytest.mark.shared_data
def test_the_published_resnet56_loses_two_in_five_channels(shared_data: Path) -> None:
    model = create("resnet56")
    load_weights(model, shared_data / "checkpoints" / "resnet56-4bfd9763.th")
    assert sum(map(len, scales(model))) == 1008
    for multiple, left in ((1, 605), (8, 600)):
        small = slimmed(model, chosen(model, 0.4, multiple))
        assert small.spec is not None and sum(small.spec["inner"]) == left
