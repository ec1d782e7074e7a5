"""TOML in, `--set a.b=c` on top, and back: the one reader of recipes."""

from __future__ import annotations

import json
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any

from litfast.config.tables import Config
from litfast.phase import Schedule
from litfast.registry import unknown

OF_RUN = {"model", "blocks", "boundaries", "options", "weights"}  # what `run` stands for
DEEPEST = 20  # tables within tables
LONGEST, LONGEST_KEY = 1000, 100  # characters; errors repeat texts and keys
# of a model's spec; a recipe has them from its data
OF_DATA = ("classes", "channels", "size", "alphabet", "inputs")


def recipes() -> dict[str, Path]:
    """The shipped recipes by name."""
    folder = Path(str(resources.files("litfast") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load(recipe: str, sets: Sequence[str] = ()) -> Config:
    """Read a shipped recipe (by name) or a TOML file, put every `a.b=value` of `sets` on top.

    `run = "FOLDER"` in [teacher] or [student] stands for the student of that finished run: its model, blocks,
    options and weights.
    """
    table = read(_find(recipe))
    for text in sets:
        _set(table, text)
    for role in ("teacher", "student"):
        said = table.get(role)
        if isinstance(said, dict) and said.get("run") is not None:
            table[role] = _of_run(said, role)
    return parse(table)


def parse(table: Mapping[str, Any]) -> Config:
    """A TOML table to a Config.

    An unknown key names the nearest known one; a key whose value is None takes its default.
    """
    _check_values("", table)
    table = _without_none(dict(table))
    known = {f.name for f in fields(Config)} - {"phases"}
    own = {key: value for key, value in table.items() if key in known}
    phases = {key: value for key, value in table.items() if key not in known}
    for key, value in phases.items():
        if not isinstance(value, Mapping) or _misspelt(key, value, known):
            raise ValueError(f"recipe: {unknown('key', key, known)}")
    if "method" in own:
        options = dict(_mapping("method", own["method"]))
        own["method"] = {"name": options.pop("name", "lit"), "options": options}
    own["phases"] = {key: _build(Schedule, value, key) for key, value in phases.items()}
    return typing.cast(Config, _build(Config, own, ""))


def dump(config: Config) -> dict[str, Any]:
    """The inverse of `parse`: the resolved recipe as a TOML table (keys without a value are left out)."""
    table = _without_none(asdict(config))
    phases, method = table.pop("phases"), table.pop("method")
    return {**table, "method": {"name": method["name"], **method["options"]}, **phases}


def read(path: Path) -> dict[str, Any]:
    """The table in a TOML file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"recipe: {path} must be a readable TOML file, got: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # also thousands of digits, or of brackets
        raise ValueError(f"recipe: {path} must be valid TOML, got: {error}") from None


def _of_run(said: dict[str, Any], role: str) -> dict[str, Any]:
    """A model's table without `run`, spelt out from the run's model.json."""
    own = {key: value for key, value in said.items() if key != "run"}
    if both := sorted(own.keys() & OF_RUN):
        raise ValueError(f"recipe: {role}.run must stand in place of {both[0]}, got both")
    folder = Path(coerce(str, said["run"], f"{role}.run"))
    try:
        document = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        spec, weights = {**document["model"]}, str(document["weights"])
        given = {"model": spec.pop("name"), **{key: spec.pop(key, None) for key in ("blocks", "boundaries")}}
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(
            f"recipe: {role}.run must be the folder of a finished run, whose model.json can be read, "
            f"got {folder}: {type(error).__name__}: {error}"
        ) from None
    if Path(weights).name != weights or weights in ("", ".."):
        raise ValueError(f"recipe: weights of {folder} must be a file in that folder, got {weights!r}")
    given["options"] = {key: value for key, value in spec.items() if key not in OF_DATA}
    return own | given | {"weights": str(folder / weights)}


def _find(recipe: str) -> Path:
    shipped = recipes()
    path = shipped.get(recipe, Path(recipe))
    if path.suffix != ".toml" and not path.is_file():
        raise ValueError(f"recipe: {unknown('name', recipe, shipped)}, or a TOML file")
    return path


def _misspelt(key: str, table: Mapping[str, Any], known: Iterable[str]) -> bool:
    """Whether a table that would be a phase's reads like a known one with a typo in its name."""
    required = {f.name for f in fields(Schedule) if f.default is MISSING and f.default_factory is MISSING}
    is_schedule = required <= set(table) <= {f.name for f in fields(Schedule)}
    return not is_schedule and bool(get_close_matches(key, known, n=1, cutoff=0.7))


def _set(table: dict[str, Any], text: str) -> None:
    if len(text) > LONGEST:
        raise ValueError(
            f"--set: must have at most {LONGEST} characters, got {len(text):,}: {text[:60]!r}..."
        )
    key, sep, value = text.partition("=")
    if not sep or not key.strip():
        raise ValueError(f"--set: must be written key=value, got {text!r}")
    *parents, last = key.strip().split(".")
    for parent in parents:
        child = table.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ValueError(f"--set: {parent!r} in {text!r} must be a table, got the value {child!r}")
        table = child
    table[last] = _value(value.strip())


def _value(text: str) -> Any:
    """A TOML value; a bare word is taken as a string, `none` takes the key's default."""
    if text == "none":
        return None
    try:
        table = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return table["value"] if len(table) == 1 else text


def _build(cls: Any, table: Any, where: str) -> Any:
    """An instance of dataclass `cls` from a table; every error names the key with its path."""
    table = _mapping(where, table)
    hints = typing.get_type_hints(cls)
    known = [_join(where, f.name) for f in fields(cls)]
    for key in table:
        if _join(where, key) not in known:
            raise ValueError(f"recipe: {unknown('key', _join(where, key), known)}")
    for f in fields(cls):
        if f.name not in table and f.default is MISSING and f.default_factory is MISSING:
            raise ValueError(f"recipe: {_join(where, f.name)} must be given, got no such key")
    values = {key: coerce(hints[key], value, _join(where, key)) for key, value in table.items()}
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"recipe: [{where}] {error}" if where and cls is Schedule else str(error)) from None


def coerce(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type `hint` asks for: int to float, list to tuple, table to dataclass.

    Raises:
        ValueError: a value of another type; `where` names its key.
    """
    if is_dataclass(hint):
        return value if isinstance(value, hint) else _build(hint, value, where)  # type: ignore[arg-type]
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        kinds = [arg for arg in args if arg is not types.NoneType]
        fits = [
            kind
            for kind in kinds
            if type(value) is kind
            or (isinstance(value, Mapping) and typing.get_origin(kind) is dict)
            or (isinstance(value, list) and typing.get_origin(kind) in (tuple, Sequence))
        ]
        return coerce((fits or kinds)[0], value, where)
    if origin in (tuple, Sequence) and isinstance(value, (list, tuple)) and _fits(value, args):
        return tuple(coerce(args[0], item, where) for item in value)
    if origin is dict and isinstance(value, Mapping):
        return dict(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    name = getattr(hint, "__name__", str(hint)) if origin is None else str(hint)
    raise ValueError(f"recipe: {where} must be of type {name}, got {value!r}")


def _check_values(where: str, value: Any, depth: int = 0) -> None:
    """Refuse what TOML, the machine or one line of an error cannot hold.

    Integers beyond 64 bits, tables without end, texts without end, keys that are not printable.
    """
    if depth > DEEPEST:
        raise ValueError(f"recipe: {where[:60]} must be at most {DEEPEST} tables deep, got more")
    if isinstance(value, int) and value.bit_length() > 63:
        raise ValueError(
            f"recipe: {where} must be an integer of 64 bits, got one of {value.bit_length() + 1}"
        )
    if isinstance(value, str) and len(value) > LONGEST:
        raise ValueError(
            f"recipe: {where} must have at most {LONGEST} characters, got {len(value):,}: {value[:60]!r}..."
        )
    items = value.items() if isinstance(value, Mapping) else ()
    for key, item in enumerate(value) if isinstance(value, (list, tuple)) else items:
        if isinstance(key, str) and not (key.isprintable() and len(key) <= LONGEST_KEY):
            raise ValueError(
                f"recipe: a key must be printable, of at most {LONGEST_KEY} characters, got {key[:60]!r}"
            )
        _check_values(_join(where, str(key)), item, depth + 1)


def _fits(value: Sequence[Any], args: tuple[Any, ...]) -> bool:
    return len(args) == 1 or args[-1] is ... or len(args) == len(value)


def _mapping(where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"recipe: {where} must be a table, got {value!r}")
    return value


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return list(value) if isinstance(value, tuple) else value
