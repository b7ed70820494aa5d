"""Replies of the table's commands as JSON, for the dialects that answer in it."""

from __future__ import annotations

import base64
import math
from typing import Any, Final

import msgspec

from keyhaus.core.errors import Error
from keyhaus.core.objects import jsonable, unpack
from keyhaus.core.reply import Attributed, NullArray

_encode: Final = msgspec.json.Encoder().encode


def to_json(value: Any) -> bytes:
    """What `jsonable` has made of a value, as JSON, spaced as json.dumps does it and as the seeds show it."""
    data = _encode(value)
    return msgspec.json.format(data, indent=0) if value.__class__ is dict or value.__class__ is list else data


def stored_text(kind: bytes, data: bytes) -> bytes:
    """The JSON of a value as TYPED GET tells it."""
    if kind == b"TEXT":
        try:
            return _encode(data.decode())
        except UnicodeDecodeError:
            pass  # it is told as base64
    return to_json(jsonable(unpack(kind.decode(), data)))


def plain(reply: Any) -> Any:
    """A reply as JSON tells it: bytes are text where they are UTF-8, else `{"base64": …}`; no value is null."""
    if isinstance(reply, bytes):
        text = unpack("TEXT", bytes(reply))
        return text if isinstance(text, str) else _base64(text)
    if reply is None or isinstance(reply, str | bool | int):
        return reply
    if isinstance(reply, float):
        return reply if math.isfinite(reply) else None
    if isinstance(reply, dict):
        return {_name(key): plain(value) for key, value in reply.items()}
    if isinstance(reply, Attributed):
        return plain(reply.reply)
    if isinstance(reply, list):
        return [plain(item) for item in reply]
    if isinstance(reply, NullArray):
        return None
    if isinstance(reply, Error):
        return {"error": reply.code, "message": reply.message}
    raise TypeError(f"{type(reply).__name__} is no reply")


def told(reply: Any) -> dict[str, Any]:
    """What the text dialect answers to any other command."""
    return {"status": "Ok", "result": plain(reply)}


def _base64(data: bytes) -> dict[str, str]:
    return {"base64": base64.b64encode(data).decode()}


def _name(key: Any) -> str:
    shown = plain(key)
    return shown if isinstance(shown, str) else str(shown)
