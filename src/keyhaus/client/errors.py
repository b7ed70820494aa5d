"""What a client raises: the server's errors as the classes of `core/errors.py`, found by their codes, and a few more.

Invariant: an error is retryable only if nothing of the request, or of the whole transaction, has happened or ever will.
"""

from __future__ import annotations

from typing import Final

from redis.exceptions import RedisError, ResponseError

from keyhaus.core import errors
from keyhaus.core.errors import Error, UserError


class ConnectionLost(Error, ConnectionError):
    """There is no connection, or it broke; nothing of the request or of the transaction has happened, or ever will."""

    code = "CONNECTIONLOST"
    retryable = True


class OutcomeUnknown(Error, ConnectionError):
    """The connection broke while a write or a COMMIT was under way: it may have happened, once, or not at all."""

    code = "OUTCOMEUNKNOWN"


def _classes() -> dict[str, type[Error]]:
    """The class of each code that a server sends."""
    kinds = (kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Error))
    # What the wire calls ERR has several codes inside the server; all of them are the request's own fault.
    return {kind.code: kind for kind in kinds if "code" in vars(kind)} | {Error.code: UserError}


_CLASSES: Final = _classes()


def from_wire(code: str, message: str) -> Error:
    """The error that a server has sent; one whose code is unknown here is a plain Error, with the code in its text."""
    kind = _CLASSES.get(code)
    if kind is None:
        return Error(f"{code} {message}")
    error = kind.__new__(kind)
    Error.__init__(error, message)  # past the constructors that compose a message of their own
    return error


def answered(error: RedisError) -> Error | None:
    """The server's answer that redis-py has made an exception of; None where it is none, but a lost connection."""
    if error.status_code is not None:
        return from_wire(error.status_code, str(error))
    if isinstance(error, ResponseError):
        code, _, message = str(error).partition(" ")
        return from_wire(code, message)
    return None
