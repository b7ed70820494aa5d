"""What callers are given where bytes, numbers and None don't say it: changes, positions, outcomes, typed values."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias, cast

from keyhaus.core.objects import unpack

Outcome: TypeAlias = int | Literal["rolledback", "unknown", "expired"]


class Operation(NamedTuple):
    """What a commit has done to a key, or to a whole database.

    Attributes:
        kind: `put`, `del`, `flush` (all keys of the database are gone) or `swap` (two databases changed numbers).
        database: Its number.
        key: None for `flush` and `swap`.
        value: What was put; of a typed object its MessagePack.
        expires_unix_ms: When it will expire, in milliseconds since 1970; None for what stays.
        other: The other database of a `swap`.
    """

    kind: Literal["put", "del", "flush", "swap"]
    database: int
    key: bytes | None = None
    value: bytes | None = None
    expires_unix_ms: int | None = None
    other: int | None = None


class Change(NamedTuple):
    """A commit.

    Attributes:
        seqno: Its number; to go on behind it, ask for what comes after this one.
        unix_ms: When it happened, in milliseconds since 1970.
        operations: What it did, in order.
    """

    seqno: int
    unix_ms: int
    operations: tuple[Operation, ...]


class Position(NamedTuple):
    """A place in the order of all commits.

    Attributes:
        history: Whose numbers they are. Another one begins where numbers are given anew: after a restore from a backup,
            and at each start in memory mode.
        seqno: The newest commit that is on the disk.
    """

    history: str
    seqno: int


def change(reply: list[Any]) -> Change:
    """A commit as CHANGES tells it."""
    seqno, unix_ms, operations = reply
    return Change(seqno, unix_ms, tuple(map(_operation, operations)))


def _operation(told: list[Any]) -> Operation:
    kind: Any = told[0].decode()
    if kind == "swap":
        return Operation(kind, told[1], other=told[2])
    return Operation(kind, *told[1:])


def position(information: bytes) -> Position:
    """The position that INFO tells."""
    fields = dict(line.split(":", 1) for line in information.decode().splitlines() if ":" in line)
    return Position(fields["history"], int(fields["synced_seqno"]))


def outcome(reply: Any) -> Outcome:
    """What TRANSACTION KILL says for good."""
    return cast(Outcome, reply[1] if isinstance(reply, list) else reply.decode())


def typed(reply: list[bytes] | None, default: Any) -> Any:
    """The value of a kind and bytes, as TYPED GET tells it."""
    return default if reply is None else unpack(reply[0].decode(), reply[1])


def told_key(key: bytes) -> str | bytes:
    """A key as a text, or where it is no UTF-8 as it is."""
    try:
        return key.decode()
    except UnicodeDecodeError:
        return key
