"""TYPED: values with their kinds, as the dialects beside RESP and the Python doors put and read them.

    TEXT    the UTF-8 of a text; what a plain SET stores is read as this kind
    BYTES   bytes
    OBJECT  anything else, in the MessagePack of `core/objects.py`

To plain commands TEXT and BYTES are strings. An OBJECT is read by GET and its like as its JSON text, and what changes
strings answers WRONGTYPE. Typed keys (core/keys.py) are put here alone, and KEYS, SCAN and RANGE don't tell of them.
"""

from __future__ import annotations

from typing import Any, Final

from keyhaus.commands.help import add_help
from keyhaus.commands.scanning import bounded_page, plain_end, range_options
from keyhaus.commands.spec import Flag, Keys, command, container, integer, option
from keyhaus.commands.values import check_reply_bytes
from keyhaus.core import objects
from keyhaus.core.context import Context
from keyhaus.core.errors import Syntax
from keyhaus.core.keys import PLAIN_END, unpack_key
from keyhaus.core.reply import OK
from keyhaus.store import record as rec
from keyhaus.store.record import Record
from keyhaus.store.transaction import Transaction
from keyhaus.store.whole_range import Rows, whole_range

GROUP: Final = "generic"
SINCE: Final = "keyhaus 0.1"
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
        flags = _FLAGS.get(option(kind))
        if flags is None:
            raise Syntax("syntax error: a kind is TEXT, BYTES or OBJECT")
        if flags == rec.OBJECT:
            objects.decode(value)  # what nobody could read is refused
        if key >= PLAIN_END:
            unpack_key(key)
        tx.put(key, value, flags=flags, typed=True)
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
    if len(args) == 3:
        record = tx.get(args[2])
        return [None if record is None else [_kind(record), rec.value_of(record)]]
    records = [tx.get(key) for key in args[2:]]
    check_reply_bytes(tx, sum([len(record) for record in records if record is not None]))
    return [None if record is None else [_kind(record), rec.value_of(record)] for record in records]


@command(
    "TYPED|KEYS",
    2,
    Flag.READ | Flag.DANGEROUS,
    summary="Returns all keys, typed ones included, in no order.",
    since=SINCE,
    group=GROUP,
    complexity="O(n), n the number of keys in the database",
)
async def keys(tx: Transaction, args: list[bytes], context: Context) -> Any:
    return await tx.keys(None, tx.store.settings.integer("max-reply-bytes"), typed=True)


@command(
    "TYPED|RANGE",
    -4,
    Flag.READ | Flag.RANGES,
    summary="Returns the keys from start to before end, each with its value's kind and the value, and the next page. "
    "With ALL it is the whole range, of one moment, or its first LIMIT keys, and the first key that these leave out.",
    since=SINCE,
    group=GROUP,
    syntax="start end [REV] [LIMIT count] [MATCH pattern | ALL]",
    complexity="O(log n + m), n the number of keys and m of those looked at, at most 10,000 without ALL",
)
async def range_(tx: Transaction, args: list[bytes], context: Context) -> Any:
    start, end = args[2], args[3] or None
    if start < PLAIN_END:
        end = plain_end(args[3])  # else they are typed keys, to whoever asks for them
    if len(args) > 4 and option(args[-1]) == b"ALL" and option(args[-2]) != b"MATCH":
        rows, following = await _all(tx, start, end, args[4:-1])
    else:
        options = range_options(args[1:])
        if options.keys_only:
            raise Syntax
        await tx.order()
        rows, following = bounded_page(tx, start, end, options)
    shown: list[bytes] = []
    for key, record in rows:
        shown += (key, _kind(record), rec.value_of(record))
    return [following, shown]


async def _all(tx: Transaction, start: bytes, end: bytes | None, words: list[bytes]) -> tuple[Rows, bytes | None]:
    """The whole range; `words` are the options before ALL."""
    reverse = bool(words) and option(words[0]) == b"REV"
    given = words[1:] if reverse else words
    if given and (len(given) != 2 or option(given[0]) != b"LIMIT"):
        raise Syntax
    limit = integer(given[1]) if given else None
    if limit is not None and limit < 1:
        raise Syntax
    most = tx.store.settings.integer("max-reply-bytes")
    return await whole_range(tx, start, end, limit=limit, most=most, reverse=reverse)


def _kind(record: Record) -> bytes:
    flags = record[7]
    return b"OBJECT" if flags & rec.OBJECT else b"BYTES" if flags & rec.BYTES else b"TEXT"
