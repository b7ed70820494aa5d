"""Servers as child processes: started, waited for until they are ready, and ended.

Invariant: whoever was started is ended by its own process id, gently, and by force only where that takes too long.
"""

from __future__ import annotations

import select
import subprocess
import sys
from pathlib import Path
from typing import IO, Any, Final

SERVE: Final = (sys.executable, "-m", "keyhaus", "serve")
_DYING_SECONDS: Final = 0.2
STOP_SECONDS: Final = 30.0  # more than a server takes to deliver its last replies


def serve(
    *options: str, directory: Path | None = None, log: IO[bytes] | None = None, process_group: int | None = None
) -> subprocess.Popen[str]:
    """Starts a keyhaus of this installation.

    Args:
        options: Of `keyhaus serve`.
        directory: Where it runs; None: where this process does.
        log: Takes its standard error; None: this process' own does.
        process_group: As Popen has it; 0: one of its own, which no Ctrl-C of a terminal reaches.
    """
    return subprocess.Popen(
        [*SERVE, *options],
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        process_group=process_group,
    )


def ready_line(server: subprocess.Popen[str], seconds: float | None = None) -> str:
    """What a server says once it accepts connections; empty where it ended instead, or has taken longer than that."""
    output = server.stdout
    assert output is not None
    line = output.readline().strip() if select.select([output], [], [], seconds)[0] else ""
    return line if line.startswith("ready ") else ""


def still_runs(process: subprocess.Popen[Any]) -> bool:
    """Whether a process goes on; one that is about to end, and has let its connections go already, does not."""
    try:
        process.wait(_DYING_SECONDS)
    except subprocess.TimeoutExpired:
        return True
    return False


def end(process: subprocess.Popen[Any]) -> bool:
    """Ends a process; whether it still ran."""
    running = process.poll() is None
    if running:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()
    return running
