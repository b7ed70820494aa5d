"""When keys end: setting, asking for and removing an expiry.

A record holds its deadline in absolute milliseconds; whatever is relative counts from the transaction's time. Setting a
deadline that is over deletes the key.
"""

from __future__ import annotations

from typing import Any, Final

from keyhaus.commands.spec import Flag, Handler, Keys, command, integer, option
from keyhaus.commands.values import INTEGER_MAX, INTEGER_MIN, MILLISECOND, SECOND, invalid_expire_time
from keyhaus.core.context import Context
from keyhaus.core.errors import UserError
from keyhaus.store import record as rec
from keyhaus.store.record import EXPIRES
from keyhaus.store.transaction import Transaction

_ONE: Final = Keys(1, 1)
_CONDITIONS: Final = frozenset((b"NX", b"XX", b"GT", b"LT"))


def _conditions(args: list[bytes]) -> set[bytes]:
    given: set[bytes] = set()
    for word in args[3:]:
        name = option(word)
        if name not in _CONDITIONS:
            # What ends the line is trimmed at the end of a message, and a blank further inside.
            raise UserError(b"Unsupported option " + word.partition(b"\0")[0].rstrip(b"\r\n"))
        given.add(name)
    if b"NX" in given and len(given) > 1:
        raise UserError("NX and XX, GT or LT options at the same time are not compatible")
    if {b"GT", b"LT"} <= given:
        raise UserError("GT and LT options at the same time are not compatible")
    return given


def _holds(conditions: set[bytes], old: int, new: int) -> bool:
    """Whether a key that expires at `old` (0: never, which is later than any time) may get the deadline `new`."""
    return not (
        (b"NX" in conditions and old)
        or (b"XX" in conditions and not old)
        or (b"GT" in conditions and (not old or new <= old))
        or (b"LT" in conditions and old and new >= old)
    )


def _expire(tx: Transaction, args: list[bytes], unit: int, *, relative: bool) -> int:
    conditions = _conditions(args)
    expires = integer(args[2]) * unit
    base = tx.now() if relative else 0
    if not INTEGER_MIN <= expires <= INTEGER_MAX - base:
        raise invalid_expire_time(args[0].decode("ascii", "replace").lower())
    expires += base
    key = args[1]
    record = tx.get(key)
    if record is None or not _holds(conditions, rec.expires_of(record), expires):
        return 0
    if expires <= tx.now():
        tx.delete(key)
    else:
        tx.put(key, rec.value_of(record), expires, rec.flags_of(record))
    return 1


def _expire_command(name: str, unit: int, since: str, argument: str, summary: str, *, relative: bool) -> Handler:
    async def handler(tx: Transaction, args: list[bytes], context: Context) -> Any:
        return _expire(tx, args, unit, relative=relative)

    handler.__name__ = name.lower()
    return command(
        name,
        -3,
        Flag.WRITE | Flag.FAST,
        keys=_ONE,
        summary=summary,
        since=since,
        group="generic",
        syntax=f"key {argument} [NX | XX | GT | LT]",
    )(handler)


expire = _expire_command(
    "EXPIRE", SECOND, "1.0.0", "seconds", "Lets a key expire after so many seconds.", relative=True
)
pexpire = _expire_command(
    "PEXPIRE", MILLISECOND, "2.6.0", "milliseconds", "Lets a key expire after so many milliseconds.", relative=True
)
expireat = _expire_command(
    "EXPIREAT", SECOND, "1.2.0", "unix-time-seconds", "Lets a key expire at a time in Unix seconds.", relative=False
)
pexpireat = _expire_command(
    "PEXPIREAT",
    MILLISECOND,
    "2.6.0",
    "unix-time-milliseconds",
    "Lets a key expire at a time in Unix milliseconds.",
    relative=False,
)


def _time_command(name: str, unit: int, since: str, summary: str, *, relative: bool) -> Handler:
    async def handler(tx: Transaction, args: list[bytes], context: Context) -> Any:
        record = tx.get(args[1])
        if record is None:
            return -2
        expires = rec.expires_of(record)
        if not expires:
            return -1
        if relative:
            expires = max(expires - tx.now(), 0)
        return (expires + unit // 2) // unit

    handler.__name__ = name.lower()
    return command(
        name,
        2,
        Flag.READ | Flag.FAST | Flag.UNTOUCHED,
        keys=_ONE,
        summary=f"Returns {summary}; -1 for a key that stays, -2 for a missing one.",
        since=since,
        group="generic",
        syntax="key",
    )(handler)


ttl = _time_command("TTL", SECOND, "1.0.0", "in how many seconds a key expires", relative=True)
pttl = _time_command("PTTL", MILLISECOND, "2.6.0", "in how many milliseconds a key expires", relative=True)
expiretime = _time_command("EXPIRETIME", SECOND, "7.0.0", "when a key expires, in Unix seconds", relative=False)
pexpiretime = _time_command(
    "PEXPIRETIME", MILLISECOND, "7.0.0", "when a key expires, in Unix milliseconds", relative=False
)


@command(
    "PERSIST",
    2,
    Flag.WRITE | Flag.FAST,
    keys=_ONE,
    summary="Removes a key's expiry.",
    since="2.2.0",
    group="generic",
    syntax="key",
)
async def persist(tx: Transaction, args: list[bytes], context: Context) -> Any:
    record = tx.get(args[1])
    if record is None or not record[7] & EXPIRES:
        return 0
    tx.put(args[1], rec.value_of(record), 0, rec.flags_of(record))
    return 1
