"""Low-rank layers in place of any nn.Embedding and nn.Linear."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from litfast.nn import LowRankEmbedding, LowRankSoftmax, LowRankTable

N, D = 150, 16
COUNTS = (500 / torch.arange(1, N + 1)).long()[torch.randperm(N, generator=torch.Generator().manual_seed(0))]
IDS = torch.tensor([[0, 149, 3], [3, 3, 77]])
EXACT = {"budget": 4 * N * D + N, "blocks": 3}
SMALL = {"budget": 2500, "blocks": 3}


def rebuilt(table: LowRankTable) -> Tensor:
    factors, bases = table.tables()
    rows = [f @ b if len(b) else f for f, b in zip(factors, bases, strict=True)]
    return torch.cat(rows)[table.place]


def layers() -> tuple[nn.Embedding, nn.Linear]:
    torch.manual_seed(0)
    return nn.Embedding(N, D), nn.Linear(D, N)


def test_with_room_for_everything_they_give_what_the_dense_layers_give() -> None:
    embedding, softmax = layers()
    low, soft = (
        LowRankEmbedding.from_dense(embedding, COUNTS, **EXACT),
        LowRankSoftmax.from_dense(softmax, COUNTS, **EXACT),
    )
    assert torch.equal(low(IDS), embedding(IDS))
    torch.testing.assert_close(soft(embedding(IDS)), softmax(embedding(IDS)))


@pytest.mark.parametrize("bits", [32, 8])
def test_logits_and_vectors_are_those_of_the_reconstructed_matrix(bits: int) -> None:
    embedding, softmax = layers()
    low, soft = (
        LowRankEmbedding.from_dense(embedding, COUNTS, **SMALL),
        LowRankSoftmax.from_dense(softmax, COUNTS, **SMALL),
    )
    if bits == 8:
        for layer in (low, soft):
            layer.table.quantise()
    torch.testing.assert_close(low(IDS), rebuilt(low.table)[IDS])
    x = torch.randn(2, 3, D)
    torch.testing.assert_close(soft(x), x @ rebuilt(soft.table).T + softmax.bias)


@pytest.mark.parametrize("bits", [32, 8])
@pytest.mark.parametrize("blocks", [1, 3])
def test_what_is_stored_is_within_the_budget_and_loads_back_to_the_bit(blocks: int, bits: int) -> None:
    embedding, _ = layers()
    table = LowRankTable.from_dense(embedding.weight, COUNTS, budget=2500, blocks=blocks)
    stored = sum(value.nbytes for value in table.state_dict().values())
    assert 0.75 * 2500 < stored <= 2500  # a rank more of the one block takes a quarter
    if bits == 8:
        table.quantise()
        fewer = sum(value.nbytes for value in table.state_dict().values())
        assert fewer < stored / 2
    again = LowRankTable(table.groups, D, bits=bits)
    again.load_state_dict(table.state_dict())
    assert torch.equal(rebuilt(again), rebuilt(table))
    assert torch.equal(rebuilt(copy.deepcopy(table)), rebuilt(table))


def test_eight_bits_move_the_matrix_by_less_than_two_percent() -> None:
    embedding, _ = layers()
    table = LowRankTable.from_dense(embedding.weight, COUNTS, **SMALL)
    before = rebuilt(table)
    table.quantise()
    assert (rebuilt(table) - before).norm() < 0.02 * before.norm()
    assert not any(value.requires_grad for value in table.parameters())
    assert {value.dtype for value in (*table.factors, *table.bases)} == {torch.int8}


def test_a_table_in_eight_bits_moves_between_dtypes() -> None:
    table = LowRankTable([[3, 4], [5, 2]], 4, bits=8).double()
    assert LowRankEmbedding(table)(torch.tensor([7])).dtype == torch.float64


def test_tied_layers_train_one_table() -> None:
    embedding, softmax = layers()
    low = LowRankEmbedding.from_dense(embedding, COUNTS, **SMALL)
    soft = LowRankSoftmax(low.table, bias=softmax.bias)
    soft(low(IDS)).logsumexp(-1).sum().backward()
    both = nn.ModuleList([low, soft])
    assert len(list(both.parameters())) == len(list(low.parameters())) + 1
    assert all(parameter.grad is not None for parameter in both.parameters())


def test_a_transformer_trains_with_them() -> None:
    torch.manual_seed(0)
    embedding, softmax = layers()
    body = nn.TransformerEncoderLayer(D, 2, 32, batch_first=True, dropout=0.0)
    low = LowRankEmbedding.from_dense(embedding, COUNTS, **SMALL)
    net = nn.Sequential(low, body, LowRankSoftmax(low.table, bias=softmax.bias))
    optimizer, losses = torch.optim.Adam(net.parameters(), 1e-2), []
    for _ in range(20):
        loss = nn.functional.cross_entropy(net(IDS).flatten(0, 1), IDS.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_a_padding_word_stays_zero() -> None:
    embedding = nn.Embedding(N, D, padding_idx=3)
    low = LowRankEmbedding.from_dense(embedding, COUNTS, **SMALL)
    vectors = low(IDS)
    assert not vectors[IDS == 3].any()
    vectors.sum().backward()
    row = int(low.table.place[3])
    gradients = torch.cat([factor.grad.abs().sum(1) for factor in low.table.factors])  # type: ignore[union-attr]
    assert gradients[row] == 0 and gradients.count_nonzero() == 3


def test_a_hidden_state_in_half_precision_is_scored_in_the_tables_dtype() -> None:
    soft = LowRankSoftmax.from_dense(layers()[1], COUNTS, **SMALL)
    x = torch.randn(2, D).bfloat16()
    assert torch.equal(soft(x), soft(x.float()))


def test_mistakes_get_one_line() -> None:
    with pytest.raises(ValueError, match=r"\ALowRankTable: bits must be 8 or 32, got 4\Z"):
        LowRankTable([[3, 2]], 4, bits=4)
    with pytest.raises(
        ValueError, match=r"\ALowRankTable: groups must be words and a rank up to 4, got \[3, 5\]"
    ):
        LowRankTable([[3, 5]], 4)
    with pytest.raises(ValueError, match=r"\ALowRankEmbedding: max_norm must be None, got 1.0\Z"):
        LowRankEmbedding.from_dense(nn.Embedding(N, D, max_norm=1.0), COUNTS, **SMALL)
