"""What the client sends: words as bytes, what may be sent again, and what a connection of a pool must never be sent."""

from __future__ import annotations

from typing import Final

from keyhaus.core.errors import UserError

# What changes nothing: if the connection breaks it is sent again. Writes are not, SET neither: what others wrote in
# between would be written over.
READS: Final = frozenset(
    (
        *("CHANGES", "DBSIZE", "DUMP", "EXISTS", "EXPIRETIME", "GET", "GETRANGE", "INFO", "KEYS", "LCS", "MGET"),
        *("PEXPIRETIME", "PTTL", "RANDOMKEY", "RANGE", "SCAN", "STRLEN", "SUBSTR", "TTL", "TYPE", "TYPED GET"),
        "TYPED RANGE",
    )
)
# These change what later commands of the same connection mean, and the next command may come from somebody else.
_STATEFUL: Final = frozenset(
    (
        *("AUTH", "BEGIN", "COMMIT", "DISCARD", "EXEC", "HELLO", "LOCK", "MONITOR", "MULTI", "PSUBSCRIBE", "QUIT"),
        *("RESET", "ROLLBACK", "SELECT", "SUBSCRIBE", "TX", "UNWATCH", "WATCH", "CLIENT REPLY"),
    )
)
_CONTAINERS: Final = frozenset(("CLIENT", "TYPED"))


def request(args: list[bytes]) -> bytes:
    """A request, as RESP has it."""
    return b"*%d\r\n" % len(args) + b"".join([b"$%d\r\n%b\r\n" % (len(arg), arg) for arg in args])


def command_name(args: list[bytes]) -> str:
    """The command's name in capitals, with its subcommand's behind it where that matters here.

    Raises:
        ValueError: There are no words.
    """
    if not args:
        raise ValueError("a request has at least one word, the command's name")
    name = args[0].decode("latin-1").upper()
    return f"{name} {args[1].decode('latin-1').upper()}" if name in _CONTAINERS and len(args) > 1 else name


def is_stateful(name: str) -> bool:
    """Whether a command changes what later ones of the same connection mean."""
    return name in _STATEFUL


def refuse_stateful(name: str) -> None:
    """Raises UserError for a command that would change the connection for whoever uses it next."""
    if is_stateful(name):
        instead = "name the database in the URL" if name == "SELECT" else "use client.transaction()"
        raise UserError(f"{name} belongs to one connection, and a client has many: {instead}")
