from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from litfast.data.sets.image_set import hold_out
from litfast.data.sets.items import Items


class Fixed:
    """One item for every index, whatever it is."""

    def __init__(self, *item: Any) -> None:
        self._item = item[0] if len(item) == 1 else item

    def __len__(self) -> int:
        return 3

    def __getitem__(self, i: int) -> Any:
        return self._item


IMAGE = torch.arange(60, dtype=torch.uint8).view(3, 4, 5)


@pytest.mark.parametrize(
    "image",
    [
        IMAGE,
        IMAGE.permute(1, 2, 0),
        IMAGE.numpy(),
        IMAGE.permute(1, 2, 0).numpy(),
        Image.fromarray(IMAGE.permute(1, 2, 0).numpy()),
        Image.fromarray(IMAGE.permute(1, 2, 0).numpy()).convert("RGBA"),
    ],
    ids=["tensor CHW", "tensor HWC", "array CHW", "array HWC", "PIL", "PIL RGBA"],
)
def test_pixels_come_out_as_height_width_channels(image: Any) -> None:
    pixels, label = Items(dataset=Fixed(image, 2)).read(0)
    assert torch.equal(pixels, IMAGE.permute(1, 2, 0)) and pixels.dtype == torch.uint8
    assert (label.dtype, label.shape, int(label)) == (torch.int64, (), 2)


def test_where_both_layouts_fit_a_tensor_has_its_channels_first_and_an_array_last() -> None:
    square = torch.arange(3 * 9 * 3, dtype=torch.uint8).view(3, 9, 3)
    assert torch.equal(Items(dataset=Fixed(square, 0)).read(0)[0], square.permute(1, 2, 0))
    assert torch.equal(Items(dataset=Fixed(square.numpy(), 0)).read(0)[0], square)


def test_grey_pil_images_have_one_channel_and_floats_become_float32() -> None:
    assert Items(dataset=Fixed(Image.new("L", (5, 4)), 0)).read(0)[0].shape == (4, 5, 1)
    assert Items(dataset=Fixed(IMAGE.double(), 0)).read(0)[0].dtype == torch.float32


@pytest.mark.parametrize("label", [1, True, np.int64(1), np.array(1), torch.tensor(1), torch.tensor(1).int()])
def test_a_label_is_a_whole_number_of_any_kind(label: Any) -> None:
    assert int(Items(dataset=Fixed(IMAGE, label), classes=2).read(0)[1]) == 1


def test_a_label_may_be_a_vector_of_attributes() -> None:
    for label in ([0, 1, 1], torch.tensor([0, 1, 1]), np.array([0, 1, 1])):
        assert Items(dataset=Fixed(IMAGE, label)).read(0)[1].tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("item", "line"),
    [
        ((IMAGE,), "data: sample 1 of Fixed must be (image, label), got Tensor"),
        ((IMAGE, 0, 0), "data: sample 1 of Fixed must be (image, label), got tuple of 3"),
        (("a.png", 0), "sample 1 of Fixed must be a PIL image, a tensor or an array, got 'a.png'"),
        ((IMAGE[0], 0), "sample 1 of Fixed must be [C, H, W] or [H, W, C] with 1 to 4 channels, got [4, 5]"),
        ((torch.zeros(9, 9, 9), 0), "must be [C, H, W] or [H, W, C] with 1 to 4 channels, got [9, 9, 9]"),
        ((IMAGE.int(), 0), "data: the image of sample 1 of Fixed must be uint8 or floats, got torch.int32"),
        ((IMAGE, 0.5), "data: the label of sample 1 of Fixed must be a whole number, got 0.5"),
        ((IMAGE, "cat"), "data: the label of sample 1 of Fixed must be a whole number, got 'cat'"),
        ((IMAGE, None), "data: the label of sample 1 of Fixed must be a whole number, got NoneType"),
        ((IMAGE, 4), "data: the label of sample 1 of Fixed must be from 0 to 3, got 4"),
        ((IMAGE, -1), "data: the label of sample 1 of Fixed must be from 0 to 3, got -1"),
    ],
)  # fmt: skip
def test_a_wrong_item_is_told_in_one_line(item: tuple[Any, ...], line: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        Items(dataset=Fixed(*item), classes=4).read(1)
    assert str(caught.value).endswith(line)


def test_samples_chosen_from_chosen_ones_keep_their_names() -> None:
    chosen = Items(dataset=Fixed(IMAGE, 0)).at(torch.tensor([2, 1])).at(torch.tensor([1]))
    assert len(chosen) == 1 and chosen.name(0) == "sample 1 of Fixed"
    rest, held = hold_out(Items(dataset=Fixed(IMAGE, 0)), 1, seed=0)
    assert (len(rest), len(held)) == (2, 1)
