"""A helper's process: one object, called over a socket. Started as `python -m keyhaus.core.helper <descriptor> <name>`.

    frame   = length:4, MessagePack
    first   = [factory, args]                     from the parent; `factory` is "module:callable"
    request = [id, method, args]
    answer  = [id, true, result] | [id, false, class, message, extras]

Requests are executed one after another and answered in that order. Where the object could not be made, each request is
answered with the reason.

The process ends as soon as the parent's end of the socket is closed, by the parent or by its death, in the middle of
whatever it does: a thread waits for that. A native call doesn't keep it alive, unless it holds the interpreter's lock;
with RocksDB those are the reads, which are short. Nothing is tidied up: the object must survive a kill anyway.
SIGINT and SIGTERM are ignored, since they may go to the whole process group while the parent still needs its helpers.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from keyhaus.core.errors import Corruption, StorageError

HEAD: Final = struct.Struct("<I")
READ_BYTES: Final = 1 << 18
ANSWERS_BYTES: Final = 1 << 18  # how much may be gathered before it is sent,
ANSWERS_NS: Final = 200_000  # and for how long
_COMMAND_BYTES: Final = 15  # Linux keeps so much of a process' short name

_logger = logging.getLogger(__name__)


class Frames:
    """Cuts what was received into frames, in linear time however large they are."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._decoder = msgspec.msgpack.Decoder()

    def feed(self, data: bytes) -> list[Any]:
        """The frames that are complete now, decoded."""
        buffer = self._buffer
        buffer += data
        frames: list[Any] = []
        at = 0
        while len(buffer) - at >= HEAD.size:
            end = at + HEAD.size + HEAD.unpack_from(buffer, at)[0]
            if end > len(buffer):
                break
            with memoryview(buffer) as whole, whole[at + HEAD.size : end] as body:
                frames.append(self._decoder.decode(body))
            at = end
        del buffer[:at]
        return frames


def packed_error(error: BaseException) -> tuple[str, str, Any]:
    """An error as an answer carries it: the name of its class, its message, and what else it is made of.

    Corruption, OSError, StorageError, KeyError and ValueError keep their class; anything else is a fault.
    """
    if isinstance(error, Corruption):
        return "Corruption", error.message, [error.file, error.offset]
    if isinstance(error, OSError):
        name = error.filename
        return "OSError", str(error.strerror or error), [error.errno, name if name is None else str(name)]
    if isinstance(error, KeyError):
        return "KeyError", "", list(error.args) if error.args and isinstance(error.args[0], str | int | bytes) else []
    if isinstance(error, ValueError):
        return "ValueError", str(error), None
    if isinstance(error, StorageError):
        return "StorageError", error.message, None
    _logger.error("a helper's call failed", exc_info=error)
    return "StorageError", f"internal error in a helper process: {type(error).__name__}: {error}", None


def unpacked_error(kind: str, message: str, extras: Any) -> Exception:
    """The error that `packed_error` packed."""
    if kind == "Corruption":
        file, offset = extras
        return Corruption(message.removeprefix(f"{file} at offset {offset}: "), file, offset)
    if kind == "OSError":
        number, name = extras
        return OSError(number, message, name)
    if kind == "KeyError":
        return KeyError(*extras)
    return ValueError(message) if kind == "ValueError" else StorageError(message)


def make(factory: str, args: list[Any]) -> Any:
    """Calls `module:callable`."""
    module, _, name = factory.partition(":")
    return getattr(importlib.import_module(module), name)(*args)


class _Process:
    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._frames = Frames()
        self._encoder = msgspec.msgpack.Encoder()
        self._answers: list[bytes] = []
        self._size = 0
        self._since_ns = 0
        self._method = ""
        self._target: Any = None
        self._broken: BaseException | None = None
        self._execute: Callable[[Any], None] = self._start

    def run(self) -> None:
        while data := self._connection.recv(READ_BYTES):
            for frame in self._frames.feed(data):
                self._execute(frame)
            self._send()

    def _start(self, first: Any) -> None:
        factory, args = first
        try:
            self._target = make(factory, args)
        except Exception as error:
            self._broken = error
        self._execute = self._answer

    def _answer(self, request: Any) -> None:
        number, method, args = request
        if method != self._method:  # it may take long: what is answered doesn't wait for it
            self._send()
            self._method = method
        try:
            if self._broken is not None:
                raise self._broken
            body = self._encoder.encode((number, True, getattr(self._target, method)(*args)))
        except Exception as error:
            body = self._encoder.encode((number, False, *packed_error(error)))
        if not self._answers:
            self._since_ns = time.monotonic_ns()
        self._answers += (HEAD.pack(len(body)), body)
        self._size += len(body)
        if self._size >= ANSWERS_BYTES or time.monotonic_ns() - self._since_ns >= ANSWERS_NS:
            self._send()

    def _send(self) -> None:
        if self._answers:
            self._connection.sendall(b"".join(self._answers))
            self._answers.clear()
            self._size = 0


def _end_with_parent(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLRDHUP if hasattr(select, "POLLRDHUP") else 0)
    while not poll.poll():
        pass
    os._exit(0)


def main(descriptor: int, name: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(name[:_COMMAND_BYTES])
    connection = socket.socket(fileno=descriptor)
    threading.Thread(target=_end_with_parent, args=(descriptor,), daemon=True).start()
    with contextlib.suppress(ConnectionError):
        _Process(connection).run()
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
