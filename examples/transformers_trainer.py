"""Knowledge distillation in a Hugging Face Trainer: `python examples/transformers_trainer.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import Dataset
from transformers import EvalPrediction, Trainer, TrainingArguments

import litfast
from litfast.data import sets

Rows = list[dict[str, Any]] | Dataset[dict[str, Any]]


def trainer(
    teacher: nn.Module, student: nn.Module, train: Rows, test: Rows, out: Path, **arguments: Any
) -> Trainer:
    """A Trainer whose model is the method: its forward takes "images" and "target", so rows name these."""
    distiller = litfast.Distiller(litfast.methods.kd, teacher, student, tau=4.0, alpha=0.1)
    args = TrainingArguments(output_dir=str(out), label_names=["target"], report_to="none", **arguments)
    return Trainer(distiller, args, train_dataset=train, eval_dataset=test, compute_metrics=accuracy)


def accuracy(found: EvalPrediction) -> dict[str, float]:
    right = found.predictions.argmax(-1) == found.label_ids
    return {"accuracy": 100 * float(right.mean())}


def main() -> None:
    digits = sets.load("digits")
    train, test = (
        [
            {"images": image / 255, "target": label}
            for image, label in zip(split.images, split.labels, strict=True)
        ]
        for split in (digits.train, digits.test)
    )
    teacher, student = litfast.create("resnet14", channels=1), litfast.create("resnet8", channels=1)
    # load the teacher's weights here: litfast.models.load_weights(teacher, FILE)
    out = Path("runs/transformers")
    options = {"num_train_epochs": 4, "learning_rate": 1e-3, "per_device_train_batch_size": 64}
    made = trainer(teacher, student, train, test, out, **options)
    made.train()
    print(made.evaluate())


if __name__ == "__main__":
    main()
