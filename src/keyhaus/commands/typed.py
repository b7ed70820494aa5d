"""TYPED: values with their kinds, as the dialects beside RESP and the Python doors put and read them.

    TEXT    the UTF-8 of a text; what a plain SET stores is read as this kind
    BYTES   bytes
    OBJECT  anything else, in the MessagePack of `core/objects.py`

To plain commands TEXT and BYTES are strings. An OBJECT is read by GET and its like as its JSON text, and what changes
strings answers WRONGTYPE.

RANGE with EXPIRES tells all that there is of a row, LOAD puts it back: exports and imports are made of these two.
"""

from __future__ import annotations

from typing import Any, Final

from keyhaus.commands.help import add_help
from keyhaus.commands.keys import database_number, in_database
from keyhaus.commands.scanning import range_rows
from keyhaus.commands.spec import Flag, Keys, command, container, integer, option
from keyhaus.commands.values import check_reply_bytes
from keyhaus.core import objects
from keyhaus.core.context import Context
from keyhaus.core.errors import Syntax, UserError
from keyhaus.core.reply import OK
from keyhaus.store import record as rec
from keyhaus.store.record import Record
from keyhaus.store.transaction import Transaction

GROUP: Final = "generic"
SINCE: Final = "keyhaus 0.1"
NEVER: Final = -1  # in place of an expiry, as PEXPIRETIME has it
_FLAGS: Final = {b"TEXT": 0, b"BYTES": rec.BYTES, b"OBJECT": rec.OBJECT}

container("TYPED", Flag(0), summary="Puts and reads values with their kinds.", since=SINCE, group=GROUP)
add_help("TYPED", group=GROUP, since=SINCE)


@command(
    "TYPED|PUT",
    -5,
    Flag.WRITE | Flag.DENY_OOM,
    keys=Keys(2, -3, 3),
    summary="Puts values of kinds under keys, all at once.",
    since=SINCE,
    group=GROUP,
    syntax="key <TEXT | BYTES | OBJECT> value [key <TEXT | BYTES | OBJECT> value ...]",
    complexity="O(n), n the number of keys",
)
async def put(tx: Transaction, args: list[bytes], context: Context) -> Any:
    if len(args) % 3 != 2:
        raise Syntax("syntax error: expected TYPED PUT key kind value [key kind value ...]")
    for key, kind, value in zip(args[2::3], args[3::3], args[4::3], strict=True):
        tx.put(key, value, flags=_checked_flags(kind, value))
    return OK


def _checked_flags(kind: bytes, value: bytes) -> int:
    """The flags of a record of a kind. Raises Syntax, and UserError for an object that nobody could read."""
    flags = _FLAGS.get(option(kind))
    if flags is None:
        raise Syntax("syntax error: a kind is TEXT, BYTES or OBJECT")
    if flags == rec.OBJECT:
        objects.decode(value)
    return flags


@command(
    "TYPED|LOAD",
    -8,
    Flag.WRITE | Flag.DENY_OOM,
    keys=Keys(4, -4, 4),
    summary="Puts rows into a database, each with its kind and when it expires (-1: never), in milliseconds since "
    "1970, and returns which keys were there: FAIL then puts none, SKIP the others, OVERWRITE does not look.",
    since=SINCE,
    group=GROUP,
    syntax="db <OVERWRITE | SKIP | FAIL> key <TEXT | BYTES | OBJECT> value expires "
    "[key <TEXT | BYTES | OBJECT> value expires ...]",
    complexity="O(n), n the number of keys",
)
async def load(tx: Transaction, args: list[bytes], context: Context) -> Any:
    if len(args) % 4:
        raise Syntax("syntax error: expected TYPED LOAD db mode key kind value expires [key kind value expires ...]")
    database, mode = database_number(tx, args[2]), option(args[3])
    if mode not in (b"OVERWRITE", b"SKIP", b"FAIL"):
        raise Syntax("syntax error: what happens to a key that is there is OVERWRITE, SKIP or FAIL")
    there: list[bytes] = []
    rows: list[tuple[bytes, bytes, int, int]] = []
    with in_database(tx, database):
        named: set[bytes] = set()
        for key, kind, value, expires in zip(args[4::4], args[5::4], args[6::4], args[7::4], strict=True):
            row = key, value, _expiry(expires), _checked_flags(kind, value)
            if mode != b"OVERWRITE" and (key in named or tx.get(key) is not None):
                there.append(key)
            else:
                named.add(key)
                rows.append(row)
        if mode != b"FAIL" or not there:
            for row in rows:
                tx.put(*row)
    return there


def _expiry(word: bytes) -> int:
    """When a row expires, as a record has it. Raises UserError."""
    expires = integer(word)
    if expires == NEVER:
        return 0
    if expires <= 0:
        raise UserError("an expiry is in milliseconds since 1970, or -1 for never")
    return expires


@command(
    "TYPED|GET",
    -3,
    Flag.READ | Flag.FAST,
    keys=Keys(2, -1),
    summary="Returns for each key its value's kind and the value, nil where there is none.",
    since=SINCE,
    group=GROUP,
    syntax="key [key ...]",
    complexity="O(n), n the number of keys",
)
async def get(tx: Transaction, args: list[bytes], context: Context) -> Any:
    records = [tx.get(key) for key in args[2:]]
    check_reply_bytes(tx, sum([len(record) for record in records if record is not None]))
    return [None if record is None else [_kind(record), rec.value_of(record)] for record in records]


@command(
    "TYPED|RANGE",
    -4,
    Flag.READ | Flag.RANGES,
    summary="Returns the keys from start to before end, each with its value's kind and the value, and the next page; "
    "with EXPIRES also when each expires (-1: never), in milliseconds since 1970.",
    since=SINCE,
    group=GROUP,
    syntax="start end [REV] [LIMIT count] [MATCH pattern] [DB db] [EXPIRES]",
    complexity="O(log n + m), n the number of keys and m of those looked at, at most 10,000",
)
async def range_(tx: Transaction, args: list[bytes], context: Context) -> Any:
    words, database, expires = _own_options(tx, args)
    with in_database(tx, database):
        rows, following = await range_rows(tx, words)
    shown: list[bytes | int] = []
    for key, record in rows:
        shown += (key, _kind(record), rec.value_of(record))
        if expires:
            shown.append(rec.expires_of(record) or NEVER)
    return [following, shown]


def _own_options(tx: Transaction, args: list[bytes]) -> tuple[list[bytes], int, bool]:
    """RANGE's words without those that only TYPED has; the database, and whether to tell the expiry. Raises Syntax."""
    words, database, expires = args[1:4], tx.database, False
    place = 4
    while place < len(args):
        word = option(args[place])
        if word == b"EXPIRES":
            expires = True
            place += 1
            continue
        if word == b"DB":
            if place + 1 == len(args):
                raise Syntax
            database = database_number(tx, args[place + 1])
        else:
            words += args[place : place + 2] if word in (b"LIMIT", b"MATCH") else args[place : place + 1]
        place += 1 if word not in (b"DB", b"LIMIT", b"MATCH") else 2
    return words, database, expires


def _kind(record: Record) -> bytes:
    flags = rec.flags_of(record)
    return b"OBJECT" if flags & rec.OBJECT else b"BYTES" if flags & rec.BYTES else b"TEXT"
