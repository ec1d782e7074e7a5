"""The LeNets of the pruning papers, with the layer names of Caffe's examples."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class LeNet300(nn.Module):
    """LeNet-300-100: three fully connected layers, 266,610 parameters on MNIST.

    Args:
        classes: width of the output, K.
        channels: of the input images.
        size: (H, W) of the input images.

    Raises:
        ValueError: a count below 1.

    Source: LeCun, Bottou, Bengio, Haffner, Gradient-Based Learning Applied to Document Recognition (1998).
    """

    def __init__(self, *, classes: int = 10, channels: int = 1, size: Sequence[int] = (28, 28)) -> None:
        super().__init__()
        _check("LeNet300", classes, channels, size, smallest=1)
        self.ip1 = nn.Linear(channels * size[0] * size[1], 300)
        self.ip2 = nn.Linear(300, 100)
        self.ip3 = nn.Linear(100, classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W] -> [B, K]
        x = F.relu(self.ip2(F.relu(self.ip1(x.flatten(1)))))
        logits: Tensor = self.ip3(x)
        return logits


class LeNet5(nn.Module):
    """LeNet-5 as Caffe has it: two convolutions with max pooling, two linear layers; 431,080 parameters.

    Between the convolutions lies no ReLU.

    Args:
        classes: width of the output, K.
        channels: of the input images.
        size: (H, W) of the input images, each at least 16.

    Raises:
        ValueError: a count below 1, images that are too small.

    Source: Caffe, examples/mnist/lenet.prototxt; the network of Deep Compression's tables 3 and 4.
    """

    def __init__(self, *, classes: int = 10, channels: int = 1, size: Sequence[int] = (28, 28)) -> None:
        super().__init__()
        _check("LeNet5", classes, channels, size, smallest=16)
        height, width = (((side - 4) // 2 - 4) // 2 for side in size)
        self.conv1 = nn.Conv2d(channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.ip1 = nn.Linear(50 * height * width, 500)
        self.ip2 = nn.Linear(500, classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W] -> [B, K]
        x = F.max_pool2d(self.conv1(x), 2)
        x = F.max_pool2d(self.conv2(x), 2)
        logits: Tensor = self.ip2(F.relu(self.ip1(x.flatten(1))))
        return logits


def _check(who: str, classes: int, channels: int, size: Sequence[int], *, smallest: int) -> None:
    if classes < 1 or channels < 1:
        raise ValueError(f"{who}: classes and channels must be at least 1, got {classes} and {channels}")
    if len(size) != 2 or min(size) < smallest:
        raise ValueError(f"{who}: size must be two numbers of at least {smallest}, got {list(size)}")


def _initialise(model: nn.Module) -> None:
    """Caffe's: Xavier's uniform weights, biases of zero."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.get_parameter("bias"))
