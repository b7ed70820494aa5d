"""MEMORY and OBJECT: what a key takes, and what the process takes.

`OBJECT ENCODING` and `REFCOUNT` are answered by the value alone, as Redis would encode it had it been SET just so; how
it came about (APPEND, SETRANGE) is not kept. When a key was last used is not kept either: its idle time is 0.
"""

from __future__ import annotations

import sys
from typing import Any, Final

from keyhaus.commands.help import add_help
from keyhaus.commands.process import process_memory
from keyhaus.commands.spec import Flag, Keys, command, container, integer
from keyhaus.core.context import Context
from keyhaus.core.errors import Syntax, UserError
from keyhaus.core.reply import Verbatim
from keyhaus.store import record as rec
from keyhaus.store.record import Record
from keyhaus.store.transaction import Transaction

EMBEDDED_BYTES_MAX: Final = 44
SHARED_INTEGERS: Final = 10_000
SHARED_REFERENCES: Final = (1 << 31) - 1
DICT_ENTRY_BYTES: Final = 104  # a dictionary's slot at its mean fill, about

container("MEMORY", Flag(0), summary="Commands about memory.", since="4.0.0", group="server")
add_help("MEMORY", group="server", since="4.0.0")
container("OBJECT", Flag(0), summary="Commands about how a value is kept.", since="2.2.3", group="generic")
add_help("OBJECT", group="generic", since="6.2.0")


def record_bytes(key: bytes, record: Record) -> int:
    """About how many bytes of memory a key with its record takes."""
    return sys.getsizeof(key) + sys.getsizeof(record) + DICT_ENTRY_BYTES


@command(
    "MEMORY|USAGE",
    -3,
    Flag.READ,
    keys=Keys(2, 2),
    summary="Answers how many bytes a key and its value take.",
    since="4.0.0",
    group="server",
    syntax="key [SAMPLES count]",
)
async def usage(tx: Transaction, args: list[bytes], context: Context) -> Any:
    # Values have no parts to sample; the option is only checked.
    for option, word in zip(args[3::2], [*args[4::2], None], strict=False):
        if option.upper() != b"SAMPLES" or word is None or integer(word) < 0:
            raise Syntax
    record = tx.get(args[2])
    return None if record is None else record_bytes(args[2], record)


@command(
    "MEMORY|STATS",
    2,
    Flag.CONNECTION,
    summary="Answers how the process uses memory.",
    since="4.0.0",
    group="server",
)
async def memory_stats(tx: Transaction, args: list[bytes], context: Context) -> Any:
    memory = process_memory()
    clients = sum(client.buffers().get("total", 0) for client in context.server.clients())
    facts = tx.store.statistics()
    keys = sum(count for count, _ in facts["keyspace"].values())
    reply: dict[bytes, Any] = {
        b"peak.allocated": memory.peak,
        b"total.allocated": memory.resident,
        b"clients.normal": clients,
        b"keys.count": keys,
        b"keys.bytes-per-key": memory.resident // keys if keys else 0,
        b"peak.percentage": 100.0 * memory.resident / max(1, memory.peak),
    }
    for database, (count, volatile) in sorted(facts["keyspace"].items()):
        reply[b"db.%d" % database] = {b"keys.count": count, b"expires.count": volatile}
    return reply


@command(
    "MEMORY|DOCTOR",
    2,
    Flag.CONNECTION,
    summary="Says whether anything looks wrong with the memory.",
    since="4.0.0",
    group="server",
)
async def memory_doctor(tx: Transaction, args: list[bytes], context: Context) -> Any:
    memory = process_memory()
    advice = []
    if memory.swapped:
        advice.append(
            f"{memory.swapped} bytes of the process are swapped out: commands that need them wait for the disk."
        )
    if memory.resident > memory.total * 8 // 10 > 0:
        advice.append(f"The process takes {memory.resident} of the machine's {memory.total} bytes: it may be killed.")
    return Verbatim("\n".join(advice or ["Nothing looks wrong with the memory."]).encode() + b"\n")


def _record(tx: Transaction, args: list[bytes]) -> Record | None:
    return tx.get(args[2])


@command(
    "OBJECT|ENCODING",
    3,
    Flag.READ,
    keys=Keys(2, 2),
    summary="Answers how a value would be encoded.",
    since="2.2.3",
    group="generic",
    syntax="key",
)
async def encoding(tx: Transaction, args: list[bytes], context: Context) -> Any:
    record = _record(tx, args)
    return None if record is None else encoding_of(record)


def encoding_of(record: Record) -> bytes:
    """`int`, `embstr` or `raw` as Redis says; `msgpack` for a typed object."""
    if rec.flags_of(record) & rec.OBJECT:
        return b"msgpack"
    if _number(record) is not None:
        return b"int"
    return b"embstr" if rec.value_bytes(record) <= EMBEDDED_BYTES_MAX else b"raw"


def _number(record: Record) -> int | None:
    try:
        return integer(rec.value_of(record)) if rec.value_bytes(record) <= 20 else None
    except Syntax:
        return None


@command(
    "OBJECT|REFCOUNT",
    3,
    Flag.READ,
    keys=Keys(2, 2),
    summary="Answers how often a value is referred to: small integers are shared.",
    since="2.2.3",
    group="generic",
    syntax="key",
)
async def refcount(tx: Transaction, args: list[bytes], context: Context) -> Any:
    record = _record(tx, args)
    if record is None:
        return None
    number = None if rec.flags_of(record) & rec.OBJECT else _number(record)
    return SHARED_REFERENCES if number is not None and 0 <= number < SHARED_INTEGERS else 1


@command(
    "OBJECT|IDLETIME",
    3,
    Flag.READ,
    keys=Keys(2, 2),
    summary="Answers 0 for a key that is there: when it was last used is not kept.",
    since="2.2.3",
    group="generic",
    syntax="key",
)
async def idletime(tx: Transaction, args: list[bytes], context: Context) -> Any:
    return None if _record(tx, args) is None else 0


@command(
    "OBJECT|FREQ",
    3,
    Flag.READ,
    keys=Keys(2, 2),
    summary="Is refused for a key that is there: how often keys are used is not kept.",
    since="4.0.0",
    group="generic",
    syntax="key",
)
async def freq(tx: Transaction, args: list[bytes], context: Context) -> Any:
    if _record(tx, args) is None:
        return None
    raise UserError(
        "An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when switching "
        "between policies at runtime LRU and LFU data will take some time to adjust."
    )
