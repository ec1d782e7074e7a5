"""Born-Again Networks (Furlanello, Lipton, Tschannen, Itti, Anandkumar; ICML 2018)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from litfast.data.loader import IGNORED
from litfast.methods._draws import outside
from litfast.methods._kd import Seen, distill_phase, watch
from litfast.models.inference import Observer
from litfast.models.sectioned import SectionedModel
from litfast.phase import Branch, Losses, Phase, Schedule
from litfast.registry import unknown

VARIANTS = ("ban", "ban+l", "cwtm", "dkpp")


def ban(
    teacher: SectionedModel,
    student: SectionedModel,
    *,
    distill: Schedule,
    variant: str = "ban",
    observer: Observer | None = None,
) -> Iterator[Phase]:
    """Train one generation: a network like its teacher, from fresh weights, on the teacher's predictions.

    With q = softmax(z_S), p = softmax(z_T), no temperature, and the labels y, the loss is

        ban    mean_batch CE(p, q)
        ban+l  mean_batch [ CE(p, q) + CE(y, q) ]
        cwtm   sum_s w_s CE(y_s, q_s),   w_s = max(p_s) / sum_u max(p_u)      (s, u over the batch)
        dkpp   mean_batch CE(permuted p, q): all but the largest entry of p in a random order, a new one for
               every sample and every batch

    Samples whose target is -100 (padding) count nowhere. `chain` makes the generations after the first.

    Args:
        teacher: the generation before, frozen; only its logits are used.
        student: a network with the teacher's classes, all of it trains; an identical one in the paper.
        distill: schedule of the only phase, in the paper the teacher's own.
        variant: one of the four losses above. `cwtm` keeps of the teacher its confidence alone, `dkpp` all
            but what it knows of the single other classes.
        observer: how the teacher is run, e.g. `Inference(teacher)`; None: as it is.

    Raises:
        ValueError: an unknown variant.

    Source: Born-Again Neural Networks, section 3 (ban, ban+l) and section 3.2 (cwtm, dkpp).
    """
    if variant not in VARIANTS:
        raise ValueError(f"ban: {unknown('variant', variant, VARIANTS)}")
    observer = observer or teacher
    if variant == "cwtm":
        yield _weighted_phase(teacher, student, distill, observer)
        return
    labels = variant == "ban+l"
    yield distill_phase(
        "distill",
        teacher,
        student,
        (student,),
        distill,
        alpha=0.5 if labels else 0.0,
        tau=1.0,
        soft="ce",
        label_smoothing=0.0,
        loss_scale=2.0 if labels else 1.0,
        observer=_Permuting(observer, outside(permuted)) if variant == "dkpp" else observer,
    )


def confidence_weights(teacher_logits: Tensor, target: Tensor) -> Tensor:
    """The weight of each sample in a batch: w_s = max softmax(z_s) / sum_u max softmax(z_u).

    Args:
        teacher_logits: [B, K].
        target: [B]; a sample whose target is -100 has weight 0 and is not in the sum.

    Returns:
        [B], of sum 1 (0 where every sample is padding), at least fp32.
    """
    wide = torch.promote_types(teacher_logits.dtype, torch.float32)
    largest = teacher_logits.softmax(-1, dtype=wide).amax(-1) * (target != IGNORED)
    return largest / largest.sum().clamp_min(torch.finfo(wide).tiny)


def permuted(logits: Tensor) -> Tensor:
    """Each row with all but its largest entry in a random order, from torch's generator on the device.

    A permutation of logits is that of their softmax.

    Args:
        logits: [..., K].
    """
    # keys of float32 whatever the logits' dtype: bf16 has so few values that ties would favour the old order
    keys = torch.rand(logits.shape, device=logits.device)
    places = torch.arange(logits.shape[-1], device=logits.device).expand_as(logits)
    largest = logits.argmax(-1, keepdim=True)
    # both lists open with the largest entry; behind it one has the others in a random order, one in their own
    drawn = keys.scatter(-1, largest, -1).argsort(-1)
    others = places.scatter(-1, largest, -1).argsort(-1)
    return torch.empty_like(logits).scatter(-1, others, logits.gather(-1, drawn))


@dataclass(frozen=True, slots=True)
class _Permuting:
    """An observer whose logits are permuted; the IRs stay."""

    observer: Observer
    permute: Callable[[Tensor], Tensor]

    @property
    def sections(self) -> Sequence[nn.Module]:
        return self.observer.sections

    def observe(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        irs, logits = self.observer.observe(x)
        return irs, self.permute(logits)

    def span(self, x: Tensor, start: int, last: int, ir: Tensor | None = None) -> list[Tensor]:
        return self.observer.span(x, start, last, ir)


def _weighted_phase(
    teacher: SectionedModel, student: SectionedModel, schedule: Schedule, observer: Observer
) -> Phase:
    def loss(seen: Seen) -> Losses:
        logits = student(seen.images)
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        rows = cross_entropy(wide, seen.target, ignore_index=IGNORED, reduction="none")
        hard = rows.detach().sum() / (seen.target != IGNORED).sum().clamp_min(1)
        weighted = (confidence_weights(seen.logits, seen.target) * rows).sum()
        correct = (logits.detach().argmax(-1) == seen.target).sum()
        return {"loss": weighted, "hard": hard, "correct": correct}

    params = tuple(student.parameters())
    return Phase(
        name="distill",
        model=student,
        observe=lambda batch: watch(observer, batch),
        branches=(Branch(name="student", params=params, loss=loss, schedule=schedule),),
        trains=(student,),
        frozen=(teacher,),
    )
