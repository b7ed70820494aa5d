"""TYPED: values with their kinds, as the dialects beside RESP and the Python doors put and read them.

    TEXT    the UTF-8 of a text; what a plain SET stores is read as this kind
    BYTES   bytes
    OBJECT  anything else, in the MessagePack of `core/objects.py`

To plain commands TEXT and BYTES are strings. An OBJECT is read by GET and its like as its JSON text, and what changes
strings answers WRONGTYPE.
"""

from __future__ import annotations

from typing import Any, Final

from keyhaus.commands.help import add_help
from keyhaus.commands.scanning import range_rows
from keyhaus.commands.spec import Flag, Keys, command, container, option
from keyhaus.commands.values import MILLISECOND, SECOND, check_reply_bytes, deadline
from keyhaus.core import objects
from keyhaus.core.context import Context
from keyhaus.core.errors import Syntax
from keyhaus.core.reply import OK
from keyhaus.store import record as rec
from keyhaus.store.record import Record
from keyhaus.store.transaction import Transaction

GROUP: Final = "generic"
SINCE: Final = "keyhaus 0.1"
_UNITS: Final = {b"EX": SECOND, b"PX": MILLISECOND}
_FLAGS: Final = {b"TEXT": 0, b"BYTES": rec.BYTES, b"OBJECT": rec.OBJECT}

container("TYPED", Flag(0), summary="Puts and reads values with their kinds.", since=SINCE, group=GROUP)
add_help("TYPED", group=GROUP, since=SINCE)


@command(
    "TYPED|PUT",
    -5,
    Flag.WRITE | Flag.DENY_OOM,
    keys=Keys(2, -3, 3),
    summary="Puts values of kinds under keys, all at once, perhaps with an expiry.",
    since=SINCE,
    group=GROUP,
    syntax="key <TEXT | BYTES | OBJECT> value [key <TEXT | BYTES | OBJECT> value ...] [EX seconds | PX milliseconds]",
    complexity="O(n), n the number of keys",
)
async def put(tx: Transaction, args: list[bytes], context: Context) -> Any:
    rows = args[2:]
    expires = 0
    if len(rows) % 3 == 2 and (unit := _UNITS.get(option(rows[-2]))):
        expires = deadline(tx, "typed|put", rows[-1], unit, relative=True)
        del rows[-2:]
    if len(rows) % 3:
        raise Syntax("syntax error: expected TYPED PUT key kind value [key kind value ...] [EX seconds | PX ms]")
    for key, kind, value in zip(rows[::3], rows[1::3], rows[2::3], strict=True):
        flags = _FLAGS.get(option(kind))
        if flags is None:
            raise Syntax("syntax error: a kind is TEXT, BYTES or OBJECT")
        if flags == rec.OBJECT:
            objects.decode(value)  # what nobody could read is refused
        tx.put(key, value, expires, flags)
    return OK


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
    summary="Returns the keys from start to before end, each with its value's kind and the value, and the next page.",
    since=SINCE,
    group=GROUP,
    syntax="start end [REV] [LIMIT count] [MATCH pattern]",
    complexity="O(log n + m), n the number of keys and m of those looked at, at most 10,000",
)
async def range_(tx: Transaction, args: list[bytes], context: Context) -> Any:
    rows, following = await range_rows(tx, args[1:])
    shown: list[bytes] = []
    for key, record in rows:
        shown += (key, _kind(record), rec.value_of(record))
    return [following, shown]


def _kind(record: Record) -> bytes:
    flags = rec.flags_of(record)
    return b"OBJECT" if flags & rec.OBJECT else b"BYTES" if flags & rec.BYTES else b"TEXT"
