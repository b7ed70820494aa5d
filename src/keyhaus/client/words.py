"""What the client sends: words as bytes, what may be sent again, and what a connection of a pool must never be sent."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from keyhaus.core.errors import UserError

Word: TypeAlias = bytes | str | int
Mode: TypeAlias = Literal["pessimistic", "optimistic", "readonly"]
Durability: TypeAlias = Literal["always", "everysec", "none"]

# Reads: if the connection breaks they are sent again. Writes are not, SET neither: what others wrote in between would
# be written over.
READS: Final = frozenset(
    (
        *("DBSIZE", "DUMP", "EXISTS", "EXPIRETIME", "GET", "GETRANGE", "KEYS", "LCS", "MGET", "PEXPIRETIME", "PTTL"),
        *("RANDOMKEY", "RANGE", "SCAN", "STRLEN", "SUBSTR", "TTL", "TYPE"),
    )
)
# These change what later commands of the same connection mean, and the next command may come from somebody else.
_STATEFUL: Final = frozenset(
    (
        *("AUTH", "BEGIN", "COMMIT", "DISCARD", "EXEC", "HELLO", "LOCK", "MONITOR", "MULTI", "PSUBSCRIBE", "QUIT"),
        *("RESET", "ROLLBACK", "SELECT", "SUBSCRIBE", "TX", "UNWATCH", "WATCH", "CLIENT REPLY"),
    )
)


def encode(word: Word) -> bytes:
    """A word's bytes: text as UTF-8, an integer in decimal. Raises TypeError for anything else."""
    if isinstance(word, bytes):
        return word
    if isinstance(word, str):
        return word.encode()
    if type(word) is int:  # no bool: whether True is 1 or a word, its writer should say
        return b"%d" % word
    raise TypeError(f"expected bytes, str or int, got {type(word).__name__}")


def request(*words: Word) -> bytes:
    """A request, as RESP has it."""
    encoded = [encode(word) for word in words]
    return b"*%d\r\n" % len(encoded) + b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded])


def command_name(words: tuple[Word, ...]) -> str:
    """The command's name in capitals, with its subcommand's behind it for CLIENT. Raises ValueError for no words."""
    if not words:
        raise ValueError("a request has at least one word, the command's name")
    name = encode(words[0]).decode("latin-1").upper()
    return f"{name} {encode(words[1]).decode('latin-1').upper()}" if name == "CLIENT" and len(words) > 1 else name


def refuse_stateful(name: str) -> None:
    """Raises UserError for a command that would change the connection for whoever uses it next."""
    if name in _STATEFUL:
        instead = "name the database in the URL" if name == "SELECT" else "use client.transaction()"
        raise UserError(f"{name} belongs to one connection, and a client has many: {instead}")


def begin_request(mode: Mode, durability: Durability | None, timeout_ms: int | None) -> bytes:
    """BEGIN with its options."""
    words: list[Word] = ["BEGIN", mode]
    if durability is not None:
        words += ["DURABILITY", durability]
    if timeout_ms is not None:
        words += ["TIMEOUT", timeout_ms]
    return request(*words)
