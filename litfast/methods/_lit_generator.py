"""LIT for image-to-image generators (StarGAN): the bottleneck from the teacher, the ends against a critic."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import nn

from litfast.data.loader import Batch
from litfast.methods._adversarial import check_options, draw, generator_loss, planes
from litfast.methods._draws import outside
from litfast.methods._kd import Seen
from litfast.methods._lit import sections_phase
from litfast.models.inference import Observer
from litfast.models.sectioned import SectionedModel
from litfast.models.stargan import with_domain
from litfast.phase import Branch, Phase, Schedule


def lit_generator(
    teacher: SectionedModel,
    student: SectionedModel,
    discriminator: nn.Module,
    *,
    sections: Schedule,
    finetune: Schedule,
    domains: int,
    penalty: str = "l2",
    student_init: str = "random",
    noise: float = 0.0,
    lambda_cls: float = 1.0,
    lambda_rec: float = 10.0,
    observer: Observer | None = None,
) -> Iterator[Phase]:
    """Train a generator shallower than the teacher: LIT with beta = 0, then against the discriminator.

    Phase "sections" is LIT's: stem (down-sampling) and head (up-sampling) are the teacher's, copied and
    frozen; each section, in StarGAN the bottleneck alone, learns the teacher's output from the teacher's
    input, on images that are given the domains of random images of the batch. There are no logits to distil,
    hence beta = 0. Phase "finetune" trains stem and head by L_G of `adversarial`; sections and discriminator
    stay as they are.

    Args:
        teacher, student: generators sectioned alike, [B, C + D, H, W] -> [B, C, H, W].
        discriminator: the one that the teacher was trained against.
        sections, finetune: schedules of the two phases.
        domains: D, the number of classes or of attributes.
        penalty: l2 | l1 | smooth_l1 between section outputs.
        student_init: "random" (the paper's), or "teacher": evenly spaced blocks of each teacher section.
        noise: standard deviation of Gaussian noise on the sections' IR input.
        lambda_cls, lambda_rec: as in `adversarial`.
        observer: how the teacher is run, e.g. `Inference(teacher)`; None: as it is.

    Raises:
        ValueError: an option out of its range, or models that do not pair up.

    Source: LIT paper, section on GANs.
    """
    check_options("lit_generator", domains, cls=lambda_cls, rec=lambda_rec)
    first = sections_phase(
        "lit_generator",
        teacher,
        student,
        sections,
        names=student.names,
        kd={"beta": 0.0},
        penalty=penalty,
        student_init=student_init,
        noise=noise,
        bn_stats="ir",  # generators keep no statistics: an own path would be run for nothing
        observer=observer or teacher,
    )

    drawn = outside(draw)

    def observe(batch: Batch) -> Seen:
        images, target, goal = drawn(batch)
        seen: Seen = first.observe(Batch(with_domain(images, planes(goal, domains)), target))
        return seen

    yield replace(first, observe=observe)
    ends = (student.stem, student.head)
    branch = Branch(
        name="generator",
        params=tuple(parameter for end in ends for parameter in end.parameters()),
        loss=generator_loss(student, discriminator, domains, lambda_cls=lambda_cls, lambda_rec=lambda_rec),
        schedule=finetune,
    )
    yield Phase(
        name="finetune",
        model=student,
        observe=drawn,
        branches=(branch,),
        trains=ends,
        frozen=(discriminator,),
    )
