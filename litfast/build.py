"""The composition root: the one place where a config becomes models, loaders and phases."""

from __future__ import annotations

import copy
import inspect
import typing
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from litfast.config import Config, DataConfig, StudentConfig, TeacherConfig, coerce
from litfast.data import choice, screen, sets
from litfast.data.loader import Loader
from litfast.data.sets import ImageSet
from litfast.data.sets.image_set import Source
from litfast.data.shape import image_shape
from litfast.engine import auto, modes
from litfast.engine.plan import BranchPlan, plan
from litfast.methods import METHODS, scratch
from litfast.models import create
from litfast.models.inference import Agreement, Inference, agreement
from litfast.models.pairing import check_pair
from litfast.models.sectioned import SectionedModel
from litfast.models.weights import load_weights
from litfast.phase import Phase, Schedule
from litfast.registry import unknown

EVAL_BATCH = 128
COMPOSED = ("name", "student_init", "observer")  # options of methods that no recipe gives under [method]


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """A resolved config and the objects that it names.

    `val` is None where nothing is held out; `loader` says which loader serves and why, `left_out` which
    images cannot be decoded.
    """

    config: Config
    images: ImageSet
    shape: tuple[int, int, int]  # of an image, [C, H, W]
    loader: str
    left_out: tuple[str, ...]
    teacher: SectionedModel | None
    student: SectionedModel
    train: Loader
    val: Loader | None
    test: Loader

    def phases(self) -> Iterator[Phase]:
        """The phases of the whole run: the teacher's own training first, where it has no weights."""
        if (
            self.teacher is not None
            and self.config.teacher is not None
            and self.config.teacher.train is not None
        ):
            yield from scratch(self.teacher, train=self.config.teacher.train, name="teacher")
        yield from method(self.config, self.teacher, self.student)

    def agreement(self) -> Agreement | None:
        """How far the teacher as a program is from the plain one, on one batch; None without a teacher."""
        if self.teacher is None:
            return None
        place = torch.device(self.config.engine.device)
        teacher = copy.deepcopy(self.teacher).to(place).eval()
        images = next(iter(self.train.batches(0))).images
        return agreement(Inference(teacher, precision=self.config.engine.teacher_precision), images)

    def rehearse(self) -> list[BranchPlan]:
        """Every loss of every phase once, on copies: whatever can go wrong in a step goes wrong here."""
        engine = self.config.engine
        for way in self._ways():
            modes.check(*way, torch.device(engine.device))
        plans = list(
            plan(
                self._copied().phases(),
                self.train,
                device=torch.device(engine.device),
                precision=engine.precision,
                accumulate=engine.accumulate,
            )
        )
        if self.val is None and any(branch.schedule.patience for branch in plans):
            raise ValueError("recipe: patience must come with validation samples, got none (data.val)")
        return plans

    def choose(self) -> tuple[Experiment, str]:
        """This experiment with engine.mode and engine.branches settled, and one line of what was measured."""
        engine = self.config.engine
        options = {"precision": engine.precision, "accumulate": engine.accumulate, "ema": engine.ema}
        found = auto.choose(
            lambda: self._copied().phases(),
            self.train,
            device=torch.device(engine.device),
            candidates=self._ways(),
            options=options,
        )
        settled = replace(engine, mode=found.mode, branches=found.branches)
        return replace(self, config=replace(self.config, engine=settled)), found.said

    def _ways(self) -> list[auto.Way]:
        engine = self.config.engine
        return auto.ways(engine.mode, engine.branches, torch.device(engine.device))

    def _copied(self) -> Experiment:
        """The same on copies of the models, which may be trained."""
        return replace(self, teacher=copy.deepcopy(self.teacher), student=copy.deepcopy(self.student))


def resolve(config: Config) -> Config:
    """Every default that depends on the machine; `Experiment.choose` settles those that are measured."""
    engine = config.engine
    place = device(engine.device)
    precision = engine.precision
    if precision == "auto":
        precision = "bf16" if _fast_bf16(place) else "fp32"
    teacher_precision = precision if engine.teacher_precision == "auto" else engine.teacher_precision
    threads = engine.threads or torch.get_num_threads()
    engine = replace(engine, device=place, precision=precision, threads=threads)
    return replace(config, engine=replace(engine, teacher_precision=teacher_precision))


def device(name: str) -> str:
    """A device's name, "auto" resolved; a device that is not there is refused.

    Raises:
        ValueError: no such device on this machine.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"engine: device must be one that this machine has, got {name!r}: {reason}"
        ) from None
    return name


def experiment(config: Config) -> Experiment:
    """All objects of a resolved config; whatever can be wrong with it is found here, before any training."""
    method_options(config)
    images, left_out = image_set(config.data)
    if screen.attributes(images):
        raise ValueError(f"data: labels of {images.name} must be one class an image, got several attributes")
    config, why = with_loader(config, images)
    train, val = _split(config, images)
    shape = image_shape(images.train, centre_crop=images.centre_crop, size=images.size)
    torch.manual_seed(config.seed)
    teacher = None if config.teacher is None else model(config.teacher, images, shape[0])
    student = model(config.student, images, shape[0])
    if teacher is not None and config.teacher is not None and config.teacher.weights is not None:
        load_weights(teacher, config.teacher.weights)
    if config.student.weights is not None:
        load_weights(student, config.student.weights)
    if teacher is not None and config.method.name == "lit":
        check_pair(teacher, student, torch.zeros(2, *shape))
    return Experiment(
        config=config,
        images=images,
        shape=shape,
        loader=why,
        left_out=left_out,
        teacher=teacher,
        student=student,
        train=loader(train, images, config, train=True),
        val=None if val is None else loader(val, images, config, train=False),
        test=loader(images.test, images, config, train=False),
    )


def image_set(config: DataConfig) -> tuple[ImageSet, tuple[str, ...]]:
    """The named set as the recipe wants it, and the images that data.on_error leaves out."""
    images = sets.load(config.name, root=config.root, **config.options)
    said = {key: getattr(config, key) for key in ("mean", "std", "crop", "flip", "centre_crop", "size")}
    images = replace(images, **{key: value for key, value in said.items() if value is not None})
    screen.check_labels(images)
    return screen.screened(images) if config.on_error == "skip" else (images, ())


def with_loader(config: Config, images: ImageSet) -> tuple[Config, str]:
    """The config with data.loader settled, and one line why."""
    found = choice.choose(config.data.loader, images, device=config.engine.device)
    settled = replace(config, data=replace(config.data, loader=found.name))
    return settled, f"loader: {found.name} ({found.why})"


def model(config: TeacherConfig | StudentConfig, images: ImageSet, channels: int) -> SectionedModel:
    """The configured network for the classes of a set and the channels of its images."""
    blocks = None if config.blocks is None else list(config.blocks)
    return create(
        config.model, classes=len(images.classes), channels=channels, blocks=blocks, **config.options
    )


def loader(split: Source, images: ImageSet, config: Config, *, train: bool) -> Loader:
    """The settled loader over one split; only training shuffles and augments."""
    return choice.make(
        config.data.loader,
        split,
        batch=config.data.batch if train else EVAL_BATCH,
        mean=images.mean,
        std=images.std,
        crop=images.crop if train else 0,
        flip=images.flip and train,
        train=train,
        seed=config.seed,
        device=config.engine.device,
        centre_crop=images.centre_crop,
        size=images.size,
        workers=config.data.workers,
    )


def method(config: Config, teacher: SectionedModel | None, student: SectionedModel) -> Iterator[Phase]:
    """The configured method's phases."""
    function = METHODS[config.method.name]
    models = {"teacher": teacher, "student": student}
    positional = [models[name] for name in inspect.signature(function).parameters if name in models]
    options = method_options(config)
    if teacher is not None and "observer" in inspect.signature(function).parameters:
        options["observer"] = Inference(teacher, precision=config.engine.teacher_precision)
    return function(*positional, **options)


def method_options(config: Config) -> dict[str, Any]:
    """Keyword arguments for the method: its own options, the student's start, one Schedule a phase."""
    name = config.method.name
    function = METHODS[name]
    hints = typing.get_type_hints(function)
    keywords = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    phases = [p.name for p in keywords if hints[p.name] is Schedule]
    options = [p.name for p in keywords if p.name not in phases and p.name not in COMPOSED]
    if "teacher" in hints and config.teacher is None:
        raise ValueError(f"recipe: a [teacher] table must be given for method {name!r}, got none")
    for key in config.phases:
        if key not in phases:
            raise ValueError(f"recipe: {unknown(f'a table of method {name!r}', key, phases)}")
    for key in phases:
        if key not in config.phases:
            raise ValueError(f"recipe: a [{key}] table must be given for method {name!r}, got none")
    given: dict[str, Any] = {}
    for key, value in config.method.options.items():
        if key not in options:
            raise ValueError(f"recipe: {unknown(f'method.* of method {name!r}', key, options)}")
        given[key] = coerce(hints[key], value, f"method.{key}")
    if "student_init" in hints:
        given["student_init"] = config.student.init
    elif config.student.init != "random":
        raise ValueError(
            f"recipe: student.init must be 'random' for method {name!r}, got {config.student.init!r}"
        )
    return given | config.phases


def _split(config: Config, images: ImageSet) -> tuple[Source, Source | None]:
    if config.data.val is None:
        return images.train, images.val
    if config.data.val == 0:
        return images.train, None
    return sets.hold_out(images.train, config.data.val, seed=0)


def _fast_bf16(device: str) -> bool:
    """Whether bf16 is worth it: on CUDA always, on a CPU with bf16 arithmetic units."""
    if device.startswith("cuda"):
        return True
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
