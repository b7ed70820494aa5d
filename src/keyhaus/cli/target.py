"""Which server a URL names, for whatever speaks RESP to one: the shell, and the commands that take --url.

    target   = "keyhaus://" host [":" port] ["/" database]
             | host [":" port] ["/" database]
             | "redis://" [[user] ":" password "@"] host [":" port] ["/" database]

The port is 19272 where none is named, and for redis:// 6379, as Redis' clients have it. No error tells a password.
"""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

from keyhaus.client.address import DEFAULT_URL, parse_url

REDIS_PORT: Final = 6379
_FORM: Final = "expected keyhaus://HOST:PORT/DATABASE, or redis://[[USER]:PASSWORD@]HOST:PORT/DATABASE"


class Target(NamedTuple):
    """A server, one of its databases, and who asks."""

    host: str
    port: int
    database: int = 0
    user: str = ""
    password: str | None = None

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_target(url: str) -> Target:
    """The target that a URL names: keyhaus://, redis://, or HOST:PORT alone. Raises ValueError."""
    if "://" not in url:
        url = f"keyhaus://{url}"
    parts = urlsplit(url)
    if parts.scheme.startswith("keyhaus"):
        return Target(*parse_url(url))
    if parts.scheme != "redis":
        raise ValueError(f"{parts.scheme}:// is no scheme of a server: {_FORM}")
    database = parts.path.removeprefix("/") or "0"
    try:
        port = parts.port or REDIS_PORT
    except ValueError:  # its text has what stands there, which may be the half of a password
        raise ValueError(f"the redis:// URL has a port that is no number: {_FORM}") from None
    if not parts.hostname or parts.query or parts.fragment or not (database.isascii() and database.isdecimal()):
        # Without the URL: an error's text ends up in logs, and a password must not.
        raise ValueError(f"the redis:// URL names no server: {_FORM}")
    password = None if parts.password is None else unquote(parts.password)
    return Target(parts.hostname, port, int(database), unquote(parts.username or ""), password)


DEFAULT_TARGET: Final = parse_target(DEFAULT_URL)
