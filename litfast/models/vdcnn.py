"""VDCNN of Conneau et al.: very deep convolutions over the characters of a text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

WIDTHS = (64, 128, 256, 512)
EMBEDDING = 16
KEPT = 8  # positions that k-max pooling keeps, k
HIDDEN = 2048
SHORTEST = 57  # characters: three halvings, rounded up, leave KEPT positions


class ConvBlock(nn.Module):
    """Two convolutions of width 3: relu(bn2(conv2(relu(bn1(conv1(x)))))); no shortcut."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(channels_in, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm1d(channels)
        self.conv2 = nn.Conv1d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm1d(channels)

    def forward(self, x: Tensor) -> Tensor:  # [B, C, L] -> [B, C', L]
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)))


class KMaxPool(nn.Module):
    """The k largest values of each channel, in the order in which they stand in the text.

    Of equal values, such as the zeros of a ReLU, it keeps the first, so that every device and ONNX agree.
    """

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def forward(self, x: Tensor) -> Tensor:  # [B, C, L] -> [B, C, k]
        # topk would leave open which of equal values it takes
        largest = x.sort(dim=2, descending=True, stable=True).indices[..., : self.k]
        places = largest.sort(dim=2).values
        return x.gather(2, places)


class VDCNN(nn.Module):
    """VDCNN for texts of one window: a convolution, four sections, k-max pooling, three linear layers.

    The pool between two sections (width 3, stride 2, padding 1) halves the length, rounded up, so a section's
    blocks have one length: 1014, 507, 254, 127 characters. The names count the convolutions: VDCNN-9 has one
    in the stem and two in each block, and three linear layers besides (`depth` gives 12).

    Choices where the paper is silent, as in LIT's released code: the stem's convolution has no bias and no
    batch norm; convolutions start from He's normal distribution (the paper), linear layers and the embedding
    from torch's own; k-max pooling keeps the order of the positions. Id 0, the padding, is embedded and
    trained like any character: where a text ends is then something that the filters can learn.

    Args:
        blocks: convolutional blocks in each of the four sections.
        classes: width of the output, K.
        alphabet: ids are below it; 0 is the padding, 1 an unknown character.

    Raises:
        ValueError: a count below 1, an alphabet below 2. The forward pass: ids that are not int64 (or int32)
            of shape [B, L] with L at least 57, which leaves k-max pooling its 8 positions.

    Source: Conneau et al., Very Deep Convolutional Networks for Text Classification (2016), without shortcuts
    and with max pooling.
    """

    def __init__(self, blocks: Sequence[int], *, classes: int = 10, alphabet: int = 69) -> None:
        super().__init__()
        _check(blocks, classes, alphabet)
        self.embedding = nn.Embedding(alphabet, EMBEDDING)
        self.conv1 = nn.Conv1d(EMBEDDING, WIDTHS[0], 3, padding=1, bias=False)
        self.section1 = _section(WIDTHS[0], WIDTHS[0], blocks[0])
        self.section2 = _section(WIDTHS[0], WIDTHS[1], blocks[1])
        self.section3 = _section(WIDTHS[1], WIDTHS[2], blocks[2])
        self.section4 = _section(WIDTHS[2], WIDTHS[3], blocks[3])
        self.pool = nn.MaxPool1d(3, stride=2, padding=1)
        self.kmax = KMaxPool(KEPT)
        self.fc1 = nn.Linear(WIDTHS[3] * KEPT, HIDDEN)
        self.fc2 = nn.Linear(HIDDEN, HIDDEN)
        self.fc3 = nn.Linear(HIDDEN, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv1d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, ids: Tensor) -> Tensor:  # [B, L] -> [B, K]
        x = self.conv1(self.embedding(checked_ids(ids)).transpose(1, 2))
        x = self.section2(self.pool(self.section1(x)))
        x = self.section4(self.pool(self.section3(self.pool(x))))
        x = self.kmax(x).flatten(1)
        logits: Tensor = self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))
        return logits


@fx.wrap  # one call in a traced forward: torch.fx could not follow the comparisons
def checked_ids(ids: Tensor) -> Tensor:
    """`ids` as they are, once their dtype and shape fit; reads no values."""
    if ids.dtype not in (torch.int64, torch.int32) or ids.dim() != 2:
        raise ValueError(f"VDCNN: ids must be int64 [B, L], got {ids.dtype} {list(ids.shape)}")
    if ids.shape[1] < SHORTEST:
        raise ValueError(f"VDCNN: texts must be at least {SHORTEST} characters long, got {ids.shape[1]}")
    return ids


def _section(channels_in: int, channels: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(
        ConvBlock(channels_in, channels), *(ConvBlock(channels, channels) for _ in range(blocks - 1))
    )


def _check(blocks: Sequence[int], classes: int, alphabet: int) -> None:
    if len(blocks) != 4 or min(blocks) < 1:
        raise ValueError(f"VDCNN: blocks must be four counts of at least 1, got {list(blocks)}")
    if classes < 1:
        raise ValueError(f"VDCNN: classes must be at least 1, got {classes}")
    if alphabet < 2:
        raise ValueError(f"VDCNN: alphabet must be at least 2, got {alphabet}")
