from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from litfast.carried import Carried, reset
from litfast.models import LSTMLM, Input, create, depth, macs

V, B, T = 11, 3, 5


def model(**options: Any) -> LSTMLM:
    torch.manual_seed(0)
    return LSTMLM(**{"classes": V, "width": 4, "hidden": 6, **options})


def words(length: int = T, seed: int = 1) -> Tensor:
    return torch.randint(V, (B, length), generator=torch.Generator().manual_seed(seed))


def by_hand(net: LSTMLM, ids: Tensor) -> Tensor:
    """The formula, cell by cell, gates in torch's order: input, forget, cell, output."""
    x = net.embedding.weight[ids]
    for name in net.names:
        lstm = net.get_submodule(name).lstm
        h = c = torch.zeros(len(ids), lstm.hidden_size)
        outputs = []
        for t in range(ids.shape[1]):
            gates = F.linear(x[:, t], lstm.weight_ih_l0, lstm.bias_ih_l0)
            i, f, g, o = (gates + F.linear(h, lstm.weight_hh_l0, lstm.bias_hh_l0)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            outputs.append(h)
        x = torch.stack(outputs, 1)
    return F.linear(x, net.softmax.weight, net.softmax.bias)


@pytest.mark.parametrize("layers", [1, 2])
def test_it_is_the_formula_in_value_and_gradient(layers: int) -> None:
    net = model(layers=layers)
    out, expected = net(words()), by_hand(net, words())
    torch.testing.assert_close(out, expected)
    weight = torch.randn(B, T, V)
    ours = torch.autograd.grad((out * weight).sum(), list(net.parameters()))
    theirs = torch.autograd.grad((expected * weight).sum(), list(net.parameters()))
    torch.testing.assert_close(ours, theirs)


def test_windows_in_a_row_are_one_text() -> None:
    net, text = model().eval(), words(9)
    whole = net(text)
    reset(net)
    torch.testing.assert_close(torch.cat([net(text[:, :4]), net(text[:, 4:])], 1), whole)


def test_no_gradient_goes_back_beyond_the_window() -> None:
    net = model()
    net(words())
    second = net(words(seed=2))
    alone = model()
    for ours, theirs in zip(net.modules(), alone.modules(), strict=True):
        if isinstance(ours, Carried) and isinstance(theirs, Carried):
            theirs.h, theirs.c = ours.h.clone(), ours.c.clone()
    again = model()  # the state behind the first window, as constants
    again(words())
    for net_, out in ((net, second), (again, again(words(seed=2)))):
        out.square().sum().backward()
        assert all(parameter.grad is not None for parameter in net_.parameters())
    for ours_, theirs_ in zip(net.parameters(), again.parameters(), strict=True):
        assert torch.equal(ours_.grad, theirs_.grad)  # type: ignore[arg-type]


def test_its_parts_in_turn_are_the_model() -> None:
    net = create("lstm_lm", classes=V, width=4, layers=3).eval()
    assert net.names == ("layer1", "layer2", "layer3")
    irs, logits = net.observe(words())
    assert torch.equal(irs[0], net.model.embedding(words()))
    assert [list(ir.shape) for ir in irs] == [[B, T, 4]] * 4 and list(logits.shape) == [B, T, V]
    reset(net)
    assert torch.equal(net(words()), logits)


def test_dropout_never_touches_the_state() -> None:
    net = model(dropout=0.5)
    kinds = [name for name, module in net.named_modules() if isinstance(module, nn.Dropout)]
    assert kinds == ["layer1.drop", "layer2.drop", "drop"]
    assert all(module.dropout == 0 for module in net.modules() if isinstance(module, nn.LSTM))
    torch.manual_seed(3)
    assert not torch.equal(net(words()), copy.deepcopy(net)(words()))
    assert torch.equal(copy.deepcopy(net).eval()(words()), copy.deepcopy(net).eval()(words()))


def test_tied_weights_are_one_and_are_saved_once() -> None:
    net = create("lstm_lm", classes=V, width=4, tied=True)
    assert net.model.softmax.weight is net.model.embedding.weight
    assert len(list(net.parameters())) == 2 * 4 + 2
    state = net.state_dict()
    assert "softmax.weight" not in state and state["embedding.weight"].shape == (V, 4)
    other = create(**net.spec)  # type: ignore[arg-type]
    other.load_state_dict(state)
    copied = copy.deepcopy(other)
    assert copied.model.softmax.weight is copied.model.embedding.weight
    assert torch.equal(copied.eval()(words()), net.eval()(words()))
    with pytest.raises(RuntimeError, match="Missing"):
        other.load_state_dict({key: value for key, value in state.items() if key != "embedding.weight"})


def test_the_spec_makes_it_again() -> None:
    net = create("lstm_lm", classes=V, width=4, hidden=6, layers=1, dropout=0.25)
    assert net.spec is not None and net.spec["hidden"] == 6 and "channels" not in net.spec
    create(**net.spec).load_state_dict(net.state_dict())


def test_its_costs_are_those_of_a_window() -> None:
    net = create("lstm_lm", classes=V, width=4, hidden=6)
    assert macs(net, Input((T,), alphabet=V)) == T * (4 * 6 * (4 + 6) + 4 * 6 * (6 + 6) + 6 * V)
    assert depth(net) == 3


def test_counting_does_not_disturb_the_text() -> None:
    net = create("lstm_lm", classes=V, width=4).eval()
    net(words())
    expected = copy.deepcopy(net)(words())
    macs(net, Input((T,), alphabet=V))
    assert torch.equal(net(words()), expected)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"width": 0}, "LSTMLM: width must be at least 1, got 0"),
        ({"layers": 0}, "LSTMLM: layers must be at least 1, got 0"),
        ({"dropout": 1.0}, "LSTMLM: dropout must be at least 0 and below 1, got 1.0"),
        ({"tied": True, "hidden": 8}, "LSTMLM: hidden must be the width 200 where weights are tied, got 8"),
        ({"blocks": [2]}, "lstm_lm: blocks must be left out, as `layers` counts them, got [2]"),
    ],
)
def test_bad_options_get_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError) as error:
        create("lstm_lm", **{"classes": V, **options})
    assert str(error.value) == said


@pytest.mark.parametrize("ids", [torch.zeros(2, 3), torch.zeros(4, dtype=torch.int64)])
def test_other_than_ids_is_refused(ids: Tensor) -> None:
    with pytest.raises(ValueError, match=r"LSTMLM: ids must be int64 \[B, T\], got"):
        model()(ids)
