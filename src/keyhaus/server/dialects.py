"""The dialects that are served, each by its codec: on a port of its own, and where it was recognised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from keyhaus.core.codec import Codec
from keyhaus.protocol.frame.codec import FrameCodec
from keyhaus.protocol.jsonl import JsonLinesCodec
from keyhaus.protocol.resp import RespCodec
from keyhaus.protocol.sniff import Dialect
from keyhaus.protocol.text import TextCodec

OF_PORTS: Final[dict[str, Callable[[], Codec]]] = {
    "resp": lambda: RespCodec(inline=True),
    "text": TextCodec,
    "json": JsonLinesCodec,
    "frame": FrameCodec,
}
RECOGNISED: Final[dict[Dialect, Callable[[], Codec]]] = {
    Dialect.RESP: lambda: RespCodec(inline=False),
    Dialect.TEXT: TextCodec,
    Dialect.JSON: JsonLinesCodec,
    Dialect.FRAME: FrameCodec,
}
