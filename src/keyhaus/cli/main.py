"""The `keyhaus` command: one subcommand a file."""

from __future__ import annotations

from typing import Annotated

import typer

from keyhaus import __version__
from keyhaus.cli import backup
from keyhaus.cli.bench.command import bench
from keyhaus.cli.check import check
from keyhaus.cli.export import export
from keyhaus.cli.import_ import import_
from keyhaus.cli.menu import menu
from keyhaus.cli.salvage import salvage
from keyhaus.cli.serve import serve
from keyhaus.cli.shell.command import shell

app = typer.Typer(
    name="keyhaus",
    help="A key/value database server: durable before it answers, spoken to by any Redis client.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(serve)
app.command()(shell)
app.command()(menu)
app.add_typer(backup.app, name="backup")
app.command()(export)
app.command("import")(import_)
app.command()(check)
app.command()(salvage)
app.command()(bench)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"keyhaus {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """A key/value database server: durable before it answers, spoken to by any Redis client."""


def main() -> None:
    app()
