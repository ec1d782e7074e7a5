"""A config becomes models, loaders and phases."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from litfast.build import models
from litfast.build.data import data
from litfast.build.method import check_unlabelled, method_options, teacher_phases, trains_first
from litfast.build.models import model_input
from litfast.build.splits import Data
from litfast.config import Config
from litfast.data.loader import Loader
from litfast.engine import auto, modes
from litfast.engine.plan import BranchPlan, plan
from litfast.engine.predicted import Predicted
from litfast.engine.ranks import ALONE, Ranks
from litfast.errors import first_line
from litfast.methods import METHODS, chain
from litfast.models import Input
from litfast.models.inference import Agreement, Inference, agreement
from litfast.models.sectioned import SectionedModel
from litfast.phase import Phase


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """A resolved config and the objects that it names.

    `students` has one model a link of a chain, else one; `discriminator` is there for generators; `val` is
    None where nothing is held out; without labels `val` and `test` have the teacher's predictions as targets;
    `rehearsal` says that the phases are only tried, without training; `ranks` share out `train` and `val`.
    """

    config: Config
    data: Data
    teacher: SectionedModel | None
    students: tuple[SectionedModel, ...]
    discriminator: nn.Module | None
    train: Loader
    val: Loader | None
    test: Loader
    rehearsal: bool = False
    ranks: Ranks = ALONE

    @property
    def student(self) -> SectionedModel:
        """The one that the run is about: the last of a chain."""
        return self.students[-1]

    @property
    def models(self) -> dict[str, SectionedModel]:
        """All by name, in the order of training: teacher, student-1 ..., student."""
        links = {f"student-{k}": model for k, model in enumerate(self.students[:-1], 1)}
        taught = {} if self.teacher is None else {"teacher": self.teacher}
        return taught | links | {"student": self.student}

    def phases(self) -> Iterator[Phase]:
        """The phases of the whole run: the teacher's own training first, where it has no weights."""
        if self.teacher is not None:
            domains = len(self.data.classes)
            yield from teacher_phases(self.config, self.teacher, self.discriminator, domains)
        method, options = METHODS[self.config.method.name], method_options(self.config)
        if self.discriminator is not None:
            options |= {"discriminator": self.discriminator, "domains": len(self.data.classes)}
        takes = inspect.signature(method).parameters
        composed: dict[str, Callable[[], Any]] = {
            "input": lambda: self.input,
            "counts": lambda: self.data.counts,
            "rehearsal": lambda: self.rehearsal and trains_first(self.config),
        }
        options |= {key: give() for key, give in composed.items() if key in takes}
        if self.config.student.sections:
            options |= {
                "copy_sections": [n for n in self.student.names if n not in self.config.student.sections]
            }
        if self.teacher is None or "teacher" not in takes:
            yield from method(self.student, **options)
        else:
            yield from chain(method, self.teacher, self.students, observe=self._observer(method), **options)

    @property
    def input(self) -> Input:
        """One sample as the models read it: of a generator an image and its domain's planes."""
        return model_input(self.config, self.data)

    def _observer(self, method: Callable[..., Any]) -> Callable[[SectionedModel], Inference] | None:
        if "observer" not in inspect.signature(method).parameters:
            return None
        return lambda model: Inference(model, precision=self.config.engine.teacher_precision)

    def agreement(self) -> Agreement | None:
        """How far the teacher as a program is from the plain one, on one batch; None without a teacher."""
        if self.teacher is None:
            return None
        place = torch.device(self.config.engine.device)
        teacher = copy.deepcopy(self.teacher).to(place).eval()
        images = next(iter(self.train.batches(0))).images
        if self.discriminator is not None:
            images = self.input.example(len(images), device=place)
        return agreement(Inference(teacher, precision=self.config.engine.teacher_precision), images)

    def rehearse(self) -> list[BranchPlan]:
        """Every loss of every phase once, on copies: whatever can go wrong in a step goes wrong here."""
        engine = self.config.engine
        if engine.keep == "best" and self.val is None:
            raise ValueError("recipe: engine.keep must be last without validation samples, got 'best'")
        for way in self._ways():
            modes.check(*way, torch.device(engine.device))
        options: dict[str, Any] = {
            "precision": engine.precision,
            "accumulate": engine.accumulate,
            "on_nan": engine.on_nan,
        }
        try:
            plans = list(
                plan(self._copied().phases(), self.train, device=torch.device(engine.device), **options)
            )
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            raise MemoryError(
                f"recipe: a step with data.batch {self.config.data.batch} must fit into the memory of "
                f"{engine.device}, got out of memory; "
                "choose a smaller data.batch, or a larger engine.accumulate"
            ) from None
        if self.val is None and any(branch.schedule.patience for branch in plans):
            raise ValueError("recipe: patience must come with validation samples, got none (data.val)")
        return plans

    def shareable(self) -> Iterator[Phase]:
        """The phases whose sections several ranks can share out, on copies of the models."""
        return (phase for phase in self._copied().phases() if phase.line is not None)

    def choose(self) -> tuple[Experiment, str]:
        """This experiment with engine.mode and engine.branches settled, and one line of what was measured.

        The first of several ranks measures, for all.
        """
        engine = self.config.engine
        options = {"precision": engine.precision, "accumulate": engine.accumulate, "ema": engine.ema}
        found = self.ranks.from_first(
            lambda: auto.choose(
                lambda: self._copied().phases(),
                self.train,
                device=torch.device(engine.device),
                candidates=self._ways(),
                options=options,
            )
        )
        settled = replace(engine, mode=found.mode, branches=found.branches)
        return replace(self, config=replace(self.config, engine=settled)), found.said

    def _ways(self) -> list[auto.Way]:
        engine = self.config.engine
        found = auto.ways(engine.mode, engine.branches, torch.device(engine.device))
        if self.ranks.world > 1 and engine.mode == "auto" and engine.distributed == "sections":
            return [auto.EAGER]
        if self.ranks.world > 1 and engine.mode == "auto":
            return [way for way in found if not modes.captures(way[0])]  # see `modes.make`
        return found

    def _copied(self) -> Experiment:
        """The same on copies of the models, which may be trained."""
        parts = (self.teacher, self.students, self.discriminator)
        teacher, students, critic = copy.deepcopy(parts)
        return replace(self, teacher=teacher, students=students, discriminator=critic, rehearsal=True)


def resolve(config: Config) -> Config:
    """Every default that depends on the machine; `Experiment.choose` settles those that are measured."""
    engine = config.engine
    place = device(engine.device)
    precision = engine.precision
    if precision == "auto":
        precision = "bf16" if fast_bf16(place) else "fp32"
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
        raise ValueError(
            f"engine: device must be one that this machine has, got {name!r}: {first_line(error)}"
        ) from None
    return name


def experiment(config: Config, ranks: Ranks = ALONE) -> Experiment:
    """All objects of a resolved config; whatever can be wrong with it is found here, before any training.

    Args:
        ranks: who trains together, each on its share of every batch.
    """
    method_options(config)
    models.check_kinds(config)
    _check_device(config.engine.device, ranks)
    config, found = data(config, ranks)
    if not found.labelled:
        check_unlabelled(config)
    config = models.settled(config, found)
    torch.manual_seed(config.seed)
    teacher = models.teacher(config, found)
    critic = models.discriminator(config, found)  # before the students: it is the same whatever they are
    students = models.students(config, found, teacher)
    models.check_models(config, found, teacher, students)
    whole = config.engine.distributed == "sections"
    train, test = found.loader("train", whole=whole), judging(found, "test", teacher)
    assert train is not None and test is not None
    return Experiment(
        config=config,
        data=found,
        teacher=teacher,
        students=students,
        discriminator=critic,
        train=train,
        val=None if critic is not None else judging(found, "val", teacher),  # a generator has no accuracy
        test=test,
        ranks=ranks,
    )


def _check_device(name: str, ranks: Ranks) -> None:
    if ranks.world > 1 and name != "cpu" and (name != "cuda" or ranks.device is None):
        raise ValueError(
            "engine: device must be cpu, or cuda with a GPU for every rank of a machine, "
            f"got {name} for rank {ranks.local_rank} here"
        )


def judging(data: Data, split: str, teacher: nn.Module | None) -> Loader | None:
    """A loader over a split to judge a model by; without labels by its agreement with the teacher.

    Raises:
        ValueError: neither labels nor a teacher.
    """
    loader = data.loader(split)
    if loader is None or data.labelled:
        return loader
    if teacher is None:
        raise ValueError(f"data: labels of {data.name} must be there to judge without a teacher, got none")
    return Predicted(loader, teacher)


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def fast_bf16(device: str) -> bool:
    """Whether bf16 is worth it: on CUDA always, on a CPU with bf16 arithmetic units."""
    if device.startswith("cuda"):
        return True
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
