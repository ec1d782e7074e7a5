"""What layers carry from batch to batch, in a checkpoint that any number of ranks can take up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from litfast.carried import States
from litfast.engine.ranks import Ranks


def joined(state: nn.Module, ranks: Ranks) -> dict[str, Any]:
    """The state dict of a branch's own module; what is carried are the rows of all ranks, in their order."""
    own: dict[str, Any] = state.state_dict()
    if ranks.world == 1 or not isinstance(state, States):
        return own
    every = ranks.gather({name: kept.cpu() for name, kept in own.items()})
    return {name: torch.cat([_rows(one[name]) for one in every])[None] for name in own}


def take(state: nn.Module, saved: Mapping[str, Tensor], ranks: Ranks, parts: int) -> None:
    """Load what `joined` gave on any number of ranks; rows carried are cut in `parts`, as the batch is."""
    if isinstance(state, States):
        saved = {name: _share(_rows(kept), ranks, parts) for name, kept in saved.items()}
    state.load_state_dict(saved)


def _rows(kept: Tensor) -> Tensor:
    """[parts, B, width] -> [parts B, width], the order of the batch."""
    return kept.flatten(0, 1)


def _share(rows: Tensor, ranks: Ranks, parts: int) -> Tensor:
    count = len(rows) // ranks.world
    return rows[ranks.rank * count :][:count].reshape(parts, count // parts, rows.shape[1])
