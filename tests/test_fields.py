from __future__ import annotations

import torch

from litfast.data.loader import Batch
from litfast.fields import each, first, rows, tensors


def test_one_tensor_several_and_nested_ones_are_treated_alike() -> None:
    a, b, c = torch.ones(2), torch.zeros(2, 3), torch.arange(4)
    batch = Batch({"ids": a, "mask": b}, c)
    assert [x is y for x, y in zip(tensors(batch), (a, b, c), strict=True)] == [True] * 3
    assert first(a) is a and first({"ids": b}) is b and first((c, a)) is c
    images, target = each(lambda x: x.shape, batch)
    assert images == {"ids": (2,), "mask": (2, 3)} and target == (4,)
    assert each(len, a) == 2 and each(len, [a, c]) == (2, 4)
    part = Batch(*rows(batch, 1, 3))
    assert part.images["mask"].shape == (1, 3) and part.target.tolist() == [1, 2]
