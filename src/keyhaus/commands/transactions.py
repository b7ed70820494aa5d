"""MULTI, EXEC, DISCARD, WATCH and UNWATCH: what Redis calls a transaction.

The session keeps the queue and the watched keys; these only say what is not allowed. None of the errors here spoils a
transaction that is being queued: it goes on, as in Redis.
"""

from __future__ import annotations

from typing import Any

from keyhaus.commands.spec import Flag, Keys, command
from keyhaus.core.context import Context
from keyhaus.core.errors import UserError
from keyhaus.core.reply import OK
from keyhaus.store.transaction import Transaction


@command(
    "MULTI",
    1,
    Flag.CONTROL | Flag.FAST | Flag.NO_TRANSACTION,
    summary="Begins a transaction: the commands that follow are queued until EXEC.",
    since="1.2.0",
    group="transactions",
)
async def multi(tx: Transaction, args: list[bytes], context: Context) -> Any:
    if context.in_multi:
        raise UserError("MULTI calls can not be nested")
    context.begin_multi()
    return OK


@command(
    "EXEC",
    1,
    Flag.CONTROL | Flag.SKIP_SLOWLOG,
    summary="Runs the queued commands as one, unless a watched key was changed.",
    since="1.2.0",
    group="transactions",
    complexity="that of the queued commands",
)
async def execute(tx: Transaction, args: list[bytes], context: Context) -> Any:
    if not context.in_multi:
        raise UserError("EXEC without MULTI")
    return await context.execute_queued()


@command(
    "DISCARD",
    1,
    Flag.CONTROL | Flag.FAST,
    summary="Gives up the queued commands and forgets the watched keys.",
    since="2.0.0",
    group="transactions",
    complexity="O(N) in the queued commands and watched keys",
)
async def discard(tx: Transaction, args: list[bytes], context: Context) -> Any:
    if not context.in_multi:
        raise UserError("DISCARD without MULTI")
    context.discard()
    return OK


@command(
    "WATCH",
    -2,
    Flag.CONTROL | Flag.FAST | Flag.UNTOUCHED | Flag.NO_TRANSACTION,
    keys=Keys(1, -1),
    summary="Makes the next EXEC fail if one of the keys is changed before it.",
    since="2.2.0",
    group="transactions",
    syntax="key [key ...]",
    complexity="O(1) for each key",
)
async def watch(tx: Transaction, args: list[bytes], context: Context) -> Any:
    if context.in_multi:
        raise UserError("WATCH inside MULTI is not allowed")
    context.watch(args[1:])
    return OK


# Unlike the others it is queued inside MULTI; EXEC has ended the watching by the time it runs.
@command(
    "UNWATCH",
    1,
    Flag.CONNECTION | Flag.FAST,
    summary="Forgets the watched keys.",
    since="2.2.0",
    group="transactions",
    complexity="O(N) in the watched keys",
)
async def unwatch(tx: Transaction, args: list[bytes], context: Context) -> Any:
    context.unwatch()
    return OK
