"""Power cuts of a real server: every directory that its system calls allow starts, with all that it has confirmed.

One client writes one command after another, so what is there must be what the first so many of them made, at least
those that were answered. The files are the journal's, the runs' and all of RocksDB's. `KEYHAUS_CUTS` is how many cuts.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Final

import pytest

from tests.support.load import Link, State, everything
from tests.support.processes import HOST, SOURCE, RunningKeyhaus, ServerFailed, keyhaus_server
from tests.support.programs import require_program
from tests.support.replay import CALLS, Replay

CUTS: Final = int(os.environ.get("KEYHAUS_CUTS", "5"))
COMMANDS: Final = 900
OPTIONS: Final = (
    *("--data-dir", "data", "--journal-segment-bytes", "128kb"),
    *("--set", "memtable-bytes=1mb", "--set", "memtable-size=60", "--set", "journal-retain-bytes=0"),
)


def commands(choices: random.Random) -> list[list[bytes]]:
    """Each is answered with OK."""
    made: list[list[bytes]] = []
    for number in range(COMMANDS):
        key = b"key:%d" % choices.randrange(300)
        value = b"%d:" % number + b"v" * choices.choice((10, 100, 2000))
        match choices.randrange(10):
            case 0:
                made.append([b"MSET", *(word for other in range(4) for word in (b"many:%d" % other, value))])
            case 1:
                made.append([b"SET", key, value, b"PX", b"10000000000"])
            case 2 if number % 200 == 199:
                made.append([b"FLUSHDB"])
            case 3 if number % 50 == 49:
                made.append([b"SWAPDB", b"0", b"1"])
            case _:
                made.append([b"SET", key, value])
    return made


def states(made: list[list[bytes]]) -> list[list[State]]:
    """What is there after none of the commands, the first, …"""
    one: State = {}
    two: State = {}
    found = [[dict(one), dict(two)]]
    for words in made:
        match words[0]:
            case b"MSET":
                one.update({key: (value, False) for key, value in zip(words[1::2], words[2::2], strict=True)})
            case b"SET":
                one[words[1]] = (words[2], len(words) > 3)
            case b"FLUSHDB":
                one = {}
            case _:
                one, two = two, one
        found.append([dict(one), dict(two)])
    return found


def traced(directory: Path, made: list[list[bytes]]) -> list[str]:
    """The server's calls while the commands are answered one by one; then it is stopped."""
    pipe = directory / "trace"
    os.mkfifo(pipe)
    lines: list[str] = []

    def read() -> None:
        with pipe.open(encoding="ascii", errors="replace") as trace:
            lines.extend(trace)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    tracer = (
        require_program("strace"),
        "-D",
        "-f",
        "-y",
        "-xx",
        "-s",
        "4000000",
        "-e",
        f"trace={CALLS}",
        "-o",
        str(pipe),
    )
    command = (*tracer, sys.executable, "-m", "keyhaus", "serve", "--listen", f"resp://{HOST}:0", *OPTIONS)
    path = os.pathsep.join(filter(None, (str(SOURCE), os.environ.get("PYTHONPATH", ""))))
    server = RunningKeyhaus(command, directory, {"PYTHONPATH": path})
    try:
        with Link(server.port) as link:
            for at in range(0, len(made), 5):
                link.send(*made[at : at + 5])
                assert [link.reply() for _ in made[at : at + 5]] == [b"OK"] * len(made[at : at + 5])
                if at % 150 == 145:
                    wait_for_the_flush(link)
    finally:
        server.stop()
        reader.join(30)
    return lines


def wait_for_the_flush(link: Link) -> None:
    until = time.monotonic() + 60
    while b"flush_running:1" in (facts := link.ask(b"INFO", b"keyhaus")):
        assert time.monotonic() < until
        time.sleep(0.02)  # each look is in the trace, too
    assert b"flushes:0\r" not in facts, "nothing was flushed: this proves little"


def test_whatever_a_power_cut_leaves_starts_with_all_that_was_confirmed(
    tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    choices = random.Random(seed)
    made = commands(choices)
    expected = states(made)
    origin = tmp_path / "origin"
    origin.mkdir()
    lines = traced(origin, made)
    whole = Replay(origin / "data")
    whole.lines(lines)
    assert whole.told == len(made), "the trace was not understood"
    kept: list[int] = []
    # Half of them where something is synced or renamed just now: that is where an order matters.
    tense = [at for at, line in enumerate(lines) if any(word in line for word in ("sync(", "rename", "link"))]
    for cut in range(CUTS):
        at = choices.choice(tense) + choices.randint(0, 2) if cut % 2 else choices.randrange(len(lines))
        replay = Replay(origin / "data")
        replay.lines(lines[:at])
        where = f"cut {cut} at call {at} of {len(lines)}, {replay.told} confirmed (seed {seed})"
        kept.append(started(tmp_path / "cut", replay, choices, expected, where))
    # What the check looks at is the syncs: without those of the journal's segments it fails.
    replay = Replay(origin / "data")
    replay.lines(line for line in lines if "fdatasync" not in line)
    with pytest.raises((AssertionError, ServerFailed)):
        started(tmp_path / "unsynced", replay, random.Random(1), expected, "without syncs")
    with capsys.disabled():
        print(f" {CUTS} cuts among {len(lines)} calls, {whole.syncs} syncs: 0 confirmed lost, {sum(kept)} more kept")


def started(directory: Path, replay: Replay, choices: random.Random, expected: list[list[State]], where: str) -> int:
    """Starts on what a cut leaves; how many commands are there beside those that were confirmed."""
    place = directory / "data"
    place.mkdir(parents=True)
    replay.cut(choices, place)
    with keyhaus_server(directory, *OPTIONS) as server:
        found = [everything(server.port, database) for database in range(2)]
        with Link(server.port) as link:
            assert link.ask(b"SET", b"after", b"v") == b"OK"
    assert found in expected[replay.told :], f"{where}: {differences(found, expected[replay.told])}"
    shutil.rmtree(directory)
    return expected.index(found, replay.told) - replay.told


def differences(found: list[State], expected: list[State]) -> str:
    return "; ".join(
        f"{database}: {key!r} is {one.get(key)!r:.40}, not {two.get(key)!r:.40}"
        for database, (one, two) in enumerate(zip(found, expected, strict=True))
        for key in sorted({*one, *two})
        if one.get(key) != two.get(key)
    )[:500]
