from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from litfast.models import SectionedModel, check_pair, copy_blocks, copy_ends, create, sectioned


class Wide(nn.Module):
    """Three sections like a ResNet's, of chosen widths and blocks, each block one convolution."""

    def __init__(self, widths: tuple[int, int, int], blocks: int = 1) -> None:
        super().__init__()
        ends = (3, *widths)
        for i, (before, after) in enumerate(pairwise(ends), start=1):
            rest = (nn.Conv2d(after, after, 1) for _ in range(blocks - 1))
            self.add_module(f"layer{i}", nn.Sequential(nn.Conv2d(before, after, 1), *rest))
        self.linear = nn.Linear(widths[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


def wide(*widths: int, blocks: int = 1) -> SectionedModel:
    return sectioned(Wide(widths, blocks), ["layer1", "layer2", "layer3"])


IMAGE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_a_pair_that_fits_passes_and_nothing_moves() -> None:
    teacher, student = create("resnet20").train(), create("resnet8").train()
    teacher.stem.eval()
    modes = [module.training for module in teacher.modules()]
    before = {key: value.clone() for key, value in student.state_dict().items()}
    check_pair(teacher, student, IMAGE)
    assert [module.training for module in teacher.modules()] == modes
    assert all(torch.equal(before[key], value) for key, value in student.state_dict().items())


def test_the_first_section_that_does_not_fit_is_named_with_both_shapes_and_a_remedy() -> None:
    message = (
        r"check_pair: student section 'layer2' must match the teacher's output \[1, 8, 8, 8\], "
        r"got \[1, 6, 8, 8\]; bridge them by adapters or choose equal widths"
    )
    with pytest.raises(ValueError, match=message):
        check_pair(wide(4, 8, 8), wide(4, 6, 8), IMAGE)


def test_another_number_of_sections_is_refused() -> None:
    student = sectioned(Wide((4, 8, 8)), ["layer1", "layer3"])
    with pytest.raises(ValueError, match=r"must have the teacher's 3 sections, got 2 \(layer1, layer3\)"):
        check_pair(wide(4, 8, 8), student, IMAGE)


def test_another_number_of_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="student must have the teacher's 100 classes, got 10"):
        check_pair(create("resnet14", classes=100), create("resnet8"), IMAGE)


def test_another_number_of_classes_of_texts_is_refused() -> None:
    ids = torch.zeros(1, 64, dtype=torch.int64)
    with pytest.raises(ValueError, match="student must have the teacher's 5 classes, got 2"):
        check_pair(create("vdcnn9", classes=5), create("vdcnn9", classes=2), ids)


def test_images_of_another_shape_are_refused_in_their_own_words() -> None:
    teacher, student = (create("stargan1", channels=c, classes=5 - c, width=4) for c in (3, 1))
    message = (
        r"check_pair: student output must match the teacher's \[1, 3, 8, 8\], got \[1, 1, 8, 8\]; "
        "create both with the same channels"
    )
    with pytest.raises(ValueError, match=message):
        check_pair(teacher, student, torch.zeros(1, 5, 8, 8))


def test_copied_ends_are_bit_equal_and_the_sections_are_untouched() -> None:
    torch.manual_seed(0)
    teacher, student = create("resnet14"), create("resnet8")
    teacher(torch.randn(4, 3, 8, 8))  # moves the stem's batch-norm statistics
    sections = {k: v.clone() for part in student.sections for k, v in part.state_dict().items()}
    copy_ends(teacher, student)
    taught, learned = teacher.state_dict(), student.state_dict()
    for key in (
        "conv1.weight",
        "bn1.running_mean",
        "bn1.num_batches_tracked",
        "linear.bias",
        "linear.weight",
    ):
        assert torch.equal(learned[key], taught[key])
    assert all(torch.equal(learned[key], value) for key, value in sections.items())
    assert learned["conv1.weight"].data_ptr() != taught["conv1.weight"].data_ptr()


def test_ends_that_differ_are_refused_by_key_and_shape() -> None:
    with pytest.raises(
        ValueError, match=r"student head must .*, got linear.weight \[10, 64\] for \[100, 64\]"
    ):
        copy_ends(create("resnet8", classes=100), create("resnet8"))
    with pytest.raises(
        ValueError, match=r"student stem must .*, got conv1.weight none for \[16, 3, 3, 3\], .* more"
    ):
        copy_ends(create("resnet8"), wide(16, 32, 64))


@pytest.mark.parametrize(
    ("teacher", "student", "indices"),
    [(9, 3, [0, 4, 8]), (18, 3, [0, 8, 17]), (18, 5, [0, 4, 8, 13, 17]), (3, 3, [0, 1, 2]), (5, 1, [0])],
)
def test_blocks_are_copied_evenly_spaced_and_bit_equal(
    teacher: int, student: int, indices: list[int]
) -> None:
    taught, learned = create("resnet8", blocks=[teacher] * 3), create("resnet8", blocks=[student] * 3)
    assert copy_blocks(taught, learned) == dict.fromkeys(("layer1", "layer2", "layer3"), indices)
    for name in learned.names:
        source, goal = taught.model.get_submodule(name), learned.model.get_submodule(name)
        for place, index in enumerate(indices):
            state = source[index].state_dict()
            assert all(torch.equal(value, state[key]) for key, value in goal[place].state_dict().items())


def test_a_teacher_of_equal_depth_copies_whole() -> None:
    torch.manual_seed(0)
    teacher, student = create("resnet8").eval(), create("resnet8").eval()
    copy_ends(teacher, student)
    copy_blocks(teacher, student)
    assert torch.equal(teacher(IMAGE), student(IMAGE))


@pytest.mark.parametrize(
    ("teacher", "student", "message"),
    [
        (
            create("resnet8"),
            create("resnet14"),
            "student section 'layer1' must have at most the teacher's 1 blocks, got 2; start from random",
        ),
        (
            create("resnet8"),
            create("resnet8", option="B"),
            r"student block layer2\.0 must have the teacher's keys and shapes, "
            r"got shortcut\.0\.weight \[32, 16, 1, 1\] for none, .*; choose equal widths and shortcuts",
        ),
        (
            wide(4, 8, 8),
            wide(4, 6, 8),
            r"student block layer2\.0 must .* got weight \[6, 4, 1, 1\] for \[8, 4, 1, 1\]",
        ),
    ],
)
def test_blocks_that_cannot_be_copied_are_named(
    teacher: SectionedModel, student: SectionedModel, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        copy_blocks(teacher, student)


def test_a_section_that_is_no_sequence_of_blocks_is_named() -> None:
    model = sectioned(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), ["0"])
    with pytest.raises(ValueError, match=r"section '0' must be an nn\.Sequential of blocks, got Linear"):
        copy_blocks(model, model)
