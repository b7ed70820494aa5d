"""The system calls of a real server: a reply leaves after the `fdatasync` that followed its write's `pwrite`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from tests.support.load import Link
from tests.support.processes import HOST, SOURCE, RunningKeyhaus
from tests.support.programs import require_program

CALLS: Final = "pwrite64,fdatasync,fsync,write,sendto,sendmsg,writev"
ROUNDS: Final = 60

_CALL: Final = re.compile(r"^(\d+) +(\w+)\((\d+)<(.*?)>(?=[,) ])(.*)$")
_RESUMED: Final = re.compile(r"^(\d+) +<\.\.\. (\w+) resumed>.*= (-?\d+)")
_KEY: Final = re.compile(r"key-(\w\d{6})")
_VALUE: Final = re.compile(r"value-(\w\d{6})")
_PEER: Final = re.compile(r"->127\.0\.0\.1:(\d+)\]")


class TooEarly(AssertionError):
    """A reply left before the sync that covers it."""


@dataclass
class Trace:
    """What the calls so far prove.

    Attributes:
        owners: Each client's port, and the letter of its keys.
        written: Keys whose `pwrite` returned.
        synced: Keys whose `pwrite` had returned when a `fdatasync` began that has returned since.
        confirmed: How many writes each client was told of.
        reads: How many values were told.
    """

    owners: dict[int, str]
    written: set[str] = field(default_factory=set)
    synced: set[str] = field(default_factory=set)
    confirmed: dict[str, int] = field(default_factory=dict)
    reads: int = 0
    _under_way: dict[str, tuple[str, set[str]]] = field(default_factory=dict)

    def line(self, text: str) -> None:
        if (resumed := _RESUMED.match(text)) is not None:
            thread, _, result = resumed.groups()
            if thread in self._under_way and int(result) >= 0:
                self._returned(*self._under_way.pop(thread))
            return
        call = _CALL.match(text)
        if call is None:
            return
        thread, name, _, target, rest = call.groups()
        if target.endswith(".segment"):
            keys = set(_KEY.findall(rest)) if name == "pwrite64" else set(self.written)
            if rest.endswith("<unfinished ...>"):
                self._under_way[thread] = (name, keys)
            else:
                self._returned(name, keys)
        elif (peer := _PEER.search(target)) is not None and (owner := self.owners.get(int(peer[1]))) is not None:
            self._told(owner, rest)

    def _returned(self, name: str, keys: set[str]) -> None:
        if name == "pwrite64":
            self.written |= keys
        else:
            self.synced |= keys

    def _told(self, owner: str, reply: str) -> None:
        count = self.confirmed.get(owner, 0)
        for _ in range(reply.count("+OK")):
            self._must_be_synced(f"{owner}{count:06}")
            count += 1
        self.confirmed[owner] = count
        for key in _VALUE.findall(reply):
            self.reads += 1
            self._must_be_synced(key)

    def _must_be_synced(self, key: str) -> None:
        if key not in self.synced:
            raise TooEarly(f"{key} was told of, and was {'written' if key in self.written else 'not even written'}")


def traced(directory: Path) -> tuple[list[str], dict[int, str]]:
    """The system calls of a server under load, and whose ports are whose."""
    strace = require_program("strace")
    attempt = subprocess.run([strace, "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)
    if attempt.returncode:
        pytest.skip(f"strace may not trace here: {attempt.stderr.strip()}")
    pipe = directory / "trace"
    os.mkfifo(pipe)
    lines: list[str] = []

    def read() -> None:
        with pipe.open(encoding="utf-8", errors="replace") as trace:
            lines.extend(trace)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    options = ("--data-dir", str(directory / "data"), "--listen", f"resp://{HOST}:0", "--journal-segment-bytes", "1mb")
    # -D: the process that was started is the server itself, and the tracer its grandchild.
    tracer = (strace, "-D", "-f", "-yy", "-s", "1000000", "-e", f"trace={CALLS}", "-o", str(pipe))
    path = os.pathsep.join(filter(None, (str(SOURCE), os.environ.get("PYTHONPATH", ""))))
    command = (*tracer, sys.executable, "-m", "keyhaus", "serve", *options)
    server = RunningKeyhaus(command, directory, {"PYTHONPATH": path})
    try:
        with Link(server.port) as one, Link(server.port) as two, Link(server.port) as three:
            owners = {one.local_port: "a", two.local_port: "b", three.local_port: "c"}
            counts = {"a": 0, "b": 0}
            for number in range(ROUNDS):
                for letter, link, many in (("a", one, 1), ("b", two, number % 7 + 1)):
                    names = [f"{letter}{count:06}".encode() for count in range(counts[letter], counts[letter] + many)]
                    counts[letter] += many
                    link.send(*([b"SET", b"key-" + name, b"value-" + name] for name in names))
                    three.send([b"GET", b"key-" + names[-1]])
                replies = [one.reply(), *(two.reply() for _ in range(number % 7 + 1))]
                assert set(replies) == {b"OK"}
                three.reply(), three.reply()
    finally:
        assert server.stop() == 0
        reader.join(30)
    return lines, owners


def read(trace: Trace, lines: list[str]) -> None:
    for line in lines:
        trace.line(line.rstrip("\n"))


def test_replies_leave_after_the_fdatasync_that_covers_them(tmp_path: Path) -> None:
    lines, owners = traced(tmp_path)
    trace = Trace(owners)
    read(trace, lines)
    expected = {"a": ROUNDS, "b": sum(number % 7 + 1 for number in range(ROUNDS))}
    assert {owner: trace.confirmed[owner] for owner in expected} == expected, "the trace was not understood"
    assert trace.reads > ROUNDS, "hardly a value was read while it was new"
    assert len(trace.synced) == sum(expected.values())
    # The same trace without its syncs is refused: it is them that the check looks at.
    with pytest.raises(TooEarly):
        read(Trace(owners), [line for line in lines if "fdatasync" not in line])
