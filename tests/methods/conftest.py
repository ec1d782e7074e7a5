"""A small teacher and student in fp64, a batch, and the gradients that a branch leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from litfast.data import sets
from litfast.data.loader import Batch
from litfast.data.resident import ResidentLoader
from litfast.engine.step import prepared
from litfast.models import SectionedModel, create
from litfast.phase import Branch, Phase

Gradients = dict[str, Tensor | None]


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
