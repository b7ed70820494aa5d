"""RESP's replies, 2 and 3, as a client reads them, into the types of `core/reply.py`.

redis-py's parsers make one type of status words and values, and people want to see which of them it was; so this one.
An error is an `Error` whose `code` is the first word of its line.

Invariants: a reply has at most `limits.REPLY_BYTES_MAX` bytes and `DEPTH_MAX` levels; what is no reply raises
ProtocolError, and the stream can't be followed any more.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, BinaryIO, Final

from keyhaus.core import limits
from keyhaus.core.errors import Error, LimitExceeded, ProtocolError
from keyhaus.core.reply import BigNumber, Push, SetReply, Verbatim

DEPTH_MAX: Final = 64
_LINE_BYTES_MAX: Final = 1 << 20
_ITEM_BYTES: Final = 16  # what an element counts beside its own bytes
_CODE: Final = re.compile(rb"[A-Z][A-Z0-9_]*$")
_NUMBER: Final = re.compile(rb"[+-]?[0-9]+$")


class Reader:
    """Reads replies from a stream of bytes."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._left = 0

    def close(self) -> None:
        """Closes the stream."""
        self._stream.close()

    def reply(self) -> Any:
        """The next reply, or what the server pushes.

        Raises:
            EOFError: The stream ended, be it amid a reply.
            ProtocolError: This is no reply.
            LimitExceeded: It is too large.
        """
        self._left = limits.REPLY_BYTES_MAX
        return self._read(0)

    def _read(self, depth: int) -> Any:
        if depth > DEPTH_MAX:
            raise ProtocolError(f"a reply of more than {DEPTH_MAX} levels")
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"$":  # most of a long reply
            return self._bulk(kind, rest)
        simple = _SIMPLE.get(kind)
        if simple is not None:
            return simple(rest)
        if kind in b"!=":
            return self._bulk(kind, rest)
        if kind in b"*~>":
            return self._items(kind, rest, depth)
        if kind == b"%":
            return self._pairs(rest, depth)
        if kind == b"|":
            self._pairs(rest, depth)  # attributes say nothing that a reader of the reply has to know
            return self._read(depth + 1)
        raise ProtocolError("what answers there does not speak Redis' protocol")

    def _line(self) -> bytes:
        line = self._stream.readline(_LINE_BYTES_MAX)
        if not line.endswith(b"\r\n"):
            if len(line) < _LINE_BYTES_MAX and not line.endswith(b"\n"):
                raise EOFError("the server closed the connection")
            raise ProtocolError("what answers there does not speak Redis' protocol")
        self._spend(len(line))
        if len(line) == 2:
            raise ProtocolError("a reply without a type")
        return line[:-2]

    def _bulk(self, kind: bytes, rest: bytes) -> Any:
        size = _integer(rest)
        if size < 0:
            return None
        self._spend(size)
        data = self._stream.read(size + 2)
        if len(data) < size + 2:
            raise EOFError("the server closed the connection")
        if data[-2:] != b"\r\n":
            raise ProtocolError("a value without its end")
        data = data[:-2]
        if kind == b"!":
            return failure(data)
        return Verbatim(data[4:]) if kind == b"=" else data

    def _items(self, kind: bytes, rest: bytes, depth: int) -> Any:
        count = _integer(rest)
        if count < 0:
            return None
        self._spend(count * _ITEM_BYTES)
        items = [self._read(depth + 1) for _ in range(count)]
        return SetReply(items) if kind == b"~" else Push(items) if kind == b">" else items

    def _pairs(self, rest: bytes, depth: int) -> dict[Any, Any]:
        count = _integer(rest)
        self._spend(2 * count * _ITEM_BYTES)
        pairs: dict[Any, Any] = {}
        for _ in range(count):
            name = self._read(depth + 1)
            try:
                pairs[name] = self._read(depth + 1)
            except TypeError:
                raise ProtocolError("a map whose keys are no plain values") from None
        return pairs

    def _spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            most = limits.REPLY_BYTES_MAX
            raise LimitExceeded("max-reply-bytes", most - self._left, most)


class Answered(Error):
    """A server's answer that is an error; its code is its own, not its class'."""

    def __init__(self, code: str, message: bytes) -> None:
        super().__init__(message)
        vars(self)["code"] = code


def failure(line: bytes) -> Error:
    """The error of a line: its code is the first word, where that is one."""
    code, _, message = line.partition(b" ")
    return Answered(Error.code, line) if _CODE.match(code) is None else Answered(code.decode(), message)


def _integer(text: bytes) -> int:
    # Whole numbers are told at once; the rest takes a second look.
    if len(text) > 20 or not (text.isdigit() or _NUMBER.match(text)):
        raise ProtocolError("a number that is none")
    return int(text)


def _big(text: bytes) -> BigNumber:
    if _NUMBER.match(text) is None or len(text) > 4000:
        raise ProtocolError("a big number that is none")
    return BigNumber(int(text))


def _double(text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        raise ProtocolError("a double that is none") from None


_SIMPLE: Final[dict[bytes, Callable[[bytes], Any]]] = {
    b"+": lambda rest: rest.decode("utf-8", "surrogateescape"),
    b"-": failure,
    b":": _integer,
    b"_": lambda rest: None,
    b"#": lambda rest: rest == b"t",
    b",": _double,
    b"(": _big,
}
