"""A client of the JSON lines dialect, with the methods of the system that it comes from.

One connection, one request at a time. Once that is lost it does not connect again by itself: a request whose connection
broke may have been executed, and what a transaction of it had done is rolled back; only its caller knows what to do.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final

import msgspec

from keyhaus.client.errors import OutcomeUnknown, from_wire
from keyhaus.client.stream import Stream
from keyhaus.core import objects
from keyhaus.core.errors import Error

DEFAULT_PORT: Final = 9999
TIMEOUT_SECONDS: Final = 30.0
_PAGE_ROWS: Final = 1000
_NOT_FOUND: Final = "Key not found"


class KVClient:
    """A client of a `json` port. It connects when it is first used, or in a `with`; later on, by `connect` alone.

    Args:
        host: The server's name or address.
        port: Its JSON lines port.
        timeout: Seconds to wait for a connection or for a reply.
    """

    def __init__(self, host: str = "localhost", port: int = DEFAULT_PORT, timeout: float = TIMEOUT_SECONDS) -> None:
        self._stream = Stream(host, port, timeout)
        self._used = False

    def connect(self) -> None:
        """Connects, if there is no connection. Raises ConnectionError."""
        self._stream.connect()
        self._used = True

    def close(self) -> None:
        """Closes the connection; an open transaction of it is rolled back."""
        self._stream.close()
        self._used = False

    def __enter__(self) -> KVClient:
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def request(self, command: str, **fields: Any) -> dict[str, Any]:
        """Sends any request, and gives the reply as it came.

        Raises:
            ConnectionLost: There is no connection, or none any more: `connect` makes another one. Nothing was sent. It
                is a ConnectionError, as is the next one.
            OutcomeUnknown: The connection was lost, or no reply came in time: the request was executed once, or not at
                all.
        """
        if not self._used:
            self.connect()
        return self._stream.ask(_line({"command": command, **fields}), _reply)

    def put(self, key: str, value: Any) -> None:
        """Stores a value: a text, bytes, or anything that JSON can say. Raises Error, ConnectionError.

        Tuples become lists, as in JSON. Raises TypeError and ValueError for what JSON can't say: sets, NaN, …
        """
        self._ask("put", key=key, value=value)

    def get(self, key: str) -> Any:
        """The value under a key, None where there is none. Raises Error, ConnectionError."""
        reply = self._ask("get", key=key)
        return None if reply is None else objects.from_json(reply["value"])

    def batch_put(self, keys: Sequence[str], values: Sequence[Any]) -> None:
        """Stores values under keys, all at once or none. Raises Error, ConnectionError."""
        self._ask("batch_put", keys=list(keys), values=list(values))

    def get_range(self, start_key: str | None = None, end_key: str | None = None) -> list[tuple[Any, Any]]:
        """The keys from `start_key` to `end_key`, both included, with their values, in order. None: open.

        It reads page by page, so a range of more than a thousand keys may be one of several moments.

        Raises:
            Error, ConnectionError: See `request`.
        """
        rows: list[tuple[Any, Any]] = []
        start: Any = start_key
        while True:
            reply = self._ask("get_range", start_key=start, end_key=end_key, limit=_PAGE_ROWS)
            assert reply is not None
            rows += [(objects.from_json(key), objects.from_json(value)) for key, value in reply["data"]]
            if "next" not in reply:
                return rows
            start = reply["next"]

    def delete(self, key: str) -> bool:
        """Deletes a key; whether there was one. Raises Error, ConnectionError."""
        return self._ask("delete", key=key) is not None

    def ping(self) -> bool:
        """Whether the server answers. Raises ConnectionError where there is no connection."""
        return self.request("ping").get("message") == "pong"

    def _ask(self, command: str, **fields: Any) -> dict[str, Any] | None:
        """A reply without an error; None for a missing key."""
        reply = self.request(command, **fields)
        if reply.get("status") == "ok":
            return reply
        message = str(reply.get("message"))
        if message == _NOT_FOUND and "code" not in reply:
            return None
        raise from_wire(str(reply.get("code", Error.code)), message)


def _line(fields: dict[str, Any]) -> bytes:
    """A request. Raises TypeError, ValueError for what JSON can't say."""
    return json.dumps(fields, ensure_ascii=False, allow_nan=False, default=_base64).encode() + b"\n"


def _base64(value: object) -> dict[str, str]:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    raise TypeError(f"{type(value).__name__} is nothing that JSON can say")


def _reply(stream: Stream) -> dict[str, Any]:
    try:
        reply = msgspec.json.decode(stream.line())
    except (msgspec.MsgspecError, RecursionError):
        reply = None
    if not isinstance(reply, dict) or reply.get("status") not in ("ok", "error"):
        raise OutcomeUnknown(f"what answers at {stream.host}:{stream.port} does not speak JSON lines")
    return reply
