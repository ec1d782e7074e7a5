"""Deep Compression (Han, Mao, Dally; ICLR 2016): prune, share, and a Huffman coded file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from torch import nn

from litfast.methods._scratch import scratch
from litfast.models import _shared_weights as shared
from litfast.models.pairing import copy_model
from litfast.models.sectioned import SectionedModel
from litfast.phase import Phase, Schedule

MOST_BITS = 8  # an index of a codebook in the file is a byte before it is coded


def deep_compression(
    teacher: SectionedModel,
    student: SectionedModel,
    *,
    prune: Schedule,
    share: Schedule,
    removed: float | dict[str, float] = 0.9,
    bits: int | dict[str, int] = 6,
    rounds: int = 1,
) -> Iterator[Phase]:
    """Remove the small weights, let the others share few values; both times the network is retrained.

        prune  w = 0 where |w| is among the `removed` fraction of the smallest of its layer; the rest trains
        share  w_n = c_{k(n)}, k-means of the layer's non-zeros into 2^bits clusters, from evenly spaced
               centroids; dL/dc_k = sum_{n: k(n) = k} dL/dw_n

    on the cross-entropy with the labels. Removed weights stay exactly 0 in either phase. The weights of
    convolutions and linear layers are compressed, biases and batch norms are not, but train along. At the
    end the student's are plain weights again; `litfast.lfc.save` is the third stage, Huffman coding.

    `removed` and `bits` are one number for all layers or a table by the layers' names, where `conv` and
    `linear` speak for the layers of their kind that it does not name.

    Args:
        teacher: the network before, frozen.
        student: the same network, which begins as the teacher's copy.
        prune: schedule of the retraining of what is not removed.
        share: schedule of the training of the centroids. A centroid's gradient is a sum over its members, so
            sgd needs a far smaller learning rate than for weights.
        removed: fraction of a layer's weights, below 1; the paper has .92, .91, .74 for LeNet-300-100.
        bits: of a codebook's index, 1 to 8; the paper has 6 for LeNet-300-100, 8 and 5 (linear) for LeNet-5.
        rounds: pruning in so many steps, each of which removes the same fraction of what is left and
            retrains; the phases are then "prune-1", "prune-2" ...

    Raises:
        ValueError: another network as student, a removed fraction that would empty a layer or is below 0,
            bits or rounds out of range, an unknown layer or one without a number.

    Source: Deep Compression, sections 2 (pruning) and 3 (trained quantization and weight sharing); rounds as
        in Han, Pool, Tran, Dally, Learning both Weights and Connections (2015), section 3.4.
    """
    copy_model(teacher, student)
    layers = shared.layers(student.model)
    fractions = _fractions(removed, layers)
    widths = _widths(bits, layers)
    if rounds < 1:
        raise ValueError(f"deep_compression: rounds must be 1 or more, got {rounds}")
    for number in range(1, rounds + 1):
        for name, layer in layers.items():
            shared.prune(layer, 1 - (1 - fractions[name]) ** (number / rounds))
        phase = "prune" if rounds == 1 else f"prune-{number}"
        yield from _retrained(teacher, student, layers, prune, phase)
    for name, layer in layers.items():
        shared.share(layer, widths[name])
    yield from _retrained(teacher, student, layers, share, "share")


def _retrained(
    teacher: SectionedModel,
    student: SectionedModel,
    layers: Mapping[str, nn.Module],
    schedule: Schedule,
    name: str,
) -> Iterator[Phase]:
    """One phase on the labels; behind it the layers' weights are plain again."""
    for phase in scratch(student, train=schedule, name=name):
        yield replace(phase, frozen=(teacher,))
    for layer in layers.values():
        shared.settle(layer)


def _fractions(removed: float | dict[str, float], layers: Mapping[str, nn.Module]) -> dict[str, float]:
    fractions = shared.by_layer("deep_compression", "removed", removed, layers)
    for name, fraction in fractions.items():
        count = layers[name].get_parameter("weight").numel()
        if not 0 <= fraction < 1 or shared.removed_count(count, fraction) == count:
            raise ValueError(
                f"deep_compression: removed of layer {name} must be at least 0 and leave one or more of its "
                f"{count} weights, got {fraction}"
            )
    return fractions


def _widths(bits: int | dict[str, int], layers: Mapping[str, nn.Module]) -> dict[str, int]:
    widths = shared.by_layer("deep_compression", "bits", bits, layers)
    for name, width in widths.items():
        if width not in range(1, MOST_BITS + 1):
            raise ValueError(
                f"deep_compression: bits of layer {name} must be a whole number from 1 to {MOST_BITS}, "
                f"got {width}"
            )
    return {name: int(width) for name, width in widths.items()}
