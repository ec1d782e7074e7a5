"""The end of a run: evaluate on the test split, measure latency, save the student, print one table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from litfast import build, lfc
from litfast.bench import metric, quick, report
from litfast.cli import _card, _console, _planned, _translation
from litfast.cli._judge import Judge
from litfast.config import Config
from litfast.engine.rundir import RunDirectory
from litfast.methods import ENSEMBLES, PACKED
from litfast.models.ensemble import Ensemble
from litfast.models.sectioned import SectionedModel


def check(experiment: build.Experiment) -> None:
    """Refuse before any training what cannot be judged after it."""
    if experiment.discriminator is not None:
        _translation.check(experiment.config, experiment.data)


def collect(
    run: RunDirectory,
    experiment: build.Experiment,
    seconds: dict[str, float],
    judge: Judge | None,
) -> dict[str, Any]:
    """Everything the run is judged by; also writes weights, model.json, results.json and the model card.

    `judge` has watched the phases; None of generators, which have scores of their own.
    """
    precision = experiment.config.engine.precision
    models = experiment.models
    files = {name: run.write_weights(f"{name}.safetensors", model) for name, model in models.items()}
    if experiment.config.method.name in PACKED:
        state = experiment.student.state_dict()
        files["student"] = lfc.save(run.path / "student.lfc", state, spec=experiment.student.spec)
    judged = _judged(run, experiment, judge)
    results: dict[str, Any] = {
        "method": experiment.config.method.name,
        "data": experiment.data.name,
        "unit": experiment.data.unit,
        "samples": {split: experiment.data.size(split) for split in ("train", "test")},
        **judged,
        "test_by_phase": {} if judge is None else judge.found,
        "phases": _phases(run),
        "throughput": (throughput := _throughput(run)),
        "advice": _advice(throughput, experiment),
        "stopped": _stopped(run, experiment.config),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "precision": precision,
    }
    results |= _measure(models, experiment, judged, files)
    settled = experiment.config.plan
    results["plans"] = _planned.verify(settled, models, input=experiment.input, run=run.path)
    run.write("model.json", model_document(experiment, judged))
    run.write("results.json", results)
    run.write_text("README.md", _card.text(experiment, results))
    return results


def _judged(run: RunDirectory, experiment: build.Experiment, judge: Judge | None) -> dict[str, Any]:
    """Every model on the test split: accuracy (of an ensemble, too), agreement, perplexity or scores."""
    models: dict[str, nn.Module] = dict(experiment.models)
    if judge is None:
        assert experiment.discriminator is not None
        run.write_weights("discriminator.safetensors", experiment.discriminator)
        return {"scores": _translation.judge(experiment.models, experiment.config, experiment.data, run.path)}
    if experiment.config.method.name in ENSEMBLES and len(experiment.students) > 1:
        models["ensemble"] = Ensemble(experiment.students)
    found = {name: judge.scores(model) for name, model in models.items()}
    kind = "accuracy" if experiment.data.labelled else "agreement"
    kind = "perplexity" if experiment.data.unit == "words" else kind
    return {f"test_{kind}": {name: scores[kind] for name, scores in found.items()}}


def model_document(experiment: build.Experiment, judged: Mapping[str, Any]) -> dict[str, Any]:
    """How to build and feed the student."""
    data, student = experiment.data, experiment.student
    read = {"input": dict(data.form)}
    if experiment.discriminator is not None:
        read["input"] |= {"shape": list(experiment.input.shape), "planes": _card.PLANES}
    return {
        "model": student.spec,
        "sections": list(student.names),
        "weights": "student.safetensors",
        **read,
        "classes": list(data.classes),
        **{name: values["student"] for name, values in judged.items()},
        "data": data.name,
    }


def show(results: dict[str, Any], run: RunDirectory, *, as_json: bool) -> None:
    """One table of teacher and student, and where the run was saved."""
    if as_json:
        _console.print_json({"run": str(run.path), **results})
        return
    kind, scores = metric.judged(results)
    _console.out.print(report.summary(results))
    if "scores" in results:
        _console.out.print(_translation.table(results["scores"]))
        _console.say(f"translations: {run.path / _translation.PICTURE}")
    else:
        said = f"{kind.name} is of {results['samples']['test']} test {results['unit']} of {results['data']}"
        ensemble = results.get("test_accuracy", {}).get("ensemble")
        if "test_agreement" in results:
            said += f"; the student's with the teacher: {kind.text(scores['student'])}"
        _console.say(said + ("" if ensemble is None else f"; ensemble of all generations: {ensemble:.2f} %"))
    for line in [*phase_lines(results), *_planned.lines(results["plans"])]:
        _console.say(line)
    for name, phase in results["phases"].items():
        if phase["best"] is not None:
            best_last = f"best {kind.text(phase['best'])}, last {kind.text(phase['last'])}"
            _console.say(f"validation {kind.name} in phase {name}: {best_last}")
    for name, branches in results["stopped"].items():
        listed = ", ".join(f"{branch} after epoch {epoch}" for branch, epoch in branches.items())
        _console.say(f"stopped early in phase {name} (patience): {listed}")
    if results["advice"]:
        _console.say(results["advice"])
    took = ", ".join(f"{name} {value:.0f} s" for name, value in results["seconds"].items())
    _console.say(f"saved in {run.path} (trained: {took})")


def phase_lines(results: Mapping[str, Any]) -> list[str]:
    """What each phase did for its model on the test split, a line each."""
    by_phase = metric.by_phase(results)
    if not by_phase:
        return []
    kind, _ = metric.judged(results)
    return [
        f"test {kind.name} in phase {name}: {kind.text(before)} before, {kind.text(after)} after"
        for name, (before, after) in by_phase.items()
    ]


def _stopped(run: RunDirectory, settings: Config) -> dict[str, dict[str, int]]:
    """By phase, the branches that their patience stopped early, each with its last epoch."""
    taught = {} if settings.teacher is None else {"teacher": settings.teacher.train}
    schedules = {**taught, **settings.phases}
    last: dict[str, dict[str, int]] = {}
    for row in run.rows():  # a branch's validation loss is in the journal while the branch trains
        for name in [key.removesuffix(".val_loss") for key in row if key.endswith(".val_loss")]:
            last.setdefault(row["phase"], {})[name] = row["epoch"]
    found: dict[str, dict[str, int]] = {}
    for phase, branches in last.items():
        schedule = schedules[phase.partition("-")[0]]  # of every link of a chain
        assert schedule is not None
        early = {name: epoch for name, epoch in branches.items() if epoch < schedule.epochs}
        found |= {phase: early} if early else {}
    return found


def _phases(run: RunDirectory) -> dict[str, dict[str, float | None]]:
    """Best and last validation accuracy (or perplexity) a phase, in order, from the run's own journal."""
    found: dict[str, dict[str, float | None]] = {}
    for row in run.rows():
        value, better = (
            (row["val_perplexity"], min) if "val_perplexity" in row else (row.get("val_accuracy"), max)
        )
        phase = found.setdefault(row["phase"], {"best": None, "last": None})
        phase["last"] = value
        if value is not None:
            phase["best"] = value if phase["best"] is None else better(value, phase["best"])
    return found


def _throughput(run: RunDirectory) -> dict[str, dict[str, float | None]]:
    """Samples a second of each phase, in all, of the loader and of the step, and the share of waiting."""
    seconds: dict[
        str, tuple[float, float]
    ] = {}  # a sample takes, and waits for the loader; sums of equal epochs
    epochs: dict[str, int] = {}
    for row in run.rows():
        if row.get("samples_per_s") and "data_wait" in row:  # runs of before have none
            took, waited = seconds.get(row["phase"], (0.0, 0.0))
            one = 1 / row["samples_per_s"]
            seconds[row["phase"]] = took + one, waited + row["data_wait"] * one
            epochs[row["phase"]] = epochs.get(row["phase"], 0) + 1
    return {
        phase: {
            "samples_per_s": epochs[phase] / took,
            "loader_samples_per_s": epochs[phase] / waited if waited else None,
            "step_samples_per_s": epochs[phase] / (took - waited) if took > waited else None,
            "data_wait": waited / took,
        }
        for phase, (took, waited) in seconds.items()
    }


def _advice(throughput: dict[str, dict[str, float | None]], experiment: build.Experiment) -> str:
    """What may help the phase that waited most for its data; empty where it waited little."""
    return experiment.data.advice(
        max((phase["data_wait"] or 0.0 for phase in throughput.values()), default=0.0)
    )


def _measure(
    models: dict[str, SectionedModel],
    experiment: build.Experiment,
    judged: Mapping[str, Mapping[str, float]],
    files: dict[str, int],
) -> dict[str, Any]:
    measured = quick(
        models,
        input=experiment.input,
        device=str(experiment.config.engine.device),
        accuracies={n: value for n, value in judged.get("test_accuracy", {}).items() if n in models},
        perplexities=judged.get("test_perplexity"),
        weights_bytes=files,
    )
    return {key: measured[key] for key in ("models", "rows", "ratios", "device", "threads", "machine")}
