"""`litfast.train`: any phases on any loader, checkpointed, resumable to the bit, stopped by `close()`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from litfast.data.loader import Loader
from litfast.engine import ranks
from litfast.engine.loop import Loop
from litfast.engine.nonfinite import WAYS
from litfast.engine.report import Report
from litfast.engine.step import PRECISIONS
from litfast.engine.store import Store
from litfast.phase import Phase


def train(
    phases: Iterable[Phase],
    data: Loader,
    val: Loader | None = None,
    device: str | torch.device | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    *,
    resume: bool = False,
    precision: str = "fp32",
    keep: str = "last",
    keep_checkpoints: int = 2,
    on_nan: str = "raise",
    log_every: int = 20,
    accumulate: int = 1,
    ema: float | None = None,
    mode: str = "eager",
    branches: str = "serial",
    sync_batch_norm: bool = True,
) -> Iterator[Report]:
    """Run every phase of a method. A generator: the caller prints, logs and stops (`close()`).

    Each step costs no host sync; metrics are read every `log_every` steps and at the end of an epoch. A
    checkpoint is written after every epoch, at the end of every phase and when the generator is closed.

    Inside `litfast.engine.ranks.joined()` all processes of a torchrun job train the same models, each with a
    shard of the loader (`num_shards`); the first one writes, and all must close at the same report.

    Args:
        phases: what a method yields, e.g. `litfast.methods.lit(teacher, student, ...)`.
        data: training loader.
        val: validation loader, for the reports and for `keep="best"`; never the test split.
        device: where to train; None leaves the model where it is.
        out: run folder for checkpoints, metrics.jsonl and TensorBoard events; None keeps nothing.
        seed: of dropout and noise (every phase starts from it); the loader has a seed of its own.
        resume: continue from the checkpoints in `out`. On the CPU, at the same thread count, the result is
            bit-identical to an uninterrupted run's.
        precision: "fp32", or "bf16" or "fp16" (autocast; fp16 with a dynamic loss scale).
        keep: "last", or "best": each phase ends with the weights of its best validation accuracy, of a
            language model its best perplexity.
        keep_checkpoints: how many of a phase under way stay in `out`. One that is torn or spoilt is known by
            its checksum, and the one before it used.
        on_nan: what becomes of a step whose loss or gradient is not finite. "raise" ends the run and names
            step and samples (it looks at losses alone, which costs nothing); "skip" leaves out the updates
            concerned, decided on the device; "rewind" goes back to the last checkpoint and leaves that batch
            out, at most 10 times a phase. What was left out is reported.
        accumulate: equal parts of a batch that are computed one by one before the update: the activations of
            one part take memory, the step stays that of the whole batch (up to batch norm).
        ema: decay of an exponential moving average of the weights, which every phase starts anew. The average
            is what is validated and what the phase ends with; training itself never sees it.
        mode: "eager"; "compile": losses and observation under torch.compile; "graph": the whole step captured
            and replayed (CUDA); "compile-graph": both. What is compiled or captured is checked against eager
            steps first, and left out with a note where it fails.
        branches: "serial", or "parallel": each branch on a CUDA stream of its own.
        sync_batch_norm: of several ranks: batch norms see the batch of all, else each its own share.

    Raises:
        ValueError: unknown option, `resume` without `out`, checkpoints in `out` without `resume`, or those of
            another method, or another process is at work in `out`.
        FloatingPointError: a loss is not finite and `on_nan` no help; the last good checkpoint is kept.
        OSError: a checkpoint cannot be written; the one before it is kept.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"train: precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if keep not in ("last", "best") or (keep == "best" and val is None):
        raise ValueError(f"train: keep must be last, or best with a validation loader, got {keep!r}")
    if on_nan not in WAYS or (on_nan == "rewind" and out is None):
        raise ValueError(f"train: on_nan must be raise, skip, or rewind with a folder (out), got {on_nan!r}")
    if keep_checkpoints < 1:
        raise ValueError(f"train: keep_checkpoints must be 1 or more, got {keep_checkpoints}")
    if log_every < 1:
        raise ValueError(f"train: log_every must be 1 or more, got {log_every}")
    if accumulate < 1 or data.batch % accumulate:
        raise ValueError(f"train: accumulate must divide the batch of {data.batch}, got {accumulate}")
    if ema is not None and not 0 < ema < 1:
        raise ValueError(f"train: ema must lie between 0 and 1, got {ema}")
    if resume and out is None:
        raise ValueError("train: out must be the run's folder when resume is asked for, got none")
    every = ranks.current()
    store = Store(None if out is None else Path(out), keep=keep_checkpoints, writes=every.is_first)
    if not (resume or store.is_empty):
        raise ValueError(
            f"train: out must hold no checkpoints unless resume is asked for, got those of a run in {out}"
        )
    loop = Loop(
        data=data,
        val=val,
        device=None if device is None else torch.device(device),
        out=None if out is None else Path(out),
        seed=seed,
        precision=precision,
        keep=keep,
        on_nan=on_nan,
        log_every=log_every,
        step={
            "precision": precision,
            "accumulate": accumulate,
            "ema": ema,
            "mode": mode,
            "branches": branches,
            "rows": log_every,
            "sync_batch_norm": sync_batch_norm,
            "on_nan": on_nan,
        },
        store=store,
        ranks=every,
    )
    return loop.phases(phases, resume)
