"""The model card of a student: what it is, how well it does, how to load it."""

from __future__ import annotations

from typing import Any

from litfast import __version__
from litfast.bench import metric
from litfast.build import Experiment

PLANES = "the target domain behind it, a constant plane each: litfast.models.with_domain(images, domain)"
TEMPLATE = """# {student} by {method}, trained on {data}

A student of {depth} weighted layers, {parameters:,} parameters, {macs:,} multiply-accumulates a {sample}.
{teacher}
| | |
|---|---|
| {result} |
{phases}| trained on | {train} {unit} of {data} |
| input | {input} |
| {kind} | {classes} |
| seed, precision | {seed}, {precision} |

The weights were chosen without the test images; the resolved recipe is in `config.toml`, machine and versions
are in `run.json`, every figure is in `results.json`.

```python
from safetensors.torch import load_file
from litfast.models import create

student = create({spec})
student.load_state_dict(load_file("student.safetensors"))
student.eval()
```

litfast {version}
"""


def text(experiment: Experiment, results: dict[str, Any]) -> str:
    """The card in Markdown."""
    model = results["models"][-1]
    data = experiment.data
    spec = experiment.student.spec or {}
    return TEMPLATE.format(
        student=spec.get("name", "student"),
        method=results["method"],
        data=data.name,
        depth=model["depth"],
        parameters=model["parameters"],
        macs=model["macs"],
        sample=f"window of {data.input.shape[0]} words" if data.unit == "words" else "sample",
        teacher=_teacher(results),
        result=_result(results),
        phases="".join(_phase_rows(results)),
        train=results["samples"]["train"],
        unit=data.unit,
        input=_input(experiment),
        kind=_kind(experiment),
        classes=", ".join(data.classes) if data.unit != "words" else f"{len(data.classes)} words",
        seed=experiment.config.seed,
        precision=results["precision"],
        spec=", ".join(f"{key}={value!r}" for key, value in spec.items()),
        version=__version__,
    )


def _result(results: dict[str, Any]) -> str:
    if "scores" in results:
        found = results["scores"]["student"]
        value = f"{found['fid']:.2f}, judged by {found['extractor']}"
        return f"FID of {found['translations']} translations | {value}"
    of = f"{results['samples']['test']} {results['unit']}"
    if "test_perplexity" in results:
        return f"test perplexity | {results['test_perplexity']['student']:.2f}, of {of}"
    if "test_agreement" in results:
        return f"test agreement with the teacher | {results['test_agreement']['student']:.2f} % of {of}"
    return f"test accuracy | {results['test_accuracy']['student']:.2f} % of {of}"


def _kind(experiment: Experiment) -> str:
    if experiment.discriminator is not None:
        return "domains"
    return "vocabulary, listed in `model.json`" if experiment.data.unit == "words" else "classes"


def _phase_rows(results: dict[str, Any]) -> list[str]:
    """What each phase did for its model: nothing of generators."""
    by_phase = metric.by_phase(results)
    if not by_phase:
        return []
    kind, _ = metric.judged(results)
    return [
        f"| before and after phase {name} | {kind.text(before)}, {kind.text(after)} |\n"
        for name, (before, after) in by_phase.items()
    ]


def _input(experiment: Experiment) -> str:
    data = experiment.data
    if data.input.beside:
        return ", ".join(f"{one['name']} {one['shape']}" for one in data.input.listed)
    shape = "x".join(str(n) for n in data.input.shape)
    if data.input.alphabet is not None:
        kind = "word" if data.unit == "words" else "character"
        return f"{shape} {kind} ids below {data.input.alphabet}"
    mean, std = data.form["mean"], data.form["std"]
    said = f"{shape} floats, scaled to 0..1, then (x - {mean}) / {std} per channel"
    return said if experiment.discriminator is None else f"{said}; {PLANES}"


def _teacher(results: dict[str, Any]) -> str:
    if len(results["models"]) == 1:
        return ""
    teacher = results["models"][0]
    size = f"{teacher['depth']} layers, {teacher['parameters']:,} parameters"
    if "scores" in results:
        return f"Its teacher has {size}, FID {results['scores']['teacher']['fid']:.2f}.\n"
    if "test_perplexity" in results:
        return f"Its teacher has {size}, perplexity {results['test_perplexity']['teacher']:.2f}.\n"
    if "test_agreement" in results:
        return f"Its teacher has {size}; there were no labels, it learned from the teacher alone.\n"
    return f"Its teacher has {size}, {results['test_accuracy']['teacher']:.2f} %.\n"
