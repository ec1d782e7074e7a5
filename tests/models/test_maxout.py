from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from litfast.models import Input, create, depth, macs, parameters
from litfast.models.inference import Inference, agreement
from litfast.models.maxout import Maxout, MaxoutNet

# SPEC 4: 30.25M / 107.97M / 381.94M multiplications at 32 x 32
SPEC_4 = {"fitnet1": 30_246_024, "fitnet2": 107_967_880, "fitnet4": 381_941_128}


@pytest.mark.parametrize(("name", "count"), SPEC_4.items())
def test_multiplications_are_those_of_the_paper(name: str, count: int) -> None:
    with torch.device("meta"):
        model = create(name)
    assert [name, round(count / 1e6, 2)] in [["fitnet1", 30.25], ["fitnet2", 107.97], ["fitnet4", 381.94]]
    assert macs(model, Input((3, 32, 32))) == count


@pytest.mark.parametrize(
    ("name", "layers", "count"),
    [
        ("maxout", 5, 1_488_982),
        ("fitnet1", 11, 348_694),
        ("fitnet2", 11, 1_057_622),
        ("fitnet4", 19, 2_742_102),
    ],
)
def test_depths_and_parameter_counts(name: str, layers: int, count: int) -> None:
    with torch.device("meta"):
        model = create(name)
    assert (depth(model), parameters(model)) == (layers, count)
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert {(c.kernel_size, c.padding, c.stride) for c in convolutions} == {((3, 3), (1, 1), (1, 1))}
    assert sum(isinstance(module, Maxout) for module in model.modules()) == len(convolutions) + 1


def test_the_middle_layers_are_outputs_of_section_2_and_of_one_size() -> None:
    torch.manual_seed(0)
    shapes = {}
    for name in ("maxout", "fitnet1"):
        irs, logits = create(name, classes=7).observe(torch.randn(2, 3, 32, 32))
        shapes[name] = [tuple(ir.shape[1:]) for ir in irs]
        assert logits.shape == (2, 7)
    assert shapes["maxout"] == [(3, 32, 32), (96, 16, 16), (192, 8, 8), (192, 8, 8)]
    assert shapes["fitnet1"] == [(3, 32, 32), (16, 16, 16), (32, 8, 8), (64, 8, 8)]


@pytest.mark.parametrize("shape", [(3, 6, 5, 4), (3, 6)])
def test_maxout_is_the_largest_piece_in_value_and_gradient(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    pieces = [x[:, 0:2], x[:, 2:4], x[:, 4:6]]
    largest = torch.maximum(torch.maximum(pieces[0], pieces[1]), pieces[2])
    out = Maxout(3)(x)
    assert torch.equal(out, largest)
    weight = torch.randn_like(out)
    (ours,), (theirs,) = (torch.autograd.grad((y * weight).sum(), x) for y in (out, largest))
    assert torch.equal(ours, theirs)


def by_hand(net: MaxoutNet, x: Tensor) -> Tensor:
    for section, pools in ((net.section1, True), (net.section2, True), (net.section3, False)):
        for conv in section:
            if isinstance(conv, nn.Conv2d):
                x = nn.functional.conv2d(x, conv.weight, conv.bias, padding=1)
                x = torch.maximum(*x.chunk(2, 1))
        x = nn.functional.max_pool2d(x, 2) if pools else x
    x = net.fc(nn.functional.max_pool2d(x, 8).flatten(1)).unflatten(1, (5, 500)).max(1).values
    return net.linear(x)


def test_the_network_is_the_one_of_its_docstring() -> None:
    torch.manual_seed(0)
    net = MaxoutNet([[2, 3], [4], [5, 6]])
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(net(x), by_hand(net, x))


def test_signals_keep_their_size_through_seventeen_layers() -> None:
    torch.manual_seed(0)
    model = create("fitnet4", widths=[[8] * 5, [8] * 6, [8] * 6])
    irs, logits = model.observe(torch.randn(2, 3, 32, 32))
    sizes = [ir.square().mean().sqrt().item() for ir in [*irs, logits]]
    assert min(sizes) > 0.1 and max(sizes) < 10  # half the variance would leave 0.003


def test_widths_survive_json_and_replace_those_of_the_name() -> None:
    model = create("fitnet1", widths=[[2], [3], [4]], channels=1, classes=5)
    assert model.spec is not None
    again = create(**json.loads(json.dumps(model.spec)))
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    assert {key: value.shape for key, value in again.state_dict().items()} == shapes
    assert shapes["section1.0.weight"] == (4, 1, 3, 3)


def test_a_teacher_of_maxouts_becomes_a_program_whole() -> None:
    torch.manual_seed(0)
    model = create("maxout", widths=[[4], [4], [4]]).eval()
    found = agreement(Inference(model), torch.randn(2, 3, 8, 8))
    assert found.plain == () and max(*found.irs, found.logits) < 1e-5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(widths=[[4], [4]]), r"MaxoutNet: widths must be three lists .* got \[\[4\], \[4\]\]"),
        (
            dict(widths=[[4], [], [4]]),
            r"widths must be three lists of counts of at least 1, got \[\[4\], \[\]",
        ),
        (dict(widths=[[4], [0], [4]]), r"widths must be three lists of counts of at least 1, got"),
        (dict(widths=[[1], [1], [1]], classes=0), "MaxoutNet: classes must be at least 1, got 0"),
        (dict(widths=[[1], [1], [1]], channels=0), "MaxoutNet: channels must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaxoutNet(**arguments)  # type: ignore[arg-type]
