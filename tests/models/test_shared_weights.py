from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from litfast.models import _shared_weights as shared


def layer(values: Tensor) -> nn.Linear:
    made = nn.Linear(values.shape[1], values.shape[0], dtype=values.dtype)
    made.weight.data = values.clone()
    return made


def lloyd(values: Tensor, count: int) -> tuple[Tensor, float]:
    """Plain k-means from evenly spaced centroids where no cluster runs empty: centroids, sum of squares."""
    values = values.double()
    centroids = torch.linspace(float(values.min()), float(values.max()), count, dtype=torch.float64)
    for _ in range(200):
        nearest = (values[:, None] - centroids).abs().argmin(1)
        assert len(nearest.unique()) == count
        centroids = torch.stack([values[nearest == k].mean() for k in range(count)])
    return centroids, float(((values - centroids[nearest]) ** 2).sum())


def means(values: Tensor, index: Tensor) -> Tensor:
    return torch.stack([values[index == k].double().mean() for k in range(int(index.max()) + 1)])


def spread(values: Tensor, index: Tensor) -> float:
    return float(((values.double() - means(values, index)[index]) ** 2).sum())


def test_clusters_are_those_of_lloyds_steps_from_evenly_spaced_centroids() -> None:
    values = torch.rand(400, generator=torch.Generator().manual_seed(0))
    index = shared.clusters(values, 8)
    centroids, squares = lloyd(values, 8)
    torch.testing.assert_close(means(values, index), centroids)
    assert spread(values, index) == pytest.approx(squares)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-20, 20), min_size=1, max_size=60), st.integers(1, 5))
def test_every_value_is_in_the_cluster_of_its_nearest_centroid(numbers: list[int], bits: int) -> None:
    values = torch.tensor(numbers, dtype=torch.float32)
    index = shared.clusters(values, 2**bits)
    centroids = means(values, index)
    assert index.unique().tolist() == list(range(len(centroids)))
    assert len(centroids) <= 2**bits and (centroids.diff() > 0).all()
    distance = (values.double()[:, None] - centroids).abs()
    assert (distance.gather(1, index[:, None])[:, 0] <= distance.min(1).values + 1e-9).all()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-9, 9, width=32), min_size=1, max_size=16))
def test_no_more_values_than_centroids_are_kept_as_they_are(numbers: list[float]) -> None:
    values = torch.tensor(numbers).round(decimals=2)
    assert spread(values, shared.clusters(values, 16)) < 1e-9


def test_the_hole_around_zero_costs_no_centroid() -> None:
    side = 1 + torch.rand(500, generator=torch.Generator().manual_seed(0))
    values = torch.cat([-side, side])
    assert len(shared.clusters(values, 32).unique()) == 32


def test_pruning_removes_exactly_the_smallest_magnitudes() -> None:
    values = torch.tensor([[0.1, -0.9, 0.3], [-0.2, 0.25, 1.0]])
    made = layer(values)
    shared.prune(made, 0.5)
    expected = torch.tensor([[0.0, -0.9, 0.3], [0.0, 0.0, 1.0]])
    assert torch.equal(made.weight, expected)
    assert not torch.signbit(made.weight[made.weight == 0]).any()
    shared.settle(made)
    assert torch.equal(made.weight, expected)


def test_of_equal_magnitudes_as_many_go_as_were_asked_for() -> None:
    made = layer(torch.ones(4, 5))
    shared.prune(made, 0.35)
    assert made.weight.flatten().tolist() == [0] * 7 + [1] * 13


def test_what_is_removed_gets_no_gradient_and_stays_zero_whatever_the_optimizer_does() -> None:
    torch.manual_seed(0)
    made = layer(torch.randn(6, 7))
    shared.prune(made, 0.5)
    zero = made.weight == 0
    optimizer = torch.optim.AdamW(made.parameters(), lr=0.1, weight_decay=0.1)
    before = made.weight.detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        made(torch.randn(4, 7)).square().sum().backward()
        assert (made.parametrizations.weight.original.grad[zero] == 0).all()  # type: ignore[union-attr,index]
        optimizer.step()
    assert (made.weight[zero] == 0).all()
    assert (made.weight[~zero] != before[~zero]).all()


def quantised() -> tuple[nn.Linear, Tensor]:
    """A layer of shared weights and which centroid each of its elements is, -1 where it is zero."""
    torch.manual_seed(0)
    values = torch.randn(5, 8, dtype=torch.float64)
    values[values.abs() < 0.7] = 0
    made = layer(values)
    shared.share(made, 2)
    member = torch.full((40,), -1)
    module = made.parametrizations.weight[0]  # type: ignore[union-attr,index]
    member[module.place] = module.index
    return made, member.view(5, 8)


def test_shared_weights_are_the_means_of_their_clusters() -> None:
    made, member = quantised()
    torch.manual_seed(0)
    values = torch.randn(5, 8, dtype=torch.float64)
    assert ((made.weight == 0) == (member < 0)).all()
    for k in range(4):
        torch.testing.assert_close(
            made.weight[member == k], values[member == k].mean().expand_as(member[member == k])
        )


def test_a_centroids_gradient_is_the_sum_of_its_members() -> None:
    made, member = quantised()
    x = torch.randn(3, 8, dtype=torch.float64)
    made(x).sin().sum().backward()
    dense = layer(made.weight.detach())
    dense.bias.data = made.bias.detach()
    dense(x).sin().sum().backward()
    sums = torch.stack([dense.weight.grad[member == k].sum() for k in range(4)])  # type: ignore[index]
    torch.testing.assert_close(made.parametrizations.weight.original.grad, sums)  # type: ignore[union-attr]


def test_a_layer_of_zeros_has_nothing_to_share() -> None:
    with pytest.raises(ValueError, match="share: weight must hold a number other than 0, got 6 zeros"):
        shared.share(layer(torch.zeros(2, 3)), 4)


def test_settled_weights_are_plain_and_equal_to_the_bit() -> None:
    made, _ = quantised()
    value, parameter = made.weight.detach().clone(), made.parametrizations.weight.original  # type: ignore
    shared.settle(made)
    assert list(made.state_dict()) == ["weight", "bias"] and type(made) is nn.Linear
    assert made.weight is parameter and torch.equal(made.weight, value)
    shared.settle(made)


def test_convolutions_in_channels_last_are_pruned_and_shared_alike() -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 4, 3)
    last = nn.Conv2d(3, 4, 3)
    last.load_state_dict(plain.state_dict())
    last.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(2, 3, 6, 6)
    for conv in (plain, last):
        shared.prune(conv, 0.6)
        shared.settle(conv)
        shared.share(conv, 2)
    assert torch.equal(plain.weight, last.weight) and len(plain.weight.unique()) == 5
    torch.testing.assert_close(plain(x), last(x))


def net() -> nn.Module:
    return nn.Sequential(nn.Conv1d(2, 3, 1), nn.ReLU(), nn.Flatten(), nn.Linear(6, 4), nn.Linear(4, 2))


def test_numbers_are_found_by_name_before_kind() -> None:
    found = shared.layers(net())
    assert list(found) == ["0", "3", "4"]
    assert shared.by_layer("me", "bits", 5, found) == {"0": 5, "3": 5, "4": 5}
    assert shared.by_layer("me", "bits", {"conv": 8, "4": 2, "linear": 5}, found) == {"0": 8, "3": 5, "4": 2}


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"conv": 1, "lin": 2}, "me: bits must be one of 0, 3, 4, conv, linear, got 'lin'"),
        ({"conv": 1, "3": 2}, "me: bits must have a number for layer 4 or linear, got conv, 3"),
        ({}, "me: bits must have a number for layer 0 or conv, got none"),
        ({"conv": "8"}, "me: bits of conv must be a number, got '8'"),
        (True, "me: bits of conv must be a number, got True"),
    ],
)
def test_a_table_that_does_not_fit_the_layers_is_named(said: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shared.by_layer("me", "bits", said, shared.layers(net()))  # type: ignore[arg-type]


def test_a_model_without_layers_or_with_tied_ones_is_refused() -> None:
    with pytest.raises(ValueError, match="layers: model must have a convolution or a linear layer, got none"):
        shared.layers(nn.ReLU())
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    with pytest.raises(ValueError, match="must each have their own weight, got one of 0 and 1"):
        shared.layers(tied)
