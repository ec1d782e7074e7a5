"""Knowledge distillation in a Lightning module: `python examples/lightning_module.py`."""

from __future__ import annotations

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import litfast
from litfast.data import sets


class Distillation(lightning.LightningModule):
    """The teacher is frozen and in no checkpoint; the student is `self.distiller.model`."""

    def __init__(self, teacher: nn.Module, student: nn.Module) -> None:
        super().__init__()
        self.distiller = litfast.Distiller(litfast.methods.kd, teacher, student, tau=4.0, alpha=0.1)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        losses = self.distiller(*batch)
        self.log_dict(losses)
        return losses["loss"]

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        images, target = batch
        logits = self.distiller(images, target)["logits"]
        self.log("accuracy", 100 * (logits.argmax(-1) == target).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.distiller.parameters(), lr=0.1, momentum=0.9)


def main() -> None:
    digits = sets.load("digits")
    train, test = (
        DataLoader(
            TensorDataset(split.images / 255, split.labels), batch_size=64, shuffle=split is digits.train
        )
        for split in (digits.train, digits.test)
    )
    teacher, student = litfast.create("resnet14", channels=1), litfast.create("resnet8", channels=1)
    # load the teacher's weights here: litfast.models.load_weights(teacher, FILE)
    trainer = lightning.Trainer(max_epochs=4)
    trainer.fit(Distillation(teacher, student), train, test)


if __name__ == "__main__":
    main()
