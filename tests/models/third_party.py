"""Models as somebody wrote them who never heard of litfast."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SmallVGG(nn.Module):
    """One flat row of layers, and a classifier of three."""

    def __init__(self, widths: tuple[int, ...] = (4, 8), repeats: int = 3, classes: int = 4) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width in widths:
            for _ in range(repeats):
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                before = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Linear(before, 16), nn.ReLU(), nn.Linear(16, classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.features(x))
        return self.classifier(torch.flatten(x, 1))


class PreActBlock(nn.Module):
    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = (
            nn.BatchNorm2d(before),
            nn.Conv2d(before, width, 3, stride, padding=1, bias=False),
        )
        self.bn2, self.conv2 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.shortcut = None
        if stride != 1 or before != width:
            self.shortcut = nn.Conv2d(before, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.bn1(x))
        skip = x if self.shortcut is None else self.shortcut(out)
        return skip + self.conv2(torch.relu(self.bn2(self.conv1(out))))


class PreActResNet(nn.Module):
    """All blocks in one list, which changes width and resolution on the way."""

    def __init__(self, blocks: int = 2, classes: int = 4, channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 8, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList()
        before = 8
        for width, stride in ((8, 1), (16, 2), (32, 2)):
            for at in range(blocks):
                self.blocks.append(PreActBlock(before, width, stride if at == 0 else 1))
                before = width
        self.bn = nn.BatchNorm2d(before)
        self.fc = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        for block in self.blocks:
            x = block(x)
        return self.fc(torch.relu(self.bn(x)).mean((2, 3)))


class PatchTransformer(nn.Module):
    """torch's own encoder over patches of an image."""

    def __init__(self, layers: int = 6, classes: int = 4, channels: int = 3, width: int = 8) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, width, 4, 4)
        layer = nn.TransformerEncoderLayer(width, 2, 16, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(
            layer, layers, norm=nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.fc(self.encoder(x).mean(1))


class Branching(nn.Module):
    """Looks at its input before it decides what to do, which torch.fx cannot follow."""

    def __init__(self, width: int = 8, classes: int = 4, channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1)
        self.layers = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x))
        for layer in self.layers:
            if bool(x.mean() > -1):
                x = torch.relu(layer(x))
        return self.fc(x.mean((2, 3)))


class Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.output = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))

    def forward(
        self, hidden: Tensor, mask: Tensor | None = None, output_attentions: bool = False
    ) -> tuple[Tensor, ...]:
        attended, weights = self.attention(hidden, hidden, hidden, key_padding_mask=mask)
        hidden = self.output(hidden + attended)
        return (hidden, weights) if output_attentions else (hidden,)


class Encoder(nn.Module):
    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(width) for _ in range(layers))

    def forward(
        self, hidden: Tensor, attention_mask: Tensor | None = None, output_attentions: bool = False
    ) -> Tensor:
        for layer in self.layer:
            hidden = layer(hidden, attention_mask, output_attentions=output_attentions)[0]
        return hidden


class TextClassifier(nn.Module):
    """Keyword inputs, optional ones, and layers that return tuples, as in Hugging Face's models."""

    def __init__(self, layers: int = 4, classes: int = 4, alphabet: int = 11, width: int = 8) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(alphabet, width)
        self.encoder = Encoder(layers, width)
        self.classifier = nn.Linear(width, classes)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool = False,
    ) -> Tensor:
        hidden = self.embeddings(input_ids)
        ignored = None if attention_mask is None else attention_mask == 0
        hidden = self.encoder(hidden, ignored, output_attentions=output_attentions)
        if labels is not None:
            raise NotImplementedError
        return self.classifier(hidden[:, 0])


def vgg(classes: int, repeats: int = 3) -> nn.Module:
    return SmallVGG(classes=classes, repeats=repeats)


def preact(classes: int, channels: int, blocks: int = 2) -> nn.Module:
    return PreActResNet(blocks, classes, channels)


def transformer(classes: int, channels: int, layers: int = 6, width: int = 8) -> nn.Module:
    return PatchTransformer(layers, classes, channels, width)


def branching(classes: int, channels: int, width: int = 8) -> nn.Module:
    return Branching(width, classes, channels)


def text(classes: int, alphabet: int) -> nn.Module:
    return TextClassifier(classes=classes, alphabet=alphabet)
