"""Keys as a whole: whether they are there, copies, names, and the values as DUMP packs them.

What moves or copies a key takes its kind and its expiry along.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from keyhaus.commands import dump, glob
from keyhaus.commands.spec import Flag, Keys, command, integer, option
from keyhaus.commands.values import INTEGER_MAX, string
from keyhaus.core.context import Context
from keyhaus.core.errors import BusyKey, Syntax, UserError
from keyhaus.core.reply import OK
from keyhaus.store import record as rec
from keyhaus.store.record import OBJECT, Record
from keyhaus.store.transaction import Transaction

_ONE: Final = Keys(1, 1)
_TWO: Final = Keys(1, 2)
_ALL: Final = Keys(1, -1)
_INT_MIN, _INT_MAX = -(1 << 31), (1 << 31) - 1


@contextmanager
def in_database(tx: Transaction, database: int) -> Iterator[None]:
    """Lets a command address another database for a while."""
    home, tx.database = tx.database, database
    try:
        yield
    finally:
        tx.database = home


def database_number(tx: Transaction, word: bytes) -> int:
    """The number of a database. Raises UserError where there is none."""
    number = integer(word)
    if not _INT_MIN <= number <= _INT_MAX:
        raise Syntax(f"value is out of range, value must between {_INT_MIN} and {_INT_MAX}")
    if not 0 <= number < len(tx.store.spaces):
        raise UserError("DB index is out of range")
    return number


def _put(tx: Transaction, key: bytes, record: Record) -> None:
    tx.put(key, rec.value_of(record), rec.expires_of(record), rec.flags_of(record))


# there or not


async def _delete(tx: Transaction, args: list[bytes], context: Context) -> Any:
    deleted = 0
    for key in args[1:]:
        if tx.get(key) is not None:
            tx.delete(key)
            deleted += 1
    return deleted


for _name, _since, _flags, _summary in (
    ("DEL", "1.0.0", Flag.WRITE, "Deletes keys and returns how many there were."),
    ("UNLINK", "4.0.0", Flag.WRITE | Flag.FAST, "Deletes keys and returns how many there were; here the same as DEL."),
):
    command(
        _name,
        -2,
        _flags,
        keys=_ALL,
        summary=_summary,
        since=_since,
        group="generic",
        syntax="key [key ...]",
        complexity="O(n), n the number of keys",
    )(_delete)


async def _exists(tx: Transaction, args: list[bytes], context: Context) -> Any:
    return sum([tx.get(key) is not None for key in args[1:]])


for _name, _since, _flags, _summary in (
    (
        "EXISTS",
        "1.0.0",
        Flag.READ | Flag.FAST | Flag.UNTOUCHED,
        "Returns how many of the keys exist; one that is named twice counts twice.",
    ),
    ("TOUCH", "3.2.1", Flag.READ | Flag.FAST, "Uses keys, as eviction understands it, and returns how many exist."),
):
    command(
        _name,
        -2,
        _flags,
        keys=_ALL,
        summary=_summary,
        since=_since,
        group="generic",
        syntax="key [key ...]",
        complexity="O(n), n the number of keys",
    )(_exists)


@command(
    "TYPE",
    2,
    Flag.READ | Flag.FAST | Flag.UNTOUCHED,
    keys=_ONE,
    summary="Returns what kind of value a key holds: string, object, or none.",
    since="1.0.0",
    group="generic",
    syntax="key",
)
async def type_(tx: Transaction, args: list[bytes], context: Context) -> Any:
    return type_name(tx.get(args[1]))


def type_name(record: Record | None) -> str:
    """What TYPE answers for a record."""
    if record is None:
        return "none"
    return "object" if record[7] & OBJECT else "string"


@command(
    "RANDOMKEY",
    1,
    Flag.READ | Flag.RANGES,
    summary="Returns some key, each as likely as any other.",
    since="1.0.0",
    group="generic",
)
async def randomkey(tx: Transaction, args: list[bytes], context: Context) -> Any:
    return await tx.random_key()


@command(
    "KEYS",
    2,
    Flag.READ | Flag.DANGEROUS,
    summary="Returns all keys that match a pattern, in no order.",
    since="1.0.0",
    group="generic",
    syntax="pattern",
    complexity="O(n), n the number of keys in the database",
)
async def keys(tx: Transaction, args: list[bytes], context: Context) -> Any:
    matches = None if args[1] == b"*" else glob.compiled(args[1])
    return await tx.keys(matches, tx.store.settings.integer("max-reply-bytes"))


# elsewhere


@command(
    "COPY",
    -3,
    Flag.WRITE | Flag.DENY_OOM,
    keys=_TWO,
    summary="Copies a key's value and expiry to another key, perhaps in another database.",
    since="6.2.0",
    group="generic",
    syntax="source destination [DB destination-db] [REPLACE]",
    complexity="O(n), n the length of the value",
)
async def copy(tx: Transaction, args: list[bytes], context: Context) -> Any:
    database, replace = _copy_options(tx, args)
    source, destination = args[1], args[2]
    if database == tx.database and source == destination:
        raise UserError("source and destination objects are the same")
    record = tx.get(source)
    if record is None:
        return 0
    with in_database(tx, database):
        if tx.get(destination) is not None and not replace:
            return 0
        _put(tx, destination, record)
    return 1


def _copy_options(tx: Transaction, args: list[bytes]) -> tuple[int, bool]:
    database, replace = tx.database, False
    place = 3
    while place < len(args):
        word = option(args[place])
        if word == b"REPLACE":
            replace = True
        elif word == b"DB" and place + 1 < len(args):
            place += 1
            database = database_number(tx, args[place])
        else:
            raise Syntax
        place += 1
    return database, replace


@command(
    "MOVE",
    3,
    Flag.WRITE | Flag.FAST,
    keys=_ONE,
    summary="Moves a key to another database, unless it exists there.",
    since="1.0.0",
    group="generic",
    syntax="key db",
)
async def move(tx: Transaction, args: list[bytes], context: Context) -> Any:
    database = database_number(tx, args[2])
    if database == tx.database:
        raise UserError("source and destination objects are the same")
    key = args[1]
    record = tx.get(key)
    if record is None:
        return 0
    with in_database(tx, database):
        if tx.get(key) is not None:
            return 0
        _put(tx, key, record)
    tx.delete(key)
    return 1


def _rename(tx: Transaction, source: bytes, destination: bytes, *, over: bool) -> bool:
    """Gives a key another name; `over` an existing key of that name, or else not."""
    record = tx.get(source)
    if record is None:
        raise UserError("no such key")
    if source == destination:
        return False
    if not over and tx.get(destination) is not None:
        return False
    tx.delete(source)
    _put(tx, destination, record)
    return True


@command(
    "RENAME",
    3,
    Flag.WRITE,
    keys=_TWO,
    summary="Gives a key another name, overwriting what had that name.",
    since="1.0.0",
    group="generic",
    syntax="key newkey",
)
async def rename(tx: Transaction, args: list[bytes], context: Context) -> Any:
    _rename(tx, args[1], args[2], over=True)
    return OK


@command(
    "RENAMENX",
    3,
    Flag.WRITE | Flag.FAST,
    keys=_TWO,
    summary="Gives a key another name, unless that is taken.",
    since="1.0.0",
    group="generic",
    syntax="key newkey",
)
async def renamenx(tx: Transaction, args: list[bytes], context: Context) -> Any:
    return int(_rename(tx, args[1], args[2], over=False))


# packed


@command(
    "DUMP",
    2,
    Flag.READ,
    keys=_ONE,
    summary="Returns a key's value packed for RESTORE, here or in Redis.",
    since="2.6.0",
    group="generic",
    syntax="key",
    complexity="O(n), n the length of the value",
)
async def dump_(tx: Transaction, args: list[bytes], context: Context) -> Any:
    record = tx.get(args[1])
    return None if record is None else dump.dumped(string(record))


@command(
    "RESTORE",
    -4,
    Flag.WRITE | Flag.DENY_OOM | Flag.DANGEROUS,
    keys=_ONE,
    summary="Makes a key from what DUMP packed, here or in Redis; strings only.",
    since="2.6.0",
    group="generic",
    syntax="key ttl serialized-value [REPLACE] [ABSTTL] [IDLETIME seconds] [FREQ frequency]",
    complexity="O(n), n the length of the value",
)
async def restore(tx: Transaction, args: list[bytes], context: Context) -> Any:
    words = _restore_options(args)
    key = args[1]
    there = tx.get(key) is not None
    if there and b"REPLACE" not in words:
        raise BusyKey("Target key name already exists.")
    expires = integer(args[2])
    if expires < 0:
        raise UserError("Invalid TTL value, must be >= 0")
    value = dump.restored(args[3], tx.store.settings.integer("max-transaction-bytes"))
    if expires and b"ABSTTL" not in words:
        expires += tx.now()
    # Past the largest number lies the past: Redis' sum wraps round, and nothing is made of such a payload.
    if expires and not tx.now() < expires <= INTEGER_MAX:
        if there:
            tx.delete(key)
    else:
        tx.put(key, value, expires)
    return OK


def _restore_options(args: list[bytes]) -> set[bytes]:
    words: set[bytes] = set()
    place = 4
    while place < len(args):
        word = option(args[place])
        more = place + 1 < len(args)
        if word in (b"REPLACE", b"ABSTTL"):
            words.add(word)
        elif word == b"IDLETIME" and more and b"FREQ" not in words:
            place += 1
            if integer(args[place]) < 0:
                raise UserError("Invalid IDLETIME value, must be >= 0")
            words.add(word)
        elif word == b"FREQ" and more and b"IDLETIME" not in words:
            place += 1
            if not 0 <= integer(args[place]) <= 255:
                raise UserError("Invalid FREQ value, must be >= 0 and <= 255")
            words.add(word)
        else:
            raise Syntax
        place += 1
    return words
