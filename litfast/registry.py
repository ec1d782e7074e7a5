"""Names to objects: a dict whose KeyError names the nearest known name, and `FILE.py:function`."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import zlib
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, TypeVar

from litfast.errors import typed

T = TypeVar("T")


class Registry(dict[str, T]):
    """Names to objects of one `kind`; an unknown name is answered with the nearest known one."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def __missing__(self, name: str) -> NoReturn:
        raise UnknownNameError(unknown(self.kind, name, self))


class UnknownNameError(ValueError, KeyError):
    """A name that nobody registered; both a ValueError (for users) and a KeyError (for a dict)."""

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0])


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """One line: what kind of name, what came, the nearest known name, all known names."""
    names = sorted(known)
    near = get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{kind} must be one of {', '.join(names)}, got {name!r}{hint}"


def is_own(name: str) -> bool:
    """Whether a name is `FILE.py:function`."""
    return name.rpartition(":")[0].endswith(".py")


def own(name: str, who: str) -> Callable[..., Any]:
    """The function that `FILE.py:function` names; a file is run once as long as it does not change.

    Args:
        who: opens the error.

    Raises:
        ValueError: no such file or function, or a file that cannot be imported.
    """
    path, _, function = name.rpartition(":")
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"{who}: {file} must be a Python file, got no such file")
    module = _module(file, who)
    found = getattr(module, function, None)
    if not callable(found):
        members = inspect.getmembers(module, inspect.isfunction)
        functions = [key for key, value in members if value.__module__ == module.__name__]
        raise ValueError(f"{who}: {unknown(f'function of {file}', function, functions)}")
    return found


def _module(file: Path, who: str) -> ModuleType:
    place, written = str(file.resolve()), file.stat().st_mtime_ns
    name = f"_litfast_{file.stem}_{zlib.crc32(place.encode()):08x}"
    if getattr(sys.modules.get(name), "litfast_written", None) == written:
        return sys.modules[name]  # two models of one file are of one class
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # pickle looks classes up here
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the file's own code: anything may be raised
        del sys.modules[name]
        rule = "be a Python file that can be imported"
        raise ValueError(f"{who}: {file} must {rule}, got: {typed(error)}") from error
    module.__dict__["litfast_written"] = written
    return module
