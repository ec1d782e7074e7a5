"""`--grid KEY=A,B`: axes of values, and the recipe of each cell of their product."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from litfast import build, config

OPENING, CLOSING = "[{(", "]})"


@dataclass(frozen=True, slots=True)
class Axis:
    """One key of the recipe, its short name in tables and folders, and its values as written."""

    key: str
    label: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination: the values by label, as written, the folder name that says so, and the recipe."""

    values: dict[str, str]
    name: str
    settings: config.Config


def axes(grids: Sequence[str]) -> list[Axis]:
    """The axes that `--grid` words name; a label is the key's last part where no other axis ends so.

    Raises:
        ValueError: a word without values, or a key that has an option of its own or comes twice.
    """
    found: dict[str, tuple[str, ...]] = {}
    for text in grids:
        key, _, listed = (part.strip() for part in text.partition("="))
        values = split(listed)
        if not key or not values or not all(values):
            raise ValueError(f"--grid: must be written key=value,value, got {text!r}")
        if key == "seed":
            raise ValueError(f"--grid: key must not be seed (--seeds N takes N of them), got {text!r}")
        if key in found or len(set(values)) < len(values):
            raise ValueError(f"--grid: keys and the values of a key must differ, got {text!r}")
        found[key] = tuple(values)
    ends = [key.rpartition(".")[2] for key in found]
    return [
        Axis(key, end if ends.count(end) == 1 else key, values)
        for (key, values), end in zip(found.items(), ends, strict=True)
    ]


def split(text: str) -> list[str]:
    """Split at commas, but not within brackets or quotes: `1,[2, 3],"a,b"` is three values."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        depth += (letter in OPENING) - (letter in CLOSING) if not quote else 0
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def cells(recipe: str, sets: Sequence[str], grid: Sequence[Axis]) -> list[Cell]:
    """The product of all axes, each cell's recipe read and checked against its method's options.

    Raises:
        ValueError: a key or value that a recipe cannot have, or two cells of one recipe.
    """
    found: list[Cell] = []
    for values in itertools.product(*(axis.values for axis in grid)):
        words = [f"{axis.key}={value}" for axis, value in zip(grid, values, strict=True)]
        settings = config.load(recipe, [*sets, *words])
        build.method_options(settings)
        said = {axis.label: value for axis, value in zip(grid, values, strict=True)}
        name = ",".join(f"{label}={_safe(value)}" for label, value in said.items())
        if twin := next((cell for cell in found if cell.settings == settings or cell.name == name), None):
            raise ValueError(f"--grid: cells must differ, got {name} like {twin.name}")
        found.append(Cell(said, name, settings))
    return found


def _safe(value: str) -> str:
    """A value as part of a folder's name: `[1, 1, 1]` is 1-1-1."""
    return re.sub(r"[^\w.+-]+", "-", value.strip("[]\"' ")) or "-"
