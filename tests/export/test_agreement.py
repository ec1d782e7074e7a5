"""What passes as the same model, and what does not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from litfast.export import _agreement
from litfast.export._agreement import Agreement, check_outputs, check_state
from litfast.models import Input, create

FILE, IMAGES = Path("x.pt2"), Input((3, 8, 8))


def given(change: Callable[[Tensor], Tensor], model: nn.Module) -> Callable[..., list[Tensor]]:
    """In place of the fresh process: the model's own outputs, changed."""

    def outputs(path: Path, inputs: Sequence[Tensor]) -> list[Tensor]:
        assert [len(x) for x in inputs] == [1, 5]
        model.eval()
        return [change(model(x)) for x in inputs]

    return outputs


def test_rounding_is_agreement(foreign: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_agreement, "_outputs", given(lambda y: y * (1 + 2e-5), foreign))
    found = check_outputs(FILE, foreign, IMAGES)
    assert found.difference == pytest.approx(2e-5, rel=0.05)
    assert (found.tolerance, found.batches) == (1e-4, (1, 5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y: y * 1.001, r"outputs of x\.pt2 must be within 1e-04 of the model's, got 1\.0e-03"),
        (lambda y: y * torch.nan, r"must be within 1e-04 of the model's, got nan"),
        (lambda y: y[:, :3], r"export: outputs must be \[1, 5\], got \[1, 3\]"),
    ],
)
def test_other_outputs_are_none(
    change: Callable[[Tensor], Tensor], message: str, foreign: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_agreement, "_outputs", given(change, foreign))
    with pytest.raises(ValueError, match=message):
        check_outputs(FILE, foreign, IMAGES)


def test_weights_agree_bit_for_bit_and_loading_touches_neither_model_nor_generator() -> None:
    model = create("resnet8", width=4)
    before, state = torch.get_rng_state(), {k: v.clone() for k, v in model.state_dict().items()}
    assert check_state(FILE, state, model) == Agreement(difference=0.0, tolerance=0.0, batches=())
    assert torch.equal(torch.get_rng_state(), before)


def test_one_other_bit_or_key_is_no_agreement(foreign: nn.Module) -> None:
    nn.init.zeros_(foreign.fc.bias)
    state = {k: v.clone() for k, v in foreign.state_dict().items()}
    with pytest.raises(ValueError, match="must load back bit for bit, got other weights"):
        check_state(FILE, state | {"fc.bias": -state["fc.bias"]}, foreign)
    with pytest.raises(ValueError, match="must load into the plain model, got: "):
        check_state(FILE, {f"model.{k}": v for k, v in state.items()}, foreign)
