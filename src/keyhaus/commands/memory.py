"""MEMORY and OBJECT: what a key takes, and what the process takes.

`OBJECT ENCODING` and `REFCOUNT` are answered by the value alone, as Redis would encode it had it been SET just so; how
it came about (APPEND, SETRANGE) is not kept. When and how often a key is used is kept only while eviction needs it.
"""

from __future__ import annotations

from typing import Any, Final

from keyhaus.commands.help import add_help
from keyhaus.commands.process import process_memory
from keyhaus.commands.spec import Flag, Keys, command, container, integer
from keyhaus.core.context import Context
from keyhaus.core.errors import Syntax, UserError
from keyhaus.core.reply import Verbatim
from keyhaus.core.settings import Policy
from keyhaus.store import record as rec
from keyhaus.store.keyspace import DEADLINE_BYTES, ENTRY_BYTES
from keyhaus.store.record import EXPIRES, Record
from keyhaus.store.transaction import Transaction

EMBEDDED_BYTES_MAX: Final = 44
SHARED_INTEGERS: Final = 10_000
SHARED_REFERENCES: Final = (1 << 31) - 1
_SWITCHING: Final = (
    "Please note that when switching between policies at runtime LRU and LFU data will take some time to adjust."
)

container("MEMORY", Flag(0), summary="Commands about memory.", since="4.0.0", group="server")
add_help("MEMORY", group="server", since="4.0.0")
container("OBJECT", Flag(0), summary="Commands about how a value is kept.", since="2.2.3", group="generic")
add_help("OBJECT", group="generic", since="6.2.0")


def record_bytes(key: bytes, record: Record) -> int:
    """About how many bytes of memory a key with its record takes."""
    return len(key) + len(record) + ENTRY_BYTES + (DEADLINE_BYTES if record[7] & EXPIRES else 0)


@command(
    "MEMORY|USAGE",
    -3,
    Flag.READ | Flag.UNTOUCHED,
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
    used, overhead = facts["used_bytes"], facts["overhead_bytes"]
    reply: dict[bytes, Any] = {
        b"peak.allocated": memory.peak,
        b"total.allocated": used,
        b"clients.normal": clients,
        b"overhead.total": overhead,
        b"keys.count": keys,
        b"keys.bytes-per-key": used // keys if keys else 0,
        b"dataset.bytes": used - overhead,
        b"dataset.percentage": 100.0 * (used - overhead) / max(1, used),
        b"peak.percentage": 100.0 * memory.resident / max(1, memory.peak),
        b"fragmentation": memory.resident / max(1, used),
        b"fragmentation.bytes": memory.resident - used,
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
    Flag.READ | Flag.UNTOUCHED,
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
    Flag.READ | Flag.UNTOUCHED,
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
    Flag.READ | Flag.UNTOUCHED,
    keys=Keys(2, 2),
    summary="Answers for how many seconds a key was not used; 0 unless max-memory and allkeys-lru are set.",
    since="2.2.3",
    group="generic",
    syntax="key",
)
async def idletime(tx: Transaction, args: list[bytes], context: Context) -> Any:
    if _record(tx, args) is None:
        return None
    if context.server.settings["max-memory-policy"] == Policy.ALLKEYS_LFU:
        raise UserError("An LFU maxmemory policy is selected, idle time not tracked. " + _SWITCHING)
    return tx.store.evictor.idle_seconds(tx.database, args[2])


@command(
    "OBJECT|FREQ",
    3,
    Flag.READ | Flag.UNTOUCHED,
    keys=Keys(2, 2),
    summary="Answers how often a key is used, from 0 to 255; only where max-memory and allkeys-lfu are set.",
    since="4.0.0",
    group="generic",
    syntax="key",
)
async def freq(tx: Transaction, args: list[bytes], context: Context) -> Any:
    if _record(tx, args) is None:
        return None
    if context.server.settings["max-memory-policy"] != Policy.ALLKEYS_LFU:
        raise UserError("An LFU maxmemory policy is not selected, access frequency not tracked. " + _SWITCHING)
    frequency = tx.store.evictor.frequency(tx.database, args[2])
    if frequency is None:
        raise UserError("Access frequency is tracked only while max-memory sets a limit.")
    return frequency
