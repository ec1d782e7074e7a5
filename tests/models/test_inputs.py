from __future__ import annotations

import torch

from litfast.models import Input


def test_an_image_is_normal_floats_of_the_asked_dtype() -> None:
    made = Input((3, 8, 8)).example(2, generator=torch.Generator().manual_seed(0), dtype=torch.bfloat16)
    assert made.shape == (2, 3, 8, 8) and made.dtype == torch.bfloat16
    again = Input((3, 8, 8)).example(2, generator=torch.Generator().manual_seed(0), dtype=torch.bfloat16)
    assert torch.equal(made, again)


def test_a_text_is_ids_below_the_alphabet() -> None:
    made = Input((500,), alphabet=5).example(4)
    assert made.shape == (4, 500) and made.dtype == torch.int64
    assert made.unique().tolist() == [0, 1, 2, 3, 4]
