"""LIT in a plain PyTorch loop, its two phases one after the other: `python examples/plain_loop.py`."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import litfast
from litfast.data import sets


def train(
    distiller: litfast.Distiller, batches: Iterable[tuple[Tensor, Tensor]], *, epochs: int, lr: float
) -> None:
    """`epochs` of every phase."""
    for phase in distiller.phases():
        optimizer = torch.optim.SGD(distiller.parameters(), lr=lr, momentum=0.9)
        for epoch in range(epochs):
            for images, target in batches:
                losses = distiller(images, target)
                losses["loss"].backward()
                optimizer.step()
                optimizer.zero_grad()
            print(phase, epoch + 1, f"{losses['loss'].item():.4f}")


def main() -> None:
    digits = sets.load("digits")
    train_set = TensorDataset(digits.train.images / 255, digits.train.labels)
    batches = DataLoader(train_set, batch_size=64, shuffle=True, drop_last=True)
    teacher = litfast.create("resnet14", channels=1)
    train(litfast.Distiller(litfast.methods.scratch, teacher), batches, epochs=8, lr=0.1)

    student = litfast.create("resnet8", channels=1)
    options = {"alpha": 0.0, "beta": 0.0, "tau": 4.0, "student_init": "teacher"}
    train(litfast.Distiller(litfast.methods.lit, teacher, student, **options), batches, epochs=4, lr=0.05)

    student.eval()
    with torch.no_grad():
        right = student(digits.test.images / 255).argmax(-1) == digits.test.labels
    print(f"student: {100 * right.float().mean():.2f} % of the test images")


if __name__ == "__main__":
    main()
