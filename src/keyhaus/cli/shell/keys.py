"""Keys for completion, looked up beside the conversation: a connection of its own, little time, and errors are silence.

It is never the conversation's connection: there a transaction would lock what it looks at, and MULTI would queue it.
"""

from __future__ import annotations

import threading
import time
from typing import Any, Final

from keyhaus.cli.shell.link import Link
from keyhaus.cli.target import Target
from keyhaus.client.errors import ConnectionLost
from keyhaus.core.access.words import prefix_end
from keyhaus.core.errors import Error

KEYS_MAX: Final = 50
SECONDS: Final = 0.5  # for one answer
_PAUSE_SECONDS: Final = 5.0  # after a failure nobody is asked
_SCAN_ROUNDS: Final = 10
_SCAN_COUNT: Final = b"1000"


class Keys:
    """Looks keys up by what they begin with. Any thread may ask; one at a time is answered."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._link: Link | None = None
        self._quiet_until = 0.0

    def beginning_with(self, prefix: bytes, target: Target, ordered: bool) -> list[bytes]:
        """Up to KEYS_MAX keys, in their order; none where the server does not answer in time.

        Args:
            prefix: What they begin with; empty for any.
            target: The server, and the database.
            ordered: Whether the server knows RANGE; else it is asked by SCAN.
        """
        with self._lock:
            if time.monotonic() < self._quiet_until:
                return []
            try:
                link = self._connected(target)
                return _range(link, prefix) if ordered else _scan(link, prefix)
            except (Error, OSError):
                self._drop()
                self._quiet_until = time.monotonic() + _PAUSE_SECONDS
                return []

    def close(self) -> None:
        with self._lock:
            self._drop()

    def _connected(self, target: Target) -> Link:
        link = self._link
        if link is None or not link.is_open or link.target != target:
            self._drop()
            self._link = link = Link(target, SECONDS)
            link.open()
            if link.wants_password:
                raise ConnectionLost("nobody has said who asks")
        return link

    def _drop(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None


def _range(link: Link, prefix: bytes) -> list[bytes]:
    words = [b"RANGE", prefix, prefix_end(prefix), b"LIMIT", b"%d" % KEYS_MAX, b"KEYS"]
    return _page(link.ask(words))[1][:KEYS_MAX]


def _scan(link: Link, prefix: bytes) -> list[bytes]:
    """SCAN looks at all keys, so it is given up after a few pages."""
    until = time.monotonic() + SECONDS
    found: set[bytes] = set()
    cursor: Any = b"0"
    for _ in range(_SCAN_ROUNDS):
        cursor, keys = _page(link.ask([b"SCAN", cursor, b"MATCH", pattern(prefix), b"COUNT", _SCAN_COUNT]))
        found.update(keys)
        if cursor == b"0" or len(found) >= KEYS_MAX or time.monotonic() >= until:
            break
    return sorted(found)[:KEYS_MAX]


def _page(reply: Any) -> tuple[Any, list[bytes]]:
    if isinstance(reply, Error):
        raise reply
    if not isinstance(reply, list) or len(reply) != 2 or not isinstance(reply[1], list):
        raise ConnectionLost("that is no page of keys")
    return reply[0], [key for key in reply[1] if isinstance(key, bytes)]


def pattern(prefix: bytes) -> bytes:
    """The pattern of what begins with a prefix, which is taken as it stands."""
    special = b"*?[]\\"
    return b"".join(b"\\" + bytes((byte,)) if byte in special else bytes((byte,)) for byte in prefix) + b"*"
