"""The command line of `keyhaus menu`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keyhaus.cli.main_menu import run


def menu(
    host: Annotated[str, typer.Option(help="Where the server is started, and the client's default.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The server's port for text; 0 picks a free one.", min=0, max=65535)] = 8080,
    data_dir: Annotated[Path, typer.Option(help="Where a server that is started keeps its data.")] = Path("data"),
) -> None:
    """Choose from a menu: start a server that speaks text, send commands to one, exit.

    The server is a process of its own, which ends with the menu. The client sends lines such as PUT key1 value1 and
    shows the JSON that comes back; an empty line, exit or Ctrl-D leaves it.
    """
    run(host, port, data_dir)
