"""The `keyhaus` command: one subcommand a file."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from keyhaus import __version__

# In the order of the help: the module, and in it a function, or an app of further subcommands.
_COMMANDS: Final = {
    "serve": ("serve", "serve"),
    "shell": ("shell.command", "shell"),
    "menu": ("menu", "menu"),
    "backup": ("backup", "app"),
    "export": ("export", "export"),
    "import": ("import_", "import_"),
    "check": ("check", "check"),
    "salvage": ("salvage", "salvage"),
    "bench": ("bench.command", "bench"),
}


class _OnDemand(TyperGroup):
    """Imports the module of a subcommand once that is named: a server starts without what the others need."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in _COMMANDS and cmd_name not in self.commands:
            module, name = _COMMANDS[cmd_name]
            found = getattr(import_module(f"keyhaus.cli.{module}"), name)
            if not isinstance(found, typer.Typer):
                alone = _app()
                alone.command(cmd_name)(found)
                found = alone
            self.add_command(typer.main.get_command(found), cmd_name)
        return super().get_command(ctx, cmd_name)


def _app(**settings: Any) -> typer.Typer:
    return typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None, add_completion=False, **settings)


app = typer.Typer(
    cls=_OnDemand,
    name="keyhaus",
    help="A key/value database server: durable before it answers, spoken to by any Redis client.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


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
