"""The parent's side of a helper process; `keyhaus.core.helper` is the other side, and has the form of the frames.

Everything happens in the owner's turn, without blocking: calls of one turn leave in one write, answers are handed over
as they come. Tuples arrive over there as lists, and results come back as MessagePack decodes them: lists for tuples.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeAlias

import msgspec

from keyhaus.core.helper import HEAD, READ_BYTES, Frames, unpacked_error
from keyhaus.core.spawn import HelperLost

BACKGROUND_NICENESS: Final = 10
READS_A_TURN: Final = 4
END_SECONDS: Final = 5.0  # how long it may take to end by itself before it is killed
_LARGE_BYTES: Final = 1 << 16  # arguments from this size on are not copied once more to stand in one write with others
# Python's own allocator keeps what is freed as long as anything beside it is in use; from time to time this takes much.
_BACKGROUND: Final = {"PYTHONMALLOC": "malloc"}

_Done: TypeAlias = Callable[[Any, BaseException | None], None]
_logger = logging.getLogger(__name__)


class Reactor(Protocol):
    """Whose turns a helper's parent lives in: an event loop of asyncio's, or what has these methods of one."""

    def call_soon(self, callback: Callable[..., object], *args: Any) -> object: ...

    def add_reader(self, fd: int, callback: Callable[..., object], *args: Any) -> object: ...

    def remove_reader(self, fd: int) -> object: ...

    def add_writer(self, fd: int, callback: Callable[..., object], *args: Any) -> object: ...

    def remove_writer(self, fd: int) -> object: ...

    def call_exception_handler(self, context: dict[str, Any]) -> object: ...


class HelperProcess:
    """`core.spawn.Helper` over a process.

    Attributes:
        pid: The process.
        ended: Set once it is gone.
    """

    def __init__(self, loop: Reactor, name: str, factory: str, args: tuple[Any, ...], niceness: int = 0) -> None:
        self._loop, self._name = loop, name
        self._encoder = msgspec.msgpack.Encoder()
        self._frames = Frames()
        self._calls: deque[_Done] = deque()  # answers come in order: the number of a call is only a check
        self._next = self._answered = 0
        self._output: deque[bytes | memoryview] = deque()
        self._sending = self._writable = False
        self._lost: str | None = None
        self._socket, self._process = _start(name, _BACKGROUND if niceness else {})
        self.pid = self._process.pid
        self.ended = threading.Event()
        if niceness:
            # At once: the start of an interpreter takes as long as a small flush.
            with contextlib.suppress(ProcessLookupError):
                os.setpriority(os.PRIO_PROCESS, self.pid, niceness)
        loop.add_reader(self._socket.fileno(), self._receive)
        self._post((factory, args))

    def call(self, method: str, args: tuple[Any, ...], done: _Done) -> None:
        if self._lost is not None:
            self._loop.call_soon(done, None, HelperLost(self._lost))
            return
        self._post((self._next, method, args))
        self._next += 1
        self._calls.append(done)

    def close(self) -> None:
        self._lose(f"the helper process {self._name} was ended")

    def kill(self) -> None:
        """Ends the process as a crash would; its calls get their HelperLost."""
        self._process.kill()

    def forget(self) -> None:
        """In a forked child: the process is the parent's alone, and is to notice its end."""
        if self._lost is None:
            self._lost = "the helper process is the parent's"
            self._socket.close()

    def _post(self, message: tuple[Any, ...]) -> None:
        body = self._encoder.encode(message)
        self._output += (HEAD.pack(len(body)), body)
        if not self._sending:
            self._sending = True
            self._loop.call_soon(self._send)

    def _send(self) -> None:
        while self._output and self._lost is None:
            part = self._output.popleft()
            if len(part) < _LARGE_BYTES:
                small = [part]
                while self._output and len(self._output[0]) < _LARGE_BYTES:
                    small.append(self._output.popleft())
                part = b"".join(small)
            try:
                sent = self._socket.send(part)
            except BlockingIOError:
                sent = 0
            except OSError:
                break  # its end is seen by the reader, with the answers that still came
            if sent < len(part):
                self._output.appendleft(memoryview(part)[sent:])
                self._wait_to_write(True)
                return
        self._sending = False
        self._wait_to_write(False)

    def _wait_to_write(self, wait: bool) -> None:
        if wait is self._writable or self._lost is not None:
            return
        self._writable = wait
        if wait:
            self._loop.add_writer(self._socket.fileno(), self._send)
        else:
            self._loop.remove_writer(self._socket.fileno())

    def _receive(self) -> None:
        """Takes all that has come, up to the end if that is there: uvloop calls no second time after an error.

        The socket of a helper that died with calls unread has an error, behind answers that are still to be taken.
        """
        for _ in range(READS_A_TURN):
            if self._lost is not None:
                return
            try:
                data = self._socket.recv(READ_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                return self._lose(f"the helper process {self._name} ({self.pid}) has ended")
            self._take(data)
        self._loop.call_soon(self._receive)

    def _take(self, data: bytes) -> None:
        try:
            frames = self._frames.feed(data)
        except msgspec.MsgspecError as error:
            return self._lose(f"the helper process {self._name} ({self.pid}) answered what can't be read: {error}")
        for number, fine, *rest in frames:
            if self._lost is not None:  # closed by what an earlier answer led to
                break
            if number != self._answered:
                self._lose(f"the helper process {self._name} ({self.pid}) answered out of order")
                break
            self._answered += 1
            done = self._calls.popleft()
            if fine:
                self._hand_over(done, rest[0], None)
            else:
                self._hand_over(done, None, unpacked_error(*rest))

    def _hand_over(self, done: _Done, result: Any, error: BaseException | None) -> None:
        try:
            done(result, error)
        except Exception as fault:  # the others' answers must not be lost over it
            message = f"what was to follow an answer of the helper process {self._name} failed"
            self._loop.call_exception_handler({"message": message, "exception": fault})

    def _lose(self, reason: str) -> None:
        if self._lost is not None:
            return
        self._wait_to_write(False)
        self._loop.remove_reader(self._socket.fileno())
        self._lost = reason
        self._socket.close()
        self._output.clear()
        while self._calls:
            self._loop.call_soon(self._calls.popleft(), None, HelperLost(reason))
        # Not a daemon: a server that has ended leaves no process behind that still holds its directory.
        threading.Thread(target=self._reap, name=f"{self._name}-end").start()

    def _reap(self) -> None:
        process = self._process
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
        if process.returncode:
            _logger.warning(
                "the helper process %s (%d) ended with status %d", self._name, process.pid, process.returncode
            )
        self.ended.set()


def _start(name: str, environment: dict[str, str]) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    ours, theirs = socket.socketpair()
    with theirs:
        ours.setblocking(False)
        # -P: nothing of the working directory is imported. It finds what this process finds, wherever that came from.
        process = subprocess.Popen(
            (sys.executable, "-P", "-m", "keyhaus.core.helper", str(theirs.fileno()), name),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
    return ours, process
