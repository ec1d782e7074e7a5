"""Random draws that compiled code makes as eager code does."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

Given = ParamSpec("Given")
Drawn = TypeVar("Drawn")


def outside(function: Callable[Given, Drawn]) -> Callable[Given, Drawn]:
    """`function` kept out of compiled code, whose random numbers are others.

    To be made when training begins: torch.compiler loads the compiler.
    """
    eager = torch.compiler.disable(function)

    def call(*args: Given.args, **options: Given.kwargs) -> Drawn:
        return eager(*args, **options)  # torch.compile of a disabled function itself would compile it

    return call
