"""Network slimming's surgery: batch-norm scales choose the channels, and a smaller network is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from litfast.models import SectionedModel, create
from litfast.models.preresnet_cifar import PreResNetCIFAR
from litfast.models.resnet_cifar import ResNetCIFAR
from litfast.models.vgg import VGG

Kept = Mapping[str, Tensor]  # by the name of a batch norm, which of its channels stay: [C] bool


class Cut(NamedTuple):
    """One batch norm that chooses channels, what hands them to it, the layer that reads them.

    The writer is a convolution, or what selects channels of a sum.
    """

    norm: str
    writer: str
    reader: str


def cuts(model: nn.Module) -> list[Cut]:
    """Where channels can be removed, in the order of the forward pass.

    Of a ResNet these are the channels inside of each block: its input and output are added to others', so
    the widths of the sections stay. Of a pre-activation ResNet they are those inside and, by selection, those
    that a block reads; of a VGG those of every convolution.

    Raises:
        ValueError: a model of another family, or with convolutions in groups.
    """
    match model:
        case PreResNetCIFAR():
            inside = [("bn1", "select", "conv1"), ("bn2", "conv1", "conv2"), ("bn3", "conv2", "conv3")]
            found = [Cut(*(f"{block}.{name}" for name in cut)) for block in _blocks(model) for cut in inside]
            return [*found, Cut("bn", "select", "linear")]
        case ResNetCIFAR():
            groups = max(module.groups for module in model.modules() if isinstance(module, nn.Conv2d))
            if groups > 1:
                raise ValueError(f"slimming: convolutions must not be in groups, got a ResNeXt of {groups}")
            return [Cut(f"{block}.bn1", f"{block}.conv1", f"{block}.conv2") for block in _blocks(model)]
        case VGG():
            layers = [name.removesuffix(".bn") for name, _ in model.named_modules() if name.endswith(".bn")]
            readers = [*(f"{layer}.conv" for layer in layers[1:]), "linear"]
            return [
                Cut(f"{layer}.bn", f"{layer}.conv", reader)
                for layer, reader in zip(layers, readers, strict=True)
            ]
    raise ValueError(
        f"slimming: model must be a ResNet, PreResNet or VGG by name, got {type(model).__name__}"
    )


def scales(model: SectionedModel) -> list[Tensor]:
    """The scales that choose: the weight of each batch norm of `cuts`."""
    return [_scale(model, cut) for cut in cuts(model.model)]


@torch.no_grad()
def chosen(model: SectionedModel, removed: float, multiple: int = 1) -> Kept:
    """The channels that stay when a fraction of all is removed, by one threshold for the whole network.

    Of N scales the round(removed N) smallest by magnitude go; the largest of those is the threshold, and a
    channel stays where its |scale| is strictly above it, so that scales equal to it go, too.

    With a `multiple` above 1, which is not in the paper, a layer's channels stay or go in groups of so many,
    from the largest scale down, by the mean |scale| of a group: kernels compute in vectors of channels, and a
    layer of 11 takes as long as one of 16. The group of the last channel to go goes as a whole.

    Raises:
        ValueError: a layer would lose all its channels.

    Source: Liu et al., Network Slimming (2017), section 3.
    """
    found = {cut.norm: _grouped(_scale(model, cut).abs(), multiple) for cut in cuts(model.model)}
    every = torch.cat(list(found.values()))
    count = round(removed * len(every))
    threshold = every.kthvalue(count).values if count else every.new_tensor(-1.0)
    kept = {name: scale > threshold for name, scale in found.items()}
    for name, mask in kept.items():
        if not mask.any():
            limit = min(scale.max() for scale in found.values())
            most = int((every < limit).sum()) / len(every)
            raise ValueError(
                f"slimming: removed must leave every layer a channel, got {removed}, which empties {name} "
                f"(at most {int(1000 * most) / 1000:g} empties none)"
            )
    return kept


@torch.no_grad()
def evenly(model: SectionedModel, removed: float, multiple: int = 1) -> Kept:
    """The same fraction of every layer, which keeps at least one channel: for untrained weights."""
    kept = {}
    for cut in cuts(model.model):
        scale = _scale(model, cut).abs()
        left = max(1, len(scale) - round(removed * len(scale)))
        largest = scale.topk(min(-(-left // multiple) * multiple, len(scale))).indices
        kept[cut.norm] = torch.zeros_like(scale, dtype=torch.bool).index_fill(0, largest, True)
    return kept


def slimmed(model: SectionedModel, kept: Kept) -> SectionedModel:
    """A new, smaller network with the channels that stay, dense and without masks.

    In eval mode it gives what `model` gives once scale and shift of every removed channel are zero.

    Args:
        model: made by `create`; it is left as it is.
        kept: what `chosen` says.

    Returns:
        A network whose spec says its widths: `create(**spec)` makes it again.

    Raises:
        ValueError: a model without a spec.
    """
    if model.spec is None:
        raise ValueError("slimming: model must be made by litfast.create, got one without a spec")
    places = cuts(model.model)
    widths = [int(kept[cut.norm].sum()) for cut in places]
    option = "inner" if isinstance(model.model, ResNetCIFAR) else "widths"
    rows = {name: kept[cut.norm] for cut in places for name in (cut.norm, cut.writer)}
    columns = {cut.reader: kept[cut.norm] for cut in places}
    small = create(**{**model.spec, option: widths})
    # where all channels were read there was no selection, and no index of it that could be sliced below
    state = {f"{cut.writer}.index": kept[cut.norm].nonzero().flatten() for cut in places}
    state = {key: index for key, index in state.items() if key in small.state_dict()}
    for key, value in model.state_dict().items():
        module = key.rpartition(".")[0]
        if module in rows and value.ndim:  # the counter of a batch norm has no channels
            value = value[rows[module]]
        if module in columns and key.endswith(".weight"):
            value = value[:, columns[module]]
        state[key] = value
    small.to(next(model.parameters()))  # dtype and device
    small.load_state_dict(state)
    small.train(model.training)
    return small


def _blocks(model: nn.Module) -> list[str]:
    """Names of a ResNet's blocks, in the order of the forward pass."""
    sections = {name: model.get_submodule(name) for name in ("layer1", "layer2", "layer3")}
    return [f"{name}.{place}" for name, section in sections.items() for place, _ in section.named_children()]


def _grouped(scale: Tensor, multiple: int) -> Tensor:
    """[C], for each channel the mean of its group of neighbours in the order of the scales."""
    ordered, order = scale.sort(descending=True, stable=True)
    means = [group.mean().expand_as(group) for group in ordered.split(multiple)]
    return torch.empty_like(scale).index_copy_(0, order, torch.cat(means))


def _scale(model: SectionedModel, cut: Cut) -> Tensor:
    scale = model.model.get_submodule(cut.norm).weight
    assert isinstance(scale, Tensor)
    return scale
