"""`litfast plan`: a student for a latency on this machine, as a recipe."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import tomli_w
import torch
import typer
from rich.table import Table

from litfast import build, config
from litfast.bench import latency, record
from litfast.bench import plan as planning
from litfast.bench.stats import milliseconds
from litfast.cli import _console, _measuring, _sharing
from litfast.cli._contenders import IMAGE, LENGTH, image_sizes, input_of
from litfast.engine.rundir import RunDirectory
from litfast.models import MODELS, create
from litfast.models.sectioned import SectionedModel

RUNS = Path("runs")
OF_RESNETS = "cifar10_resnet56_resnet20"
FAMILIES = {  # shipped recipes: for a teacher that has weights, and one that trains it first
    "resnet": (OF_RESNETS, "cifar10_resnet110_resnet20"),
    "preresnet": (OF_RESNETS, "cifar10_resnet110_resnet20"),
    "resnext": (OF_RESNETS, "cifar10_resnext110_resnext20"),
    "vdcnn": ("amazon_full_vdcnn29_vdcnn17", "amazon_full_vdcnn29_vdcnn17"),
    "stargan": ("celeba_stargan6_stargan2", "celeba_stargan6_stargan2"),
}


@_console.command
def plan(
    teacher: Annotated[
        str, typer.Argument(help=f"A model's name, of {', '.join(FAMILIES)}; or a recipe, with --ranks.")
    ],
    target: Annotated[
        float | None, typer.Option("--target-latency-ms", help="Latency that the student may take.")
    ] = None,
    times: Annotated[
        float | None, typer.Option("--speedup", help="How many times faster than the teacher it should be.")
    ] = None,
    ranks: Annotated[
        int | None, typer.Option(help="Plan up to so many ranks that train sections in parallel instead.")
    ] = None,
    per_machine: Annotated[int, typer.Option(help="Ranks that share a machine.")] = 8,
    inside: Annotated[
        str, typer.Option(metavar="GB/s,US", help="Bandwidth and latency between ranks of one machine.")
    ] = "2,100",
    between: Annotated[
        str, typer.Option(metavar="GB/s,US", help="The same of a job of several machines.")
    ] = "1.25,100",
    batch: Annotated[
        int | None, typer.Option(help="Batch size. Default: 1; with --ranks the recipe's, or 128.")
    ] = None,
    image: Annotated[str, typer.Option(help="Shape CxHxW of an image.")] = IMAGE,
    length: Annotated[int, typer.Option(help="Characters of a text.")] = LENGTH,
    classes: Annotated[int, typer.Option(help="Classes of the data; of a generator its domains.")] = 10,
    mode: Annotated[str, typer.Option(help=f"One of {_measuring.NAMES}.")] = "eager",
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    seconds: _measuring.Seconds = 2.0,
    threads: _measuring.Threads = None,
    device: _measuring.Device = "auto",
    weights: Annotated[
        Path | None, typer.Option(help="The teacher's weights. Default: as the recipe has it.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Recipe that is changed: a shipped name or a TOML file.")
    ] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key of it.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="Default: runs/TEACHER-plan.toml.")
    ] = None,
    as_json: _measuring.AsJson = False,
) -> None:
    """Measure what a block of each section costs here, choose the student's blocks, write the recipe.

    A few models of the teacher's family are timed in turn, and a latency linear in the counts is fitted to
    them. Of all counts within the target those are taken that keep the largest share of the teacher's blocks,
    evenly over the sections. The student is then measured beside the teacher, untrained: blocks decide a
    latency, weights do not. After training, the run and litfast bench RUN measure it again.

    With --ranks it is about training instead: a teacher's and a student's sections are timed, forward,
    backward and update, and shared out over 1, 2, 4 ... ranks so that the slowest one is as fast as can be.
    "apart": each rank runs the teacher as far as it needs; "relay": the teacher's IRs are handed on; "split":
    ranks may share a section by rows of the batch. Threads are those of a rank. No recipe is written.

    Examples:

        litfast plan resnet56 --speedup 2 --weights resnet56-4bfd9763.th --set data.root=DIR

        litfast plan vdcnn29 --target-latency-ms 15 --length 1014 --classes 5 --threads 1

        litfast plan stargan6 --speedup 1.5 --image 3x128x128 --classes 5 --out stargan.toml

        litfast plan resnet56 --ranks 8 --threads 1            sections on up to 8 ranks: who trains what

        litfast plan my.toml --ranks 1024 --per-machine 8 --between 25,20
    """
    file = out or RUNS / f"{teacher}-plan.toml"
    with _console.usage():
        sizes = image_sizes("plan", image)
        cell: dict[str, Any] = {"precision": precision, "device": device, "threads": threads}
        if ranks is not None:
            links = _sharing.network(per_machine, inside, between)
            cell |= {"batch": batch, "sizes": sizes, "length": length, "classes": classes}
            _sharing.show(teacher, ranks=ranks, network=links, sets=sets or [], as_json=as_json, **cell)
            return
        planning.check_target(target, times)
        settings, said = _settings(teacher, weights, recipe, sets or [])
        _check_file(file)
        place = build.device(device)
        latency.check_cells(batches=[1 if batch is None else batch], modes=[mode], precisions=[precision])
        latency.check_conditions(seconds=seconds, device=torch.device(place), threads=threads)

    def make(blocks: Sequence[int] | None) -> SectionedModel:
        return create(teacher, classes=classes, blocks=blocks, **sizes, **said.options)

    whole = make(said.blocks)
    read = input_of(whole.model, sizes, length)
    _console.say("plan: what a block of each section costs", _console.err, "dim")
    found = planning.plan(
        make,
        whole,
        input=read,
        target_ms=target,
        times=times,
        batch=1 if batch is None else batch,
        mode=mode,
        precision=precision,
        seconds=seconds,
        device=place,
        threads=threads,
    )
    _console.say("plan: the student beside the teacher", _console.err, "dim")
    student = make(found.student)
    verified = planning.verify(found.expected, whole, student, input=read, seconds=seconds)
    document = {
        "recipe": str(file),
        "model": teacher,
        "sections": list(whole.names),
        **found.json(),
        "verified": verified,
    }
    _save(document, settings, found, file)
    if as_json:
        _console.print_json(document)
        return
    _console.out.print(_table(document))
    for line in planning.lines(verified):
        _console.say(line)
    if verified["met"] is False:
        _console.say("plan: a longer measurement (--seconds), or a quieter machine, may find a better choice")
    _console.say(f"train it: litfast train {file}")


def _settings(
    teacher: str, weights: Path | None, recipe: str | None, sets: list[str]
) -> tuple[config.Config, config.TeacherConfig]:
    """The recipe that the student is written into, with this teacher; and its table."""
    MODELS[teacher]  # an unknown name raises, and names the nearest
    family = re.sub(r"\d+$", "", teacher)
    if family not in FAMILIES:
        raise ValueError(
            "plan: teacher must be of a family whose sections are stacks of like blocks "
            f"({', '.join(FAMILIES)}), got {teacher!r}"
        )
    base = recipe or FAMILIES[family][weights is None]
    before = config.load(base).teacher
    named = []
    if before is None or before.model != teacher:  # what it says of another model goes with that
        named = [f"teacher.model={teacher}"]
        named += [f"teacher.{key}=none" for key in ("run", "blocks", "options", "weights")]
    if weights is not None:
        named += [f"teacher.weights={weights}", "teacher.train=none"]
    settings = config.load(base, [*named, *sets])
    method = "lit_generator" if family == "stargan" else "lit"
    if settings.method.name != method or settings.teacher is None:
        raise ValueError(
            f"plan: recipe for {teacher!r} must be of method {method!r}, got {settings.method.name!r}"
        )
    return settings, settings.teacher


def _check_file(file: Path) -> None:
    """Nothing but an earlier plan is written over."""
    if file.suffix != ".toml":
        raise ValueError(f"plan: --out must end in .toml, got {str(file)!r}")
    if file.exists() and "plan" not in config.read(file):
        raise ValueError(f"plan: --out must be a new file or an earlier plan, got {file}")


def _save(document: dict[str, Any], settings: config.Config, found: planning.Plan, file: Path) -> None:
    """The recipe, and beside it the record of what was measured."""
    assert settings.teacher is not None
    student = config.StudentConfig(
        model=settings.teacher.model,
        blocks=found.student,
        options=settings.teacher.options,
        init="teacher",
    )
    table = config.dump(replace(settings, student=student, plan=found.expected))
    file.parent.mkdir(parents=True, exist_ok=True)
    head = f"# Blocks chosen for a latency by `litfast plan`; {file.stem}.json holds the measurements.\n"
    RunDirectory(file.parent).write_text(file.name, head + tomli_w.dumps(table))
    command = shlex.join(["litfast", *sys.argv[1:]])
    checks = {"plan": document["verified"]["reason"] is None}
    record.write(file.with_suffix(".json"), command=command, results=document, checks=checks)


def _table(document: dict[str, Any]) -> Table:
    """A line a section: what its blocks cost and how many are kept."""
    costs, expected = document["costs"], document["expected"]
    table = Table(title=f"plan of {document['model']}")
    table.add_column("section")
    for column in ("teacher's blocks", "ms a block", "student's blocks"):
        table.add_column(column, justify="right")
    taught, kept = document["teacher_blocks"], document["student_blocks"]
    for name, most, cost, count in zip(
        document["sections"], taught, costs["per_block_ms"], kept, strict=True
    ):
        table.add_row(name, str(most), milliseconds(cost) if most > 1 else "-", str(count))
    table.add_section()
    table.add_row("one block each, ms", "", milliseconds(costs["shallowest_ms"]), "")
    told = (expected["teacher_ms"], expected["predicted_ms"])
    table.add_row("in all, ms", milliseconds(told[0]), "", milliseconds(told[1]))
    table.add_row("target, ms", "", "", milliseconds(expected["target_ms"]))
    table.add_row("fit within", "", f"{costs['error']:.1%}", "")
    return table
