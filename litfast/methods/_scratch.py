"""Plain training on labels: what every distilled student is compared with, and how a teacher is made."""

from __future__ import annotations

from collections.abc import Iterator

from torch.nn.functional import cross_entropy

from litfast.carried import carried
from litfast.data.loader import Batch
from litfast.models.sectioned import SectionedModel
from litfast.phase import Branch, Losses, Phase, Schedule


def scratch(
    student: SectionedModel, *, train: Schedule, label_smoothing: float = 0.0, name: str = "train"
) -> Iterator[Phase]:
    """Cross-entropy on the labels: L = mean_batch CE(target, softmax(z_S)); LIT with alpha = 1 and beta = 1.

    Args:
        student: the model to train, all of it.
        train: schedule of the only phase.
        label_smoothing: as in `torch.nn.functional.cross_entropy`.
        name: name of the phase.
    """

    def loss(batch: Batch) -> Losses:
        logits = student(batch.images)
        rows, target = logits.float().flatten(0, -2), batch.target.flatten()  # words are [B, T]
        hard = cross_entropy(rows, target, label_smoothing=label_smoothing)
        correct = (rows.detach().argmax(-1) == target).sum()
        return {"loss": hard, "hard": hard.detach(), "correct": correct}

    everything = tuple(student.parameters())
    branch = Branch(name="student", params=everything, loss=loss, schedule=train, state=carried(student))
    yield Phase(name=name, model=student, observe=lambda batch: batch, branches=(branch,), trains=(student,))
