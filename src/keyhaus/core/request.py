"""Requests: what every dialect's codec makes of the bytes it was fed.

A request is the command's name as it was sent, followed by its arguments, all as bytes. Replies go out in the order of
the requests, so whatever a dialect needs to frame a reply (an id, a transaction) its codec keeps in that order itself.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from keyhaus.core.errors import Error

Request: TypeAlias = list[bytes]


REQUESTS_AT_ONCE: Final = 256
"""How many a codec makes of what was received before they are executed: it may be thousands of a few bytes each."""


class Refused(list[bytes]):
    """A request that makes no sense: it is never executed, and the error is its reply, in its place."""

    def __init__(self, error: Error) -> None:
        super().__init__((b"",))  # no command's name
        error.__traceback__ = error.__context__ = error.__cause__ = None  # it may wait, and they would keep the frames
        self.error = error


class NeedData:
    """The type of `NEED_DATA`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "NEED_DATA"


NEED_DATA: Final = NeedData()
