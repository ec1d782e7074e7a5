"""Models against the first of them in one JSON document: sizes, latencies, ratios and the machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import nn

from litfast.bench import energy, machine
from litfast.bench.latency import measure
from litfast.bench.row import Row
from litfast.bench.stats import speedup
from litfast.models import Input, counting


def compare(
    models: Mapping[str, nn.Module],
    *,
    input: Input,
    batches: Sequence[int] = (1, 128),
    modes: Sequence[str] = ("eager", "compile"),
    precisions: Sequence[str] = ("fp32", "bf16"),
    seconds: float = 1.0,
    device: str | torch.device = "cpu",
    threads: int | None = None,
    clients: Sequence[int] = (),
    accuracies: Mapping[str, float] | None = None,
    perplexities: Mapping[str, float] | None = None,
    weights_bytes: Mapping[str, int] | None = None,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measure how much smaller and faster each model is than the first, here.

    Args:
        models: by the names that the document gives them; the first (the teacher) is the baseline.
        input, batches, modes, precisions, seconds, device, threads, clients, progress: as for
            `latency.measure`.
        accuracies: percent, by name.
        perplexities: of language models, by name.
        weights_bytes: size of the weights file, by name; without it the bytes of parameters and buffers.

    Returns:
        A document that JSON holds:
        input (shape and alphabet, as `models.Input`), device, threads;
        energy: the source of joules_per_sample, or the reason why there is none, the other being null;
        models: name, depth, parameters, macs (one sample), weights_bytes, accuracy (percent or null),
        perplexity (or null);
        rows: the fields of `row.Row` without its single rounds, and beside them what timm's benchmark.py
        says of an inference, by its names and in its units;
        ratios: the first model over each other one, a cell each: baseline, contender, mode, precision, batch,
        check, speedup, p10, p90, rounds, tie, reason; speedup is null where `reason` says why; loads: the
        same of the requests a second under each number of clients (check, clients, speedup, p10, p90, rounds,
        tie), where both had any;
        checks: by "mode precision batch N", and of several contenders ", NAME" behind it, whether the outputs
        of contender and baseline agreed in that cell (only where both ran);
        machine: `machine.describe()`.

    Raises:
        ValueError, TypeError: as `latency.measure`; an unknown name; an accuracy outside 0 to 100.
    """
    _check(list(models), accuracies or {}, perplexities or {}, weights_bytes or {})
    surroundings = machine.describe(device)  # before the measurement loads it
    rows = measure(
        models,
        input=input,
        batches=batches,
        modes=modes,
        precisions=precisions,
        seconds=seconds,
        device=device,
        threads=threads,
        clients=clients,
        progress=progress,
    )
    sizes = {name: _size(name, model, input) for name, model in models.items()}
    cells = [list(cell) for _, cell in groupby(rows, key=lambda row: (row.batch, row.mode, row.precision))]
    return {
        "input": {"shape": list(input.shape), "alphabet": input.alphabet},
        "device": str(device),
        "threads": threads or torch.get_num_threads(),
        "energy": _energy(torch.device(device)),
        "models": [
            sizes[name]
            | {"accuracy": (accuracies or {}).get(name), "perplexity": (perplexities or {}).get(name)}
            | ({"weights_bytes": weights_bytes[name]} if weights_bytes and name in weights_bytes else {})
            for name in models
        ],
        "rows": [row.json() | _timms(row, sizes[row.contender], input) for row in rows],
        "ratios": [_ratio(cell, row) for cell in cells for row in cell[1:]],
        "checks": {
            _check_name(cell, row): cell[0].gate and row.gate
            for cell in cells
            for row in cell[1:] or cell
            if None not in (cell[0].gate, row.gate)
        },
        "machine": surroundings,
    }


# in a few seconds, for the table at the end of a training
quick = partial(compare, modes=("eager",), precisions=("fp32",), seconds=0.25)


def _size(name: str, model: nn.Module, input: Input) -> dict[str, Any]:
    tensors = model.state_dict().values()
    return {
        "name": name,
        "depth": counting.depth(model),
        "parameters": counting.parameters(model),
        "macs": counting.macs(model, input),
        "weights_bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
    }


def _energy(device: torch.device) -> dict[str, str | None]:
    found = energy.find(device)
    if isinstance(found, str):
        return {"source": None, "reason": found}
    return {"source": found.source, "reason": None}


def _timms(row: Row, size: Mapping[str, Any], input: Input) -> dict[str, Any]:
    """The row in the words of timm's benchmark.py: its step time is the mean, its counts are in millions."""
    return {
        "model": row.contender,
        "infer_samples_per_sec": None if row.mean_ms is None else 1000 * row.batch / row.mean_ms,
        "infer_step_time": row.mean_ms,
        "infer_batch_size": row.batch,
        "infer_img_size": input.shape[-1] if len(input.shape) == 3 else None,
        "infer_gmacs": size["macs"] / 1e9,
        "param_count": size["parameters"] / 1e6,
    }


def _ratio(cell: Sequence[Row], row: Row) -> dict[str, Any]:
    baseline, check = cell[0], _check_name(cell, row)
    where = {
        "baseline": baseline.contender,
        "contender": row.contender,
        "mode": row.mode,
        "precision": row.precision,
        "batch": row.batch,
        "check": check,
    }
    reasons = [f"{side.contender}: {side.reason}" for side in (baseline, row) if side.reason]
    if reasons:
        nothing = {"speedup": None, "p10": None, "p90": None, "rounds": 0, "tie": None}
        return {**where, **nothing, "reason": "; ".join(reasons), "loads": []}
    found = speedup(baseline.round_ms, row.round_ms)
    return {**where, **asdict(found), "tie": found.tie, "reason": None, "loads": _loads(baseline, row, check)}


def _loads(baseline: Row, row: Row, check: str) -> list[dict[str, Any]]:
    """How many times more requests a second, by the number of clients."""
    ratios = []
    for ours, theirs in zip(baseline.loads, row.loads, strict=True):
        if ours.rates and theirs.rates:
            found = speedup(*([1 / rate for rate in load.rates] for load in (ours, theirs)))
            ratios.append({"check": check, "clients": theirs.clients, **asdict(found), "tie": found.tie})
    return ratios


def _check_name(cell: Sequence[Row], row: Row) -> str:
    """One a ratio: what a contender does wrong says nothing of the others."""
    name = f"{row.mode} {row.precision} batch {row.batch}"
    return name if len(cell) < 3 else f"{name}, {row.contender}"


def _check(
    names: Sequence[str],
    accuracies: Mapping[str, float],
    perplexities: Mapping[str, float],
    weights_bytes: Mapping[str, int],
) -> None:
    all_given = dict(accuracies=accuracies, perplexities=perplexities, weights_bytes=weights_bytes)
    for what, given in all_given.items():
        strange = sorted(set(given) - set(names))
        if strange:
            raise ValueError(f"compare: {what} must be keyed by {', '.join(names)}, got {', '.join(strange)}")
    for name, accuracy in accuracies.items():
        if not 0 <= accuracy <= 100:
            raise ValueError(f"compare: accuracy of {name} must lie in 0 to 100 percent, got {accuracy}")
