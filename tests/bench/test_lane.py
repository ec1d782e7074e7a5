"""What a contender reads, and what the gate lets through."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from litfast.bench import lane, latency, measure, modes
from litfast.models import Input

from .conftest import texts

QUICK: dict[str, Any] = {
    "input": Input((3, 5, 5)),
    "batches": (2,),
    "modes": ("eager",),
    "precisions": ("fp32",),
    "seconds": 0.01,
    "threads": 1,
}


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "BLOCK_S", 1e-9)  # one call a timing
    monkeypatch.setattr(latency, "MIN_ROUNDS", 3)
    monkeypatch.setattr(latency, "MAX_ROUNDS", 3)


def test_whatever_a_forward_pass_raises_is_one_line() -> None:
    class Picky(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return [images][len(images)]

    with pytest.raises(ValueError, match=r"measure: a must take samples \[2, 3, 5, 5\], got: list index"):
        measure({"a": Picky()}, **QUICK)


class Noisy(nn.Module):
    """A flat image, off by `part` of its largest value in all precisions but fp32."""

    def __init__(self, part: float) -> None:
        super().__init__()
        self.part = nn.Parameter(torch.tensor(part))

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        return flat if flat.dtype == torch.float32 else flat + self.part * flat.abs().max()


@pytest.mark.parametrize(
    ("part", "times", "allowed", "gates"),
    [
        (0.01, 8.0, 0.05, [True, False]),  # a model that bf16 suits: the mode is wrong
        (0.1, 1.5, 0.2, [True, True]),  # bf16 costs this model as much: no fault of the mode
        (0.1, 2.2, 0.2, [True, False]),
        (0.3, 1.0, 0.05, [False, False]),  # nothing that any mode could save
    ],
)
def test_a_mode_may_err_twice_what_the_model_errs_eagerly_in_that_precision(
    part: float,
    times: float,
    allowed: float,
    gates: list[bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def worse(model: nn.Module, *_: object) -> modes.Runner:
        with torch.no_grad():
            model.part *= times
        return model.to(torch.bfloat16)

    monkeypatch.setitem(modes.MODES, "worse", worse)
    rows = measure({"a": Noisy(part)}, **QUICK | {"precisions": ("bf16",), "modes": ("eager", "worse")})
    assert [row.gate for row in rows] == gates
    assert rows[-1].tolerance == pytest.approx(allowed, rel=0.1)


def test_texts_stay_ids_in_every_precision() -> None:
    seen: list[tuple[Any, ...]] = []

    class Witness(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.texts = texts()

        def forward(self, ids: Tensor) -> Tensor:
            seen.append((ids.dtype, tuple(ids.shape), int(ids.max()) < 9, self.texts.conv.weight.dtype))
            return self.texts(ids)

    cells = {"input": Input((20,), alphabet=9), "precisions": ("fp32", "bf16")}
    assert all(row.gate for row in measure({"a": Witness()}, **QUICK | cells))
    assert {entry[:3] for entry in seen} == {(torch.int64, (2, 20), True)}
    assert seen[-1][3] == torch.bfloat16


@pytest.mark.parametrize("shape", [(3, 5, 5), (7, 4), (6,)])
def test_floats_of_any_shape_are_read_in_the_precision_and_outputs_of_any_shape_are_held_to_the_gate(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Any, ...]] = []

    class Mapping(nn.Module):
        def forward(self, samples: Tensor) -> Tensor:
            seen.append((samples.dtype, tuple(samples.shape)))
            return samples.tanh()

    monkeypatch.setitem(modes.MODES, "wrong", lambda model, *_: lambda samples: model(samples).flip(-1))
    cells = {"input": Input(shape), "precisions": ("bf16",), "modes": ("eager", "wrong")}
    right, wrong = measure({"a": Mapping()}, **QUICK | cells)
    assert seen[-1] == (torch.bfloat16, (2, *shape))
    assert right.gate and 0 < right.error < 0.01
    assert wrong.gate is False
