"""`litfast`: the app and its commands."""

from __future__ import annotations

from typing import Annotated

import typer

from litfast import __version__
from litfast.cli.bench import bench
from litfast.cli.compare import compare
from litfast.cli.data import app as data
from litfast.cli.eval import evaluate
from litfast.cli.export import export
from litfast.cli.info import info
from litfast.cli.plan import plan
from litfast.cli.report import report
from litfast.cli.search import search
from litfast.cli.sections import sections
from litfast.cli.sweep import sweep
from litfast.cli.train import train

app = typer.Typer(
    name="litfast",
    help="Make a deep PyTorch model shallower without losing accuracy (LIT, ICML 2019).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"litfast {__version__}")
        raise typer.Exit()


@app.callback()
def _app(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


app.command()(train)
app.command()(sweep)
app.command()(search)
app.command()(plan)
app.command()(bench)
app.command()(compare)
app.command()(report)
app.command(name="eval")(evaluate)
app.command()(export)
app.command()(sections)
app.command()(info)
app.add_typer(data)
