"""FID against closed forms, and the inception score at its two ends."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import Tensor

from litfast.bench.fid import Moments, fid, inception_score


def samples(count: int, dimensions: int, seed: int) -> Tensor:
    """Correlated, off-centre, fp64."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(count, dimensions, generator=generator, dtype=torch.float64)
    mix = torch.randn(dimensions, dimensions, generator=generator, dtype=torch.float64)
    return draw @ mix + torch.randn(dimensions, generator=generator, dtype=torch.float64)


def moments(features: Tensor, batch: int = 1000) -> Moments:
    found = Moments()
    for part in features.split(batch):
        found.add(part)
    return found


def given(mean: Tensor, covariance: Tensor) -> Moments:
    """Samples whose mean and covariance are exactly these."""
    count = 4 * len(mean)
    draw = torch.randn(count, len(mean), generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    draw -= draw.mean(0)
    white = draw @ torch.linalg.inv(torch.linalg.cholesky(draw.T @ draw / (count - 1))).T
    return moments(white @ torch.linalg.cholesky(covariance).T + mean)


def test_moments_are_those_of_all_samples_at_once_however_they_come() -> None:
    x = samples(101, 7, 0) + 1e6  # a large mean must cost no digits
    for batch in (1, 13, 101):
        found = moments(x, batch)
        assert found.count == 101
        torch.testing.assert_close(found.mean, x.mean(0), rtol=1e-14, atol=0)
        torch.testing.assert_close(found.covariance, x.T.cov(), rtol=1e-8, atol=1e-8)


def test_merged_moments_are_those_of_both_sets() -> None:
    x = samples(60, 5, 1)
    one, other, empty = moments(x[:23]), moments(x[23:]), Moments()
    empty.merge(one)
    empty.merge(other)
    empty.merge(Moments())
    torch.testing.assert_close(empty.covariance, x.T.cov())
    torch.testing.assert_close(one.covariance, x[:23].T.cov())  # what was merged stays as it was


def test_moments_grow_in_and_out_of_inference_mode() -> None:
    x, found = samples(30, 3, 15), Moments()
    with torch.inference_mode():
        found.add(x[:10] * 1)
    found.add(x[10:].requires_grad_())
    found.merge(moments(x))
    assert not found.covariance.requires_grad
    torch.testing.assert_close(found.covariance, x.detach().repeat(2, 1).T.cov())


def test_half_precision_features_are_summed_in_fp64() -> None:
    x = samples(500, 3, 2).bfloat16()
    assert moments(x, 7).covariance.dtype == torch.float64
    torch.testing.assert_close(moments(x, 7).covariance, x.double().T.cov())


def test_a_set_has_distance_0_from_itself() -> None:
    x = samples(300, 40, 3)
    assert abs(fid(moments(x), moments(x, 77))) < 1e-9 * x.T.cov().trace()


def test_diagonal_gaussians_have_the_closed_form() -> None:
    first, second = torch.tensor([1.0, 4.0, 9.0]).double(), torch.tensor([16.0, 1.0, 0.25]).double()
    shift = torch.tensor([3.0, -1.0, 0.0]).double()
    found = fid(given(torch.zeros(3).double(), first.diag()), given(shift, second.diag()))
    assert found == pytest.approx(10 + (first.sqrt() - second.sqrt()).square().sum().item(), abs=1e-9)


def test_commuting_covariances_have_the_closed_form() -> None:
    turn = torch.linalg.qr(samples(6, 6, 4)).Q
    first, second = torch.arange(1.0, 7.0).double(), torch.tensor([5.0, 0.1, 2.0, 7.0, 1.0, 3.0]).double()
    zero = torch.zeros(6).double()
    found = fid(given(zero, turn @ first.diag() @ turn.T), given(zero, turn @ second.diag() @ turn.T))
    assert found == pytest.approx((first.sqrt() - second.sqrt()).square().sum().item(), abs=1e-9)


def test_two_by_two_covariances_have_the_closed_form() -> None:
    """Tr (S_1 S_2)^(1/2) = (Tr S_1 S_2 + 2 (det S_1 S_2)^(1/2))^(1/2), for any two covariances."""
    first = torch.tensor([[2.0, 0.5], [0.5, 1.0]]).double()
    second = torch.tensor([[1.0, -0.7], [-0.7, 3.0]]).double()
    mean = torch.tensor([1.0, 2.0]).double()
    product = first @ second
    root = math.sqrt(product.trace().item() + 2 * math.sqrt(product.det().item()))
    expected = 5 + first.trace().item() + second.trace().item() - 2 * root
    assert fid(given(torch.zeros(2).double(), first), given(mean, second)) == pytest.approx(expected)


def test_the_distance_is_symmetric_and_blind_to_rotations() -> None:
    x, y = samples(200, 9, 5), samples(150, 9, 6)
    turn = torch.linalg.qr(samples(9, 9, 7)).Q
    expected = fid(moments(x), moments(y))
    assert expected > 1
    assert fid(moments(y), moments(x)) == pytest.approx(expected)
    assert fid(moments(x @ turn), moments(y @ turn)) == pytest.approx(expected)
    assert fid(moments(3 * x), moments(3 * y)) == pytest.approx(9 * expected)


def test_the_distance_is_that_of_scipys_root_of_the_product() -> None:
    linalg = pytest.importorskip("scipy.linalg")
    x, y = moments(samples(300, 24, 8)), moments(samples(300, 24, 9))
    root = linalg.sqrtm((x.covariance @ y.covariance).numpy())
    trace = (x.covariance + y.covariance).trace().item() - 2 * root.trace().real
    expected = (x.mean - y.mean).square().sum().item() + trace
    assert fid(x, y) == pytest.approx(expected, rel=1e-9)


def test_fewer_samples_than_dimensions_give_a_number_and_a_warning() -> None:
    x, y = samples(12, 30, 10), samples(50, 30, 11)
    with pytest.warns(UserWarning, match="FID of 12 samples in 30 dimensions is biased upwards"):
        found = fid(moments(x), moments(y))
    assert found > 0
    with pytest.warns(UserWarning):
        assert abs(fid(moments(x), moments(x))) < 1e-9 * x.T.cov().trace()


def test_enough_samples_give_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fid(moments(samples(11, 10, 12)), moments(samples(11, 10, 13)))


def test_features_without_any_spread_are_as_far_apart_as_their_means() -> None:
    one, two = torch.ones(9, 3), torch.full((9, 3), 3.0)
    assert fid(moments(one), moments(two)) == pytest.approx(12.0)


@pytest.mark.parametrize(
    ("real", "generated", "message"),
    [
        (torch.zeros(1, 3), torch.zeros(9, 3), "real must hold at least 2 samples, got 1"),
        (torch.zeros(9, 3), torch.zeros(0, 3), "generated must hold at least 2 samples, got 0"),
        (torch.zeros(9, 3), torch.zeros(9, 4), "generated must have the 3 dimensions of real, got 4"),
        (torch.zeros(9, 3), torch.full((9, 3), math.nan), "features of generated must be finite, got NaN"),
    ],
)
def test_what_has_no_distance_gets_one_clear_line(real: Tensor, generated: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=f"^fid: {message}"):
        fid(moments(real), moments(generated))


def test_features_of_another_width_are_refused() -> None:
    found = moments(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"Moments: features must be \[B, 3\], got \[2, 4\]"):
        found.add(torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"Moments: features must be \[B, D\], got \[2, 4, 4\]"):
        Moments().add(torch.zeros(2, 4, 4))


def test_sure_and_even_predictions_score_k_and_constant_ones_1() -> None:
    one_hot = torch.eye(5).repeat(20, 1)
    assert inception_score(one_hot) == (pytest.approx(5.0), 0.0)
    constant = torch.tensor([0.5, 0.2, 0.3]).expand(40, 3)
    assert inception_score(constant, splits=4) == (pytest.approx(1.0), pytest.approx(0.0, abs=1e-7))


def test_the_score_is_its_definition() -> None:
    p = torch.softmax(samples(50, 6, 14), 1)
    divergence = (p * (p / p.mean(0)).log()).sum(1).mean()
    assert inception_score(p)[0] == pytest.approx(divergence.exp().item(), rel=1e-12)


def test_splits_are_samples_of_the_whole_even_of_a_sorted_set() -> None:
    ordered = torch.eye(4).repeat_interleave(100, 0)  # a run of a quarter would score 1
    mean, deviation = inception_score(ordered, splits=4)
    assert 3.9 < mean <= 4.0 and 0 < deviation < 0.1
    assert inception_score(ordered, splits=4) == (mean, deviation)


@pytest.mark.parametrize(
    ("probabilities", "splits", "message"),
    [
        (torch.full((4, 2), 0.9), 1, "rows of probabilities must sum to 1, got sums from 1.8 to 1.8"),
        (torch.eye(3), 4, r"probabilities must be \[N, K\] with N of at least 4 \(splits\)"),
        (torch.eye(3), 0, "got .3, 3. and 0 splits"),
        (torch.ones(3), 1, r"probabilities must be \[N, K\]"),
    ],
)
def test_what_has_no_score_gets_one_clear_line(probabilities: Tensor, splits: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        inception_score(probabilities, splits=splits)
