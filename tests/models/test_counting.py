from __future__ import annotations

from torch import nn

from litfast.models import create, depth, macs, parameters


def test_macs_count_one_image_and_leave_the_model_as_it_was() -> None:
    model = create("resnet8").train()
    model.model.bn1.running_mean.fill_(3)  # an all-zero image would leave zeros where they are
    assert macs(model, (3, 8, 8)) == 640 + (443_008 - 640 + 2_359_296 * 5) // 16
    assert model.model.bn1.training
    assert (model.model.bn1.running_mean == 3).all()


def test_macs_of_a_linear_layer_are_its_weights() -> None:
    assert macs(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)).double(), (3, 2, 2)) == 60


def test_shared_parameters_count_once() -> None:
    layer = nn.Linear(4, 4)
    assert parameters(nn.Sequential(layer, layer)) == 20


def test_depth_counts_the_weighted_layers_on_the_path() -> None:
    model = nn.Sequential(nn.Conv1d(1, 1, 3), nn.BatchNorm1d(1), nn.Linear(4, 4), nn.ReLU())
    model.add_module("downsample", nn.Sequential(nn.Conv2d(1, 1, 1)))
    assert depth(model) == 2
