from __future__ import annotations

import pytest
import torch
from torch import nn

from litfast.models import create
from litfast.models.blocks import blocks, keep, members, share


def flat() -> nn.Sequential:
    """Two convolutions with their batch norms and ReLUs, and a pool."""
    layers: list[nn.Module] = []
    for channels in (3, 4):
        layers += [nn.Conv2d(channels, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()]
    return nn.Sequential(nn.Sequential(*layers, nn.MaxPool2d(2)), nn.Linear(4, 2))


def test_a_slice_names_the_children_of_a_list() -> None:
    model = nn.ModuleDict({"layers": nn.ModuleList(nn.Linear(2, 2) for _ in range(4))})
    assert members(model, "layers[1:3]") == ("layers.1", "layers.2")
    assert members(model, "layers.3") == ("layers.3",)
    with pytest.raises(ValueError, match=r"'layers\[3:5\]' must lie within the 4 modules of 'layers'"):
        members(model, "layers[3:5]")


def test_the_blocks_of_a_resnet_are_the_children_of_its_sections() -> None:
    model = create("resnet14").model
    assert blocks(model, "layer2") == [("layer2.0",), ("layer2.1",)]


def test_in_a_row_of_layers_a_block_begins_with_weights_and_a_pool_is_none() -> None:
    assert blocks(flat(), "0") == [("0.0", "0.1", "0.2"), ("0.3", "0.4", "0.5")]


def test_a_module_with_a_list_has_the_blocks_of_its_list() -> None:
    stage = nn.Module()
    stage.down = nn.Sequential(nn.Conv2d(3, 4, 1))
    stage.blocks = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
    assert blocks(nn.ModuleDict({"stage": stage}), "stage") == [("stage.blocks.0",), ("stage.blocks.1",)]


def test_dropped_blocks_leave_the_keys_of_a_shallower_model() -> None:
    deep, shallow = create("resnet20").model, create("resnet20", blocks=(2, 3, 1)).model
    kept = deep.layer1[2]
    assert keep(deep, ("layer1", "layer2", "layer3"), (2, 3, 1)) == ("layer1", "layer2", "layer3")
    assert list(deep.state_dict()) == list(shallow.state_dict())
    assert deep.layer1[1] is kept


def test_the_slices_of_a_list_close_up_when_blocks_go() -> None:
    model = nn.ModuleDict({"layers": nn.ModuleList(nn.Linear(2, 2) for _ in range(8))})
    assert keep(model, ("layers[1:5]", "layers[5:8]"), (2, 1)) == ("layers[1:3]", "layers[3:4]")
    assert len(model["layers"]) == 4


def test_a_pool_stays_where_its_section_loses_blocks() -> None:
    model = flat()
    keep(model, ("0",), (1,))
    assert [type(layer) for layer in model[0]] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d]
    assert model[0](torch.zeros(1, 3, 4, 4)).shape == (1, 4, 2, 2)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ((1, 1), "create: blocks must be 3 counts, one a section, got"),
        ((3, 1, 1), "create: blocks of section 'layer1' must be a count from 1 to its 2, got 3"),
        ((1, 0, 1), "create: blocks of section 'layer2' must be a count from 1 to its 2, got 0"),
    ],
)
def test_counts_that_a_model_has_not_are_refused(counts: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        keep(create("resnet14").model, ("layer1", "layer2", "layer3"), counts)


def test_a_share_of_the_blocks_is_at_least_one() -> None:
    assert [share(9, 0.4), share(2, 0.1), share(5, 1.0)] == [4, 1, 5]
