"""Scores of generators whose translations are known, seen by an extractor of mean colours."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from litfast.bench.translate import Scores, scores, spread
from litfast.data.resident import ResidentLoader

COLOURS = torch.tensor([[0.8, 0.0, 0.0], [0.0, 0.8, 0.0], [0.0, 0.0, 0.8]])  # of the domains, in -1..1
DOMAINS = ("red", "green", "blue")


class Colours:
    """Features: the mean colour. Probabilities: one-hot, the nearest domain's."""

    name = "mean colours"

    def __init__(self, domains: Sequence[str] = DOMAINS) -> None:
        self.domains = tuple(domains)

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        colour = images.mean((2, 3))
        return colour, torch.eye(3)[torch.cdist(colour, COLOURS).argmin(1)]


class Brightness:
    """Features: the mean colour. An attribute is there where its channel is bright."""

    name, domains = "brightness", DOMAINS

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        colour = images.mean((2, 3))
        return colour, torch.where(colour > 0, 0.9, 0.1)


class Made(nn.Module):
    """A generator by a function of images and domain; its dropout would show a forgotten eval mode."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(1))
        self.function, self.dropout = function, nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        assert x.shape[1] == 6
        return self.dropout(self.function(x[:, :3], x[:, 3:, 0, 0]))


def unchanged(images: Tensor, domain: Tensor) -> Tensor:
    return images


def painted(images: Tensor, domain: Tensor) -> Tensor:
    """The image's own deviation from its mean, around the domain's colour."""
    return images - images.mean((2, 3), keepdim=True) + (domain @ COLOURS)[:, :, None, None]


def loader(labels: Tensor, batch: int = 12) -> ResidentLoader:
    """4 x 4 images around the colour of their class, or bright in the channels of their attributes."""
    generator = torch.Generator().manual_seed(0)
    centre = COLOURS[labels] if labels.dim() == 1 else labels - 0.5
    noise = torch.randn(len(labels), 3, 4, 4, generator=generator) * 0.1
    raw = ((centre[:, :, None, None] + noise + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return ResidentLoader(raw, labels, batch=batch, mean=(0.5,) * 3, std=(0.5,) * 3, train=False)


CLASSES = torch.arange(3).repeat_interleave(10)  # sorted, as a folder of classes comes
ATTRIBUTES = torch.tensor([[i & 1, i >> 1 & 1, i >> 2 & 1] for i in range(8)]).repeat(4, 1)


def scored(function: Any, labels: Tensor = CLASSES, extractor: Any = None, **options: Any) -> Scores:
    return scores(Made(function), loader(labels), extractor or Colours(), domains=DOMAINS, **options)


def test_every_image_goes_to_every_other_domain_and_padding_to_none() -> None:
    found = scored(painted)
    assert (found.images, found.inputs, found.translations) == (30, 30, 60)
    assert found.domain_samples == dict.fromkeys(DOMAINS, (20, 10))


def test_the_right_translations_score_full_and_unchanged_images_none() -> None:
    right, none = scored(painted), scored(unchanged)
    assert (right.domain_accuracy, none.domain_accuracy) == (100.0, 0.0)
    assert right.real_accuracy == none.real_accuracy == 100.0
    assert right.reconstruction < 0.05 and none.reconstruction == 0.0
    # the trap that the other scores are there for: what changes nothing is near to all real images
    assert none.fid == pytest.approx(0, abs=0.01)
    assert right.domain_fid is not None and none.domain_fid is not None
    assert right.domain_fid < 0.01 < 0.5 < none.domain_fid
    assert right.domain_fid == pytest.approx(sum(v or 0 for v in right.domains.values()) / 3)


def test_the_distance_is_of_all_translations_to_all_real_images() -> None:
    shifted = scored(lambda images, domain: images + 0.1)
    assert shifted.fid == pytest.approx(3 * 0.1**2, abs=0.005)
    assert shifted.reconstruction == pytest.approx(0.2, abs=1e-5)  # there and back


def test_even_and_sure_translations_have_the_inception_score_of_the_domains() -> None:
    found = scored(painted)
    assert found.inception_score == pytest.approx(3.0) and found.inception_std == 0.0  # one split below 100
    many = scored(painted, CLASSES.repeat_interleave(3))
    assert 2.5 < (many.inception_score or 0) <= 3 and (many.inception_std or 0) > 0


def test_classes_of_another_network_are_not_taken_for_domains() -> None:
    found = scored(painted, extractor=Colours(("cat", "dog", "cow")))
    assert found.domain_accuracy is None and found.real_accuracy is None
    assert found.inception_score == pytest.approx(3.0)


def test_attributes_are_flipped_one_at_a_time() -> None:
    def bright(images: Tensor, domain: Tensor) -> Tensor:
        return images - images.mean((2, 3), keepdim=True) + (domain - 0.5)[:, :, None, None]

    right = scored(bright, ATTRIBUTES, Brightness())
    none = scored(unchanged, ATTRIBUTES, Brightness())
    assert right.translations == 3 * 32 and right.domain_samples == dict.fromkeys(DOMAINS, (16, 16))
    assert (right.domain_accuracy, none.domain_accuracy) == (100.0, 0.0)
    assert right.real_accuracy == 100.0 and right.inception_score is None
    assert right.reconstruction < 0.05


def test_a_limit_translates_an_even_part_and_compares_it_with_all() -> None:
    found = scored(painted, limit=6)
    assert (found.images, found.inputs, found.translations) == (30, 6, 12)
    assert found.domain_samples == dict.fromkeys(DOMAINS, (4, 10))  # two of each class, sorted as they are
    assert scored(painted, limit=1000) == scored(painted)


@pytest.mark.parametrize(("count", "batch"), [(7, 12), (30, 7), (1, 30), (29, 1), (99, 4)])
def test_the_shown_samples_lie_evenly(count: int, batch: int) -> None:
    shown = torch.cat([mask for _, mask in spread(loader(CLASSES, batch), count)])
    places = shown.nonzero().flatten()
    assert len(shown) == 30 and len(places) == min(count, 30) and places[0] == 0
    assert len(set((places[1:] - places[:-1]).tolist())) <= 2


def test_scores_are_deterministic_and_modes_are_given_back() -> None:
    generator = Made(painted).train()
    generator.dropout.eval()
    found = [scores(generator, loader(CLASSES), Colours(), domains=DOMAINS) for _ in (0, 1)]
    assert found[0] == found[1]
    assert generator.training and not generator.dropout.training
    generator.dropout.train()
    assert scores(generator, loader(CLASSES), Colours(), domains=DOMAINS) == found[0]


def test_a_domain_without_images_is_said_and_left_out() -> None:
    found = scored(painted, CLASSES[:20])
    assert found.domains["blue"] is None and found.domain_samples["blue"] == (20, 0)
    assert found.notes == ("domain blue has no FID: there are 20 translations to it and 0 real images of it",)
    assert found.domain_fid is not None


def test_too_few_images_for_the_features_are_said_once() -> None:
    found = scored(painted, CLASSES[9:12])
    assert found.notes[0].startswith("FID of 3 samples in 3 dimensions is biased upwards")


def test_scores_are_a_json_document() -> None:
    found = asdict(scored(painted))
    assert json.loads(json.dumps(found, allow_nan=False))["extractor"] == "mean colours"


def test_bad_input_gets_one_clear_line() -> None:
    with pytest.raises(ValueError, match="limit must be at least 2 images, got 1"):
        scored(painted, limit=1)
    with pytest.raises(ValueError, match="targets must be among the 2 domains, got class 2"):
        scores(Made(painted), loader(CLASSES.flip(0)), Colours(), domains=DOMAINS[:2])
    with pytest.raises(ValueError, match="fid: features of generated must be finite, got NaN"):
        scored(lambda images, domain: images * float("nan"))
    raw = torch.zeros(4, 3, 4, 4, dtype=torch.uint8)
    wide = ResidentLoader(
        raw, torch.tensor([0, 1, 0, 1]), batch=4, mean=(0.5,) * 3, std=(0.1,) * 3, train=False
    )
    with pytest.raises(ValueError, match=r"images must lie in -1..1 \(mean and std .5\), got 5"):
        scores(Made(painted), wide, Colours(), domains=DOMAINS)
