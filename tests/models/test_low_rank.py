"""A language model with low-rank ends: the surgery, the spec that makes it again, what is counted."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from litfast.models import Input, SectionedModel, create, macs, parameters
from litfast.models.low_rank import compressed, quantise
from litfast.nn import LowRankEmbedding, LowRankSoftmax

V, D = 160, 12
COUNTS = (400 / torch.arange(1, V + 1)).long()
IDS = torch.randint(V, (2, 5), generator=torch.Generator().manual_seed(0))


def model(**options: Any) -> SectionedModel:
    torch.manual_seed(0)
    return create("lstm_lm", classes=V, width=D, **options).eval()


def small(net: SectionedModel, compression: float = 3.0, **options: Any) -> SectionedModel:
    return compressed(net, COUNTS, compression=compression, **{"blocks": 3, **options}).eval()


def out(net: SectionedModel) -> Tensor:
    made: Tensor = copy.deepcopy(net)(IDS)  # a copy: the state goes on
    return made.detach()


@pytest.mark.parametrize("tied", [False, True])
def test_without_a_loss_of_bytes_it_is_the_model(tied: bool) -> None:
    net = model(tied=tied)
    torch.testing.assert_close(out(small(net, 0.9)), out(net))


@pytest.mark.parametrize("bits", [32, 8])
@pytest.mark.parametrize("tied", [False, True])
def test_its_spec_makes_it_again_and_its_weights_load_back(tied: bool, bits: int) -> None:
    net = small(model(tied=tied))
    if bits == 8:
        quantise(net)
    assert net.spec is not None
    again = create(**net.spec).eval()
    again.load_state_dict(net.state_dict())
    assert torch.equal(out(again), out(net))
    assert any(key.startswith("softmax.table") for key in net.state_dict()) == (not tied)


@pytest.mark.parametrize("tied", [False, True])
def test_the_original_is_left_as_it_was_and_the_matrices_shrink(tied: bool) -> None:
    net = model(tied=tied)
    before = out(net)
    less = small(net)
    assert torch.equal(out(net), before)
    ends = [less.model.embedding, less.model.softmax]
    assert isinstance(ends[0], LowRankEmbedding) and isinstance(ends[1], LowRankSoftmax)
    assert (ends[0].table is ends[1].table) == tied
    matrices = 1 if tied else 2
    saved = parameters(net) - parameters(less)
    assert saved >= matrices * V * D * 2 / 3


def test_its_products_are_counted() -> None:
    net = model(layers=1)
    less = small(net)
    window = Input((5,), alphabet=V)
    ends = (less.model.embedding.table, less.model.softmax.table)
    (factors, bases), (_, across) = ends[1].tables(), ends[0].tables()
    scores = sum(table.numel() for table in (*factors, *bases))
    look_up = max(basis.numel() for basis in across)
    assert macs(net, window) - macs(less, window) == 5 * (V * D - scores - look_up)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"groups": {"embedding": [[V, 2]]}}, "groups must be given for embedding, softmax, got"),
        (
            {"groups": {"embedding": [[V, 2]], "softmax": [[3, 2]]}},
            "groups of softmax must hold 160 words, got",
        ),
        ({"groups": {"embedding": [[V, 2]]}, "tied": True, "bits": 4}, "bits must be 8 or 32, got 4"),
    ],
)
def test_a_spec_that_fits_not_is_refused(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        model(**options)


def test_the_most_compression_that_the_refusal_names_is_served() -> None:
    with pytest.raises(ValueError, match=r"must be at most [\d.]+ here") as refused:
        small(model(), 1000)
    most = float(str(refused.value).split("at most ")[1].split()[0])
    assert small(model(), most).spec is not None
    with pytest.raises(ValueError, match=f"must be at most {most} here"):
        small(model(), most + 0.01)


def test_a_model_without_such_layers_is_refused() -> None:
    line = "embedding and softmax must be nn.Embedding and nn.Linear, got NoneType and NoneType"
    with pytest.raises(ValueError, match=line):
        compressed(create("resnet8"), COUNTS, compression=10)
