"""Which dialect a connection speaks, told by its first bytes; without I/O.

    `*`   RESP            `{`   JSON lines
    0x00  a frame         0x16  TLS
    a line `METHOD target HTTP/1.x`    HTTP
    any other printable line           text
    anything else                      nothing that is spoken here: the connection is closed

Invariants: `feed` never raises. What it decides depends on the bytes alone, never on how they were cut, and is decided
within the first `limits.INLINE_BYTES_MAX` bytes and one; no byte is looked at twice. A line is text as soon as it can't
become an HTTP request any more, so that a first line with a long value need not be waited for.
"""

from __future__ import annotations

import enum
import re
from typing import Final

from keyhaus.core import limits
from keyhaus.protocol.inline import is_http

__all__ = ["Dialect", "Sniffer", "is_http"]

_HTTP_VERSION: Final = b"HTTP/1."
# What ends a printable line: its line feed, or a control character (blanks and the CR before a line feed aside).
_STOP: Final = re.compile(rb"[\x00-\x08\n\x0b\x0c\x0e-\x1f\x7f]")


class Dialect(enum.Enum):
    """What a connection speaks."""

    RESP = "resp"
    JSON = "json"
    FRAME = "frame"
    TLS = "tls"
    HTTP = "http"
    TEXT = "text"
    UNKNOWN = "unknown"


_BY_FIRST_BYTE: Final = {0x2A: Dialect.RESP, 0x7B: Dialect.JSON, 0x00: Dialect.FRAME, 0x16: Dialect.TLS}


class Sniffer:
    """Recognises one connection's dialect.

    Attributes:
        dialect: What it is, once that is known.
    """

    def __init__(self) -> None:
        self.dialect: Dialect | None = None
        self._buffer = bytearray()
        self._searched = 0  # up to where nothing ends the line
        self._blanks = 0  # how many of the line's first two blanks were found
        self._word = 0  # where the word behind them begins, or the search for the next goes on

    @property
    def buffered(self) -> bytes:
        """All bytes that were fed, for the codec that is to read them."""
        return bytes(self._buffer)

    def feed(self, data: bytes) -> Dialect | None:
        """Takes what was received; the dialect, or None while it needs more."""
        self._buffer += data
        if self.dialect is None and self._buffer:
            first = self._buffer[0]
            self.dialect = _BY_FIRST_BYTE.get(first)
            if self.dialect is None:
                self.dialect = Dialect.UNKNOWN if first >= 0x80 else self._line()
        return self.dialect

    def _line(self) -> Dialect | None:
        buffer, most = self._buffer, limits.INLINE_BYTES_MAX
        stop = _STOP.search(buffer, self._searched, most + 1)
        end = stop.start() if stop else min(len(buffer), most + 1)
        if self._can_not_be_http(end):
            return Dialect.TEXT
        if stop:
            if buffer[end] != 0x0A:
                return Dialect.UNKNOWN
            line = bytes(buffer[:end])
            return Dialect.HTTP if self._blanks == 2 and is_http(line) else Dialect.TEXT
        self._searched = end
        return Dialect.UNKNOWN if end > most else None

    def _can_not_be_http(self, end: int) -> bool:
        """Whether the third word, as far as it is there, is no version of HTTP."""
        while self._blanks < 2:
            found = self._buffer.find(b" ", self._word, end)
            if found < 0:
                self._word = end
                return False
            self._blanks += 1
            self._word = found + 1
        seen = bytes(self._buffer[self._word : min(end, self._word + len(_HTTP_VERSION))])
        return not _HTTP_VERSION.startswith(seen.upper())
