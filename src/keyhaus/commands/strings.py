"""Strings: setting, getting, and changing a part.

GET and SET without options are the hot path: one access each, and no call that is not needed. A plain SET makes a plain
value without an expiry, whatever stood there; what changes a value in its place (APPEND, SETRANGE) keeps its kind and
its expiry. An expiry in the past is written as it stands, as in Redis: nobody ever sees the key, and it is swept.
"""

from __future__ import annotations

from typing import Any, Final

from keyhaus.commands.spec import Flag, Keys, command, integer, option
from keyhaus.commands.values import (
    MILLISECOND,
    SECOND,
    change,
    check_reply_bytes,
    check_string_bytes,
    deadline,
    shown,
    string,
    string_bytes,
)
from keyhaus.core.context import Context
from keyhaus.core.errors import Syntax, UserError
from keyhaus.core.reply import OK
from keyhaus.store import record as rec
from keyhaus.store.record import EXPIRES
from keyhaus.store.transaction import Transaction

_READ: Final = Flag.READ | Flag.FAST
_WRITE: Final = Flag.WRITE | Flag.DENY_OOM
_ONE: Final = Keys(1, 1)

_DEADLINES: Final = {
    b"EX": (SECOND, True),
    b"PX": (MILLISECOND, True),
    b"EXAT": (SECOND, False),
    b"PXAT": (MILLISECOND, False),
}
_ENDS: Final = frozenset(_DEADLINES) | {b"KEEPTTL", b"PERSIST"}
# What an option does not go together with. An option given twice is no mistake: the last one counts.
_EXCLUDES: Final = {
    b"NX": frozenset((b"XX", b"IFEQ")),
    b"XX": frozenset((b"NX", b"IFEQ")),
    b"IFEQ": frozenset((b"NX", b"XX")),
    b"GET": frozenset[bytes](),
    **{word: _ENDS - {word} for word in _ENDS},
}
_WITH_ARGUMENT: Final = frozenset(_DEADLINES) | {b"IFEQ"}
_SET_OPTIONS: Final = frozenset(_EXCLUDES) - {b"PERSIST"}
_GETEX_OPTIONS: Final = frozenset(_DEADLINES) | {b"PERSIST"}


def _options(args: list[bytes], first: int, known: frozenset[bytes]) -> dict[bytes, bytes]:
    """The options from place `first` on, each with its argument (empty where it has none)."""
    given: dict[bytes, bytes] = {}
    place = first
    while place < len(args):
        word = option(args[place])
        if word not in known or not _EXCLUDES[word].isdisjoint(given):
            raise Syntax
        if word in _WITH_ARGUMENT:
            place += 1
            if place == len(args):
                raise Syntax
            given[word] = args[place]
        else:
            given[word] = b""
        place += 1
    return given


def _expires(tx: Transaction, name: str, given: dict[bytes, bytes]) -> int:
    """The deadline that the options ask for; 0 for none."""
    for word, (unit, relative) in _DEADLINES.items():
        if word in given:
            return deadline(tx, name, given[word], unit, relative=relative)
    return 0


@command(
    "SET",
    -3,
    _WRITE,
    keys=_ONE,
    summary="Sets a key to a string, whatever it held, perhaps on a condition and with an expiry.",
    since="1.0.0",
    group="string",
    syntax="key value [NX | XX | IFEQ comparison-value] [GET] "
    "[EX seconds | PX milliseconds | EXAT unix-time-seconds | PXAT unix-time-milliseconds | KEEPTTL]",
)
async def set_(tx: Transaction, args: list[bytes], context: Context) -> Any:
    if len(args) == 3:
        tx.put(args[1], args[2])
        return OK
    given = _options(args, 3, _SET_OPTIONS)
    expires = _expires(tx, "set", given)
    key = args[1]
    if given.keys() <= _DEADLINES.keys():
        tx.put(key, args[2], expires)
        return OK
    old = tx.get(key)
    reply = string(old) if old is not None and b"GET" in given else None
    if b"NX" in given:
        done = old is None
    elif b"XX" in given:
        done = old is not None
    elif b"IFEQ" in given:
        done = old is not None and string(old) == given[b"IFEQ"]
    else:
        done = True
    if not done:
        return reply
    if old is not None and b"KEEPTTL" in given:
        expires = rec.expires_of(old)
    tx.put(key, args[2], expires)
    return reply if b"GET" in given else OK


@command(
    "SETNX",
    3,
    _WRITE | Flag.FAST,
    keys=_ONE,
    summary="Sets a key to a string if the key does not exist.",
    since="1.0.0",
    group="string",
    syntax="key value",
)
async def setnx(tx: Transaction, args: list[bytes], context: Context) -> Any:
    if tx.get(args[1]) is not None:
        return 0
    tx.put(args[1], args[2])
    return 1


@command(
    "SETEX",
    4,
    _WRITE,
    keys=_ONE,
    summary="Sets a key to a string that expires after so many seconds.",
    since="2.0.0",
    group="string",
    syntax="key seconds value",
)
async def setex(tx: Transaction, args: list[bytes], context: Context) -> Any:
    tx.put(args[1], args[3], deadline(tx, "setex", args[2], SECOND, relative=True))
    return OK


@command(
    "PSETEX",
    4,
    _WRITE,
    keys=_ONE,
    summary="Sets a key to a string that expires after so many milliseconds.",
    since="2.6.0",
    group="string",
    syntax="key milliseconds value",
)
async def psetex(tx: Transaction, args: list[bytes], context: Context) -> Any:
    tx.put(args[1], args[3], deadline(tx, "psetex", args[2], MILLISECOND, relative=True))
    return OK


@command(
    "GET",
    2,
    _READ,
    keys=_ONE,
    summary="Returns the string that a key holds.",
    since="1.0.0",
    group="string",
    syntax="key",
)
async def get(tx: Transaction, args: list[bytes], context: Context) -> Any:
    record = tx.get(args[1])
    if record is None:
        return None
    return shown(record) if record[7] else record[8:]


@command(
    "GETDEL",
    2,
    Flag.WRITE | Flag.FAST,
    keys=_ONE,
    summary="Returns the string that a key holds and deletes the key.",
    since="6.2.0",
    group="string",
    syntax="key",
)
async def getdel(tx: Transaction, args: list[bytes], context: Context) -> Any:
    record = tx.get(args[1])
    if record is None:
        return None
    value = shown(record)
    tx.delete(args[1])
    return value


@command(
    "GETEX",
    -2,
    Flag.WRITE | Flag.FAST,
    keys=_ONE,
    summary="Returns the string that a key holds and sets or removes its expiry.",
    since="6.2.0",
    group="string",
    syntax="key [EX seconds | PX milliseconds | EXAT unix-time-seconds | PXAT unix-time-milliseconds | PERSIST]",
)
async def getex(tx: Transaction, args: list[bytes], context: Context) -> Any:
    given = _options(args, 2, _GETEX_OPTIONS)
    key = args[1]
    record = tx.get(key)
    if record is None:
        return None
    value = rec.value_of(record)
    expires = _expires(tx, "getex", given)
    if expires:
        if expires <= tx.now():
            tx.delete(key)
        else:
            tx.put(key, value, expires, rec.flags_of(record))
    elif b"PERSIST" in given and record[7] & EXPIRES:
        tx.put(key, value, 0, rec.flags_of(record))
    return shown(record)


@command(
    "GETSET",
    3,
    _WRITE | Flag.FAST,
    keys=_ONE,
    summary="Sets a key to a string and returns the string that it held before.",
    since="1.0.0",
    group="string",
    syntax="key value",
)
async def getset(tx: Transaction, args: list[bytes], context: Context) -> Any:
    record = tx.get(args[1])
    value = None if record is None else string(record)
    tx.put(args[1], args[2])
    return value


@command(
    "CAS",
    4,
    _WRITE | Flag.FAST,
    keys=_ONE,
    summary="Sets a key to a new string, without an expiry, if it holds the expected one; 0 for a missing key.",
    since="keyhaus 0.1",
    group="string",
    syntax="key expected new",
)
async def cas(tx: Transaction, args: list[bytes], context: Context) -> Any:
    record = tx.get(args[1])
    if record is None or string(record) != args[2]:
        return 0
    tx.put(args[1], args[3])
    return 1


# several keys


@command(
    "MGET",
    -2,
    _READ,
    keys=Keys(1, -1),
    summary="Returns the strings that several keys hold, nil for what holds none.",
    since="1.0.0",
    group="string",
    syntax="key [key ...]",
    complexity="O(n), n the number of keys",
)
async def mget(tx: Transaction, args: list[bytes], context: Context) -> Any:
    records = [tx.get(key) for key in args[1:]]
    check_reply_bytes(tx, sum([len(record) for record in records if record is not None]))
    return [None if record is None else shown(record) for record in records]


def _check_pairs(args: list[bytes], name: str) -> None:
    if len(args) % 2 == 0:
        raise UserError(f"wrong number of arguments for '{name}' command")


@command(
    "MSET",
    -3,
    _WRITE,
    keys=Keys(1, -1, 2),
    summary="Sets several keys to strings, all at once.",
    since="1.0.1",
    group="string",
    syntax="key value [key value ...]",
    complexity="O(n), n the number of keys",
)
async def mset(tx: Transaction, args: list[bytes], context: Context) -> Any:
    _check_pairs(args, "mset")
    for place in range(1, len(args), 2):
        tx.put(args[place], args[place + 1])
    return OK


@command(
    "MSETNX",
    -3,
    _WRITE,
    keys=Keys(1, -1, 2),
    summary="Sets several keys to strings, all at once, if none of them exists.",
    since="1.0.1",
    group="string",
    syntax="key value [key value ...]",
    complexity="O(n), n the number of keys",
)
async def msetnx(tx: Transaction, args: list[bytes], context: Context) -> Any:
    _check_pairs(args, "msetnx")
    for key in args[1::2]:
        if tx.get(key) is not None:
            return 0
    for place in range(1, len(args), 2):
        tx.put(args[place], args[place + 1])
    return 1


# a part of a value


@command(
    "STRLEN",
    2,
    _READ,
    keys=_ONE,
    summary="Returns how many bytes the string has that a key holds.",
    since="2.2.0",
    group="string",
    syntax="key",
)
async def strlen(tx: Transaction, args: list[bytes], context: Context) -> Any:
    record = tx.get(args[1])
    return 0 if record is None else string_bytes(record)


@command(
    "APPEND",
    3,
    _WRITE | Flag.FAST,
    keys=_ONE,
    summary="Appends bytes to the string that a key holds and returns the new length.",
    since="2.0.0",
    group="string",
    syntax="key value",
    complexity="O(n), n the new length",
)
async def append(tx: Transaction, args: list[bytes], context: Context) -> Any:
    record = tx.get(args[1])
    if record is None:
        tx.put(args[1], args[2])
        return len(args[2])
    size = string_bytes(record) + len(args[2])
    check_string_bytes(tx, size)
    change(tx, args[1], string(record) + args[2], record)
    return size


@command(
    "SETRANGE",
    4,
    _WRITE,
    keys=_ONE,
    summary="Overwrites a part of a string, filling it up with zero bytes before that, and returns the new length.",
    since="2.2.0",
    group="string",
    syntax="key offset value",
    complexity="O(n), n the new length",
)
async def setrange(tx: Transaction, args: list[bytes], context: Context) -> Any:
    offset = integer(args[2])
    if offset < 0:
        raise UserError("offset is out of range")
    record = tx.get(args[1])
    size = 0 if record is None else string_bytes(record)
    part = args[3]
    if not part:
        return size
    end = offset + len(part)
    check_string_bytes(tx, max(size, end))
    old = b"" if record is None else string(record)
    change(tx, args[1], b"".join((old[:offset].ljust(offset, b"\0"), part, old[end:])), record)
    return max(size, end)


async def _getrange(tx: Transaction, args: list[bytes], context: Context) -> Any:
    start, end = integer(args[2]), integer(args[3])
    record = tx.get(args[1])
    if record is None:
        return b""
    size = string_bytes(record)
    if start < 0 and end < 0 and start > end:
        return b""
    start = max(start + size if start < 0 else start, 0)
    end = max(end + size if end < 0 else end, 0)
    head = len(record) - size
    return record[head + start : head + min(end, size - 1) + 1]


for _name, _since, _summary in (
    ("GETRANGE", "2.4.0", "Returns a part of the string that a key holds; both ends count, negative ones from behind."),
    ("SUBSTR", "1.0.0", "Returns a part of a string: the old name of GETRANGE."),
):
    command(
        _name,
        4,
        Flag.READ,
        keys=_ONE,
        summary=_summary,
        since=_since,
        group="string",
        syntax="key start end",
        complexity="O(n), n the length of the part",
    )(_getrange)
