"""SLOWLOG and LATENCY: what took long."""

from __future__ import annotations

from itertools import islice
from statistics import fmean
from typing import Any, Final

from keyhaus.commands.help import add_help
from keyhaus.commands.spec import Flag, command, container, integer
from keyhaus.core.context import Context
from keyhaus.core.errors import Syntax
from keyhaus.core.reply import OK, Verbatim
from keyhaus.store.transaction import Transaction

GROUP: Final = "server"
SLOWLOG_DEFAULT: Final = 10

container("SLOWLOG", Flag.CONNECTION, summary="Commands about the slow log.", since="2.2.12", group=GROUP)
add_help("SLOWLOG", group=GROUP, since="6.2.0")
container("LATENCY", Flag.CONNECTION, summary="Commands about events that took long.", since="2.8.13", group=GROUP)
add_help("LATENCY", group=GROUP, since="2.8.13")


@command(
    "SLOWLOG|GET",
    -2,
    Flag.CONNECTION | Flag.ADMIN,
    summary="Answers the newest entries of the slow log (-1: all): id, seconds since 1970, microseconds, arguments, "
    "address and name of the client.",
    since="2.2.12",
    group=GROUP,
    syntax="[count]",
    complexity="O(N) in the number of entries",
)
async def slowlog_get(tx: Transaction, args: list[bytes], context: Context) -> Any:
    if len(args) > 3:
        raise Syntax(b"unknown subcommand or wrong number of arguments for '%s'. Try SLOWLOG HELP." % args[1][:128])
    count = SLOWLOG_DEFAULT
    if len(args) == 3:
        message = "count should be greater than or equal to -1"
        count = integer(args[2], message)
        if count < -1:
            raise Syntax(message)
    slow = context.server.statistics.slow
    entries = islice(slow, min(count, len(slow)) if count >= 0 else None)
    return [
        [entry.id, entry.unix_seconds, entry.microseconds, entry.arguments, entry.address.encode(), entry.name]
        for entry in entries
    ]


@command(
    "SLOWLOG|LEN",
    2,
    Flag.CONNECTION | Flag.ADMIN,
    summary="Answers how many entries the slow log has.",
    since="2.2.12",
    group=GROUP,
)
async def slowlog_len(tx: Transaction, args: list[bytes], context: Context) -> Any:
    return len(context.server.statistics.slow)


@command(
    "SLOWLOG|RESET",
    2,
    Flag.CONNECTION | Flag.ADMIN,
    summary="Empties the slow log.",
    since="2.2.12",
    group=GROUP,
    complexity="O(N) in the number of entries",
)
async def slowlog_reset(tx: Transaction, args: list[bytes], context: Context) -> Any:
    context.server.statistics.slow.clear()
    return OK


@command(
    "LATENCY|LATEST",
    2,
    Flag.CONNECTION | Flag.ADMIN,
    summary="Answers the newest entry of each event, and the longest ever: event, seconds since 1970, milliseconds.",
    since="2.8.13",
    group=GROUP,
)
async def latency_latest(tx: Transaction, args: list[bytes], context: Context) -> Any:
    statistics = context.server.statistics
    return [
        [event.encode(), *history[-1], statistics.latency_worst[event]]
        for event, history in sorted(statistics.latency.items())
    ]


@command(
    "LATENCY|HISTORY",
    3,
    Flag.CONNECTION | Flag.ADMIN,
    summary="Answers what is kept of an event: pairs of seconds since 1970 and milliseconds.",
    since="2.8.13",
    group=GROUP,
    syntax="event",
)
async def latency_history(tx: Transaction, args: list[bytes], context: Context) -> Any:
    history = context.server.statistics.latency.get(args[2].decode("latin-1"), ())
    return [list(entry) for entry in history]


@command(
    "LATENCY|RESET",
    -2,
    Flag.CONNECTION | Flag.ADMIN,
    summary="Forgets the named events, or all; answers how many there were.",
    since="2.8.13",
    group=GROUP,
    syntax="[event [event ...]]",
)
async def latency_reset(tx: Transaction, args: list[bytes], context: Context) -> Any:
    return context.server.statistics.forget_latency([word.decode("latin-1") for word in args[2:]])


@command(
    "LATENCY|DOCTOR",
    2,
    Flag.CONNECTION | Flag.ADMIN,
    summary="Says in words which events took long.",
    since="2.8.13",
    group=GROUP,
)
async def latency_doctor(tx: Transaction, args: list[bytes], context: Context) -> Any:
    statistics = context.server.statistics
    threshold = context.server.settings.integer("latency-monitor-threshold")
    if not threshold:
        text = (
            "Nothing is watched. CONFIG SET latency-monitor-threshold <milliseconds> says from when on an event is "
            "kept.\n"
        )
    elif not statistics.latency:
        text = f"No event took {threshold} milliseconds or more.\n"
    else:
        text = "".join(
            f"{event}: {len(history)} times, {fmean(ms for _, ms in history):.0f} ms on average, "
            f"{statistics.latency_worst[event]} ms at the worst.\n"
            for event, history in sorted(statistics.latency.items())
        )
    return Verbatim(text.encode())
