from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import softmax

from litfast.models import Ensemble, create


class Constant(nn.Module):
    """The same logits for every sample, in the dtype of its weight."""

    def __init__(self, *logits: float, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(logits, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight.expand(len(x), -1)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_one_model_alone_is_itself(images: Tensor) -> None:
    model = create("resnet8", classes=4).eval()
    torch.testing.assert_close(Ensemble([model])(images), model(images).log_softmax(1))


def test_two_models_give_the_mean_of_their_probabilities(images: Tensor) -> None:
    models = [create("resnet8", classes=4).eval() for _ in range(2)]
    by_hand = torch.log((softmax(models[0](images), 1) + softmax(models[1](images), 1)) / 2)
    torch.testing.assert_close(Ensemble(models)(images), by_hand)


def test_its_logits_are_log_probabilities(images: Tensor) -> None:
    found = Ensemble([create("resnet8", classes=4).eval() for _ in range(3)])(images)
    torch.testing.assert_close(found.exp().sum(1), torch.ones(5))
    torch.testing.assert_close(found.log_softmax(1), found)


def test_a_sure_model_outvotes_two_that_are_not(images: Tensor) -> None:
    ensemble = Ensemble([Constant(0.0, 9.0), Constant(0.1, 0.0), Constant(0.1, 0.0)])
    assert ensemble(images).argmax(1).tolist() == [1] * 5


def test_huge_logits_stay_finite_and_half_precision_is_widened(images: Tensor) -> None:
    models = [Constant(1e4, 0.0, dtype=torch.bfloat16), Constant(0.0, 1e4, dtype=torch.bfloat16)]
    found = Ensemble(models)(images)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.exp(), torch.full((5, 2), 0.5))


def test_no_model_is_refused() -> None:
    with pytest.raises(ValueError, match="Ensemble: models must hold at least one, got none"):
        Ensemble([])
