"""How many blocks each section may have: latency as a linear function of the counts, and the best counts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch

from litfast.models.blocks import blocks as blocks_of
from litfast.models.sectioned import SectionedModel, check_sections

ROUNDING = 1e-9  # a target that is met exactly is met
Blocks = tuple[int, ...]  # one count a section, in the order of the forward pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """latency(b) = shallowest_ms + sum_i per_block_ms[i] * (b_i - 1), in milliseconds.

    Attributes:
        shallowest_ms: of one block in each section, with stem and head.
        per_block_ms: of each further block, a section each; 0 where there is only one block to choose.
        error: the largest |latency / measured - 1| over the models that were measured.
    """

    shallowest_ms: float
    per_block_ms: tuple[float, ...]
    error: float

    def predict(self, blocks: Sequence[int]) -> float:
        """latency(b), see above."""
        return _linear(self.shallowest_ms, self.per_block_ms, blocks)


def counts(model: SectionedModel) -> Blocks:
    """Blocks of each section, as `create` and `copy_blocks` count them.

    Raises:
        ValueError: no sections, or one that is no row of blocks.
    """
    check_sections("plan", model=model)
    return tuple(len(blocks_of(model.model, name)) for name in model.names)


def probes(most: Blocks) -> list[Blocks]:
    """The models whose latencies tell what a block costs: at most S + 3 of them.

    One block in each section; one section after the other in full, the rest with one block; half of all; all.
    """
    ones = (1,) * len(most)
    single = [(*ones[:i], count, *ones[i + 1 :]) for i, count in enumerate(most)]
    half = tuple((1 + count) // 2 for count in most)
    return list(dict.fromkeys([ones, *single, half, most]))


def fit(latencies: Mapping[Blocks, float]) -> Costs:
    """The costs that minimise sum (predicted / measured - 1)^2; those that noise puts below 0 become 0.

    Relative errors count, as the target is met or missed in percent.

    Args:
        latencies: milliseconds by the blocks of the model, such as those of `probes`.

    Raises:
        ValueError: models that do not tell the sections apart.
    """
    further = torch.tensor(list(latencies), dtype=torch.float64) - 1
    times = torch.tensor(list(latencies.values()), dtype=torch.float64)
    varied = further.amax(0) > 0
    known = torch.cat([torch.ones_like(times)[:, None], further[:, varied]], dim=1) / times[:, None]
    if torch.linalg.matrix_rank(known) < known.shape[1]:
        raise ValueError(f"fit: latencies must vary each section by itself, got blocks {list(latencies)}")
    found = torch.linalg.lstsq(known, torch.ones_like(times)[:, None]).solution[:, 0].clamp(min=0)
    per_block = torch.zeros(further.shape[1], dtype=torch.float64)
    per_block[varied] = found[1:]
    shallowest, slopes = float(found[0]), tuple(per_block.tolist())
    errors = [abs(_linear(shallowest, slopes, blocks) / ms - 1) for blocks, ms in latencies.items()]
    return Costs(shallowest_ms=shallowest, per_block_ms=slopes, error=max(errors))


def choose(costs: Costs, most: Blocks, target_ms: float) -> Blocks:
    """The student's blocks b, 1 <= b_i <= most_i, that maximise sum_i most_i * log(b_i / most_i)
    subject to latency(b) <= target_ms; of equals, the fastest.

    A knapsack of blocks, solved exactly by trying all: a CIFAR ResNet-110 has 5,832 choices. Each section's
    first blocks are worth most, so none is starved for being dear; where all blocks cost the same, every
    section keeps the same share of the teacher's.

    Raises:
        ValueError: a target below the latency of one block a section.
    """
    within = target_ms * (1 + ROUNDING)
    fitting = [b for b in product(*(range(1, count + 1) for count in most)) if costs.predict(b) <= within]
    if not fitting:
        raise ValueError(
            f"plan: target must be at least {costs.shallowest_ms:.3g} ms, which one block a section takes, "
            f"got {target_ms:.3g} ms"
        )
    return max(fitting, key=lambda blocks: (round(_worth(blocks, most), 9), -costs.predict(blocks)))


def _worth(blocks: Blocks, most: Blocks) -> float:
    return sum(count * math.log(kept / count) for kept, count in zip(blocks, most, strict=True))


def _linear(shallowest: float, per_block: Sequence[float], blocks: Sequence[int]) -> float:
    return shallowest + sum(cost * (count - 1) for cost, count in zip(per_block, blocks, strict=True))
