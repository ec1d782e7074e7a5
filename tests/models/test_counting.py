from __future__ import annotations

import torch
from torch import nn

from litfast.models import Input, create, depth, macs, parameters


def test_macs_count_one_sample_and_leave_the_model_as_it_was() -> None:
    model = create("resnet8").train()
    model.model.bn1.running_mean.fill_(3)  # an all-zero image would leave zeros where they are
    assert macs(model, Input((3, 8, 8))) == 640 + (443_008 - 640 + 2_359_296 * 5) // 16
    assert model.model.bn1.training
    assert (model.model.bn1.running_mean == 3).all()


def test_macs_of_a_linear_layer_are_its_weights() -> None:
    assert macs(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)).double(), Input((3, 2, 2))) == 60


def test_macs_of_a_text_are_those_of_its_convolutions_and_matrix_products() -> None:
    model = nn.Sequential(nn.Embedding(7, 4), nn.Conv1d(20, 3, 3, padding=1), nn.Flatten(), nn.Linear(12, 2))
    before = torch.get_rng_state()
    assert macs(model, Input((20,), alphabet=7)) == 4 * 3 * 20 * 3 + 12 * 2
    assert torch.equal(torch.get_rng_state(), before)


def test_macs_of_a_transposed_convolution_are_those_of_its_inputs() -> None:
    assert macs(nn.ConvTranspose2d(2, 3, 4, stride=2, padding=1), Input((2, 5, 5))) == 2 * 3 * 16 * 25


def test_shared_parameters_count_once() -> None:
    layer = nn.Linear(4, 4)
    assert parameters(nn.Sequential(layer, layer)) == 20


def test_depth_counts_the_weighted_layers_on_the_path() -> None:
    model = nn.Sequential(nn.Conv1d(1, 1, 3), nn.BatchNorm1d(1), nn.Linear(4, 4), nn.ReLU())
    model.add_module("downsample", nn.Sequential(nn.Conv2d(1, 1, 1)))
    assert depth(model) == 2
