"""Where a server is: `keyhaus://host:port/database`."""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import urlsplit

DEFAULT_URL: Final = "keyhaus://127.0.0.1:19272/0"
_DEFAULT_PORT: Final = 19272
_FORM: Final = "expected keyhaus://HOST:PORT/DATABASE"


class Address(NamedTuple):
    """A server, and one of its databases."""

    host: str
    port: int
    database: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def parse_url(url: str) -> Address:
    """The address that a URL names; the port is 19272 and the database 0 where it names none.

    Raises:
        ValueError: It is no such URL, or asks for what servers don't have yet: users, TLS.
    """
    parts = urlsplit(url)
    # An error's text ends up in logs, and a password must not.
    shown = "the URL (not shown: it may hold a password)" if "@" in url else repr(url)
    if parts.scheme in ("keyhauss", "keyhaus+tls"):
        raise ValueError(f"{shown} asks for TLS, which the server does not speak yet: {_FORM}")
    if parts.scheme != "keyhaus" or not parts.hostname:
        raise ValueError(f"{shown} is no address of a server: {_FORM}")
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"the URL has a user or a password, and the server knows neither yet: {_FORM}")
    if parts.query or parts.fragment:
        raise ValueError(f"{url!r} has options; they are arguments of the client: {_FORM}")
    database = parts.path.removeprefix("/") or "0"
    if not (database.isascii() and database.isdecimal()):
        raise ValueError(f"{url!r} names no database by its number: {_FORM}")
    return Address(parts.hostname, parts.port or _DEFAULT_PORT, int(database))
