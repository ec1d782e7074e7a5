"""Linear CKA against its formulas, and the parts of two models against each other."""

from __future__ import annotations

import math
from collections import OrderedDict
from itertools import permutations

import pytest
import torch
from torch import Tensor, nn

from litfast.bench.similarity import Similarity, by_section, linear_cka
from litfast.models.sectioned import SectionedModel, sectioned


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_it_is_the_papers_formula_on_features() -> None:
    x, y = drawn(7, 3) + 2, drawn(7, 2, 2, seed=1) - 1
    a, b = x - x.mean(0), (y - y.mean(0)).flatten(1)
    expected = (b.T @ a).norm() ** 2 / ((a.T @ a).norm() * (b.T @ b).norm())
    assert linear_cka(x, y) == pytest.approx(float(expected), rel=1e-12)


def test_the_debiased_one_averages_over_all_four_different_samples() -> None:
    x, y = drawn(5, 3), drawn(5, 4, seed=1)
    y[:, :3] += x

    def hsic(k: Tensor, l: Tensor) -> float:  # noqa: E741
        fours = list(permutations(range(5), 4))
        terms = [k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q]) for i, j, q, r in fours]
        return float(sum(terms)) / len(fours)

    k, l = x @ x.T, y @ y.T  # noqa: E741
    expected = hsic(k, l) / math.sqrt(hsic(k, k) * hsic(l, l))
    assert linear_cka(x, y, debiased=True) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("debiased", [False, True])
def test_a_rotation_a_scale_and_a_shift_leave_it_at_one(debiased: bool) -> None:
    x = drawn(12, 5)
    rotation, _ = torch.linalg.qr(drawn(5, 5, seed=1))
    assert linear_cka(x, 3 * x @ rotation + 1, debiased=debiased) == pytest.approx(1, abs=1e-12)


def test_unrelated_wide_representations_are_only_told_apart_debiased() -> None:
    x, y = drawn(24, 4000).float(), drawn(24, 4000, seed=1).float()
    assert linear_cka(x, y) > 0.95
    assert abs(linear_cka(x, y, debiased=True)) < 0.15


def test_what_does_not_vary_has_none() -> None:
    assert math.isnan(linear_cka(torch.ones(5, 3), drawn(5, 3)))


@pytest.mark.parametrize(
    ("x", "y", "debiased", "line"),
    [
        (torch.ones(3, 2), torch.ones(4, 2), False, "must have the same samples, got 3 and 4"),
        (torch.ones(1, 2), torch.ones(1, 2), False, "must have at least 2 samples, got 1"),
        (torch.ones(3, 2), torch.ones(3, 2), True, "must have at least 4 samples, got 3"),
    ],
)
def test_what_cannot_be_compared_is_refused(x: Tensor, y: Tensor, debiased: bool, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        linear_cka(x, y, debiased=debiased)


def network(width: int, *names: str, seed: int = 0) -> SectionedModel:
    """A stem, a section a name, and a head, over [B, 6]."""
    torch.manual_seed(seed)
    parts = [("stem", nn.Linear(6, width)), *((name, nn.Linear(width, width)) for name in names)]
    return sectioned(nn.Sequential(OrderedDict([*parts, ("head", nn.Linear(width, 3))])), names).eval()


def test_a_model_is_like_itself_in_every_part() -> None:
    model = network(4, "one", "two")
    found = by_section(model, model, [drawn(9, 6).float()])
    assert [one.part for one in found] == ["stem", "one", "two", "output"]
    assert [one.relative_error for one in found] == [0, 0, 0, 0]
    assert [one.cka for one in found] == pytest.approx([1, 1, 1, 1], abs=1e-5)


def test_the_relative_error_is_over_all_samples_however_they_are_cut() -> None:
    teacher, student, samples = network(4, "one"), network(4, "one", seed=1), drawn(9, 6).float()
    whole, cut = (by_section(teacher, student, samples.split(size)) for size in (9, 4))
    taught, own = (model.observe(samples)[1].detach() for model in (teacher, student))
    assert whole[-1].relative_error == pytest.approx(float((own - taught).norm() / taught.norm()), rel=1e-5)
    for one, other in zip(whole, cut, strict=True):
        assert one.relative_error == pytest.approx(other.relative_error, rel=1e-5)
        assert one.cka == pytest.approx(other.cka, abs=1e-5)


def test_a_narrower_student_has_no_relative_error_but_a_cka() -> None:
    found = by_section(network(5, "one"), network(3, "one"), [drawn(9, 6).float()])
    assert [one.relative_error is None for one in found] == [True, True, False]
    assert all(one.cka is not None for one in found)


def test_a_part_that_does_not_vary_has_no_cka() -> None:
    teacher, student = network(4, "one"), network(4, "one")
    nn.init.zeros_(student.model.get_submodule("one").weight)
    found = by_section(teacher, student, [drawn(9, 6).float()])
    assert found[0] == Similarity(part="stem", relative_error=0.0, cka=pytest.approx(1, abs=1e-5))
    assert found[1].cka is None and found[1].relative_error is not None


def test_other_numbers_of_sections_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must have the teacher's 2 sections, got 1 \(one\)"):
        by_section(network(4, "one", "two"), network(4, "one"), [drawn(9, 6).float()])
