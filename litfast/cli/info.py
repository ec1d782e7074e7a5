"""`litfast info`: what this installation has and can do."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from litfast import __version__, config
from litfast.bench import machine
from litfast.cli import _console
from litfast.data.sets import DATASETS
from litfast.methods import METHODS
from litfast.models import MODELS
from litfast.ops import backends, build_info


@_console.command
def info(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Print versions, the machine, loss-op backends, models, methods, data sets and recipes."""
    document: dict[str, Any] = {
        "litfast": __version__,
        "machine": machine.describe(),
        "native": build_info(),
        "backends": [{"name": name, "why_not": why_not} for name, why_not in backends()],
        "models": sorted(MODELS),
        "methods": sorted(METHODS),
        "data": sorted(DATASETS),
        "recipes": sorted(config.recipes()),
    }
    if as_json:
        _console.print_json(document)
        return
    table = Table(show_header=False, title=f"litfast {__version__}")
    for key, value in document["machine"].items():
        table.add_row(key, _text(value))
    table.add_section()
    table.add_row("native build", _text(document["native"]))
    for backend in document["backends"]:
        table.add_row(f"backend {backend['name']}", backend["why_not"] or "available")
    table.add_section()
    for key in ("models", "methods", "data", "recipes"):
        table.add_row(key, ", ".join(document[key]))
    _console.out.print(table)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(str(item) for item in value) or "none"
    return "none" if value is None else str(value)
