"""Frechet inception distance and inception score: how far generated images are from real ones."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor


class Moments:
    """Mean and covariance of feature vectors that come batch by batch, in fp64 on the features' device."""

    def __init__(self) -> None:
        self.count = 0
        self._mean = torch.empty(0)  # [D]
        self._scatter = torch.empty(0)  # [D, D], sum of (x - mean) (x - mean)^T

    @torch.inference_mode()
    def add(self, features: Tensor) -> None:
        """Take in a batch of features [B, D].

        Raises:
            ValueError: another shape, or another D than before.
        """
        if features.dim() != 2 or (self.count and features.shape[1] != len(self._mean)):
            rule = f"be [B, {len(self._mean)}]" if self.count else "be [B, D]"
            raise ValueError(f"Moments: features must {rule}, got {list(features.shape)}")
        if len(features):
            features = features.double()
            mean = features.mean(0)
            difference = self._shift(len(features), mean)
            rows = torch.cat([features - mean, difference[None]])
            self._scatter.addmm_(rows.T, rows)  # in place: [D, D] is large

    @torch.inference_mode()
    def merge(self, other: Moments) -> None:
        """Take in all that `other` has seen."""
        if other.count:
            difference = self._shift(other.count, other._mean)
            self._scatter.addr_(difference, difference).add_(other._scatter)

    @property
    def mean(self) -> Tensor:
        """[D]"""
        return self._mean

    @property
    def covariance(self) -> Tensor:
        """[D, D], the unbiased one: divided by the number of samples less 1."""
        return self._scatter / (self.count - 1)

    def _shift(self, count: int, mean: Tensor) -> Tensor:
        """Count `count` samples of this mean in; their part of the scatter that lies between the means.

        Chan, Golub, LeVeque (1979): no sums of squares, so a large mean costs no digits.

        Returns:
            v [D]: v v^T is what the scatter has to grow by, beside the scatter of the new samples.
        """
        if not self.count:
            self._mean = torch.zeros_like(mean)
            self._scatter = mean.new_zeros(len(mean), len(mean))
        total = self.count + count
        difference = mean - self._mean
        weight = self.count * count / total
        self._mean = self._mean + difference * (count / total)
        self.count = total
        return difference * weight**0.5


def fid(real: Moments, generated: Moments) -> float:
    """The Frechet distance of two Gaussians with the means and covariances of two sets of features.

        FID = |mu_1 - mu_2|^2 + Tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2))

    The eigenvalues of (S_1 S_2)^(1/2) are the singular values of S_1^(1/2) S_2^(1/2): no root of a matrix
    that is not symmetric is taken, and a singular covariance costs no accuracy. fp64.

    With no more samples than dimensions a covariance is singular and the distance is too large; a warning
    then says how many of each there are. Only distances over equally many samples compare.

    Raises:
        ValueError: fewer than 2 samples on a side, unequal dimensions, or features that are not finite.

    Source: Heusel et al., GANs Trained by a Two Time-Scale Update Rule (2017).
    """
    for name, side in (("real", real), ("generated", generated)):
        if side.count < 2:
            raise ValueError(f"fid: {name} must hold at least 2 samples, got {side.count}")
        if not torch.isfinite(side.covariance).all():
            raise ValueError(f"fid: features of {name} must be finite, got NaN or infinity")
    dimensions = len(real.mean)
    if len(generated.mean) != dimensions:
        raise ValueError(
            f"fid: generated must have the {dimensions} dimensions of real, got {len(generated.mean)}"
        )
    fewest = min(real.count, generated.count)
    if fewest <= dimensions:
        warnings.warn(
            f"FID of {fewest} samples in {dimensions} dimensions is biased upwards: "
            "there should be more samples than dimensions",
            stacklevel=2,
        )
    covariances = real.covariance, generated.covariance
    cross = torch.linalg.svdvals(_root(covariances[0]).T @ _root(covariances[1])).sum()
    trace = sum(covariance.trace() for covariance in covariances) - 2 * cross
    return float((real.mean - generated.mean).square().sum() + trace)


def _root(covariance: Tensor) -> Tensor:
    """R [D, r] with R R^T = covariance, its eigenvectors scaled; r is the rank."""
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > values[-1].clamp_min(0) * len(values) * torch.finfo(values.dtype).eps
    return vectors[:, kept] * values[kept].sqrt()


def inception_score(probabilities: Tensor, *, splits: int = 1) -> tuple[float, float]:
    """How sure a classifier is of each image, and how evenly its answers spread over the classes.

        IS = exp(mean_x KL(p(y|x) || p(y))),  p(y) = mean_x p(y|x);  1 at least, K at most

    Args:
        probabilities: [N, K], rows sum to 1.
        splits: parts of a fixed random order of the samples that are scored one by one.

    Returns:
        Mean and standard deviation over the splits; the latter is 0 for one split.

    Raises:
        ValueError: not [N, K], rows that are no distributions, or not at least one sample a split.

    Source: Salimans et al., Improved Techniques for Training GANs (2016).
    """
    if probabilities.dim() != 2 or not 1 <= splits <= len(probabilities):
        raise ValueError(
            f"inception_score: probabilities must be [N, K] with N of at least {max(splits, 1)} (splits), "
            f"got {list(probabilities.shape)} and {splits} splits"
        )
    p = probabilities.double()
    sums = p.sum(1)
    if not (p.min() >= 0 and torch.allclose(sums, torch.ones_like(sums), atol=1e-3)):
        raise ValueError(
            f"inception_score: rows of probabilities must sum to 1, "
            f"got sums from {sums.min():.4g} to {sums.max():.4g}"
        )
    # images often come sorted by class: a run of them would be no sample of the whole
    order = torch.randperm(len(p), generator=torch.Generator().manual_seed(0)).to(p.device)
    scores = torch.stack([_score(p[part]) for part in order.tensor_split(splits)])
    return float(scores.mean()), float(scores.std(correction=0))


def _score(p: Tensor) -> Tensor:
    # KL summed over the samples is the entropy of their mean less their mean entropy
    entropy = -torch.xlogy(p, p).sum(1).mean()
    marginal = p.mean(0)
    return (-torch.xlogy(marginal, marginal).sum() - entropy).exp()
