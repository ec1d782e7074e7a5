"""The teacher as an inference program: what it may change (speed) and what it may not (anything else)."""

from __future__ import annotations

import operator
from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from litfast.models import SectionedModel, create, sectioned
from litfast.models._fusion import _PackedConv
from litfast.models.inference import Agreement, Inference, agreement, without_batch_norms

needs_mkldnn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")


def made(name: str = "resnet14", *, option: str = "A", seed: int = 0) -> SectionedModel:
    """A teacher whose batch norms hold other statistics than fresh ones."""
    torch.manual_seed(seed)
    model = create(name, classes=4, option=option)
    for _ in range(3):
        model(torch.randn(8, 3, 8, 8))
    return model.eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def close(ours: Inference, images: Tensor, tolerance: float) -> Agreement:
    found = agreement(ours, images)
    assert max(*found.irs, found.logits) <= tolerance, found
    return found


def packed(inference: Inference) -> list[_PackedConv]:
    return [m for part in inference._parts for m in part.runs.modules() if isinstance(m, _PackedConv)]


@pytest.mark.parametrize("option", ["A", "B"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_it_is_observe_up_to_rounding(
    option: str, dtype: torch.dtype, tolerance: float, images: Tensor
) -> None:
    teacher = made(option=option).to(dtype)
    found = close(Inference(teacher), images.to(dtype), tolerance)
    assert len(found.irs) == 4 and found.plain == ()
    irs, logits = Inference(teacher).observe(images.to(dtype))
    expected, expected_logits = teacher.observe(images.to(dtype))
    assert [ir.shape for ir in irs] == [ir.shape for ir in expected] and logits.shape == expected_logits.shape
    assert {t.dtype for t in (*irs, logits)} == {dtype}
    assert not any(t.requires_grad or t.is_inference() for t in (*irs, logits))


@pytest.mark.parametrize(
    ("precision", "dtype", "off"), [("bf16", torch.bfloat16, 0.03), ("fp16", torch.float16, 0.004)]
)
def test_a_half_precision_is_within_its_rounding_and_gives_its_dtype(
    precision: str, dtype: torch.dtype, off: float, images: Tensor
) -> None:
    inference = Inference(made(), precision=precision)
    close(inference, images, off)
    assert {ir.dtype for ir in inference.observe(images)[0]} == {dtype}


def test_fp32_holds_inside_of_the_callers_autocast(images: Tensor) -> None:
    inference = Inference(made())
    alone = inference.observe(images)
    with torch.autocast("cpu", torch.bfloat16):
        inside = inference.observe(images)
    assert all(torch.equal(a, b) for a, b in zip((*alone[0], alone[1]), (*inside[0], inside[1]), strict=True))


def test_no_batch_norm_is_left(images: Tensor) -> None:
    inference = Inference(made(option="B"))
    inference.observe(images)
    kinds = {type(module) for part in inference._parts for module in part.runs.modules()}
    assert nn.BatchNorm2d not in kinds


@needs_mkldnn
def test_on_a_cpu_every_convolution_is_fused_with_what_follows(images: Tensor) -> None:
    inference = Inference(made())
    inference.observe(images)
    convolutions = packed(inference)
    assert len(convolutions) == 13 and all(one.relu for one in convolutions)
    # each section's second block writes over the first one's output
    assert sum(one.overwrites for one in convolutions) == 3


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_teacher_stays_as_it_is_to_the_bit(precision: str, images: Tensor) -> None:
    teacher = made()
    before, versions = deepcopy(teacher.state_dict()), [t._version for t in teacher.state_dict().values()]
    inference = Inference(teacher, precision=precision)
    inference.observe(images)
    after = teacher.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert versions == [t._version for t in after.values()]
    assert not any(module.training for module in teacher.modules() if not module._modules)


def test_what_it_gave_is_never_written_over(images: Tensor) -> None:
    inference = Inference(made("resnet20"))
    irs, logits = inference.observe(images)
    kept = [tensor.clone() for tensor in (*irs, logits, images)]
    inference.observe(torch.randn_like(images))
    assert all(torch.equal(a, b) for a, b in zip((*irs, logits, images), kept, strict=True))
    assert len({ir.data_ptr() for ir in irs}) == len(irs)


def test_a_resumed_run_gets_the_same_bits_whatever_batch_comes_first(images: Tensor) -> None:
    whole, resumed = Inference(made()), Inference(made())
    whole.observe(images)
    resumed.observe(images[:2])
    for ours, theirs in zip(whole.observe(images)[0], resumed.observe(images)[0], strict=True):
        assert torch.equal(ours, theirs)


def test_new_weights_make_a_new_program(images: Tensor) -> None:
    teacher = made()
    inference = Inference(teacher)
    close(inference, images, 1e-5)
    teacher.load_state_dict(made(seed=5).state_dict())
    close(inference, images, 1e-5)
    with torch.no_grad():
        next(teacher.parameters()).mul_(2)
    close(inference, images, 1e-5)


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="Inference: precision must be one of fp32, bf16, fp16, got 'fp8'"):
        Inference(made(), precision="fp8")


class Shaped(nn.Module):
    """A net of three sections around one given."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.first = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.middle = middle
        self.last = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU())
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.middle(self.first(self.stem(x))))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class Branching(nn.Module):
    """Python's own decisions: nothing that torch.fx can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return x if x.sum() > 0 else -x


class Sum(nn.Module):
    """Two convolutions and the way they are added."""

    def __init__(self, add: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1, bias=False)
        self.add = add

    def forward(self, x: Tensor) -> Tensor:
        return self.add(self.a(x), self.b(x), x)


class Reused(nn.Module):
    """One convolution under two batch norms, and a batch norm behind a value that is read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.other = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norms[1](self.conv(self.norms[0](self.conv(x))))
        z = self.other(y)
        return self.norms[2](z) * z


class ResidualOnItself(nn.Module):
    """conv(h) + h: oneDNN must not write into what it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.b(h) + h


MIDDLES: dict[str, Callable[[], nn.Module]] = {
    "no batch norm": lambda: nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()),
    "a norm without weights": lambda: nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8, affine=False)),
    "a norm without statistics": lambda: nn.Sequential(
        nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8, track_running_stats=False)
    ),
    "a norm first": lambda: nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1)),
    "reused": Reused,
    "groups and strides": lambda: nn.Sequential(
        nn.Conv2d(8, 8, 3, stride=2, padding=2, dilation=2, groups=4), nn.BatchNorm2d(8), nn.ReLU()
    ),
    "padding by name": lambda: nn.Sequential(nn.Conv2d(8, 8, 3, padding="same"), nn.BatchNorm2d(8)),
    "padding by reflection": lambda: nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
    "other modules": lambda: nn.Sequential(nn.Conv2d(8, 8, 1), nn.Dropout(), nn.GELU(), nn.GroupNorm(2, 8)),
    "sum": lambda: Sum(lambda a, b, x: F.relu(a + b)),
    "sum in place": lambda: Sum(lambda a, b, x: a.add_(b).relu_()),
    "sum into the other": lambda: Sum(lambda a, b, x: operator.iadd(b, a) * b),
    "sum with a factor": lambda: Sum(lambda a, b, x: torch.add(a, b, alpha=2)),
    "sum with a number": lambda: Sum(lambda a, b, x: (a + 1) * b),
    "sum with itself": lambda: Sum(lambda a, b, x: a + a + b),
    "sum that broadcasts": lambda: Sum(lambda a, b, x: a + b.mean((2, 3), keepdim=True)),
    "sum with the input": lambda: Sum(lambda a, b, x: torch.relu(a + x) + b),
    "sum over a view": lambda: Sum(lambda a, b, x: (lambda v: (a + b) * v)(b.flip(0)[:, :, :1, :1])),
    "residual on itself": ResidualOnItself,
}


@pytest.mark.parametrize("middle", MIDDLES)
def test_any_section_gives_what_it_gave(middle: str, images: Tensor) -> None:
    torch.manual_seed(0)
    net = Shaped(MIDDLES[middle]())
    net(torch.randn(8, 3, 16, 16))
    teacher = sectioned(net.eval(), ["first", "middle", "last"])
    # fx takes b += a for a new tensor: the comparison with the teacher finds it
    plain = ("middle",) if middle == "sum into the other" else ()
    assert close(Inference(teacher), images, 1e-5).plain == plain
    close(Inference(teacher.double()), images.double(), 1e-13)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_section_that_cannot_be_traced_runs_as_it_is(precision: str, images: Tensor) -> None:
    torch.manual_seed(0)
    teacher = sectioned(Shaped(Branching()).eval(), ["first", "middle", "last"])
    found = close(Inference(teacher, precision=precision), images, {"fp32": 1e-5, "bf16": 0.03}[precision])
    assert found.plain == ("middle",)


def test_inputs_that_are_no_images_are_served() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 4))
    close(Inference(sectioned(net.eval(), ["1", "3"])), torch.randn(7, 5), 1e-6)
    deep = nn.Sequential(
        nn.Conv1d(2, 4, 3), nn.Conv1d(4, 4, 3), nn.BatchNorm1d(4), nn.Flatten(), nn.Linear(24, 4)
    )
    close(Inference(sectioned(deep.eval(), ["1", "2"])), torch.randn(7, 2, 10), 1e-5)


@torch.no_grad()
def test_batch_norms_fold_away_and_the_model_stays(images: Tensor) -> None:
    teacher = made(option="B").train()
    before = deepcopy(teacher.state_dict())
    program = without_batch_norms(teacher)
    assert not [m for m in program.modules() if isinstance(m, nn.BatchNorm2d)]
    assert teacher.training and all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    expected = teacher.eval()(images)
    assert float((program(images) - expected).norm() / expected.norm()) < 1e-5


@torch.no_grad()
def test_a_batch_norm_that_follows_no_convolution_stays(images: Tensor) -> None:
    model = create("preresnet20", classes=4)
    model(images)
    program = without_batch_norms(model)
    left = sum(isinstance(m, nn.BatchNorm2d) for m in program.modules())
    assert 0 < left < sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    torch.testing.assert_close(program(images), model.eval()(images))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Conv2d(3, 4, 1), "behind convolutions, got no batch norm$"),
        (
            nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()),
            "behind convolutions, got 1 behind something else",
        ),
    ],
)
def test_nothing_to_fold_is_refused(model: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=f"folding: model must have batch norms {message}"):
        without_batch_norms(model)
