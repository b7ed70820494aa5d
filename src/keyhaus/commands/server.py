"""Commands about the whole server and its databases: DBSIZE, FLUSHDB, SWAPDB, TIME, WAIT, WAITAOF, DEBUG, LOLWUT."""

from __future__ import annotations

import ipaddress
import math
from typing import Any, Final

from keyhaus import __version__
from keyhaus.commands.spec import Flag, command, integer
from keyhaus.core.context import Context
from keyhaus.core.errors import Syntax, UserError
from keyhaus.core.reply import OK, Verbatim
from keyhaus.core.wait import Wait
from keyhaus.store.transaction import Transaction

GROUP: Final = "server"
SLEEP_SECONDS_MAX: Final = 86_400.0


@command(
    "DBSIZE",
    1,
    Flag.READ | Flag.FAST,
    summary="Answers how many keys the database has.",
    since="1.0.0",
    group=GROUP,
)
async def dbsize(tx: Transaction, args: list[bytes], context: Context) -> Any:
    return tx.count()


def _check_flush(args: list[bytes]) -> None:
    # Both words mean the same here: the keys are gone at once, and their memory is freed bit by bit.
    if len(args) > 2 or (len(args) == 2 and args[1].upper() not in (b"ASYNC", b"SYNC")):
        raise Syntax


@command(
    "FLUSHDB",
    -1,
    Flag.WRITE | Flag.DANGEROUS,
    summary="Deletes all keys of the database.",
    since="1.0.0",
    group=GROUP,
    syntax="[ASYNC | SYNC]",
)
async def flushdb(tx: Transaction, args: list[bytes], context: Context) -> Any:
    _check_flush(args)
    tx.flush(tx.database)
    return OK


@command(
    "FLUSHALL",
    -1,
    Flag.WRITE | Flag.DANGEROUS | Flag.NO_TRANSACTION,
    summary="Deletes all keys of all databases.",
    since="1.0.0",
    group=GROUP,
    syntax="[ASYNC | SYNC]",
    complexity="O(N) in the number of databases",
)
async def flushall(tx: Transaction, args: list[bytes], context: Context) -> Any:
    _check_flush(args)
    for database in range(len(tx.store.spaces)):
        tx.flush(database)
    return OK


@command(
    "SWAPDB",
    3,
    Flag.WRITE | Flag.FAST | Flag.DANGEROUS | Flag.NO_TRANSACTION,
    summary="Exchanges the contents of two databases.",
    since="4.0.0",
    group=GROUP,
    syntax="index1 index2",
    complexity="O(N) in the keys that are watched in either",
)
async def swapdb(tx: Transaction, args: list[bytes], context: Context) -> Any:
    one = _index(args[1], "invalid first DB index")
    other = _index(args[2], "invalid second DB index")
    if not (0 <= one < len(tx.store.spaces) and 0 <= other < len(tx.store.spaces)):
        raise UserError("DB index is out of range")
    if one != other:
        tx.swap(one, other)
    return OK


def _index(word: bytes, message: str) -> int:
    index = integer(word, message)
    if not -(1 << 31) <= index < 1 << 31:
        raise Syntax(message)
    return index


@command(
    "TIME",
    1,
    Flag.CONNECTION | Flag.FAST,
    summary="Answers the server's time: seconds since 1970, and microseconds, which are whole milliseconds.",
    since="2.6.0",
    group=GROUP,
)
async def server_time(tx: Transaction, args: list[bytes], context: Context) -> Any:
    # The store's clock, by which commits and expiries go: it counts milliseconds and never runs back (S6).
    seconds, milliseconds = divmod(tx.now(), 1000)
    return [b"%d" % seconds, b"%d" % (milliseconds * 1000)]


def _timeout_ms(word: bytes) -> int:
    timeout = integer(word, "timeout is not an integer or out of range")
    if timeout < 0:
        raise UserError("timeout is negative")
    return timeout


async def _wait_for_replicas(wanted: int, timeout_ms: int, context: Context) -> None:
    """There are no replicas, so whoever wants one waits until its time is over; inside EXEC nobody waits."""
    if wanted > 0 and not context.in_multi:
        await Wait(timeout_ms or None, outside=True)


@command(
    "WAIT",
    3,
    Flag.CONNECTION | Flag.BLOCKING,
    summary="Waits until so many replicas have the writes; there are none, so it answers 0.",
    since="3.0.0",
    group="generic",
    syntax="numreplicas timeout",
)
async def wait(tx: Transaction, args: list[bytes], context: Context) -> Any:
    wanted = integer(args[1])
    await _wait_for_replicas(wanted, _timeout_ms(args[2]), context)
    return 0


@command(
    "WAITAOF",
    4,
    Flag.CONNECTION | Flag.BLOCKING,
    summary="Answers once all earlier writes are on the disk (numlocal 1).",
    since="7.2.0",
    group="generic",
    syntax="numlocal numreplicas timeout",
)
async def waitaof(tx: Transaction, args: list[bytes], context: Context) -> Any:
    local = integer(args[1])
    if not 0 <= local <= 1:
        raise UserError("value is out of range, value must between 0 and 1")
    replicas = integer(args[2], "value is out of range, must be positive")
    if replicas < 0:
        raise UserError("value is out of range, must be positive")
    timeout_ms = _timeout_ms(args[3])
    store = tx.store
    durable = store.journal is not None
    if local and not durable:
        raise UserError("WAITAOF cannot be used when numlocal is set but appendonly is disabled.")
    target = store.last
    await _wait_for_replicas(replicas, timeout_ms, context)
    if local:
        # The reply is what waits (C3): it leaves once all that it speaks of is synced.
        tx.depends = max(tx.depends, target)
        tx.waits_for_sync = tx.depends > store.synced
    return [1 if local or (durable and store.synced >= target) else 0, 0]


@command(
    "DEBUG",
    -2,
    Flag.CONNECTION | Flag.ADMIN | Flag.DANGEROUS,
    summary="DEBUG SLEEP lets the connection wait; other clients go on.",
    since="1.0.0",
    group=GROUP,
    syntax="SLEEP seconds",
)
async def debug(tx: Transaction, args: list[bytes], context: Context) -> Any:
    allowed = context.server.settings["enable-debug-command"]
    if not (allowed == "yes" or (allowed == "local" and is_local(context.address))):
        raise UserError(
            'DEBUG command not allowed. If the enable-debug-command option is set to "local", you can run it from a '
            "local connection, otherwise you need to set this option in the configuration file, and then restart the "
            "server."
        )
    if args[1].upper() != b"SLEEP" or len(args) != 3:
        raise Syntax(b"unknown subcommand or wrong number of arguments for '%s'. Try DEBUG HELP." % args[1][:128])
    seconds = _seconds(args[2])
    if seconds > 0 and not context.in_multi:  # EXEC's commands run without a pause
        await Wait(seconds * 1000)
    return OK


def _seconds(word: bytes) -> float:
    # As in Redis what is no number is no time; an upper bound keeps timers sane.
    try:
        seconds = float(word)
    except ValueError:
        return 0.0
    return min(seconds, SLEEP_SECONDS_MAX) if math.isfinite(seconds) else 0.0


def is_local(address: str) -> bool:
    """Whether a client's address (`ip:port`, or a path for a socket file) is on this machine."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return address.startswith("/")


LOLWUT: Final = r"""
        _________________
       /|      ___      |\
      / |     |key|     | \
     /  |      \ /      |  \
    /___|_______V_______|___\
    |   |  []   |   []  |   |
    |___|_______|_______|___|
"""


@command(
    "LOLWUT",
    -1,
    Flag.READ | Flag.FAST,
    summary="Draws a house and tells the version.",
    since="5.0.0",
    group=GROUP,
    syntax="[VERSION version]",
)
async def lolwut(tx: Transaction, args: list[bytes], context: Context) -> Any:
    if len(args) > 2 and args[1].upper() == b"VERSION":
        integer(args[2])
    return Verbatim(f"{LOLWUT}\nkeyhaus ver. {__version__}\n".encode())
