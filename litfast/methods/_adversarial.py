"""Adversarial training of an image-to-image translator between domains: StarGAN (Choi et al., CVPR 2018)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from litfast.data.loader import Batch
from litfast.methods._draws import outside
from litfast.models.stargan import with_domain
from litfast.phase import Branch, Losses, Phase, Schedule

Loss = Callable[["Translation"], Losses]


class Translation(NamedTuple):
    """A batch, and the domain that each of its images is to be moved to."""

    images: Tensor  # [B, C, H, W]
    target: Tensor  # labels of the images: [B] classes, or [B, D] attributes
    goal: Tensor  # labels to translate to, of the same kind


def adversarial(
    student: nn.Module,
    discriminator: nn.Module,
    *,
    train: Schedule,
    domains: int,
    lambda_cls: float = 1.0,
    lambda_rec: float = 10.0,
    lambda_gp: float = 10.0,
    critic_steps: int = 5,
    name: str = "train",
) -> Iterator[Phase]:
    """Train a generator G against a discriminator (r, c): realness map r and domain logits c.

    x are images with labels y; y' are the batch's own labels in random order, the domains to translate to.

        L_D = -mean r(x) + mean r(G(x, y')) + lambda_cls L_cls(c(x), y)
              + lambda_gp mean_batch (|d sum r(z) / dz|_2 - 1)^2,  z = a x + (1 - a) G(x, y'), a ~ U(0, 1)
        L_G = -mean r(G(x, y')) + lambda_cls L_cls(c(G(x, y')), y')
              + lambda_rec mean |x - G(G(x, y'), y)|

    L_cls is the mean over the batch of the cross-entropy for classes, and of the sum over all attributes of
    the binary cross-entropy for attributes. With `accumulate` the labels change places within each part of
    the batch.

    Args:
        student: the generator, [B, C + D, H, W] (see `with_domain`) -> [B, C, H, W].
        discriminator: [B, C, H, W] -> (realness, any shape; domain logits [B, D]).
        train: schedule of both; the published one is Adam with betas (.5, .999), no weight decay and a
            learning rate of 1e-4 that falls linearly in the second half.
        domains: D, the number of classes or of attributes.
        lambda_cls, lambda_rec, lambda_gp: weights of domain classification, reconstruction and penalty.
        critic_steps: the discriminator trains at every step, the generator at every n-th one, the first
            included (the released code begins with the n-th).
        name: name of the phase.

    Raises:
        ValueError: an option out of its range; targets or domain logits that are not of D domains.

    Source: Choi et al., "StarGAN", CVPR 2018, equations 1 to 8; released code (yunjey/stargan).
    """
    if critic_steps < 1:
        raise ValueError(f"adversarial: critic_steps must be at least 1, got {critic_steps}")
    check_options("adversarial", domains, cls=lambda_cls, rec=lambda_rec, gp=lambda_gp)
    critic = Branch(
        name="discriminator",
        params=tuple(discriminator.parameters()),
        loss=discriminator_loss(student, discriminator, domains, lambda_cls=lambda_cls, lambda_gp=lambda_gp),
        schedule=train,
    )
    translator = Branch(
        name="generator",
        params=tuple(student.parameters()),
        loss=generator_loss(student, discriminator, domains, lambda_cls=lambda_cls, lambda_rec=lambda_rec),
        schedule=train,
        every=critic_steps,
        after=("discriminator",),
    )
    yield Phase(
        name=name,
        model=nn.ModuleDict({"generator": student, "discriminator": discriminator}),
        observe=outside(draw),
        branches=(critic, translator),
        trains=(student, discriminator),
    )


def draw(batch: Batch) -> Translation:
    """Give every image the label of a random one of the batch, without asking the device."""
    order = torch.rand(len(batch.images), device=batch.images.device).argsort()
    return Translation(batch.images, batch.target, batch.target[order])


def translate(generator: nn.Module, images: Tensor, labels: Tensor, domains: int) -> Tensor:
    """The generator's images [B, C, H, W] in the domains that the labels say."""
    translated: Tensor = generator(with_domain(images, planes(labels, domains)))
    return translated


def planes(labels: Tensor, domains: int) -> Tensor:
    """Labels as one number a domain, [B, D]: attributes as they are, classes as one-hot rows.

    Raises:
        ValueError: attributes of another number of domains.
    """
    if labels.ndim == 1:  # one_hot would read the labels on the host
        return labels[:, None] == torch.arange(domains, device=labels.device)
    if labels.ndim != 2 or labels.shape[1] != domains:
        raise ValueError(
            f"adversarial: target must be classes [B] or attributes [B, {domains}], got {list(labels.shape)}"
        )
    return labels


def discriminator_loss(
    generator: nn.Module, discriminator: nn.Module, domains: int, *, lambda_cls: float, lambda_gp: float
) -> Loss:
    """L_D of `adversarial`; the parts are real = -mean r(x), fake = mean r(G(x, y')), cls, gp."""
    penalty = torch.compiler.disable(gradient_penalty)  # compiled code cannot be differentiated twice

    def loss(seen: Translation) -> Losses:
        realness, logits = discriminator(seen.images)
        real, cls = -_full(realness).mean(), domain_loss(logits, seen.target, domains)
        with torch.no_grad():
            translated = translate(generator, seen.images, seen.goal, domains)
        fake = _full(discriminator(translated)[0]).mean()
        gp = penalty(discriminator, seen.images, translated)
        total = real + fake + lambda_cls * cls + lambda_gp * gp
        return {"loss": total, **_detached(real=real, fake=fake, cls=cls, gp=gp)}

    return loss


def generator_loss(
    generator: nn.Module, discriminator: nn.Module, domains: int, *, lambda_cls: float, lambda_rec: float
) -> Loss:
    """L_G of `adversarial`; the parts are fake = -mean r(G(x, y')), cls, rec."""

    def loss(seen: Translation) -> Losses:
        translated = translate(generator, seen.images, seen.goal, domains)
        realness, logits = discriminator(translated)
        fake, cls = -_full(realness).mean(), domain_loss(logits, seen.goal, domains)
        back = translate(generator, translated, seen.target, domains)
        rec = _full(seen.images - back).abs().mean()
        total = fake + lambda_rec * rec + lambda_cls * cls
        return {"loss": total, **_detached(fake=fake, cls=cls, rec=rec)}

    return loss


def gradient_penalty(discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """WGAN-GP: mean_batch (|d sum r(z) / dz|_2 - 1)^2 at z = a real + (1 - a) fake, one a ~ U(0, 1) a sample.

    Args:
        discriminator: images -> (realness r, domain logits); no sample may depend on another (batch norm).
        real, fake: [B, C, H, W], without gradient.

    Source: Gulrajani et al., "Improved training of Wasserstein GANs", 2017, equation 3.
    """
    share = torch.rand(len(real), 1, 1, 1, dtype=real.dtype, device=real.device)
    mixed = (share * real + (1 - share) * fake).requires_grad_()
    realness, _ = discriminator(mixed)
    (slope,) = torch.autograd.grad(realness.sum(), mixed, create_graph=True)
    return (_full(slope).flatten(1).norm(dim=1) - 1).square().mean()


def domain_loss(logits: Tensor, labels: Tensor, domains: int) -> Tensor:
    """L_cls of `adversarial`: logits [B, D], labels [B] or [B, D]."""
    if logits.shape != (len(labels), domains):
        raise ValueError(
            f"adversarial: discriminator must return domain logits {[len(labels), domains]}, "
            f"got {list(logits.shape)}"
        )
    logits = _full(logits)
    if labels.ndim == 1:
        return cross_entropy(logits, labels)
    wanted = planes(labels, domains).to(logits.dtype)
    return binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / len(labels)


def check_options(who: str, domains: int, **lambdas: float) -> None:
    """Refuse what no run can use, in the name of the method `who`."""
    if domains < 1:
        raise ValueError(f"{who}: domains must be at least 1, got {domains}")
    for name, value in lambdas.items():
        if not 0 <= value < float("inf"):
            raise ValueError(f"{who}: lambda_{name} must be 0 or more and finite, got {value}")


def check_labels(labels: Tensor, domains: int) -> None:
    """Refuse a data set's labels that do not fit: read on the host, so before training.

    Args:
        labels: of all samples, [N] classes or [N, D] attributes.

    Raises:
        ValueError: no class from 0 to D - 1, another number of attributes, an attribute that is not 0 or 1,
            or a domain without samples, which nothing could be translated to.
    """
    if labels.ndim == 1:
        wrong = labels[(labels < 0) | (labels >= domains)]
        rule = f"labels must be classes from 0 to {domains - 1}"
    else:
        wrong = labels[(labels != 0) & (labels != 1)]
        rule = "labels must be attributes of 0 or 1"
    if len(wrong):
        raise ValueError(f"adversarial: {rule}, got {wrong[0].item()}")
    empty = (~planes(labels, domains).bool().any(0)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"adversarial: labels must have a sample of every domain, got none of {empty}")


def _full(value: Tensor) -> Tensor:
    """In fp32 at least: losses are not taken in half precision."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def _detached(**parts: Tensor) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in parts.items()}
