"""A small teacher and student in fp64, a batch, the gradients of a branch, and the plain LIT step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from litfast.data import sets
from litfast.data.loader import Batch
from litfast.data.resident import ResidentLoader
from litfast.engine.prepare import prepared
from litfast.methods import _paths
from litfast.methods._kd import Seen as Observation
from litfast.models import SectionedModel, create
from litfast.models.stargan import Discriminator, Generator
from litfast.ops import lit_loss
from litfast.phase import Branch, Phase, Schedule

SCHEDULE = Schedule(epochs=1, lr=0.1)
PHASES = {"sections": SCHEDULE, "finetune": SCHEDULE}
Gradients = dict[str, Tensor | None]
Ready = Callable[[Iterator[Phase]], Phase]
Seen = Callable[[Phase, Batch], Observation]
Calls = Callable[[SectionedModel, Sequence[str]], Counter[str]]
Check = Callable[..., None]
MOVES = {"both": ("own", "ir"), "ir": ("ir",), "own": ("own",)}


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small gain nothing from threads, and lose much where other jobs run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made(name: str, seed: int) -> SectionedModel:
    """A model with batch-norm statistics that are not those of a fresh one."""
    torch.manual_seed(seed)
    model = create(name, classes=4, channels=3).double()
    for _ in range(3):
        model(torch.randn(8, 3, 8, 8, dtype=torch.float64))
    return model.eval()


@pytest.fixture
def make() -> Callable[[str, int], SectionedModel]:
    return made


@pytest.fixture
def teacher() -> SectionedModel:
    return made("resnet14", seed=0)


@pytest.fixture
def student() -> SectionedModel:
    return made("resnet8", seed=1)


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(6, 3, 8, 8, dtype=torch.float64, generator=generator)
    return Batch(images, torch.tensor([0, 1, 2, 3, 0, 1]))


@pytest.fixture(scope="session")
def data() -> ResidentLoader:
    """Four batches of 16 in fp64."""
    images = sets.load("synthetic", size=8, train=64)
    return ResidentLoader(
        images.train.images,
        images.train.labels,
        batch=16,
        mean=images.mean,
        std=images.std,
        train=True,
        crop=1,
        dtype=torch.float64,
    )


@pytest.fixture(params=[False, True], ids=["once", "twin"])
def twin(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether later sections run on a twin batch, which a CPU has no gain from."""
    if request.param:
        monkeypatch.setattr(_paths, "TWIN_DEVICES", ("cpu",))
    return bool(request.param)


@pytest.fixture
def ready() -> Iterator[Callable[[Iterator[Phase]], Phase]]:
    """The next phase of a method with its modes and gradient flags set, as the engine sets them."""
    opened = []

    def enter(phases: Iterator[Phase]) -> Phase:
        phase = next(phases)
        context = prepared(phase, torch.device("cpu"))
        context.__enter__()
        opened.append(context)
        return phase

    yield enter
    for context in reversed(opened):
        context.__exit__(None, None, None)


@pytest.fixture
def seen() -> Callable[[Phase, Batch], Any]:
    """What a phase observes of a batch, without gradient."""

    def observe(phase: Phase, batch: Batch) -> Any:
        with torch.no_grad():
            return phase.observe(batch)

    return observe


@pytest.fixture
def gradients() -> Callable[..., Gradients]:
    """Every parameter's gradient by name after one branch's backward; None where nothing flowed."""

    def backward(phase: Phase, observation: Any, branch: Branch | None = None) -> Gradients:
        model = phase.model
        assert isinstance(model, SectionedModel)
        model.zero_grad(set_to_none=True)
        (branch or phase.branches[0]).loss(observation)["loss"].backward()
        named = model.model.named_parameters()  # the keys of its state dict
        return {name: None if p.grad is None else p.grad.clone() for name, p in named}

    return backward


@pytest.fixture
def calls() -> Callable[[SectionedModel, Sequence[str]], Counter[str]]:
    return _calls


def _calls(model: SectionedModel, names: Sequence[str]) -> Counter[str]:
    """Counts the forward passes of submodules, from now on."""
    counted: Counter[str] = Counter()
    for name in names:
        module = model.model.get_submodule(name)
        module.register_forward_hook(lambda *_, name=name: counted.update([name]))
    return counted


def _run(student: SectionedModel, function: Callable[[], Any], *, moves: bool) -> Any:
    """A pass on copies of the buffers where it should not move them."""
    if moves:
        return function()
    kept = {module: dict(module._buffers) for module in student.modules()}
    for module, buffers in kept.items():
        module._buffers.update({name: b if b is None else b.clone() for name, b in buffers.items()})
    try:
        return function()
    finally:
        for module, buffers in kept.items():
            module._buffers.update(buffers)


@pytest.fixture
def plain_step() -> Callable[..., tuple[Tensor, Gradients, dict[str, Tensor]]]:
    return _plain


def _plain(
    student: SectionedModel,
    seen: Any,
    *,
    beta: float,
    bn_stats: str,
    chosen: Sequence[int] = (0, 1, 2),
    noise: float = 0.0,
    alpha: float = 0.95,
    tau: float = 6.0,
) -> tuple[Tensor, dict[str, Tensor | None], dict[str, Tensor]]:
    """Loss, gradients and buffers of the published step: the own path, then every section on its own."""
    logits = _run(student, lambda: student(seen.images), moves="own" in MOVES[bn_stats])

    def output(i: int) -> Tensor:
        ir = seen.irs[i] + noise * torch.randn_like(seen.irs[i]) if noise else seen.irs[i]
        out: Tensor = student.sections[i](ir)
        return out

    outputs = [_run(student, lambda i=i: output(i), moves="ir" in MOVES[bn_stats]) for i in chosen]
    taught = [seen.irs[i + 1] for i in chosen]
    total = lit_loss(
        outputs,
        taught,
        logits,
        seen.logits,
        seen.target,
        beta=beta,
        alpha=alpha,
        tau=tau,
        backend="reference",
    ).total
    student.zero_grad(set_to_none=True)
    total.backward()
    named = dict(student.model.named_parameters())
    gradients = {name: None if p.grad is None else p.grad.clone() for name, p in named.items()}
    return total.detach(), gradients, dict(student.model.named_buffers())


@pytest.fixture
def like_two_passes(gradients: Callable[..., Gradients]) -> Callable[..., None]:
    """Asserts that a phase's step is `plain_step` on a copy of its student, with the same random numbers."""

    def check(phase: Phase, copy: SectionedModel, seen: Any, **options: Any) -> None:
        state = torch.get_rng_state()
        expected, theirs, buffers = _plain(copy, seen, **options)
        torch.set_rng_state(state)
        losses: list[Tensor] = []

        def noted(observation: Any) -> Any:
            found = phase.branches[0].loss(observation)
            losses.append(found["loss"].detach())
            return found

        ours = gradients(phase, seen, replace(phase.branches[0], loss=noted))
        assert isinstance(phase.model, SectionedModel)
        torch.testing.assert_close(losses, [expected], rtol=1e-14, atol=0)
        assert {name for name in ours if ours[name] is None} == {
            name for name in theirs if theirs[name] is None
        }
        for name, gradient in theirs.items():
            if gradient is not None:
                torch.testing.assert_close(ours[name], gradient, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(dict(phase.model.model.named_buffers()), buffers, rtol=1e-14, atol=1e-14)

    return check


@pytest.fixture
def translator() -> Callable[..., SectionedModel]:
    """translator(blocks, seed=0): a StarGAN generator of four domains in fp64."""

    def make(blocks: int, seed: int = 0) -> SectionedModel:
        torch.manual_seed(seed)
        generator = Generator([blocks], classes=4, channels=3, width=4)
        return SectionedModel(generator, ["bottleneck"]).double().eval()

    return make


@pytest.fixture
def critic() -> nn.Module:
    """StarGAN's discriminator of 8 x 8 images and four domains in fp64."""
    torch.manual_seed(3)
    return Discriminator(4, image_size=8, channels=3, width=4).double()


@pytest.fixture(params=["classes", "attributes"])
def faces(request: pytest.FixtureRequest) -> ResidentLoader:
    """Six batches of 8 in fp64, labelled with one of four classes or with four attributes each."""
    images = sets.load("synthetic", size=8, train=48).train
    labels = images.labels
    if request.param == "attributes":
        labels = torch.stack([labels // 2, labels % 2, (labels == 0).long(), (labels < 3).long()], dim=1)
    half = [0.5] * 3
    return ResidentLoader(
        images.images, labels, batch=8, mean=half, std=half, train=True, dtype=torch.float64
    )
