"""The codec door: what every dialect's codec is to a connection. It does no I/O."""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

from keyhaus.core.request import NeedData, Request


class Codec(Protocol):
    """One connection's bytes, in and out.

    Attributes:
        version: The version of the dialect that is spoken; HELLO changes RESP's.
        ready: Requests that are parsed already; whoever is in a hurry takes them from there.
        mark: What `encode_late` has to know of the last reply.
        max_bulk_bytes, max_request_bytes, max_reply_bytes: The limits in force.
    """

    version: int
    ready: deque[Request]
    mark: Any
    max_bulk_bytes: int
    max_request_bytes: int
    max_reply_bytes: int

    def feed(self, data: bytes) -> None:
        """Takes what was received."""
        ...

    def buffered(self) -> int:
        """How many bytes wait to be parsed, requests that are complete aside."""
        ...

    def next_request(self) -> Request | NeedData:
        """The next request, a `Refused` for one that makes no sense. Raises ProtocolError, LimitExceeded for good."""
        ...

    def encode(self, reply: Any) -> bytes:
        """The bytes of the reply to the next request that has none yet."""
        ...

    def encode_late(self, reply: Any, mark: Any) -> bytes:
        """The bytes of a reply that takes the place of an earlier one, whose `mark` it was."""
        ...

    def skip(self) -> None:
        """The next request that has no reply yet gets none."""
        ...
