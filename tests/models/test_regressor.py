from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from litfast.models import Input, create, sectioned
from litfast.models.maxout import Maxout
from litfast.models.regressor import NONLINEARITIES, example, nonlinearity, output, regressor

Shape = tuple[int, ...]


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64)


@pytest.mark.parametrize(
    ("hint", "guided", "kind", "kernel"),
    [
        ((6, 8, 8), (3, 8, 8), nn.Conv2d, (1, 1)),
        ((6, 8, 5), (3, 11, 5), nn.Conv2d, (4, 1)),
        ((2, 4, 4), (3, 4, 4), nn.Conv2d, (1, 1)),
        ((3, 4, 4), (3, 6, 7), nn.Conv2d, (3, 4)),
        ((6, 10), (3, 12), nn.Conv1d, (3,)),
        ((6, 2, 3, 4), (3, 3, 3, 6), nn.Conv3d, (2, 1, 3)),
    ],
)
def test_the_kernel_is_the_guided_size_less_the_hints_plus_one(
    hint: Shape, guided: Shape, kind: type[nn.Module], kernel: Shape
) -> None:
    joint = regressor(zeros(2, *hint), zeros(2, *guided), nn.ReLU())
    assert isinstance(joint, nn.Sequential)
    conv = joint[0]
    assert type(conv) is kind and isinstance(conv, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    assert (conv.kernel_size, conv.in_channels, conv.out_channels) == (kernel, guided[0], hint[0])
    out = joint(torch.randn(5, *guided, dtype=torch.float64))
    assert out.shape == (5, *hint) and out.dtype == torch.float64 and out.min() >= 0


def test_a_regressor_to_a_maxout_has_its_pieces() -> None:
    joint = regressor(zeros(1, 6, 4, 4), zeros(1, 3, 4, 4), Maxout(2))
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    assert isinstance(joint, nn.Sequential) and joint[0].weight.shape == (12, 3, 1, 1)
    first, second = joint[0](x).chunk(2, 1)
    assert torch.equal(joint(x), torch.maximum(first, second))


def test_flat_outputs_are_joined_by_a_linear_layer() -> None:
    joint = regressor(zeros(1, 6), zeros(1, 3), nn.Identity())
    assert isinstance(joint, nn.Sequential) and isinstance(joint[0], nn.Linear)
    assert joint(torch.randn(2, 3, dtype=torch.float64)).shape == (2, 6)


@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 9), (5,)])
def test_equal_shapes_need_no_regressor(shape: Shape) -> None:
    joint = regressor(zeros(1, *shape), zeros(1, *shape), nn.ReLU())
    x = torch.randn(2, *shape)
    assert joint(x) is x and not list(joint.parameters())


@pytest.mark.parametrize(
    ("hint", "guided", "message"),
    [
        (
            (6, 8, 8),
            (6, 4, 8),
            r"here must be at least as large as the hint in every direction, \[8, 8\], got \[4, 8\]; take a "
            r"later hint section or an earlier guided one",
        ),
        ((6, 8, 8), (6,), r"here must have the hint's kind of output.* join them: \[6, 8, 8\], got \[6\]"),
        (
            (6, 8),
            (6, 8, 8),
            r"here must have the hint's kind of output.* join them: \[6, 8\], got \[6, 8, 8\]",
        ),
        ((), (), r"here must have the hint's kind of output.* join them: \[\], got \[\]"),
    ],
)
def test_a_pair_that_nothing_can_join_gets_one_line(hint: Shape, guided: Shape, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{message}$"):
        regressor(zeros(1, *hint), zeros(1, *guided), nn.ReLU(), who="here")


class End(nn.Module):
    """Two sections of which the first ends in different ways."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *layers)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(x)).mean((2, 3))


class Function(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(F.leaky_relu(x), training=False)


class Sum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x) + x


class Strange(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(1)


class Untraceable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("layers", "kind"),
    [
        ([nn.ReLU()], nn.ReLU),
        ([nn.ReLU(), nn.MaxPool2d(2), nn.Dropout()], nn.ReLU),
        ([nn.GELU()], nn.GELU),
        ([Function()], nn.LeakyReLU),
        ([nn.BatchNorm2d(4)], nn.Identity),
        ([nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 4, 1)], nn.Identity),
        ([Sum()], nn.Identity),
        ([], nn.Identity),
    ],
    ids=["relu", "behind a pool", "gelu", "a function", "batch norm", "convolution", "sum", "nothing else"],
)
def test_the_non_linearity_is_read_off_the_end_of_the_section(
    layers: list[nn.Module], kind: type[nn.Module]
) -> None:
    model = sectioned(End(*layers), ["first"])
    assert type(nonlinearity(model.sections[0])) is kind


@pytest.mark.parametrize(
    ("name", "kind"), [("resnet8", nn.ReLU), ("resnext20", nn.ReLU), ("vdcnn9", nn.ReLU), ("maxout", Maxout)]
)
def test_our_families_end_their_sections_as_they_do(name: str, kind: type[nn.Module]) -> None:
    with torch.device("meta"):
        model = create(name)
    assert {type(nonlinearity(section)) for section in model.sections} == {kind}


def test_maxout_keeps_its_pieces() -> None:
    model = sectioned(End(nn.Conv2d(4, 12, 1), Maxout(3)), ["first"])
    found = nonlinearity(model.sections[0])
    assert isinstance(found, Maxout) and found.pieces == 3


@pytest.mark.parametrize(
    ("layer", "got"), [(Strange(), "cumsum"), (Untraceable(), "what torch.fx cannot trace")]
)
def test_an_end_that_cannot_be_read_asks_for_a_name(layer: nn.Module, got: str) -> None:
    (section,) = sectioned(End(layer), ["first"]).sections
    with pytest.raises(
        ValueError, match=rf"^nonlinearity: the end of the hint section .* got {got}; name one$"
    ):
        nonlinearity(section)
    assert isinstance(nonlinearity(section, "tanh"), nn.Tanh)


def test_every_name_makes_a_module_and_an_unknown_one_names_the_nearest() -> None:
    part = nn.ReLU()
    assert all(nonlinearity(part, name)(torch.ones(1, 2, 3)).numel() for name in NONLINEARITIES)
    with pytest.raises(
        ValueError, match=r"name must be one of elu, .*, hint, .* got 'rele'; did you mean 'relu'"
    ):
        nonlinearity(part, "rele")


def test_the_output_of_a_section_is_that_of_observe_and_an_example_leaves_no_trace() -> None:
    torch.manual_seed(0)
    model = create("resnet8", width=4).train()
    x = torch.randn(2, 3, 8, 8)
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    shape = example(model, 2, Input((3, 8, 8))).shape
    assert torch.equal(torch.get_rng_state(), state) and model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    model.eval()
    assert torch.equal(output(model, 2, x), model.observe(x)[0][2])
    assert shape == (1, 8, 4, 4)
