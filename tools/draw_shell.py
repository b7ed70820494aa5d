"""Draws docs/assets/shell.svg: a real session of `keyhaus shell` against a server that is started for it.

`python tools/draw_shell.py` writes it anew. What is typed stands below; all else is what the shell shows.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

from keyhaus.cli.shell.dialogue import Dialogue
from keyhaus.cli.shell.runner import Runner
from keyhaus.cli.shell.view import View
from keyhaus.cli.target import DEFAULT_TARGET, parse_target

PICTURE: Final = Path(__file__).resolve().parents[1] / "docs" / "assets" / "shell.svg"
SESSION: Final = (
    "MSET fruit:apple 3 fruit:banana 5 fruit:cherry 8",
    "RANGE fruit: fruit; LIMIT 2",
    "BEGIN OPTIMISTIC",
    "INCRBY fruit:apple 4",
    "TRANSACTION LIST",
    "COMMIT",
    "CONFIG GET max-t*",
    'SET note "\\x1b[2J is only shown"',
    "GET note",
    "INCR note",
)
_WIDTH: Final = 112
_FONTS: Final = re.compile(r"\s*@font-face \{.*?\}", re.DOTALL)  # they would be fetched from somebody else's server


def session(port: int) -> str:
    """The picture of the session."""
    console = Console(
        file=io.StringIO(),
        record=True,
        force_terminal=True,
        width=_WIDTH,
        markup=False,
        emoji=False,
        highlight=False,
        legacy_windows=False,
    )
    dialogue = Dialogue(parse_target(f"127.0.0.1:{port}"))
    runner = Runner(dialogue, View(console))
    for line in SESSION:
        state = dialogue.state.label()
        console.print(Text.assemble((str(DEFAULT_TARGET), "bright_black"), (state, "bold yellow"), f"> {line}"))
        runner.run(line.encode())
    dialogue.close()
    drawn = console.export_svg(title="keyhaus shell", unique_id="shell")
    return "".join(f"{line.rstrip()}\n" for line in _FONTS.sub("", drawn).splitlines())


def main() -> None:
    command = [sys.executable, "-m", "keyhaus", "serve", "--engine", "memory", "--listen", "resp://127.0.0.1:0"]
    with subprocess.Popen([*command, "--log-level", "warning"], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline().rpartition(":")[2])
            PICTURE.parent.mkdir(exist_ok=True)
            PICTURE.write_text(session(port))
        finally:
            server.terminate()
    print(f"written: {PICTURE}")


if __name__ == "__main__":
    main()
