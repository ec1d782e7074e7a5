"""`litfast data`: bring a set from its official address; say what a folder holds."""

from __future__ import annotations

import inspect
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from litfast.cli import _console, _holdings
from litfast.data.contact_sheet import contact_sheet
from litfast.data.describe import describe
from litfast.data.detect import Found, detect
from litfast.data.fetch import SOURCES
from litfast.data.fetch import fetch as bring
from litfast.data.sets import DATASETS, Corpus, FieldSet, ImageSet, TextSet, load
from litfast.registry import unknown

app = typer.Typer(name="data", help="Fetch data sets, look into them.", no_args_is_help=True)


@app.command()
@_console.command
def fetch(
    name: Annotated[str, typer.Argument(help="cifar10, cifar10-python, cifar100, mnist, fashion_mnist ...")],
    root: Annotated[Path, typer.Option(help="The folder below which the set goes.")] = Path("data"),
    mirror: Annotated[
        str | None,
        typer.Option(help="Address of a folder with the same files, in place of the official one."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Download a set, check it against its published md5, unpack it.

    An interrupted call goes on where it stopped. What has no plain address (CelebA, the Amazon reviews) is
    named with the place where it is to be had; files that are brought by hand are checked and unpacked.

    Examples:

        litfast data fetch cifar10 --root data

        litfast data fetch mnist --mirror http://mirror.example.org/mnist
    """
    with _console.usage():
        if name not in SOURCES:
            raise ValueError(f"data fetch: {unknown('NAME', name, SOURCES)}")
    with _stoppable("what has arrived is kept, the same command goes on from there"), _Bars() as bars:
        folder = bring(name, root, mirror=mirror, progress=bars.of_bytes)
    if as_json:
        _console.print_json({"name": name, "folder": str(folder)})
    else:
        _console.say(f"{name} lies in {folder}")


@app.command()
@_console.command
def info(
    what: Annotated[str, typer.Argument(metavar="PATH|NAME", help="A folder, an archive, or a set's name.")],
    sheet: Annotated[Path | None, typer.Option(help="Write a contact sheet of samples, a PNG file.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Decode every image, not 2,000 training images.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Say what a folder holds: format, splits, classes, sizes, mean and deviation, undecodable images.

    Examples:

        litfast data info data/cifar-10-batches-bin --sheet cifar10.png

        litfast data info my_images --all

        litfast data info digits
    """
    with _console.usage():
        if sheet is not None and sheet.suffix.lower() != ".png":
            raise ValueError(f"data info: --sheet must name a .png file, got {sheet}")
    found = _found(what)
    document: dict[str, Any] = {"path": what, "format": found.format, "archive": found.archive}
    if found.archive is not None:
        document |= {"name": found.name, "kind": "archive"}
        if sheet is not None:
            raise ValueError(f"data info: --sheet needs the images unpacked, got an archive, {what}")
    else:
        with _stoppable("nothing is changed"), _Bars() as bars:
            opened = _open(found, bars)
            document |= describe(opened, everything=everything, progress=bars.of_images)
        document |= {"sheet": _draw(opened, sheet)}
    if as_json:
        _console.print_json(document)
    else:
        _holdings.show(document)


def _found(what: str) -> Found:
    """The set that lies there, or that needs no folder; a path goes before a name."""
    if Path(what).exists() or what not in DATASETS:
        return detect(what)
    if "root" in inspect.signature(DATASETS[what]).parameters:
        fetched = f"; litfast data fetch {what} brings it" if what in SOURCES else ""
        raise ValueError(
            f"data info: {what} must be named by the folder that holds it, got its name{fetched}"
        )
    return Found(path=Path(), name=what, format="embedded")


def _open(found: Found, bars: _Bars) -> ImageSet | TextSet | Corpus:
    if found.format == "embedded":
        return _known(load(found.name))
    told = "progress" in inspect.signature(DATASETS[found.name]).parameters  # of the ids that are built once
    options = {"progress": partial(bars.of_bytes, "reading")} if told else {}
    return _known(load(found.name, found.path, **options))


def _known(opened: ImageSet | TextSet | Corpus | FieldSet) -> ImageSet | TextSet | Corpus:
    assert not isinstance(opened, FieldSet), "only a set of one's own has fields"
    return opened


def _draw(opened: ImageSet | TextSet | Corpus, sheet: Path | None) -> str | None:
    if sheet is None:
        return None
    if not isinstance(opened, ImageSet):
        raise ValueError(f"data info: --sheet needs images, got the texts of {opened.name}")
    contact_sheet(opened).save(sheet)
    return str(sheet)


class _Stopped(BaseException):
    """A signal came."""


@contextmanager
def _stoppable(consequence: str) -> Iterator[None]:
    """Ctrl-C and SIGTERM stop at once, tidily: files that are made aside are taken away."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise _Stopped(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except _Stopped as stopped:
        _console.say(f"litfast: stopped; {consequence}", _console.err)
        raise typer.Exit(128 + stopped.args[0]) from stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Bars:
    """A bar a file where somebody watches; nothing elsewhere."""

    def __init__(self) -> None:
        self._shown: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            self._shown.stop()

    def of_bytes(self, name: str, done: int, total: int | None) -> None:
        self._move(name, done, total, (DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()))

    def of_images(self, done: int, total: int) -> None:
        self._move("decoding", done, total, (MofNCompleteColumn(), TimeRemainingColumn()))

    def _move(self, name: str, done: int, total: int | None, columns: tuple[ProgressColumn, ...]) -> None:
        if not _console.err.is_terminal:
            return
        if self._shown is None:
            self._shown = Progress(
                TextColumn("{task.description}"), BarColumn(), *columns, console=_console.err
            )
            self._shown.start()
        if name not in self._tasks:
            self._tasks[name] = self._shown.add_task(name, total=total)
        self._shown.update(self._tasks[name], completed=done, total=total)
