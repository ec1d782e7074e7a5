"""Models by name, and any torch model as stem, sections and head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import nn

from litfast.models.counting import depth as depth
from litfast.models.counting import macs as macs
from litfast.models.counting import parameters as parameters
from litfast.models.pairing import check_pair as check_pair
from litfast.models.pairing import copy_blocks as copy_blocks
from litfast.models.pairing import copy_ends as copy_ends
from litfast.models.resnet_cifar import ResNetCIFAR as ResNetCIFAR
from litfast.models.sectioned import SectionedModel as SectionedModel
from litfast.models.sectioned import sectioned as sectioned
from litfast.models.weights import load_weights as load_weights
from litfast.registry import Registry

Maker = Callable[..., tuple[nn.Module, tuple[str, ...]]]  # options -> the model and its sections' names

MODELS: Registry[Maker] = Registry("model")


def create(
    name: str,
    *,
    classes: int = 10,
    channels: int = 3,
    blocks: Sequence[int] | None = None,
    option: str = "A",
) -> SectionedModel:
    """A model by name, freshly initialised from torch's global generator.

    Args:
        name: one of MODELS, such as "resnet20".
        classes: width of the logits, K.
        channels: channels of the input images.
        blocks: residual blocks of each section, in place of those that the name stands for.
        option: the ResNets' shortcut, "A" (no parameters) or "B" (1x1 convolution).

    Returns:
        The model in its sections; its `spec` holds these arguments, so that `create(**spec)` makes it again.

    Raises:
        ValueError: an unknown name (the nearest known one is named) or an option that the model refuses.
    """
    chosen = None if blocks is None else list(blocks)
    model, names = MODELS[name](classes=classes, channels=channels, blocks=chosen, option=option)
    spec = dict(name=name, classes=classes, channels=channels, blocks=chosen, option=option)
    return SectionedModel(model, names, spec=spec)


def _resnet(
    per_section: int, *, classes: int, channels: int, blocks: Sequence[int] | None, option: str
) -> tuple[nn.Module, tuple[str, ...]]:
    counts = [per_section] * 3 if blocks is None else blocks
    model = ResNetCIFAR(counts, classes=classes, channels=channels, option=option)
    return model, ("layer1", "layer2", "layer3")


MODELS.update({f"resnet{6 * n + 2}": partial(_resnet, n) for n in (1, 2, 3, 5, 7, 9, 18)})
