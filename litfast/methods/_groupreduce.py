"""GroupReduce: embedding and softmax of a language model in blocks of low rank, then fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from litfast.methods._kd import distill_phase
from litfast.models import low_rank
from litfast.models.inference import Observer
from litfast.models.sectioned import SectionedModel
from litfast.phase import Phase, Schedule


def groupreduce(
    teacher: SectionedModel,
    student: SectionedModel,
    *,
    finetune: Schedule,
    counts: Tensor | None,
    compression: float = 10.0,
    blocks: int = 5,
    weighted: bool = True,
    refine: bool = True,
    bits: int = 32,
    alpha: float = 1.0,
    tau: float = 1.0,
    observer: Observer | None = None,
) -> Iterator[Phase]:
    """Compress a language model's two largest matrices by how often each word is used.

        1. The words, by falling count, are cut into blocks of equal shares of the text.
        2. Block p gets the rank r_p = min(n_p, d, floor(r_min f_p / f_min)), f_p its mean count, with the
           largest r_min that meets the budget, and the weighted singular value decomposition of that rank.
        3. Words move to the block that reconstructs them best, while the weighted error falls.
        4. The whole model is fine-tuned by alpha CE(target, p_S) + (1 - alpha) tau^2 CE(p_T(tau), p_S(tau)).
        5. With 8 bits the factors are rounded.

    The phases are "finetune" and, with 8 bits, "quantised", which trains nothing; what the model is before
    "finetune" is the compressed teacher.

    Args:
        teacher: the model before, frozen; with an `embedding` (nn.Embedding) and a `softmax` (nn.Linear).
        student: the same network, which becomes the teacher's compressed copy.
        finetune: schedule of the retraining; 0 epochs leave the compressed model as it is.
        counts: how often each word is in the training text, [V] whole numbers.
        compression: fp32 bytes of a matrix before by those after it; 8 bits come on top, for about four
            times as much. Tied matrices are compressed once.
        blocks: of words; 1, with `weighted` off, is the plain singular value decomposition.
        weighted: whether a word's error counts as often as the word.
        refine: whether words move between blocks.
        bits: 32, or 8: a byte a number of the factors, and a scale a direction.
        alpha: weight of the hard-label term; 1 fine-tunes on the text alone.
        tau: temperature of the soft term.
        observer: how the teacher is run, e.g. `Inference(teacher)`; None: as it is.

    Raises:
        ValueError: data without counts, a student of another network, fewer words than blocks, a budget
            below the smallest possible.

    Source: Chen, Si, Li, Chelba, Hsieh, "GroupReduce: block-wise low-rank approximation for neural language
    model shrinking", NeurIPS 2018, sections 3.1 to 3.3, algorithm 1.
    """
    _check(teacher, student, counts, compression, bits)
    assert counts is not None
    student.become(
        low_rank.compressed(
            teacher, counts, compression=compression, blocks=blocks, weighted=weighted, refine=refine
        )
    )
    phase = distill_phase(
        "finetune",
        teacher,
        student,
        (student,),
        finetune,
        alpha=alpha,
        tau=tau,
        soft="ce",
        label_smoothing=0.0,
        loss_scale=1.0,
        observer=observer or teacher,
    )
    yield phase
    if bits == 8:
        low_rank.quantise(student)
        (branch,) = phase.branches
        params = tuple(p for p in student.parameters() if p.is_floating_point())
        ended = replace(branch, params=params, schedule=replace(finetune, epochs=0, patience=0))
        yield replace(phase, name="quantised", branches=(ended,))


def _check(
    teacher: SectionedModel, student: SectionedModel, counts: Tensor | None, compression: float, bits: int
) -> None:
    if counts is None:
        raise ValueError("groupreduce: the data must count its words, got a set without counts")
    if teacher.spec != student.spec:
        raise ValueError(
            f"groupreduce: student must be the teacher's network {teacher.spec}, got {student.spec}"
        )
    if not compression > 0:
        raise ValueError(f"groupreduce: compression must be positive, got {compression}")
    if bits not in (8, 32):
        raise ValueError(f"groupreduce: bits must be 8 or 32, got {bits}")
