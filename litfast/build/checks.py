"""What looks wrong with a teacher and its data before the first step: a line each, with its remedy."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from litfast.build.experiment import Experiment
from litfast.data.choice import free_memory, in_bytes
from litfast.data.loader import Loader
from litfast.data.sets.image_set import hold_out
from litfast.engine import evaluate
from litfast.engine.evaluate import evaluating
from litfast.engine.plan import BranchPlan
from litfast.models.sectioned import SectionedModel

SAMPLE = 256  # samples that stand for the validation split
WORDS = 10_000  # of a corpus
ERRORS = 3.0  # standard errors above chance that an accuracy must be
DEVIATIONS, FACTOR = 1.0, 3.0  # of the mean and the variance at the first batch norm


def warnings(experiment: Experiment, plans: Sequence[BranchPlan]) -> list[str]:
    """A line for whatever looks wrong; classes and the sections' shapes have been checked already.

    accuracy       of the teacher on 256 validation samples (training ones where none are held out) is above
                   chance, 1/K + 3 sqrt(1/K (1 - 1/K) / samples), where that is below 1; a language model's
                   perplexity below half its vocabulary
    normalisation  mean, deviation and size of the images are those in the `model.json` beside the teacher's
                   weights; what the teacher's first batch norm sees has about the mean (within one
                   deviation, median over channels) and the variance (within a factor of 3) that it has
                   learned
    memory         what a step takes at least is free

    Without labels there is no accuracy; a generator's teacher, and one that the run itself will train, have
    only the memory checked. `teacher.check = "off"` looks at nothing.

    Raises:
        ValueError: the first of the lines, where `teacher.check` is "refuse".
    """
    said = experiment.config.teacher
    mode = "warn" if said is None else said.check
    if mode == "off":
        return []
    found = [*_memory(experiment, plans)]
    if said is not None and said.weights is not None and experiment.discriminator is None:
        assert experiment.teacher is not None
        found = [*_of_teacher(experiment, experiment.teacher, said.weights), *found]
    if found and mode == "refuse":
        raise ValueError(found[0])
    return found


def _of_teacher(experiment: Experiment, teacher: SectionedModel, weights: str) -> Iterator[str]:
    split, loader = _sample(experiment)
    teacher.to(experiment.config.engine.device)
    data = experiment.data
    if data.labelled:
        yield from _accuracy(teacher, loader, len(data.classes), f"{split} {data.unit}")
    if data.unit == "images":
        yield from _recorded(Path(weights), data.form)
        yield from _statistics(teacher, next(iter(loader.batches(0))).images)


def _sample(experiment: Experiment) -> tuple[str, Loader]:
    """The split's name, and a loader over some of its samples as they are evaluated."""
    data = experiment.data
    split = "val" if data.splits["val"] is not None else "train"
    samples = data.splits[split]
    if data.unit == "words":
        samples = samples[:WORDS]
    elif len(samples) > SAMPLE:
        samples = hold_out(samples, SAMPLE, seed=0)[1]
    return {"val": "validation", "train": "training"}[split], data.serve(samples, train=False)


def _accuracy(teacher: nn.Module, loader: Loader, classes: int, samples: str) -> Iterator[str]:
    found = evaluate(teacher, loader)
    if found.perplexity is not None:
        if found.perplexity > classes / 2:
            yield (
                f"teacher: perplexity must be well below the vocabulary's {classes}, "
                f"got {found.perplexity:.1f} over {found.samples} {samples}; "
                "check teacher.weights and data.options"
            )
        return
    chance = 1 / classes
    least = 100 * (chance + ERRORS * math.sqrt(chance * (1 - chance) / found.samples))
    if found.accuracy <= least < 100:  # so few samples that all might be right by chance tell nothing
        yield (
            f"teacher: accuracy must be above chance ({100 * chance:.3g} %, by luck up to {least:.3g} %), "
            f"got {found.accuracy:.3g} % of {found.samples} {samples}; "
            "check teacher.weights, data.mean and data.std, the order of the classes"
        )


def _recorded(weights: Path, form: Mapping[str, Any]) -> Iterator[str]:
    """What the run that the weights come from wrote down of its images."""
    file = weights.with_name("model.json")
    try:
        read = json.loads(file.read_text(encoding="utf-8"))["input"]
        theirs = {key: [float(one) for one in read[key]] for key in ("mean", "std", "shape")}
    except (OSError, ValueError, KeyError, TypeError):  # no run's folder, or a file of something else
        return
    for key in ("mean", "std"):
        ours = list(form[key])
        if len(ours) != len(theirs[key]) or not all(map(_close, ours, theirs[key])):
            yield (
                f"teacher: data.{key} must be {theirs[key]} as in {file}, got {ours}; "
                f"--set data.{key}={theirs[key]}"
            )
    size, wanted = (
        "x".join(f"{side:.0f}" for side in shape[1:]) for shape in (form["shape"], theirs["shape"])
    )
    if size != wanted:
        yield f"teacher: images must be {wanted} as in {file}, got {size}; data.size resizes encoded images"


def _close(ours: float, theirs: float) -> bool:
    return math.isclose(ours, theirs, abs_tol=1e-3)


def _statistics(teacher: nn.Module, images: Tensor) -> Iterator[str]:
    """What the first batch norm of the forward pass sees, against what it has learned."""
    seen: dict[str, Tensor] = {}

    def look(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def note(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
            if not seen:
                seen[name] = given[0]

        return note

    norms = {n: m for n, m in teacher.named_modules() if isinstance(m, _BatchNorm) and m.track_running_stats}
    hooks = [norm.register_forward_pre_hook(look(name)) for name, norm in norms.items()]
    try:
        with evaluating(teacher), torch.no_grad():
            teacher(images)
    finally:
        for hook in hooks:
            hook.remove()
    for name, given in seen.items():
        norm, x = norms[name], given.double().transpose(0, 1).flatten(1)  # [C, B H W]
        assert norm.running_mean is not None and norm.running_var is not None
        variance = norm.running_var.double() + norm.eps
        off = float(((x.mean(1) - norm.running_mean).abs() / variance.sqrt()).median())
        ratio = float((x.var(1) / variance).median())
        if not (off <= DEVIATIONS and 1 / FACTOR <= ratio <= FACTOR):
            yield (
                f"teacher: images must be normalised as in its training, got a mean {off:.2g} deviations off "
                f"and {ratio:.2g} times the variance at batch norm {name.removeprefix('model.')!r}; "
                "give data.mean and data.std those of its training"
            )


def _memory(experiment: Experiment, plans: Sequence[BranchPlan]) -> Iterator[str]:
    engine, batch = experiment.config.engine, experiment.config.data.batch
    needed = max((plan.memory_bytes for plan in plans), default=0)
    free = free_memory(torch.device(engine.device))
    if needed > free:
        parts = 2 * engine.accumulate
        less = f", or --set engine.accumulate={parts}" if batch % parts == 0 else ""
        yield (
            f"recipe: a step with data.batch {batch} must fit into the {in_bytes(free)} free on "
            f"{engine.device}, got at least {in_bytes(needed)}; choose a smaller data.batch{less}"
        )
