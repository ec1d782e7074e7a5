"""The tables of a recipe: frozen dataclasses, checked where they are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from litfast.phase import Schedule
from litfast.registry import unknown

Options = dict[str, Any]
AUTO = "auto"


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Which samples. `val` of the training samples are held out (none: the set's own split, if any).

    `name` is a set's, with its own keyword arguments in `options`, or FILE.py:function. `limit` trains on
    that many, drawn once at random (none: on all not held out). `loader` is resident, dali, torch or auto. An
    image that cannot be decoded ends the run (`on_error` "raise"), or all are tried first and bad
    ones left out ("skip"). `workers` decode for the loaders torch and dali (none: every core). The keys of
    images (from `mean` to `size`, `workers` and `on_error`) are not for texts.
    """

    name: str = "digits"
    root: str | None = None
    options: Options = field(default_factory=dict)
    batch: int = 64
    val: int | None = None
    limit: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop: int | None = None
    flip: bool | None = None
    centre_crop: int | None = None
    size: int | None = None
    loader: str = "auto"
    workers: int | None = None
    on_error: str = "raise"

    def __post_init__(self) -> None:
        _choice("data.loader", self.loader, ("auto", "resident", "dali", "torch"))
        _choice("data.on_error", self.on_error, ("raise", "skip"))


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherConfig:
    """The deep model, `options` its family's own: `weights` loads it, `train` trains it (phase "teacher").

    `weights` is a file, or "own": those that the model comes with (a timm model's with `pretrained = true`
    among its options, those that a FILE.py's function loads). `boundaries` name the submodules that end its
    sections, or are "auto"; [] is a model without sections, as is one that cannot be cut: kd, ban and scratch
    need none. `check` says what becomes of a loaded teacher that looks wrong on this data: warn, refuse, or
    off.
    """

    model: str
    blocks: tuple[int, ...] | None = None
    boundaries: tuple[str, ...] | str | None = None
    options: Options = field(default_factory=dict)
    weights: str | None = None
    train: Schedule | None = None
    check: str = "warn"

    def __post_init__(self) -> None:
        _choice("teacher.check", self.check, ("warn", "refuse", "off"))
        if (self.weights is None) == (self.train is None):
            got = "none" if self.weights is None else "both (--set teacher.train=none drops the table)"
            raise ValueError(
                f"recipe: teacher.weights (a file) or [teacher.train] (a table) must be given, got {got}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentConfig:
    """The shallow model. `init`: random, or teacher (evenly spaced blocks of each teacher section).

    `model` "auto" is the teacher's with the share `depth` of the blocks of each section, at least one.
    `boundaries` name the submodules that end its sections, or are "auto".
    `adapters`: sections of other widths than the teacher's stand between linear maps in a copy of the
    teacher, whose stem and head they get; the maps train with them and stay (see `litfast.models.adapters`).
    `chain` in place of `model`: depths in the teacher's family, each the teacher of the next ([17, 9]); their
    options are the teacher's unless `options` are given.
    `sections`: only these are compressed; the others are the teacher's own, copied and kept.
    `weights`: a file to start from instead, e.g. `student.safetensors` of a run.
    """

    model: str = ""
    chain: tuple[int, ...] = ()
    sections: tuple[str, ...] = ()
    depth: float | None = None
    blocks: tuple[int, ...] | None = None
    boundaries: tuple[str, ...] | str | None = None
    options: Options = field(default_factory=dict)
    init: str = "random"
    weights: str | None = None
    adapters: bool = False

    def __post_init__(self) -> None:
        if bool(self.model) == bool(self.chain):
            got = "both" if self.model else "none"
            raise ValueError(f"recipe: student.model or student.chain must be given, got {got}")
        if (self.model == AUTO) != (self.depth is not None):
            raise ValueError(
                f"recipe: student.depth must be given with student.model {AUTO!r} and only there, "
                f"got model {self.model!r} and depth {self.depth}"
            )
        if self.depth is not None and not 0 < self.depth <= 1:
            raise ValueError(f"recipe: student.depth must lie above 0 and up to 1, got {self.depth}")
        if self.model == AUTO and (self.blocks or self.boundaries):
            raise ValueError(f"recipe: student.blocks and boundaries must be left out with model {AUTO!r}")
        if self.weights is not None and self.init != "random":
            raise ValueError(
                f"recipe: student.init must be 'random' where student.weights are given, got {self.init!r}"
            )
        for key in ("sections", "blocks", "boundaries", "weights"):
            if self.chain and getattr(self, key):
                raise ValueError(
                    f"recipe: student.{key} must be left out with student.chain, got {getattr(self, key)!r}"
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class DiscriminatorConfig:
    """What generators train against: channels of its first convolution; `weights` of an earlier run's."""

    width: int = 64
    weights: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoresConfig:
    """How generators are judged at the end of a run.

    `extractor` is the Inception file `inception-2015-12-05.pt`, or the `classifier.safetensors` of an earlier
    run on the same images; none: a ResNet-20 is trained on the run's images for `epochs`. `images` of the
    test split are translated (none: all).
    """

    extractor: str | None = None
    epochs: int = 8
    images: int | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"recipe: scores.epochs must be 1 or more, got {self.epochs}")
        if self.images is not None and self.images < 2:
            raise ValueError(f"recipe: scores.images must be 2 or more, got {self.images}")


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodConfig:
    """The method's name and its own options, checked against its signature by `build`."""

    name: str = "lit"
    options: Options = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineConfig:
    """How it runs. "auto" is resolved once, stored in the run and reused on resume.

    `mode` is eager, compile, graph or compile-graph, `branches` serial or parallel: "auto" measures them.
    `accumulate` parts of the batch go through the models one by one before the update: less memory, the same
    step. `ema` is the decay of an average of the weights (none without it), as `litfast.train` describes it.
    `on_nan` says what becomes of a step whose loss or gradient is not finite: raise, skip or rewind. The last
    `keep_checkpoints` of a phase under way stay.
    `distributed` is what several ranks (torchrun) share out: the "data", or the "sections"; the batch is that
    of all together. `sync_batch_norm` normalises by the batch of all ranks, else each by its own.
    """

    device: str = "auto"
    precision: str = "auto"
    teacher_precision: str = "auto"  # of the teacher's forward pass; auto: that of the step
    mode: str = "auto"
    branches: str = "auto"
    accumulate: int = 1
    ema: float | None = None
    threads: int | None = None
    deterministic: bool = False
    keep: str = "last"
    keep_checkpoints: int = 2
    on_nan: str = "raise"
    log_every: int = 20
    distributed: str = "data"
    sync_batch_norm: bool = True

    def __post_init__(self) -> None:
        for key in ("precision", "teacher_precision"):
            _choice(f"engine.{key}", getattr(self, key), ("auto", "fp32", "bf16", "fp16"))
        _choice("engine.mode", self.mode, ("auto", "eager", "compile", "graph", "compile-graph"))
        _choice("engine.branches", self.branches, ("auto", "serial", "parallel"))
        _choice("engine.keep", self.keep, ("last", "best"))
        _choice("engine.on_nan", self.on_nan, ("raise", "skip", "rewind"))
        _choice("engine.distributed", self.distributed, ("data", "sections"))
        for key in ("log_every", "accumulate", "keep_checkpoints"):
            if getattr(self, key) < 1:
                raise ValueError(f"recipe: engine.{key} must be 1 or more, got {getattr(self, key)}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"recipe: engine.ema must lie between 0 and 1, got {self.ema}")


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanConfig:
    """What `litfast plan` expects of the student; it trains nothing and is checked at the end of the run.

    `target_ms` is the latency asked for, `times` how many times faster than the teacher where that was asked.
    All times are of one batch in one mode and precision, on one machine; `shape` is one sample's.
    """

    target_ms: float
    predicted_ms: float
    teacher_ms: float
    batch: int
    threads: int
    device: str
    shape: tuple[int, ...]
    machine: str
    times: float | None = None
    mode: str = "eager"
    precision: str = "fp32"

    def __post_init__(self) -> None:
        for key in ("target_ms", "predicted_ms", "batch", "threads"):
            if getattr(self, key) <= 0:
                raise ValueError(f"recipe: plan.{key} must be above 0, got {getattr(self, key)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """A whole recipe. `phases` holds one Schedule a phase, by the names that the method gives its phases."""

    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    teacher: TeacherConfig | None = None
    student: StudentConfig
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    scores: ScoresConfig = field(default_factory=ScoresConfig)
    phases: dict[str, Schedule] = field(default_factory=dict)
    engine: EngineConfig = field(default_factory=EngineConfig)
    plan: PlanConfig | None = None

    def __post_init__(self) -> None:
        batch, parts = self.data.batch, self.engine.accumulate
        if batch % parts:
            raise ValueError(f"recipe: engine.accumulate must divide data.batch {batch}, got {parts}")


def _choice(key: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"recipe: {unknown(key, value, known)}")
