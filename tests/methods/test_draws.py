from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from litfast.data.loader import Batch
from litfast.methods._adversarial import draw
from litfast.methods._ban import permuted
from litfast.methods._draws import outside


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    ("function", "given"),
    [
        (draw, Batch(torch.randn(16, 3, 4, 4), torch.arange(16))),
        (permuted, torch.arange(40.0).view(4, 10)),
    ],
    ids=["goals", "dkpp"],
)
def test_compiled_code_draws_as_eager_code_does(function: Callable[..., Any], given: Any) -> None:
    torch.manual_seed(3)
    expected = function(given)
    torch.manual_seed(3)
    found = torch.compile(outside(function), dynamic=False)(given)
    torch.testing.assert_close(list(found), list(expected), rtol=0, atol=0)
