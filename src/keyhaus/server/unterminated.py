"""Connections of clients that may end no line, as the first text clients did."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from keyhaus.core.limits import UNTERMINATED_BYTES_MAX
from keyhaus.protocol.text import TextCodec
from keyhaus.server.connection import Connection

if TYPE_CHECKING:
    from keyhaus.server.server import Server

UNTERMINATED_SECONDS: Final = 0.02


class UnterminatedConnection(Connection):
    """One that speaks text to clients which may end no line: it is complete when for a moment nothing more comes.

    Only a short one: whoever sends more, or pauses in the middle, has to end lines.
    """

    codec: TextCodec

    def __init__(self, server: Server, codec: TextCodec) -> None:
        super().__init__(server, codec)
        self._line_ends: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        if self._line_ends is not None:
            self._line_ends.cancel()
        super().data_received(data)
        self._line_ends = self._server.loop.call_later(UNTERMINATED_SECONDS, self._end_line)

    def eof_received(self) -> bool:
        self._end_line()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._line_ends is not None:
            self._line_ends.cancel()
        super().connection_lost(exc)

    def _end_line(self) -> None:
        """What has come is a line. Where requests wait before it, they are executed first, and it is then looked at."""
        if self._ended or not 0 < self.codec.buffered() <= UNTERMINATED_BYTES_MAX:
            return
        self.codec.end_line()
        self._pump()
