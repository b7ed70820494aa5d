"""System calls of a real server and of its helpers that fail with EIO, one at a time: an error or the right answer.

A journal that could not be written is poisoned (C4); a flush that failed is tried again; a restart has all that was
confirmed. `KEYHAUS_INJECTIONS` is how many calls of each kind are made to fail.
"""

from __future__ import annotations

import os
import random
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Final

import hiredis
import pytest

from tests.support.load import Link
from tests.support.processes import HOST, SOURCE, RunningKeyhaus, ServerFailed, keyhaus_server
from tests.support.programs import require_program

INJECTIONS: Final = int(os.environ.get("KEYHAUS_INJECTIONS", "1"))
WRITES: Final = 300
OPTIONS: Final = (
    *("--data-dir", "data", "--journal-segment-bytes", "128kb"),
    *("--set", "memtable-bytes=1mb", "--set", "memtable-size=100", "--set", "cache-bytes=0"),
)
CALLS: Final = {"fdatasync": 160, "fsync": 40, "pwrite64": 160, "write": 150, "rename": 12, "link": 6, "pread64": 200}


def injected(directory: Path, call: str, when: int) -> tuple[str, dict[bytes, bytes | None]]:
    """Load on a server one of whose calls fails; what came of it, and what was confirmed (None: either way)."""
    inject = f"inject={call}:error=EIO:when={when}"
    strace = (require_program("strace"), "-D", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject)
    command = (*strace, sys.executable, "-m", "keyhaus", "serve", "--listen", f"resp://{HOST}:0", *OPTIONS)
    path = os.pathsep.join(filter(None, (str(SOURCE), os.environ.get("PYTHONPATH", ""))))
    told: dict[bytes, bytes | None] = {}
    try:
        server = RunningKeyhaus(command, directory, {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"})
    except ServerFailed as error:
        assert "Traceback" not in str(error) or call in ("write", "pread64"), (
            f"a start says in one line why not: {error}"
        )
        return "did not start", told
    try:
        with Link(server.port) as link:
            outcome = load(link, told)
    except (ConnectionError, TimeoutError) as error:
        outcome = f"the connection failed: {error}"
    finally:
        server.stop()
    return outcome, told


def load(link: Link, told: dict[bytes, bytes | None]) -> str:
    outcome = "went on"
    for number in range(WRITES):
        key, value = b"%d" % (number % 150), b"%d:" % number + b"v" * 300
        told[key] = None  # until it is confirmed nobody knows
        reply = link.ask(b"SET", key, value)
        if reply == b"OK":
            told[key] = value
        else:
            assert isinstance(reply, hiredis.ReplyError)
            outcome = re.match(r"\w+", str(reply))[0]
        other = b"%d" % (number * 7 % 150)
        reply = link.ask(b"GET", other)
        if isinstance(reply, hiredis.ReplyError):
            outcome = f"{outcome}, a read was refused"
        elif told.get(other, b"") is not None:
            assert reply == told.get(other), f"{other!r} is {reply!r:.30}, not {told.get(other)!r:.30}"
    facts = link.ask(b"INFO", b"keyhaus").decode()
    failures = int(re.search(r"flush_failures:(\d+)", facts)[1])
    return f"{outcome}, a flush failed" if failures else outcome


@pytest.mark.parametrize("call", list(CALLS))
def test_a_call_that_fails_loses_nothing(
    call: str, tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    choices = random.Random(seed)
    outcomes: Counter[str] = Counter()
    for number in range(INJECTIONS):
        directory = tmp_path / str(number)
        directory.mkdir()
        when = choices.randint(1, CALLS[call])
        outcome, told = injected(directory, call, when)
        outcomes[outcome] += 1
        with keyhaus_server(directory, *OPTIONS) as server, Link(server.port) as link:
            for key, value in told.items():
                found = link.ask(b"GET", key)
                assert value is None or found == value, (
                    f"call {when}, {outcome}: {key!r} is {found!r:.30}, not {value!r:.30}"
                )
            if None not in told.values():
                assert link.ask(b"DBSIZE") == len(told)
            assert link.ask(b"SET", b"after", b"v") == b"OK"
    with capsys.disabled():
        print(f" {call}: {dict(outcomes)} (seed {seed})")


def test_a_file_system_without_hard_links_is_refused_at_the_start(tmp_path: Path) -> None:
    strace = (require_program("strace"), "-D", "-f", "-qq", "-o", "/dev/null")
    inject = ("-e", "trace=link,linkat", "-e", "inject=link,linkat:error=EPERM")
    command = (*strace, *inject, sys.executable, "-m", "keyhaus", "serve", "--listen", f"resp://{HOST}:0", *OPTIONS)
    path = os.pathsep.join(filter(None, (str(SOURCE), os.environ.get("PYTHONPATH", ""))))
    with pytest.raises(ServerFailed, match=r"this file system has no hard links .*choose a directory on another one"):
        RunningKeyhaus(command, tmp_path, {"PYTHONPATH": path}).stop()
