"""A program at a terminal of its own: what is typed goes through a pseudo-terminal, what it draws is waited for.

The program has it as its controlling terminal, so that Ctrl-C interrupts it as it would a person's.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.support.processes import SOURCE, children

SECONDS: Final = 30.0
_CONTROL: Final = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[=>]|\x1b\][^\x07]*\x07|\r")
_WHERE: Final = b"\x1b[6n"
_OWN_TERMINAL: Final = """\
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


class Terminal:
    """A Python program at a terminal.

    Attributes:
        process: The program.
        raw: All that it has drawn, as it came.
    """

    def __init__(self, arguments: Sequence[str], directory: Path, environment: dict[str, str]) -> None:
        own, theirs = os.openpty()
        termios.tcsetwinsize(own, (30, 110))
        path = os.pathsep.join(filter(None, (str(SOURCE), os.environ.get("PYTHONPATH", ""))))
        settings = {"PYTHONPATH": path, "TERM": "xterm-256color", **environment}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _OWN_TERMINAL, *arguments],
            cwd=directory,
            env={**os.environ, **settings},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.raw = ""
        self._own = own
        self._at = 0
        self._ended = False
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        with contextlib.suppress(OSError):  # EIO, once nobody has the other side open
            while data := os.read(self._own, 1 << 16):
                for _ in range(data.count(_WHERE)):  # a terminal says where its cursor is
                    os.write(self._own, b"\x1b[1;1R")
                with self._changed:
                    self.raw += decoder.decode(data)
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def text(self) -> str:
        """What was drawn, without colours and movements."""
        return _CONTROL.sub("", self.raw)

    def type(self, text: str) -> None:
        """Presses keys; `\\r` is Enter."""
        os.write(self._own, text.encode())

    def enter(self, line: str) -> None:
        """Types a line."""
        self.type(f"{line}\r")

    def expect(self, pattern: str) -> re.Match[str]:
        """Waits for text behind what was waited for before; raises AssertionError where it does not come."""
        expression = re.compile(pattern)

        def found() -> re.Match[str] | None:
            return expression.search(self.text, self._at)

        with self._changed:
            self._changed.wait_for(lambda: self._ended or found() is not None, SECONDS)
            match = found()
        assert match is not None, (
            f"{pattern!r} was not drawn behind {self.text[: self._at]!r}: {self.text[self._at :]!r}"
        )
        self._at = match.end()
        return match

    def wait(self) -> int:
        """The exit status, once it has ended."""
        status = self.process.wait(SECONDS)
        self._reader.join(SECONDS)
        return status

    def close(self) -> None:
        """Ends it by force if it still runs, with what it had started itself."""
        if self.process.poll() is None:
            for child in children(self.process.pid):
                os.kill(child, signal.SIGKILL)
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(SECONDS)
        self._reader.join(SECONDS)
        os.close(self._own)


@contextlib.contextmanager
def at_terminal(arguments: Sequence[str], directory: Path, **environment: str) -> Iterator[Terminal]:
    """Runs `python ARGUMENTS` at a terminal, for as long as the block lasts."""
    terminal = Terminal(arguments, directory, environment)
    try:
        yield terminal
    finally:
        terminal.close()
