"""How good a generator's translations are: distance, reconstruction and whether the domain is met."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from litfast.bench.features import Extractor
from litfast.bench.fid import Moments, fid, inception_score
from litfast.data.loader import IGNORED, Batch, Loader
from litfast.engine.evaluate import evaluating
from litfast.models.stargan import with_domain

SPLITS, ENOUGH = 10, 100  # of the inception score, and translations that allow for them


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """A generator's scores on one split; all but `reconstruction` are as the extractor sees it.

    Attributes:
        extractor: its name.
        images: real images of the split; `inputs` of them were translated, into `translations` images.
        fid: of all translations against all real images. A generator that changes nothing does well here:
            read it with the two that follow.
        domain_fid: mean of `domains`, the FID of the translations to each domain against the real images of
            that domain (of an attribute: of those that have it). None stands where there are fewer than 2 of
            either; `domain_samples` says how many translations and real images there are.
        domain_accuracy: percent of the translations that the classifier takes for their target domain (of
            attributes: where it finds the flipped one as it was asked for); None where the extractor's
            classes are not the set's domains.
        real_accuracy: the same classifier's on the real images.
        reconstruction: mean |x - x''| of the pixels in -1..1, x'' being the translation translated back.
        inception_score, inception_std: mean and deviation over 10 splits of the translations (1 below 100 of
            them); None where the extractor gives no distribution over classes.
        notes: what should be said with the numbers, a line each.
    """

    extractor: str
    images: int
    inputs: int
    translations: int
    fid: float
    domain_fid: float | None
    domain_accuracy: float | None
    real_accuracy: float | None
    reconstruction: float
    inception_score: float | None
    inception_std: float | None
    domains: Mapping[str, float | None]
    domain_samples: Mapping[str, tuple[int, int]]
    notes: tuple[str, ...]


def scores(
    generator: nn.Module,
    loader: Loader,
    extractor: Extractor,
    *,
    domains: Sequence[str],
    limit: int | None = None,
) -> Scores:
    """Translate a split and compare the translations with its real images.

    Neither StarGAN nor LIT says which translations its scores are of. Here: with one class an image, every
    image to every domain but its own; with attributes, every image with each of them flipped, one at a time
    (that attributes may exclude one another, such as colours of hair, is not known). Nothing is random.

    Args:
        generator: [B, C + D, H, W] (`with_domain`) -> images [B, C, H, W] in -1..1; it runs where it is.
        loader: an evaluation loader of images in -1..1, which is normalised by mean and std .5.
        extractor: what sees the images.
        domains: names of the classes or attributes, D of them, in the order of the targets.
        limit: translate only so many images, evenly spread over the split; the real images that they are
            compared with are all the same the whole split. None: every image.

    Raises:
        ValueError: a limit below 2; targets that are none of the domains; images outside of -1..1; fewer than
            2 images; a generator that gives NaN.
    """
    if limit is not None and limit < 2:
        raise ValueError(f"scores: limit must be at least 2 images, got {limit}")
    device = next(generator.parameters()).device
    tally = _Tally(extractor, domains)
    with evaluating(generator), torch.inference_mode():
        for batch, chosen in spread(loader, limit):
            images, own = batch.images.to(device), domain_planes(batch.target, domains).to(device)
            _check_range(images)
            single = batch.target.dim() == 1
            tally.real(images, own, single=single)
            images, own = images[chosen.to(device)], own[chosen.to(device)]
            for domain, rows, wanted in asked(own, single=single):
                there = generator(with_domain(images[rows], wanted))
                back = generator(with_domain(there, own[rows]))
                tally.fake(there, wanted, domain, single=single)
                tally.missed += (back - images[rows]).abs().double().mean((1, 2, 3)).sum().cpu()
            tally.inputs += len(images)
    return tally.scores()


def spread(loader: Loader, count: int | None) -> Iterator[tuple[Batch, Tensor]]:
    """An evaluation loader's batches without padding, each with a mask [B] of the samples to be shown.

    `count` of all samples are chosen (None: all), at even distances: a split is often sorted by class.
    """
    seen, samples = 0, loader.samples
    for images, target in loader.batches(0):
        real = (target if target.dim() == 1 else target[:, 0]) != IGNORED
        batch = Batch(images[real], target[real])
        place = torch.arange(seen, seen + len(batch.target))
        seen += len(place)
        yield batch, place * min(count or samples, samples) % samples < min(count or samples, samples)


def domain_planes(target: Tensor, domains: Sequence[str]) -> Tensor:
    """Classes [B] as one-hot rows, or attributes [B, A] as they are: [B, D] floats of 0 and 1.

    Raises:
        ValueError: a class outside of the domains, or another number of attributes.
    """
    if target.dim() == 2 and target.shape[1] == len(domains):
        return target.float()
    if target.dim() == 1 and bool(((target >= 0) & (target < len(domains))).all()):
        return one_hot(target, len(domains)).float()
    got = f"{target.shape[1]} attributes" if target.dim() == 2 else f"class {int(target.max())}"
    raise ValueError(f"scores: targets must be among the {len(domains)} domains, got {got}")


def asked(own: Tensor, *, single: bool) -> Iterator[tuple[int, Tensor, Tensor]]:
    """For each domain: its index, which images are translated [B] bool, and to what, [B', D].

    Args:
        own: [B, D], the domains that the images have.
        single: they have one each, and go to every other; else each domain is flipped by itself.
    """
    for domain in range(own.shape[1]):
        rows = own[:, domain] == 0 if single else torch.ones_like(own[:, domain], dtype=torch.bool)
        wanted = torch.zeros_like(own[rows]) if single else own.clone()
        wanted[:, domain] = 1 - own[rows, domain]
        if len(wanted):
            yield domain, rows, wanted


class _Tally:
    """What is gathered over the batches."""

    def __init__(self, extractor: Extractor, domains: Sequence[str]) -> None:
        self.inputs = 0
        self.missed = torch.zeros((), dtype=torch.float64)  # sum over the translations of mean |x - x''|
        self._extractor, self._domains = extractor, tuple(domains)
        self._judges = tuple(extractor.domains) == self._domains
        self._real, self._fake = Moments(), Moments()
        self._real_of = [Moments() for _ in domains]
        self._fake_of = [Moments() for _ in domains]
        self._probabilities: list[Tensor] = []  # of the translations, where they are distributions
        self._right: dict[str, list[float]] = {"real": [0, 0], "fake": [0, 0]}  # hits, of how many

    def real(self, images: Tensor, own: Tensor, *, single: bool) -> None:
        features, probabilities = self._extractor(images)
        self._real.add(features)
        for domain, moments in enumerate(self._real_of):
            moments.add(features[(own[:, domain] == 1).to(features.device)])
        self._judge("real", probabilities, own, slice(None), single)

    def fake(self, images: Tensor, wanted: Tensor, domain: int, *, single: bool) -> None:
        features, probabilities = self._extractor(images)
        self._fake.add(features)
        self._fake_of[domain].add(features[(wanted[:, domain] == 1).to(features.device)])
        self._judge("fake", probabilities, wanted, slice(domain, domain + 1), single)
        if probabilities is not None and (single or not self._judges):
            self._probabilities.append(probabilities)

    def scores(self) -> Scores:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            distance = fid(self._real, self._fake)
        notes = [str(line.message) for line in said]
        domains, samples = {}, {}
        for name, real, fake in zip(self._domains, self._real_of, self._fake_of, strict=True):
            samples[name] = fake.count, real.count
            domains[name] = _quiet_fid(real, fake) if min(samples[name]) > 1 else None
            if domains[name] is None:
                counts = f"{fake.count} translations to it and {real.count} real images of it"
                notes.append(f"domain {name} has no FID: there are {counts}")
        known = [value for value in domains.values() if value is not None]
        inception = self._inception_score()
        return Scores(
            extractor=self._extractor.name,
            images=self._real.count,
            inputs=self.inputs,
            translations=self._fake.count,
            fid=distance,
            domain_fid=sum(known) / len(known) if known else None,
            domain_accuracy=self._percent("fake"),
            real_accuracy=self._percent("real"),
            reconstruction=float(self.missed) / self._fake.count,
            inception_score=inception[0],
            inception_std=inception[1],
            domains=domains,
            domain_samples=samples,
            notes=tuple(notes),
        )

    def _judge(self, who: str, found: Tensor | None, true: Tensor, columns: slice, single: bool) -> None:
        if found is None or not self._judges:
            return
        true = true.to(found.device)
        right = found.argmax(1) == true.argmax(1) if single else ((found > 0.5) == (true > 0.5))[:, columns]
        self._right[who][0] += float(right.sum())
        self._right[who][1] += right.numel()

    def _percent(self, who: str) -> float | None:
        right, of = self._right[who]
        return 100 * right / of if of else None

    def _inception_score(self) -> tuple[float | None, float | None]:
        if not self._probabilities:
            return None, None
        splits = SPLITS if self._fake.count >= ENOUGH else 1
        return inception_score(torch.cat(self._probabilities), splits=splits)


def _quiet_fid(real: Moments, fake: Moments) -> float:
    """Without the warning, which the FID of the whole split has said where it holds there too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fid(real, fake)


def _check_range(images: Tensor) -> None:
    if len(images) and (largest := float(images.abs().max())) > 1.001:
        raise ValueError(f"scores: images must lie in -1..1 (mean and std .5), got {largest:.3g}")
