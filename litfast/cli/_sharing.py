"""`litfast plan --ranks`: which ranks should train which sections, and what that should bring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from rich.table import Table

from litfast import build, config, methods
from litfast.bench import sharing
from litfast.bench.stats import milliseconds
from litfast.cli import _console
from litfast.cli._contenders import input_of
from litfast.data.loader import Batch
from litfast.engine.costs import Link, Network
from litfast.models import MODELS, create
from litfast.models.blocks import blocks, share
from litfast.phase import Phase, Schedule

BATCH, DEPTH = 128, 1 / 3  # of a teacher that comes without a recipe: batch, and its student's blocks
ONE = Schedule(epochs=1, lr=0.1)


def network(per_machine: int, inside: str, between: str) -> Network:
    """How ranks reach each other, from the options of the command."""
    if per_machine < 1:
        raise ValueError(f"plan: --per-machine must be 1 or more, got {per_machine}")
    links = {"inside": _link("--inside", inside), "between": _link("--between", between)}
    return Network(per_machine=per_machine, **links)


def show(
    name: str,
    *,
    ranks: int,
    network: Network,
    sets: Sequence[str],
    batch: int | None,
    sizes: dict[str, Any],
    length: int,
    classes: int,
    precision: str,
    device: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Measure the sections of a recipe, or of a teacher and a student of a third of its blocks; print it."""
    torch.set_num_threads(threads or torch.get_num_threads())
    place = torch.device(build.device(device))
    with _console.usage():
        sharing.check_ranks(ranks)
        if name in MODELS:
            phase, samples = _of_teacher(name, batch or BATCH, sizes, length, classes)
        else:
            phase, samples = _of_recipe(name, sets, batch)
    _console.say("plan: what each section costs", _console.err, "dim")
    samples = Batch(*(tensor.to(place) for tensor in samples))
    costs = sharing.measured(phase, samples, device=place, precision=precision)
    document = {
        "model": name,
        "batch": costs.batch,
        "threads": torch.get_num_threads(),
        "device": str(place),
        "precision": precision,
        "sections": _names(phase),
        **sharing.predict(costs, ranks, network),
    }
    if as_json:
        _console.print_json(document)
        return
    _console.out.print(_costs(document))
    _console.out.print(_table(document))
    for line in _lines(document, ranks):
        _console.say(line)


def _of_teacher(
    name: str, batch: int, sizes: dict[str, Any], length: int, classes: int
) -> tuple[Phase, Batch]:
    """LIT's sections for random weights and random samples: they cost what trained ones do."""
    teacher = create(name, classes=classes, **sizes)
    counts = [share(len(blocks(teacher.model, section)), DEPTH) for section in teacher.names]
    student = create(name, classes=classes, blocks=counts, **sizes)
    options: dict[str, Any] = {"beta": 0.0, "alpha": 0.0, "bn_stats": "ir"}
    phase = next(iter(methods.lit(teacher, student, sections=ONE, finetune=ONE, **options)))
    samples = input_of(teacher.model, sizes, length).example(batch)
    return phase, Batch(samples, torch.zeros(batch, dtype=torch.int64))


def _of_recipe(name: str, sets: Sequence[str], batch: int | None) -> tuple[Phase, Batch]:
    """The phase of a recipe whose sections are independent, and a batch of its data."""
    more = [] if batch is None else [f"data.batch={batch}"]
    experiment = build.experiment(build.resolve(config.load(name, [*sets, *more])))
    phase = next(experiment.shareable(), None)
    if phase is None:
        raise ValueError(
            f"plan: recipe {name!r} must have a phase of independent sections (method.beta = 0, "
            'method.bn_stats = "ir"), got none'
        )
    return phase, next(iter(experiment.train.batches(0)))


def _link(option: str, text: str) -> Link:
    try:
        bandwidth, latency = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"plan: {option} must be GB/s,MICROSECONDS, got {text!r}") from None
    if not bandwidth > 0 or not latency >= 0:
        raise ValueError(f"plan: {option} must be GB/s above 0 and microseconds from 0, got {text!r}")
    return Link(bandwidth=bandwidth, latency=latency)


def _names(phase: Phase) -> list[str]:
    """Of all sections, a number where one does not train."""
    assert phase.line is not None
    named = {section: name for name, section in phase.line.of.items()}
    return [named.get(i, f"#{i + 1}") for i in range(phase.line.count)]


def _costs(document: dict[str, Any]) -> Table:
    """A line a section, at the whole batch."""
    table = Table(title=f"ms at batch {document['batch']}")
    for column in ("section", "teacher", "student"):
        table.add_column(column, justify="left" if column == "section" else "right")
    costs, batch = document["costs"], document["batch"]

    def ms(cost: dict[str, float]) -> str:
        return milliseconds(1000 * (cost["fixed"] + cost["per_row"] * batch))

    table.add_row("stem", ms(costs["stem"]), "")
    for name, section in zip(document["sections"], costs["sections"], strict=True):
        table.add_row(name, ms(section["teacher"]), ms(section["student"]))
    table.add_row("head", ms(costs["head"]), "")
    return table


def _table(document: dict[str, Any]) -> Table:
    """A line a number of ranks: how many times faster than one process, by each way."""
    table = Table(title=f"predicted speed-up over one process of {document['threads']} threads")
    table.add_column("ranks", justify="right")
    for relay, split in sharing.WAYS:
        table.add_column(_way(relay, split), justify="right")
    rows: dict[int, dict[tuple[bool, bool], dict[str, Any]]] = {}
    for found in document["predictions"]:
        rows.setdefault(found["ranks"], {})[found["relay"], found["split"]] = found
    for ranks, ways in rows.items():
        cells = [ways[way] for way in sharing.WAYS]
        idle = [f" ({cell['used']} used)" if cell["used"] < ranks else "" for cell in cells]
        shown = [f"{cell['speedup']:.2f}x{less}" for cell, less in zip(cells, idle, strict=True)]
        table.add_row(str(ranks), *shown)
    return table


def _lines(document: dict[str, Any], ranks: int) -> list[str]:
    """Who trains what on so many ranks, each way."""
    lines = []
    for found in document["predictions"]:
        if found["ranks"] != ranks:
            continue
        parts = [
            f"{'+'.join(document['sections'][i] for i in block['sections'])} on {_ranks(block['ranks'])} "
            f"({milliseconds(1000 * block['step_s'])} ms)"
            for block in found["blocks"]
        ]
        lines.append(f"{_way(found['relay'], found['split'])}: {', '.join(parts)}")
    best = max(document["predictions"], key=lambda found: (found["ranks"] == ranks, found["speedup"]))
    keys = {
        "distributed": "sections",
        "relay": str(best["relay"]).lower(),
        "split": str(best["split"]).lower(),
    }
    said = " ".join(f"--set engine.{key}={value}" for key, value in keys.items())
    return [*lines, f"run it: torchrun --nproc-per-node {ranks} -m litfast train RECIPE {said}"]


def _way(relay: bool, split: bool) -> str:
    words = [word for word, on in (("relay", relay), ("split", split)) if on]
    return " + ".join(words) or "apart"


def _ranks(ranks: Sequence[int]) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]}-{ranks[-1]}"
