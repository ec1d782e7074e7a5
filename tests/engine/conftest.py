"""Loaders, a small LIT run that can be made again at will, and a toy phase whose loss a test may choose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import litfast
from litfast.data import sets
from litfast.data.loader import Batch
from litfast.data.resident import ResidentLoader
from litfast.models import SectionedModel, create
from litfast.phase import Branch, Losses, Phase, Schedule

Loaders = Callable[..., ResidentLoader]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small gain nothing from threads, and lose much where other jobs run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def loader() -> Loaders:
    """loader(train=True, **changes): 4 training batches of 16, or 32 images in padded batches of 12."""
    images = sets.load("synthetic", size=8, train=64, val=32)

    def make(train: bool = True, **changes: Any) -> ResidentLoader:
        split = images.train if train else images.val
        assert split is not None
        options = {"batch": 16 if train else 12, "crop": 1, "seed": 3, "mean": images.mean, "std": images.std}
        return ResidentLoader(split.images, split.labels, train=train, **{**options, **changes})

    return make


@pytest.fixture(scope="session")
def data(loader: Loaders) -> ResidentLoader:
    return loader()


@pytest.fixture(scope="session")
def val(loader: Loaders) -> ResidentLoader:
    return loader(train=False)


class LIT:
    """The same small LIT run, as often as it is made: two epochs of sections, two of fine-tuning."""

    def __init__(self, *, dtype: torch.dtype = torch.float32, **options: Any) -> None:
        torch.manual_seed(0)
        self.teacher: SectionedModel = create("resnet14", classes=4).to(dtype)
        self.student: SectionedModel = create("resnet8", classes=4).to(dtype)
        self.teacher(
            torch.randn(16, 3, 8, 8, dtype=dtype)
        )  # batch-norm statistics that are not a fresh model's
        words = {"epochs": 2, "lr": 0.05, "schedule": "cosine", **options.pop("schedule", {})}
        schedule = Schedule(**words)
        phases = {"sections": schedule, "finetune": schedule}
        self.phases = litfast.methods.lit(self.teacher, self.student, **phases, **options)

    def state(self) -> dict[str, Tensor]:
        return {key: value.clone() for key, value in self.student.state_dict().items()}


@pytest.fixture
def lit() -> type[LIT]:
    return LIT


class Toy(nn.Module):
    """Flatten, linear: the smallest thing that classifies."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3 * 8 * 8, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.flatten(1))


def toy_phase(
    model: nn.Module,
    *,
    name: str = "play",
    epochs: int = 2,
    loss: Callable[[Batch], Losses] | None = None,
    branches: tuple[Branch, ...] | None = None,
    **words: Any,
) -> Phase:
    """Cross-entropy on the labels, or `loss`, or whole `branches`; `words` go to the schedule."""

    def plain(batch: Batch) -> Losses:
        return {"loss": cross_entropy(model(batch.images), batch.target)}

    schedule = Schedule(**{"epochs": epochs, "lr": 0.01, **words})
    branch = Branch(name="toy", params=tuple(model.parameters()), loss=loss or plain, schedule=schedule)
    return Phase(
        name=name, model=model, observe=lambda batch: batch, branches=branches or (branch,), trains=(model,)
    )


@pytest.fixture
def toy() -> Toy:
    return Toy()


@pytest.fixture
def phase() -> Callable[..., Phase]:
    return toy_phase
