"""A client of the frame dialect, with the methods and errors of the system that it comes from.

It speaks MessagePack, so that neither side ever reads a pickle. It connects again by itself, with growing pauses; what
it has sent it sends again only if that changes nothing: a write whose connection broke may have been executed, and a
second one would write over what others wrote in between. A connection that has begun a transaction or selected a
database is not replaced by another one without a word.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Final

from keyhaus.client.errors import ConnectionLost, OutcomeUnknown
from keyhaus.client.stream import Stream
from keyhaus.client.words import is_stateful
from keyhaus.core import objects
from keyhaus.core.errors import UserError

DEFAULT_PORT: Final = 65433
_LENGTH_BYTES: Final = 4
_PAUSE_SECONDS: Final = 0.1
_PAUSE_SECONDS_MAX: Final = 5.0
_READS: Final = frozenset(("GET", "EXISTS", "KEYS"))


class ServerError(Exception):
    """The server has refused a request.

    Attributes:
        code: Why, as a word for programs: `INVALID_KEY`, `LIMIT_EXCEEDED`, …
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}" if message else code)
        self.code = code


class KVClient:
    """A client of a `frame` port. It connects when it is first used.

    Args:
        host: The server's name or address.
        port: Its frame port.
        timeout: Seconds to wait for a connection or for a reply.
        max_retries: How often to try again where there is no connection, or a read's connection broke.
    """

    def __init__(
        self, host: str = "127.0.0.1", port: int = DEFAULT_PORT, timeout: float = 5.0, max_retries: int = 3
    ) -> None:
        self._stream = Stream(host, port, timeout)
        self._retries = max_retries
        self._stateful = False  # the connection, open or lost, has a transaction or a database of its own

    def close(self) -> None:
        """Closes the connection; the next request connects again."""
        self._stream.close()
        self._stateful = False

    def __enter__(self) -> KVClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def set(self, key: Any, value: Any) -> str:
        """Stores a value; "OK".

        Args:
            key: None, a bool, int, float, str, bytes, tuple or frozenset.
            value: Any of these, a list, dict or set, nested.

        Raises:
            ServerError: The server has refused it.
            ConnectionError: There is no connection (ConnectionLost), or it broke, and then nobody can say whether it
                was stored (OutcomeUnknown).
            keyhaus.Error: The key or the value is none.
        """
        return self._text("SET", key=key, value=value)

    def get(self, key: Any) -> Any:
        """The value under a key, None where there is none. Raises as `set`."""
        return self.request("GET", key=key)

    def delete(self, key: Any) -> str:
        """Deletes a key; "OK", or "NOT_FOUND" where there was none. Raises as `set`."""
        return self._text("DELETE", key=key)

    def bulk_set(self, items: Iterable[tuple[Any, Any]]) -> str:
        """Stores values under keys, all at once or none; "OK". Raises as `set`."""
        return self._text("BULKSET", items=[list(pair) for pair in items])

    def exists(self, key: Any) -> bool:
        """Whether there is such a key. Raises as `set`."""
        return bool(self.request("EXISTS", key=key))

    def keys(self) -> list[Any]:
        """All keys, in no order. Raises as `set`."""
        return list(self.request("KEYS"))

    def request(self, command: str, **fields: Any) -> Any:
        """Sends any request, such as `request("INCR", args=["n"])`, and gives what is answered. Raises as `set`.

        After BEGIN, SELECT and their like a lost connection is final (ConnectionLost) until `close`: on another one the
        next request would run outside of the transaction, or in another database.
        """
        payload = objects.encode({"cmd": command, "wrapped": True, **fields})
        request = len(payload).to_bytes(_LENGTH_BYTES, "big") + payload
        failures = 0
        while True:
            if self._stateful and not self._stream.connected:
                raise ConnectionLost(
                    "the connection was lost, and with it what it had begun or selected: close() first"
                )
            self._stateful = self._stateful or is_stateful(command.upper())
            try:
                self._stream.connect()
                reply = self._stream.ask(request, _reply)
                break
            except (ConnectionLost, OutcomeUnknown) as error:
                failures += 1
                may_be_sent_again = isinstance(error, ConnectionLost) or command.upper() in _READS
                if failures > self._retries or not may_be_sent_again:
                    raise
            time.sleep(min(_PAUSE_SECONDS_MAX, _PAUSE_SECONDS * 2 ** (failures - 1)) * random.uniform(0.5, 1))
        if "error" in reply:
            raise ServerError(str(reply["error"]), str(reply.get("message", "")))
        return reply["result"]

    def _text(self, command: str, **fields: Any) -> str:
        return str(self.request(command, **fields))


def _reply(stream: Stream) -> dict[str, Any]:
    size = int.from_bytes(stream.exactly(_LENGTH_BYTES), "big")
    try:
        reply = objects.decode(stream.exactly(size))
    except UserError:
        reply = None
    if not isinstance(reply, dict) or not reply.keys() & {"result", "error"}:
        raise OutcomeUnknown(f"what answers at {stream.host}:{stream.port} does not speak frames")
    return reply
