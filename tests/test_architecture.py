"""The laws of the design that can be read off the source; 2 to 6 are in tests/ops, 7 in tests/methods."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import litfast

PACKAGE = Path(litfast.__file__).parent
TESTS = Path(__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
NAMES = [path.relative_to(PACKAGE).as_posix() for path in FILES]
every_file = pytest.mark.parametrize("path", FILES, ids=NAMES)

LEVELS = {
    "cli": 6,
    "bench": 5,
    "build": 4,
    **dict.fromkeys(("methods", "export"), 3),
    **dict.fromkeys(("nn", "testing", "models", "data", "engine"), 2),
    **dict.fromkeys(("ops", "phase", "carried", "fields", "registry", "config", "lfc"), 1),
    "errors": 0,
}
# What a neighbour may know of another: what a loader is, a name's error, a schedule in a recipe, layers.
NEIGHBOURS = {
    "engine": {"litfast.data.loader"},
    "config": {"litfast.phase", "litfast.registry"},
    "ops": {"litfast.registry"},
    "models": {"litfast.nn"},
}
ONLY_IN = {
    "rich": ("cli/", "bench/report.py"),
    "typer": ("cli/",),
    "triton": ("ops/triton/",),
    "nvidia": ("data/dali.py", "data/_dali_"),
    "litfast._C": ("ops/_library.py",),
    "tomllib": ("config/reading.py",),
    "matplotlib": (
        "bench/picture.py",
        "bench/picture_cells.py",
        "bench/picture_page.py",
        "bench/picture_runs.py",
    ),
    "jinja2": ("bench/page.py",),
    "onnxruntime": ("export/",),
    "pynvml": ("bench/energy.py",),
    "timm": ("models/foreign.py",),
    "PIL": ("bench/grid.py", "data/contact_sheet.py", "data/decode.py"),
}
HEAVY = (
    "triton",
    "nvidia",
    "typer",
    "rich",
    "tensorboard",
    "torch.utils.tensorboard",
    "matplotlib",
    "jinja2",
    "safetensors",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "PIL",
    "timm",
)

LONGEST_FILE, LONGEST_FUNCTION = 300, 60

Function = ast.FunctionDef | ast.AsyncFunctionDef


def module_name(path: Path) -> str:
    parts = ["litfast", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
MODULES = {module_name(path) for path in FILES} | {"litfast._C"}


def imports(path: Path) -> set[str]:
    """Full names of the modules that a file imports anywhere, relative ones resolved."""
    name = module_name(path)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            submodules = {f"{base}.{alias.name}" for alias in node.names} & MODULES
            found |= submodules or {base}
    return found


def unit(module: str) -> str:
    """litfast.engine.train -> engine; litfast itself -> ''."""
    return module.partition(".")[2].partition(".")[0]


def is_allowed(importer: str, imported: str) -> bool:
    ours, theirs = unit(importer), unit(imported)
    if theirs in ("", ours, "_C") or ours in (
        "",
        "__main__",
    ):  # litfast itself re-exports; `python -m` is a door
        return True
    return LEVELS[theirs] < LEVELS[ours] or imported in NEIGHBOURS.get(ours, ())


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def comments(path: Path) -> Iterator[tuple[int, str, bool]]:
    """(line, text, whether it stands alone) of every comment."""
    with path.open("rb") as file:
        for token in tokenize.tokenize(io.BytesIO(file.read()).readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string.lstrip("# "), not token.line[: token.start[1]].strip()


@every_file
def test_imports_point_down_and_neighbours_do_not_know_each_other(path: Path) -> None:
    name = module_name(path)
    upward = {
        other for other in imports(path) if other.split(".")[0] == "litfast" and not is_allowed(name, other)
    }
    assert not upward


def test_every_part_of_the_house_has_a_level() -> None:
    assert {unit(name) for name in MODULES} - {"", "__main__", "_C"} <= set(LEVELS)


def test_imports_go_in_no_circle() -> None:
    graph = {
        module_name(path): imports(path) & MODULES - {"litfast"} for path in FILES if path.parent != PACKAGE
    }
    graph |= {module_name(path): imports(path) & MODULES for path in PACKAGE.glob("*.py")}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@every_file
def test_a_dependency_is_imported_only_where_it_belongs(path: Path) -> None:
    place = path.relative_to(PACKAGE).as_posix()
    for module in imports(path):
        for owner, places in ONLY_IN.items():
            if module == owner or module.startswith(f"{owner}."):
                assert place.startswith(places), f"{place} imports {module}"


def test_the_reference_imports_nothing_of_ours() -> None:
    used = imports(PACKAGE / "ops" / "reference.py")
    assert not {module for module in used if module.split(".")[0] == "litfast"}


def test_a_method_is_one_function_in_one_file() -> None:
    for name in litfast.methods.METHODS:
        tree = TREES[PACKAGE / "methods" / f"_{name}.py"]
        assert [node.name for node in tree.body if isinstance(node, Function)].count(name) == 1


def test_a_class_is_abstract_or_final() -> None:
    classes = [node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    bases = {node.name: {re.sub(r"\[.*", "", ast.unparse(base)) for base in node.bases} for node in classes}
    concrete = {name for name, parents in bases.items() if not parents & {"Protocol", "ABC"}}
    assert {name: parents & concrete for name, parents in bases.items() if parents & concrete} == {}


def message(call: ast.Call) -> str | None:
    """The literal text of an error, values as X; None where it is not written on the spot."""
    match call.args[:1]:
        case [ast.Constant(value=str(text))]:
            return text
        case [ast.JoinedStr(values=values)]:
            return "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in values)
    return None


@every_file
def test_an_error_says_who_speaks_the_rule_and_what_came(path: Path) -> None:
    raised = [node.exc for node in ast.walk(TREES[path]) if isinstance(node, ast.Raise)]
    for call in raised:
        if isinstance(call, ast.Call) and ast.unparse(call.func) in (
            "ValueError",
            "TypeError",
            "FloatingPointError",
        ):
            text = message(call)
            assert text is None or re.match(r"([\w.\- \[\]]+:|X) \S", text), f"{call.lineno}: {text}"


@every_file
def test_comments_say_why_and_are_no_banners_dead_code_or_promises(path: Path) -> None:
    for line, text, alone in comments(path):
        assert not re.search(r"([-=#*~_])\1{3,}", text), f"{line}: a banner: {text}"
        assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b", text), f"{line}: a promise: {text}"
        assert not (alone and reads_like_code(text)), f"{line}: dead code: {text}"


def reads_like_code(text: str) -> bool:
    try:
        body = ast.parse(text).body
    except SyntaxError:
        return False
    return any(not isinstance(node, ast.Expr) or isinstance(node.value, ast.Call) for node in body)


def test_the_heuristic_for_dead_code_knows_code_from_words() -> None:
    code = ["x = 1", "import os", "loss.backward()", "return x", "if x: y()"]
    words = ["the teacher, frozen", "[B, C, H, W]", "x", "see irs[0]", "it is (so) here"]
    assert all(map(reads_like_code, code))
    assert not any(map(reads_like_code, words))


@pytest.mark.parametrize("folder", [PACKAGE, TESTS, TESTS.parent / "csrc"], ids=["litfast", "tests", "csrc"])
def test_a_file_has_at_most_300_lines(folder: Path) -> None:
    sources = [path for path in folder.rglob("*") if path.suffix in (".py", ".h", ".cpp", ".cu")]
    sizes = {str(path.relative_to(folder)): path.read_text("utf-8").count("\n") for path in sources}
    assert {name: lines for name, lines in sizes.items() if lines > LONGEST_FILE} == {}


@every_file
def test_a_functions_body_has_at_most_60_lines(path: Path) -> None:
    for function in functions(TREES[path]):
        body = function.body[1:] if ast.get_docstring(function) and len(function.body) > 1 else function.body
        assert body[-1].end_lineno is not None
        lines = body[-1].end_lineno - body[0].lineno + 1
        assert lines <= LONGEST_FUNCTION, f"{function.name}: {lines} lines"


@every_file
def test_every_public_function_is_documented(path: Path) -> None:
    public = [
        node for node in TREES[path].body if isinstance(node, Function) and not node.name.startswith("_")
    ]
    assert not [function.name for function in public if not ast.get_docstring(function)]


@every_file
def test_every_function_is_typed_in_full(path: Path) -> None:
    for function in functions(TREES[path]):
        given = function.args
        arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
        untyped = [
            a.arg
            for a in arguments
            if a is not None and a.annotation is None and a.arg not in ("self", "cls")
        ]
        assert not untyped, f"{function.name}: {untyped}"
        assert function.returns is not None, f"{function.name} says not what it returns"


@every_file
def test_a_module_says_what_it_is_and_reads_annotations_lazily(path: Path) -> None:
    tree = TREES[path]
    assert ast.get_docstring(tree)
    lazily = any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body)
    assert lazily or len(tree.body) == 1  # the docstring of a package that names nothing


def test_importing_litfast_is_light() -> None:
    """In a fresh process: nothing heavy comes along, and CUDA is not touched."""
    program = "import sys, torch, litfast; print(torch.cuda.is_initialized(), *sys.modules)"
    environment = {"PYTHONPATH": str(PACKAGE.parent), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    initialised, *loaded = done.stdout.split()
    assert initialised == "False"
    assert {"litfast.methods", "litfast.engine.train"} <= set(loaded)
    assert set(HEAVY) & set(loaded) == set()
