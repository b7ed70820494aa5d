"""The dialects, as a load generator speaks them: requests as bytes, and replies counted, not kept.

A reply is only looked at as far as it takes to find its end and to see whether it is an error.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

from keyhaus.client.words import request
from keyhaus.core import objects
from keyhaus.protocol.frame.pickles import read_pickle

Pairs = Sequence[tuple[str, str]]
PICKLE_PROTOCOL: Final = 4


class Counted(NamedTuple):
    """What stands in some bytes: whole replies, errors among them, and how many bytes they take."""

    replies: int
    errors: int
    size: int


class Wire(Protocol):
    """One dialect."""

    def set(self, key: str, value: str) -> bytes:
        """Puts a value."""
        ...

    def get(self, key: str) -> bytes:
        """Reads a value."""
        ...

    def bulk(self, pairs: Pairs) -> bytes:
        """Puts many values at once."""
        ...

    def count(self, data: bytes) -> Counted:
        """The whole replies at the beginning of some bytes."""
        ...

    def found(self, reply: bytes) -> str | None:
        """The value that a GET was answered with."""
        ...


class Resp:
    """RESP2."""

    def set(self, key: str, value: str) -> bytes:
        return _array("SET", key, value)

    def get(self, key: str) -> bytes:
        return _array("GET", key)

    def bulk(self, pairs: Pairs) -> bytes:
        return _array("MSET", *[word for pair in pairs for word in pair])

    def count(self, data: bytes) -> Counted:
        replies = errors = at = 0
        while (end := data.find(b"\r\n", at)) >= 0:
            kind = data[at : at + 1]
            behind = end + 2
            if kind == b"$" and data[at + 1 : at + 2] != b"-":
                behind += int(data[at + 1 : end]) + 2
                if behind > len(data):
                    break
            errors += kind == b"-"
            replies += 1
            at = behind
        return Counted(replies, errors, at)

    def found(self, reply: bytes) -> str | None:
        head, _, rest = reply.partition(b"\r\n")
        return rest.removesuffix(b"\r\n").decode() if head[:1] == b"$" and head != b"$-1" else None


def _array(*words: str) -> bytes:
    return request([word.encode() for word in words])


class _Lines:
    error: bytes

    def count(self, data: bytes) -> Counted:
        size = data.rfind(b"\n") + 1
        whole = data[:size]
        return Counted(whole.count(b"\n"), whole.count(self.error), size)


class Text(_Lines):
    """Text lines; what has no form of its own there, such as many values at once, is a command of the table."""

    error = b'{"status": "Error"'

    def set(self, key: str, value: str) -> bytes:
        return f"PUT {key} {value}\n".encode()

    def get(self, key: str) -> bytes:
        return f"GET {key}\n".encode()

    def bulk(self, pairs: Pairs) -> bytes:
        return f"MSET {' '.join(word for pair in pairs for word in pair)}\n".encode()

    def found(self, reply: bytes) -> str | None:
        result: Any = json.loads(reply).get("result")
        return str(result["value"]) if isinstance(result, dict) else None


class JsonLines(_Lines):
    """JSON lines."""

    error = b'{"status": "error"'

    def set(self, key: str, value: str) -> bytes:
        return _line({"command": "put", "key": key, "value": value})

    def get(self, key: str) -> bytes:
        return _line({"command": "get", "key": key})

    def bulk(self, pairs: Pairs) -> bytes:
        return _line(
            {"command": "batch_put", "keys": [key for key, _ in pairs], "values": [value for _, value in pairs]}
        )

    def found(self, reply: bytes) -> str | None:
        value: Any = json.loads(reply).get("value")
        return None if value is None else str(value)


def _line(given: dict[str, Any]) -> bytes:
    return json.dumps(given).encode() + b"\n"


class Frames:
    """Frames, as pickles or as MessagePack."""

    def __init__(self, *, packed: bool) -> None:
        self._packed = packed
        self._encode: Callable[[Any], bytes] = objects.encode if packed else _pickled

    def set(self, key: str, value: str) -> bytes:
        return self._frame({"cmd": "SET", "key": key, "value": value})

    def get(self, key: str) -> bytes:
        return self._frame({"cmd": "GET", "key": key})

    def bulk(self, pairs: Pairs) -> bytes:
        return self._frame({"cmd": "BULKSET", "items": [list(pair) for pair in pairs]})

    def count(self, data: bytes) -> Counted:
        replies = errors = at = 0
        while len(data) - at >= 4:
            behind = at + 4 + int.from_bytes(data[at : at + 4], "big")
            if behind > len(data):
                break
            errors += b"error" in data[at + 4 : at + 40]
            replies += 1
            at = behind
        return Counted(replies, errors, at)

    def found(self, reply: bytes) -> str | None:
        # What a server answers to it is a text or nothing; a pickle of anything else is not worth reading.
        payload = reply[4:]
        value = objects.decode(payload) if self._packed else read_pickle(payload)
        return value if isinstance(value, str) else None

    def _frame(self, given: dict[str, Any]) -> bytes:
        payload = self._encode(given)
        return len(payload).to_bytes(4, "big") + payload


def _pickled(given: Any) -> bytes:
    return pickle.dumps(given, PICKLE_PROTOCOL)


WIRES: Final[dict[str, Callable[[], Wire]]] = {
    "resp": Resp,
    "text": Text,
    "json": JsonLines,
    "messagepack": lambda: Frames(packed=True),
    "pickle": lambda: Frames(packed=False),
}
