"""Models by name, and any torch model as stem, sections and head."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from litfast.models.adapters import adapted as adapted
from litfast.models.adapters import width_maps as width_maps
from litfast.models.counting import depth as depth
from litfast.models.counting import macs as macs
from litfast.models.counting import parameters as parameters
from litfast.models.ensemble import Ensemble as Ensemble
from litfast.models.foreign import AUTO, UNCUT, foreign
from litfast.models.foreign import is_foreign as is_foreign
from litfast.models.foreign import reads as reads
from litfast.models.inputs import Input as Input
from litfast.models.lenet import LeNet5 as LeNet5
from litfast.models.lenet import LeNet300 as LeNet300
from litfast.models.low_rank import Groups, low_rank_ends
from litfast.models.lstm_lm import LSTMLM as LSTMLM
from litfast.models.maxout import WIDTHS as MAXOUT_WIDTHS
from litfast.models.maxout import Maxout as Maxout
from litfast.models.maxout import MaxoutNet as MaxoutNet
from litfast.models.pairing import check_pair as check_pair
from litfast.models.pairing import copy_blocks as copy_blocks
from litfast.models.pairing import copy_ends as copy_ends
from litfast.models.pairing import copy_model as copy_model
from litfast.models.preresnet_cifar import PreResNetCIFAR as PreResNetCIFAR
from litfast.models.resnet_cifar import ResNetCIFAR as ResNetCIFAR
from litfast.models.resnext_cifar import resnext_cifar as resnext_cifar
from litfast.models.sectioned import SectionedModel as SectionedModel
from litfast.models.sectioned import sectioned as sectioned
from litfast.models.stargan import Discriminator as Discriminator
from litfast.models.stargan import Generator as Generator
from litfast.models.stargan import with_domain as with_domain
from litfast.models.vdcnn import VDCNN as VDCNN
from litfast.models.vgg import SECTIONS
from litfast.models.vgg import VGG as VGG
from litfast.models.weights import load_weights as load_weights
from litfast.registry import Registry, unknown

Maker = Callable[..., tuple[nn.Module, tuple[str, ...]]]  # options -> the model and its sections' names

MODELS: Registry[Maker] = Registry("model")


def create(
    name: str,
    *,
    classes: int = 10,
    channels: int = 3,
    size: Sequence[int] | None = None,
    blocks: Sequence[int] | None = None,
    boundaries: str | Sequence[str] | None = None,
    adapters: Mapping[str, Any] | None = None,
    inputs: Sequence[Mapping[str, Any]] = (),
    **options: Any,
) -> SectionedModel:
    """A model by name, freshly initialised from torch's global generator.

    Args:
        name: one of MODELS, such as "resnet20", "timm:NAME" or "FILE.py:function" (see `foreign`).
        classes: width of the logits, K; of a generator, the number of its domains; of a language model, the
            words that it reads and predicts.
        channels: channels of the input images; a model of texts or words has none, its spec neither.
        size: (H, W) of the input images, for a model whose weights depend on it, such as a LeNet (which has
            28x28 without it); any other model takes images of any size, and its spec has none.
        blocks: blocks of each section, in place of those that the name stands for; a foreign model keeps so
            many, evenly spaced.
        boundaries: submodules that end the sections, as in `sectioned`; [] for no sections; "auto" or None:
            those of the family, of a foreign model the ends of its stages (see `stages.auto`), if any.
        adapters: puts its sections into another model, `around` by its spec, between `maps` of the widths, as
            `adapted` says.
        inputs: what a foreign model of several inputs reads, as `Input.listed` has it; () where it reads one.
        options: the family's own keyword arguments, such as `option` ("A" or "B") of a ResNet.

    Returns:
        The model in its sections; its `spec` holds these arguments, so that `create(**spec)` makes it again.

    Raises:
        ValueError: an unknown name or option (the nearest known one is named), or one that the model refuses.
    """
    if adapters is not None:
        own = partial(create, name, classes=classes, channels=channels, size=size, blocks=blocks)
        student = own(boundaries=boundaries, inputs=inputs, **options)
        return adapted(create(**adapters["around"]), student, adapters["maps"])
    if is_foreign(name):
        alphabet = options.pop("alphabet", None)
        read = dict(channels=channels, size=size, alphabet=alphabet, inputs=inputs)
        return foreign(name, classes=classes, blocks=blocks, boundaries=boundaries, options=options, **read)
    make = MODELS[name]
    if inputs:
        listed = ", ".join(one["name"] for one in inputs)
        raise ValueError(f"create: a model of {listed} must be FILE.py:function, got {name!r}")
    takes = inspect.signature(make).parameters
    known = [key for key in takes if key not in ("classes", "channels", "size", "blocks")]
    for key in options:
        if key not in known:
            raise ValueError(f"create: {unknown(f'option of {name}', key, known)}")
    chosen = None if blocks is None else list(blocks)
    given = dict(classes=classes, blocks=chosen, **options)
    if "channels" in takes:
        given["channels"] = channels
    if "size" in takes and size is not None:
        given["size"] = list(size)
    model, names = make(**given)
    spec = dict(name=name, **given)
    if boundaries not in (None, AUTO):
        names = tuple(boundaries or ())
        spec["boundaries"] = list(names)
    return SectionedModel(model, names, spec=spec, uncut="" if names else UNCUT)


def _resnet(
    per_section: int,
    *,
    classes: int,
    channels: int,
    blocks: Sequence[int] | None,
    option: str = "A",
    width: int = 16,
    inner: Sequence[int] | None = None,
) -> tuple[nn.Module, tuple[str, ...]]:
    counts = [per_section] * 3 if blocks is None else blocks
    model = ResNetCIFAR(counts, classes=classes, channels=channels, option=option, width=width, inner=inner)
    return model, ("layer1", "layer2", "layer3")


def _preresnet(
    per_section: int,
    *,
    classes: int,
    channels: int,
    blocks: Sequence[int] | None,
    widths: Sequence[int] | None = None,
) -> tuple[nn.Module, tuple[str, ...]]:
    counts = [per_section] * 3 if blocks is None else blocks
    model = PreResNetCIFAR(counts, classes=classes, channels=channels, widths=widths)
    return model, ("layer1", "layer2", "layer3")


def _resnext(
    per_section: int,
    *,
    classes: int,
    channels: int,
    blocks: Sequence[int] | None,
    cardinality: int = 8,
    width: int = 32,
    option: str = "A",
) -> tuple[nn.Module, tuple[str, ...]]:
    counts = [per_section] * 3 if blocks is None else blocks
    own = dict(cardinality=cardinality, width=width)
    model = resnext_cifar(counts, classes=classes, channels=channels, option=option, **own)
    return model, ("layer1", "layer2", "layer3")


def _vdcnn(
    per_section: Sequence[int], *, classes: int, blocks: Sequence[int] | None, alphabet: int = 69
) -> tuple[nn.Module, tuple[str, ...]]:
    model = VDCNN(per_section if blocks is None else blocks, classes=classes, alphabet=alphabet)
    return model, ("section1", "section2", "section3", "section4")


def _stargan(
    count: int, *, classes: int, channels: int, blocks: Sequence[int] | None, width: int = 64
) -> tuple[nn.Module, tuple[str, ...]]:
    counts = [count] if blocks is None else blocks
    return Generator(counts, classes=classes, channels=channels, width=width), ("bottleneck",)


def _maxout(
    per_section: Sequence[Sequence[int]],
    *,
    classes: int,
    channels: int,
    blocks: Sequence[int] | None,
    widths: Sequence[Sequence[int]] | None = None,
) -> tuple[nn.Module, tuple[str, ...]]:
    if blocks is not None:
        raise ValueError(f"create: blocks of a maxout network must be left out, got {list(blocks)}")
    model = MaxoutNet(per_section if widths is None else widths, classes=classes, channels=channels)
    return model, ("section1", "section2", "section3")


def _lenet(
    kind: Callable[..., nn.Module],
    sections: tuple[str, ...],
    *,
    classes: int,
    channels: int,
    blocks: Sequence[int] | None,
    size: Sequence[int] = (28, 28),
) -> tuple[nn.Module, tuple[str, ...]]:
    if blocks is not None:
        raise ValueError(f"create: blocks of a LeNet must be left out, got {list(blocks)}")
    return kind(classes=classes, channels=channels, size=size), sections


def _lstm_lm(
    *,
    classes: int,
    blocks: Sequence[int] | None,
    width: int = 200,
    hidden: int | None = None,
    layers: int = 2,
    tied: bool = False,
    dropout: float = 0.0,
    groups: Groups | None = None,
    bits: int = 32,
) -> tuple[nn.Module, tuple[str, ...]]:
    if blocks is not None:
        raise ValueError(f"lstm_lm: blocks must be left out, as `layers` counts them, got {list(blocks)}")
    model = LSTMLM(classes=classes, width=width, hidden=hidden, layers=layers, tied=tied, dropout=dropout)
    if groups is not None:
        low_rank_ends(model, groups, bits=bits)
    return model, model.names


def _vgg(
    convolutions: Sequence[int],
    *,
    classes: int,
    channels: int,
    blocks: Sequence[int] | None,
    widths: Sequence[int] | None = None,
) -> tuple[nn.Module, tuple[str, ...]]:
    counts = convolutions if blocks is None else blocks
    return VGG(counts, classes=classes, channels=channels, widths=widths), SECTIONS


VDCNN_BLOCKS = {9: (1, 1, 1, 1), 17: (2, 2, 2, 2), 29: (5, 5, 2, 2), 49: (8, 8, 5, 3)}
VGG_BLOCKS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}

MODELS.update({f"resnet{6 * n + 2}": partial(_resnet, n) for n in (1, 2, 3, 5, 7, 9, 18)})
MODELS.update({f"resnext{6 * n + 2}": partial(_resnext, n) for n in (3, 5, 7, 9, 18)})
MODELS.update({f"preresnet{9 * n + 2}": partial(_preresnet, n) for n in (2, 6, 12, 18)})
MODELS.update({f"vgg{layers}": partial(_vgg, blocks) for layers, blocks in VGG_BLOCKS.items()})
MODELS.update({f"vdcnn{layers}": partial(_vdcnn, blocks) for layers, blocks in VDCNN_BLOCKS.items()})
MODELS.update(lenet300=partial(_lenet, LeNet300, ("ip2",)), lenet5=partial(_lenet, LeNet5, ("conv2", "ip1")))
GENERATORS = {f"stargan{count}": partial(_stargan, count) for count in (6, 4, 2, 1)}
MODELS.update(GENERATORS)
MODELS.update({name: partial(_maxout, widths) for name, widths in MAXOUT_WIDTHS.items()})
MODELS["lstm_lm"] = _lstm_lm
