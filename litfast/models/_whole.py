"""A model that is not cut into sections, as the parts of one: nothing, and all of it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from litfast.models._split import named


class Whole(nn.Module):
    """The head of a model without sections, the model itself; or its stem, which passes its input on.

    Attributes:
        inputs, needs, state_keys: as those of a `Part`.
    """

    def __init__(self, model: nn.Module | None, inputs: tuple[str, ...]) -> None:
        super().__init__()
        self.inputs = inputs
        self.needs = () if model is None else inputs[1:]
        self.state_keys = () if model is None else tuple(model.state_dict())
        self.model = model

    def forward(self, x: Tensor, batch: Any = None) -> Tensor:
        """The model's output; of a stem `x`."""
        if self.model is None:
            return x
        out: Tensor = self.model(**named(batch, self.inputs)) if self.needs else self.model(x)
        return out
