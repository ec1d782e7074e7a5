"""A finished run's student and teacher on the same samples: of its test split where it can be read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import torch

from litfast import build
from litfast.bench.similarity import FEWEST as FEWEST
from litfast.bench.similarity import Similarity, by_section
from litfast.cli import _runs
from litfast.data.sets.image_set import hold_out
from litfast.fields import first, rows
from litfast.models import with_domain

SAMPLES = ("auto", "test", "random")
BATCH = 32


def similarity(run: _runs.Finished, samples: str, count: int) -> tuple[list[Similarity] | None, str]:
    """How alike the two are, part by part, and on what; or None, and why not.

    Args:
        samples: "test" (drawn evenly from the split), "random" (normal floats, uniform ids), or "auto": test
            where the run's data can be read from here, else random.

    Raises:
        ValueError: "test", and the data cannot be read.
    """
    if "teacher" not in run.models:
        return None, "the run had no teacher"
    batches, said = _batches(run, samples, count)
    teacher, student = (run.models[role].cpu().eval() for role in ("teacher", "student"))
    try:
        return by_section(teacher, student, batches), said
    except ValueError as error:  # another number of sections
        return None, str(error)


def _batches(run: _runs.Finished, samples: str, count: int) -> tuple[list[Any], str]:
    why = ""
    if samples != "random":
        try:
            images = list(_tested(run, count))
            return [
                _read(run, part) for part in images
            ], f"{sum(len(first(x)) for x in images)} test {run.data.unit}"
        except (ValueError, OSError) as error:
            if samples == "test":
                raise
            why = f" (no test samples: {error})"
    drawn = run.data.input.example(count, generator=torch.Generator().manual_seed(0))
    said = f"{count} random samples, unlike any that the models were trained on{why}"
    parts = [rows(drawn, at, at + BATCH) for at in range(0, count, BATCH)]
    return [_read(run, part) for part in parts], said


def _tested(run: _runs.Finished, count: int) -> Iterator[Any]:
    """Samples of the test split, [B, ...] as a loader delivers them; windows of words are the first ones."""
    settings = replace(run.config, engine=replace(run.config.engine, device="cpu"))
    _, found = build.data(build.resolve(settings))
    samples = found.splits["test"]
    if found.unit == "words":
        loader = found.test
    else:
        chosen = samples if len(samples) <= count else hold_out(samples, count, seed=0)[1]
        loader = found.serve(chosen, train=False)
        count = len(chosen)
    for batch in islice(loader.batches(0), -(-count // loader.batch)):
        yield rows(batch.images, 0, count)
        count -= len(batch.target)


def _read(run: _runs.Finished, images: Any) -> Any:
    """The samples as the models read them: before a generator each image with one domain, all in turn."""
    if not build.trains_generator(run.config):
        return images
    domains = len(run.data.classes)
    return with_domain(images, torch.eye(domains)[torch.arange(len(images)) % domains])
