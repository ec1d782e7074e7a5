"""`litfast eval`: accuracy or perplexity of a run's student, or of any known model with a weights file."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from litfast import build, config
from litfast.cli import _console, _translation
from litfast.engine import evaluate as measure
from litfast.engine.rundir import RunDirectory
from litfast.engine.step import PRECISIONS
from litfast.models import GENERATORS, SectionedModel, create
from litfast.models.weights import load_weights


@_console.command
def evaluate(
    run: Annotated[
        Path | None, typer.Argument(help="A run folder; or name --model, --weights and --data.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model name, e.g. resnet56.")] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Its weights: .safetensors, .lfc, or a torch file.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Data set, e.g. cifar10.")] = None,
    root: Annotated[Path | None, typer.Option(help="The data set's folder.")] = None,
    beside: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="NAME=RUN", help="Another run's generator, in the same table."),
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32, bf16 or fp16.")] = "fp32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Evaluate on the test split: accuracy; of language models perplexity; of generators scores, a picture.

    Examples:

        litfast eval runs/digits-1

        litfast eval --model resnet56 --weights resnet56.th --data cifar10 --root cifar-10-batches-bin

        litfast eval runs/stargan-lit --with scratch=runs/stargan-scratch
    """
    with _console.usage():
        if (run is None) == (model is None):
            raise ValueError("eval: either a run folder or --model must be given, got both or none")
        if model is not None and (weights is None or data is None):
            raise ValueError("eval: --model needs --weights FILE and --data NAME, got only some of them")
        if model in GENERATORS:
            raise ValueError(f"eval: a generator must be evaluated from its run folder, got --model {model}")
        if precision not in PRECISIONS:
            raise ValueError(f"eval: --precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    settings = _of_run(run) if run is not None else _of_options(str(model), str(data), root)
    settings = build.resolve(replace(settings, engine=replace(settings.engine, device=device)))
    settings = replace(settings, data=replace(settings.data, root=str(root) if root else settings.data.root))
    settings, found = build.data(settings)
    for line in found.notes:
        _console.say(line, _console.err)
    if run is not None and build.trains_generator(settings):
        if precision != "fp32":
            raise ValueError(f"eval: --precision must be fp32 for a generator's scores, got {precision!r}")
        _translations(run, settings, found, beside or [], as_json=as_json)
        return
    if beside:
        raise ValueError(f"eval: --with must come with a generator's run, got {beside[0]!r}")
    said = build.links(settings)[-1]
    if run is None:
        student = build.model(said, found)
    else:  # as training left it: it may be narrower
        student = create(**RunDirectory(run).read("model.json")["model"])
    student.to(str(settings.engine.device))
    file = run / "student.safetensors" if run is not None else weights
    load_weights(student, str(file))
    test = build.judging(found, "test", None if found.labelled else _teacher(run, settings, found))
    assert test is not None
    judged = measure(student, test, precision=precision)
    document = {"model": said.model, "data": found.name, "split": "test", **asdict(judged)}
    if not found.labelled:
        document["agreement"] = document.pop("accuracy")
    if as_json:
        _console.print_json(document)
    else:
        share = f"{judged.accuracy:.2f} % of {judged.samples} {found.unit}"
        if not found.labelled:
            share = f"agrees with the teacher on {share}"
        if judged.perplexity is not None:
            share = f"perplexity {judged.perplexity:.2f}, {share} right"
        _console.say(
            f"{said.model} on {found.name}, test: {share}, cross-entropy {judged.loss:.4f} ({precision})"
        )


def _translations(
    run: Path, settings: config.Config, data: build.Data, beside: list[str], *, as_json: bool
) -> None:
    """Scores of the run's generators and of those beside them; the picture is the run's."""
    tables = {"teacher": settings.teacher, "student": build.links(settings)[-1]}
    named = {name: (run, name, said) for name, said in tables.items() if said is not None}
    for text in beside:
        name, _, folder = text.partition("=")
        if not folder or name in named:
            raise ValueError(f"eval: --with must be NAME=RUN with a name of its own, got {text!r}")
        other = _of_run(Path(folder))
        _check_beside(text, other, RunDirectory(folder).read("model.json")["classes"], data)
        named[name] = (Path(folder), "student", build.links(other)[-1])
    models = {}
    for name, (place, file, said) in named.items():
        models[name] = build.model(said, data).to(str(settings.engine.device))
        load_weights(models[name], place / f"{file}.safetensors")
    found = _translation.judge(models, settings, data, run)
    if as_json:
        _console.print_json({"data": data.name, "split": "test", "scores": found})
    else:
        _console.out.print(_translation.table(found))
        _console.say(f"translations: {run / _translation.PICTURE}")


def _check_beside(text: str, other: config.Config, classes: list[str], data: build.Data) -> None:
    if not build.trains_generator(other):
        raise ValueError(f"eval: --with must name a generator's run, got {text!r} ({other.method.name})")
    if classes != list(data.classes):
        wanted, got = ", ".join(data.classes), ", ".join(classes)
        raise ValueError(f"eval: --with {text} must be of the domains {wanted}, got {got}")


def _teacher(run: Path | None, settings: config.Config, data: build.Data) -> SectionedModel:
    """The run's, which says what samples without labels are."""
    if run is None or settings.teacher is None:
        raise ValueError(
            f"eval: {data.name}, which has no labels, must be given by a run with a teacher, got --model"
        )
    teacher = build.model(settings.teacher, data)
    load_weights(teacher, run / "teacher.safetensors")
    return teacher


def _of_run(run: Path) -> config.Config:
    return config.parse(RunDirectory.open(run).config())


def _of_options(model: str, data: str, root: Path | None) -> config.Config:
    return config.Config(
        data=config.DataConfig(name=data, root=None if root is None else str(root)),
        student=config.StudentConfig(model=model),
    )
