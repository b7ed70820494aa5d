"""TYPED: values with their kinds, as the dialects beside RESP and the Python doors put and read them.

    TEXT    the UTF-8 of a text; what a plain SET stores is read as this kind
    BYTES   bytes
    OBJECT  anything else, in the MessagePack of `core/objects.py`

To plain commands TEXT and BYTES are strings. An OBJECT is read by GET and its like as its JSON text, and what changes
strings answers WRONGTYPE. Typed keys (core/keys.py) are put here alone, and KEYS, SCAN and RANGE don't tell of them.

RANGE with EXPIRES tells all that there is of a row, LOAD puts it back: exports and imports are made of these two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from keyhaus.commands.help import add_help
from keyhaus.commands.keys import database_number, in_database
from keyhaus.commands.scanning import RangeOptions, argument, bounded_page, plain_end
from keyhaus.commands.spec import Flag, Keys, command, container, integer, option
from keyhaus.commands.values import MILLISECOND, SECOND, check_reply_bytes, deadline
from keyhaus.core import objects
from keyhaus.core.context import Context
from keyhaus.core.errors import Syntax, quoted
from keyhaus.core.keys import PLAIN_END, check_key
from keyhaus.core.reply import OK
from keyhaus.store import record as rec
from keyhaus.store.transaction import Transaction
from keyhaus.store.whole_range import whole_range

GROUP: Final = "generic"
SINCE: Final = "keyhaus 0.1"
NEVER: Final = -1  # in place of an expiry, as PEXPIRETIME has it
_UNITS: Final = {b"EX": SECOND, b"PX": MILLISECOND}

container("TYPED", Flag(0), summary="Puts and reads values with their kinds.", since=SINCE, group=GROUP)
add_help("TYPED", group=GROUP, since=SINCE)


@command(
    "TYPED|PUT",
    -2,
    Flag.WRITE | Flag.DENY_OOM,
    keys=Keys(2, -3, 3),
    summary="Puts values of kinds under keys, all at once, perhaps with an expiry.",
    since=SINCE,
    group=GROUP,
    syntax="[key <TEXT | BYTES | OBJECT> value ...] [EX seconds | PX milliseconds]",
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
        tx.put(key, value, expires, _checked_flags(key, kind, value), typed=True)
    return OK


def _checked_flags(key: bytes, kind: bytes, value: bytes) -> int:
    """The flags of a record of a kind. Raises Syntax, and UserError for a key or an object that nobody could read."""
    flags = rec.FLAGS_OF_KIND.get(option(kind))
    if flags is None:
        raise Syntax(f"key {quoted(key)}: kind {quoted(kind)} is none: expected TEXT, BYTES or OBJECT")
    if flags == rec.OBJECT:
        objects.decode(value)
    check_key(key)
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
        raise Syntax(f"mode {quoted(args[3])} is none: expected OVERWRITE, SKIP or FAIL, for keys that are there")
    there: list[bytes] = []
    rows: list[tuple[bytes, bytes, int, int]] = []
    with in_database(tx, database):
        named: set[bytes] = set()
        for key, kind, value, expires in zip(args[4::4], args[5::4], args[6::4], args[7::4], strict=True):
            row = key, value, _expiry(key, expires), _checked_flags(key, kind, value)
            if mode != b"OVERWRITE" and (key in named or tx.get(key) is not None):
                there.append(key)
            else:
                named.add(key)
                rows.append(row)
        if mode != b"FAIL" or not there:
            for row in rows:
                tx.put(*row, typed=True)
    return there


def _expiry(key: bytes, word: bytes) -> int:
    """When a row expires, as a record has it. Raises Syntax."""
    try:
        expires = integer(word)
    except Syntax:
        expires = 0
    if expires == NEVER:
        return 0
    if expires <= 0:
        raise Syntax(
            f"key {quoted(key)}: expiry {quoted(word)} is none: expected milliseconds since 1970, or -1 (never)"
        )
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
    if len(args) == 3:
        record = tx.get(args[2])
        return [None if record is None else [rec.kind_of(record), rec.value_of(record)]]
    records = [tx.get(key) for key in args[2:]]
    check_reply_bytes(tx, sum([len(record) for record in records if record is not None]))
    return [None if record is None else [rec.kind_of(record), rec.value_of(record)] for record in records]


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


@dataclass(slots=True)
class _Options(RangeOptions):
    """What TYPED RANGE was asked for: RANGE's options, and its own.

    Attributes:
        database: Which one it is about.
        expires: Whether it tells expiries.
        whole: Whether it is the whole range.
    """

    database: int = 0
    expires: bool = False
    whole: bool = False


@command(
    "TYPED|RANGE",
    -4,
    Flag.READ | Flag.RANGES,
    summary="Returns the keys from start to before end, each with its value's kind and the value, and the next page; "
    "with EXPIRES also when each expires (-1: never), in milliseconds since 1970. "
    "With ALL it is the whole range, of one moment, or its first LIMIT keys, and the first key that these leave out.",
    since=SINCE,
    group=GROUP,
    syntax="start end [REV] [LIMIT count] [MATCH pattern | ALL] [DB db] [EXPIRES]",
    complexity="O(log n + m), n the number of keys and m of those looked at, at most 10,000 without ALL",
)
async def range_(tx: Transaction, args: list[bytes], context: Context) -> Any:
    start, end = args[2], args[3] or None
    if start < PLAIN_END:
        end = plain_end(args[3])  # else they are typed keys, to whoever asks for them
    options = _range_options(tx, args)
    with in_database(tx, options.database):
        if options.whole:
            most = tx.store.settings.integer("max-reply-bytes")
            rows, following = await whole_range(tx, start, end, limit=options.limit, most=most, reverse=options.reverse)
        else:
            await tx.order()
            rows, following = bounded_page(tx, start, end, options)
    shown: list[bytes | int] = []
    for key, record in rows:
        shown += (key, rec.kind_of(record), rec.value_of(record))
        if options.expires:
            shown.append(rec.expires_of(record) or NEVER)
    return [following, shown]


def _range_options(tx: Transaction, args: list[bytes]) -> _Options:
    """What TYPED RANGE's words say. Raises Syntax, and UserError for a database that there is not."""
    options = _Options(database=tx.database)
    place = 4
    while place < len(args):
        word, step = option(args[place]), 1
        if word == b"EXPIRES":
            options.expires = True
        elif word == b"ALL":
            options.whole = True
        elif word == b"DB":
            options.database = database_number(tx, argument(args, place, "DB db"))
            step = 2
        elif word == b"KEYS" or not (step := options.take(args, place)):
            raise Syntax(
                f"syntax error: {quoted(args[place])} is no option of TYPED RANGE: expected REV, LIMIT count, MATCH "
                "pattern or ALL, DB db, or EXPIRES"
            )
        place += step
    if options.whole and options.pattern is not None:
        raise Syntax(f"syntax error: MATCH {quoted(options.pattern)} with ALL: expected one of them")
    return options
