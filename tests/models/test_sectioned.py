from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from litfast.models import SectionedModel, create, sectioned


class Net(nn.Module):
    """Root-level parameter and buffer in the stem and again in the head; glue between the sections."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 6)
        self.body = nn.ModuleDict({"a": nn.Linear(6, 6), "b": nn.Sequential(nn.Linear(6, 6), nn.ReLU())})
        self.fc = nn.Linear(6, 3)
        self.gain = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("shift", torch.arange(6.0))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x - self.shift) * self.gain)
        x = torch.tanh(self.body["a"](x))
        x = self.body["b"](x)
        return self.fc(x.flatten(1) + self.shift) * self.gain


def net() -> SectionedModel:
    torch.manual_seed(0)
    return sectioned(Net(), ["body.a", "body.b"])


def resnet() -> SectionedModel:
    torch.manual_seed(0)
    return create("resnet8", channels=1)


INPUTS: dict[Callable[[], SectionedModel], tuple[int, ...]] = {net: (5, 6), resnet: (5, 1, 9, 9)}
both = pytest.mark.parametrize("make", INPUTS)


@both
@pytest.mark.parametrize("train", [False, True])
def test_the_parts_in_a_row_are_the_plain_forward_to_the_bit(
    make: Callable[[], SectionedModel], train: bool
) -> None:
    model = make().train(train)
    plain = copy.deepcopy(model.model)
    x = torch.randn(INPUTS[make])
    irs, logits = model.observe(x)
    assert torch.equal(logits, plain(x))
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), plain.buffers(), strict=True))
    assert len(irs) == len(model.names) + 1
    model.eval()
    irs, logits = model.observe(x)
    assert torch.equal(model(x), logits)
    for section, given, made in zip(model.sections, irs[:-1], irs[1:], strict=True):
        assert torch.equal(section(given), made)


@both
def test_gradients_are_those_of_the_plain_forward(make: Callable[[], SectionedModel]) -> None:
    model = make()
    plain = copy.deepcopy(model.model)
    x = torch.randn(INPUTS[make])
    model.observe(x)[1].square().sum().backward()
    plain(x).square().sum().backward()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None and torch.equal(ours.grad, theirs.grad)


@both
def test_a_sections_loss_gives_gradient_to_that_section_only(make: Callable[[], SectionedModel]) -> None:
    model = make()
    with torch.no_grad():
        irs, _ = model.observe(torch.randn(INPUTS[make]))
    model.sections[1](irs[1]).square().sum().backward()
    own = {id(parameter) for parameter in model.sections[1].parameters()}
    assert own
    for parameter in model.parameters():
        assert (parameter.grad is not None) == (id(parameter) in own)


def test_what_lies_between_two_names_belongs_to_the_later_section() -> None:
    model = net()
    x = torch.randn(5, 6)
    irs, _ = model.observe(x)
    inner = model.model
    assert torch.equal(irs[1], inner.body["a"](irs[0]))
    assert torch.equal(irs[2], inner.body["b"](torch.tanh(irs[1])))


@both
def test_the_parts_share_parameters_and_the_wrapper_lists_each_once(
    make: Callable[[], SectionedModel],
) -> None:
    model = make()
    listed = {id(parameter) for parameter in model.parameters()}
    assert len(listed) == len(list(model.parameters())) == len(list(model.model.parameters()))
    parts = [model.stem, *model.sections, model.head]
    assert {id(p) for part in parts for p in part.parameters()} == listed
    assert [name for name, _ in model.named_children()] == ["model"]


@both
def test_state_dict_has_the_models_plain_keys(make: Callable[[], SectionedModel]) -> None:
    model, other = make(), make()
    assert list(model.state_dict()) == list(model.model.state_dict())
    for value in other.state_dict().values():
        value.copy_(torch.full_like(value, 3))
    model.load_state_dict(other.state_dict())
    assert all(bool((value == 3).all()) for value in model.state_dict().values())


def test_state_keys_of_the_parts_cover_the_state_dict() -> None:
    model = net()
    assert model.stem.state_keys == ("gain", "shift", "stem.weight", "stem.bias")
    assert model.sections[0].state_keys == ("body.a.weight", "body.a.bias")
    assert model.head.state_keys == ("gain", "shift", "fc.weight", "fc.bias")


def test_a_parent_module_saves_and_loads_it_with_plain_keys() -> None:
    pair = nn.ModuleDict({"teacher": net(), "student": net()})
    saved = {key: torch.full_like(value, 4) for key, value in pair.state_dict().items()}
    assert "student.fc.weight" in saved
    pair.load_state_dict(saved)
    assert all(bool((value == 4).all()) for value in pair.state_dict().values())
    with pytest.raises(RuntimeError, match=r"Missing key\(s\).*fc\.bias"):
        pair.load_state_dict({key: value for key, value in saved.items() if key != "student.fc.bias"})


def test_assigned_weights_are_those_that_the_parts_list() -> None:
    model = net()
    model.load_state_dict({key: value.clone() for key, value in model.state_dict().items()}, assign=True)
    assert any(parameter is model.model.gain for parameter in model.head.parameters())


def copied(model: SectionedModel) -> SectionedModel:
    return copy.deepcopy(model)


def pickled(model: SectionedModel) -> SectionedModel:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@both
@pytest.mark.parametrize("duplicate", [copied, pickled])
def test_a_copy_is_whole_and_shares_nothing(
    make: Callable[[], SectionedModel], duplicate: Callable[[SectionedModel], SectionedModel]
) -> None:
    model = make().eval()
    model.stem.train()
    x = torch.randn(INPUTS[make])
    clone = duplicate(model)
    assert [m.training for m in clone.modules()] == [m.training for m in model.modules()]
    assert clone.spec == model.spec and clone.names == model.names
    assert torch.equal(clone.eval().observe(x)[1], model.eval().observe(x)[1])
    old = {id(parameter) for parameter in model.parameters()}
    new = {id(parameter) for parameter in clone.parameters()}
    assert not old & new
    assert {id(p) for part in (clone.stem, *clone.sections, clone.head) for p in part.parameters()} == new


@both
def test_to_moves_everything_that_the_parts_read(make: Callable[[], SectionedModel]) -> None:
    model = make().eval()
    x = torch.randn(INPUTS[make])
    before = model.observe(x)[1]
    held = model.sections
    model.model.to(torch.float64)  # the inner model, behind the wrapper's back
    irs, logits = model.observe(x.double())
    assert {ir.dtype for ir in irs} == {logits.dtype} == {torch.float64}
    assert model.sections is held
    torch.testing.assert_close(logits.float(), before, rtol=1e-4, atol=1e-5)


def test_train_and_eval_reach_the_modules_of_one_part() -> None:
    model = resnet().train()
    model.stem.eval()
    assert not model.model.bn1.training and model.model.layer1[0].bn1.training
    model.eval()
    model.sections[1].train()
    trained = [
        name for name, m in model.model.named_modules() if m.training and isinstance(m, nn.BatchNorm2d)
    ]
    assert trained == ["layer2.0.bn1", "layer2.0.bn2"]


def test_the_parts_compile_into_one_graph() -> None:
    model = net()
    x = torch.randn(5, 6)
    compiled = torch.compile(model.observe, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x)[1], model(x))


def test_becoming_another_keeps_the_object_and_takes_all_the_rest() -> None:
    first, second = create("resnet8", channels=1), create("resnet14", channels=1)
    x = torch.randn(2, 1, 8, 8)
    expected = second(x)
    first.become(second)
    assert torch.equal(first(x), expected) and torch.equal(first.observe(x)[1], expected)
    assert first.spec == second.spec
    assert all(a is b for a, b in zip(first.parameters(), second.parameters(), strict=True))
