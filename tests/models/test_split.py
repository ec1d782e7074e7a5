from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from litfast.models import create, sectioned


def test_splitting_leaves_every_mode_as_it_was() -> None:
    inner = create("resnet8").model.train()
    inner.layer2.eval()
    before = [module.training for module in inner.modules()]
    sectioned(inner, ["layer1", "layer2"])
    assert [module.training for module in inner.modules()] == before


def test_a_section_may_hold_code_that_cannot_be_traced() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = F.dropout(x, 0.5, self.training)
            return -x if x.sum() > 0 else x

    model = sectioned(nn.Sequential(nn.Identity(), Branching(), nn.Linear(4, 2)), ["1"])
    x = torch.ones(2, 4)
    assert torch.equal(model.eval().observe(x)[0][1], -x)
    assert not torch.equal(model.train().observe(torch.ones(64, 4))[0][1].abs(), torch.ones(64, 4))


class Three(nn.Module):
    def __init__(self, forward: Callable[[Three, Tensor], object]) -> None:
        super().__init__()
        self.layer1, self.layer2, self.layer3 = (nn.Linear(4, 4) for _ in range(3))
        self._body = forward

    def forward(self, x: Tensor) -> object:
        return self._body(self, x)


def straight(net: Three, x: Tensor) -> Tensor:
    return net.layer3(net.layer2(net.layer1(x)))


def skipping(net: Three, x: Tensor) -> Tensor:
    y = torch.relu(net.layer1(x))
    return net.layer3(net.layer2(y) + y)


def from_the_input(net: Three, x: Tensor) -> Tensor:
    return net.layer3(net.layer2(net.layer1(torch.relu(x)))) + x


def twice(net: Three, x: Tensor) -> Tensor:
    return net.layer2(net.layer1(net.layer1(x)))


def dropping(net: Three, x: Tensor) -> Tensor:
    return straight(net, F.dropout(x, 0.5, net.training))


def deciding(net: Three, x: Tensor) -> Tensor:
    return straight(net, -x if x.sum() > 0 else x)


def pair(net: Three, x: Tensor) -> tuple[Tensor, Tensor]:
    return straight(net, x), x


@pytest.mark.parametrize(
    ("forward", "names", "message"),
    [
        (
            straight,
            ["layer4"],
            "sectioned: names must be submodules of the model, got 'layer4'; the nearest is 'layer",
        ),
        (straight, [], "sectioned: names must hold at least one submodule, got none"),
        (
            straight,
            ["layer2", "layer1"],
            "names must be in the forward pass's order layer1, layer2, got layer2, layer1",
        ),
        (
            skipping,
            ["layer1", "layer2"],
            "the head must read nothing from before it but 'layer2', got 'relu' as",
        ),
        (
            skipping,
            ["layer2", "layer3"],
            r"section 'layer3' must read nothing from before it but 'layer2', got 'relu' as",
        ),
        (
            from_the_input,
            ["layer1"],
            "the head must read nothing from before it but 'layer1', got 'x' as well; no value",
        ),
        (twice, ["layer1"], "forward must call 'layer1' exactly once, got 2 calls"),
        (twice, ["layer3"], "forward must call 'layer3' exactly once, got 0 calls"),
        (
            dropping,
            ["layer1"],
            "forward of Three must not read self.training in a functional call; use nn.Dropout",
        ),
        (deciding, ["layer1"], "forward of Three must be traceable by torch.fx, got .*control flow"),
        (pair, ["layer1"], "forward must return one tensor, got tuple"),
    ],
)
def test_a_model_that_cannot_be_split_gets_one_line(
    forward: Callable[[Three, Tensor], object], names: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        sectioned(Three(forward), names)
    assert "\n" not in str(raised.value)


def test_a_skip_within_one_section_is_fine() -> None:
    model = sectioned(Three(skipping), ["layer1", "layer3"])
    x = torch.randn(2, 4)
    assert torch.equal(model.observe(x)[1], model(x))


def test_nested_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"names must not be nested, got 'layer1\.0' inside 'layer1'"):
        sectioned(create("resnet8").model, ["layer1", "layer1.0"])


def test_a_forward_of_two_tensors_is_refused() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer1 = nn.Linear(4, 4)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return self.layer1(x) * mask

    with pytest.raises(ValueError, match="forward must take one tensor, got x, mask"):
        sectioned(Two(), ["layer1"])
