"""BEGIN, COMMIT, ROLLBACK, TX, LOCK and TRANSACTION: transactions over many commands, with a stated isolation.

The session keeps them; the store makes them true. See docs/explanation/transactions.md.
"""

from __future__ import annotations

from typing import Any, Final

from keyhaus.commands.help import add_help
from keyhaus.commands.spec import Flag, Keys, command, container, integer, option
from keyhaus.core.context import Context
from keyhaus.core.errors import Syntax, UnknownTransaction, UserError
from keyhaus.core.ids import NO_ID, read_id
from keyhaus.core.reply import OK
from keyhaus.core.settings import INT_MAX, Durability
from keyhaus.store.interactive import Interactive, PessimisticTransaction
from keyhaus.store.transaction import Transaction
from keyhaus.store.transactions import TransactionKilled

GROUP: Final = "transactions"
_FLAGS: Final = Flag.CONNECTION | Flag.NO_MULTI
_MODES: Final = {b"PESSIMISTIC": "pessimistic", b"OPTIMISTIC": "optimistic", b"READONLY": "readonly"}
_DURABILITIES: Final = {b"ALWAYS": Durability.ALWAYS, b"EVERYSEC": Durability.EVERYSEC, b"NONE": Durability.NONE}


@command(
    "BEGIN",
    -1,
    _FLAGS | Flag.FAST,
    summary="Begins a transaction and makes it the connection's current one; returns its id.",
    since="keyhaus 0.1",
    group=GROUP,
    syntax="[PESSIMISTIC | OPTIMISTIC | READONLY] [DURABILITY <always | everysec | none>] [TIMEOUT ms]",
)
async def begin(tx: Transaction, args: list[bytes], context: Context) -> Any:
    mode = "pessimistic"
    durability: Durability | None = None
    timeout_ms: int | None = None
    place = 1
    if place < len(args) and option(args[place]) in _MODES:
        mode = _MODES[option(args[place])]
        place += 1
    while place < len(args):
        word = option(args[place])
        if word not in (b"DURABILITY", b"TIMEOUT") or place + 1 == len(args):
            raise Syntax(
                "syntax error: expected BEGIN [PESSIMISTIC|OPTIMISTIC|READONLY] [DURABILITY always|everysec|none] "
                "[TIMEOUT ms]"
            )
        argument = args[place + 1]
        if word == b"TIMEOUT":
            timeout_ms = _milliseconds(argument)
        else:
            durability = _DURABILITIES.get(option(argument))
            if durability is None:
                raise UserError("DURABILITY is always, everysec or none")
        place += 2
    return context.begin_transaction(mode, durability, timeout_ms).encode()


def _milliseconds(word: bytes) -> int:
    try:
        value = integer(word)
    except UserError:
        value = 0
    if not 1 <= value <= INT_MAX:
        raise UserError(f"TIMEOUT is in milliseconds, from 1 to {INT_MAX}")
    return value


@command(
    "COMMIT",
    -1,
    _FLAGS,
    summary="Commits a transaction, the current one or that of the id; with WITHSEQNO it returns the commit's number.",
    since="keyhaus 0.1",
    group=GROUP,
    syntax="[id] [WITHSEQNO]",
    complexity="O(N) in what it wrote; OPTIMISTIC: and in what it read",
)
async def commit(tx: Transaction, args: list[bytes], context: Context) -> Any:
    words = args[1:]
    with_seqno = bool(words) and option(words[-1]) == b"WITHSEQNO"
    if with_seqno:
        words = words[:-1]
    if len(words) > 1:
        raise Syntax("syntax error: expected COMMIT [id] [WITHSEQNO]")
    seqno = await context.commit_transaction(words[0] if words else None)
    return seqno if with_seqno else OK


@command(
    "ROLLBACK",
    -1,
    _FLAGS | Flag.FAST,
    summary="Gives up a transaction, the current one or that of the id: nothing of it happens.",
    since="keyhaus 0.1",
    group=GROUP,
    syntax="[id]",
)
async def rollback(tx: Transaction, args: list[bytes], context: Context) -> Any:
    if len(args) > 2:
        raise Syntax("syntax error: expected ROLLBACK [id]")
    context.rollback_transaction(args[1] if len(args) == 2 else None)
    return OK


@command(
    "TX",
    -3,
    _FLAGS,
    summary="Runs a command that reads or writes data inside the transaction of that id.",
    since="keyhaus 0.1",
    group=GROUP,
    syntax="id command [argument ...]",
    complexity="that of the command",
)
async def run_in_transaction(tx: Transaction, args: list[bytes], context: Context) -> Any:
    return await context.run_in_transaction(args[1], args[2:])


@command(
    "LOCK",
    -2,
    Flag.READ | Flag.FAST | Flag.NO_MULTI,
    keys=Keys(1, -1),
    summary="Locks keys for the current PESSIMISTIC transaction before it reads them, as one that will write them.",
    since="keyhaus 0.1",
    group=GROUP,
    syntax="key [key ...]",
    complexity="O(N) in the keys",
)
async def lock(tx: Transaction, args: list[bytes], context: Context) -> Any:
    if not isinstance(tx, Interactive):
        raise UserError("LOCK is for PESSIMISTIC transactions: say BEGIN first")
    if not isinstance(tx, PessimisticTransaction):
        raise UserError(f"LOCK is for PESSIMISTIC transactions, and this one is {tx.mode.upper()}")
    tx.lock(args[1:])
    return OK


container(
    "TRANSACTION",
    _FLAGS,
    summary="Says which transactions are open and what became of others, and ends one.",
    since="keyhaus 0.1",
    group=GROUP,
)


def _number(word: bytes) -> bytes:
    number = read_id(word)
    if number is None:
        raise UserError(NO_ID)
    return number


def _reached(tx: Transaction, number: bytes, context: Context) -> Interactive | None:
    """The open transaction of an id. Raises UnknownTransaction where it is another identity's."""
    transaction = tx.store.transactions.open.get(number)
    if transaction is not None and transaction.user != context.user:
        raise UnknownTransaction("the transaction is another user's")
    return transaction


def _state(tx: Transaction, number: bytes) -> Any:
    """T9: what became of a transaction, for good."""
    state = tx.store.transactions.status(number)
    if isinstance(state, int):
        tx.depends = max(tx.depends, state)
        return [b"committed", state]
    return state.encode()


@command(
    "TRANSACTION|LIST",
    2,
    _FLAGS,
    summary="Returns the open transactions: id, mode, age, how much they have written and locked, whom they wait for.",
    since="keyhaus 0.1",
    group=GROUP,
    complexity="O(N) in the open transactions",
)
async def list_transactions(tx: Transaction, args: list[bytes], context: Context) -> Any:
    store = tx.store
    now = store.monotonic_ns()
    rows: list[Any] = []
    for transaction in store.transactions.open.values():
        if transaction.user != context.user:
            continue
        row: dict[bytes, Any] = {
            b"id": transaction.name.encode(),
            b"mode": transaction.mode.encode(),
            b"user": transaction.user.encode(),
            b"database": transaction.database,
            b"age-ms": (now - transaction.begun_ns) // 1_000_000,
            b"idle-ms": 0 if transaction.busy else max(0, now - transaction.idle_since_ns) // 1_000_000,
            b"writes": len(transaction.operations),
            b"locks": 0 if transaction.owner is None else len(transaction.owner.keys) + len(transaction.owner.ranges),
            b"waits-for": [name.encode() for name in store.locks.waits_for(transaction.owner)],
        }
        rows.append(row)
    return rows


@command(
    "TRANSACTION|STATUS",
    3,
    _FLAGS | Flag.FAST,
    summary="Returns open, [committed, seqno], rolledback, unknown (never heard of) or expired (too long ago to say).",
    since="keyhaus 0.1",
    group=GROUP,
    syntax="id",
)
async def status(tx: Transaction, args: list[bytes], context: Context) -> Any:
    number = _number(args[2])
    _reached(tx, number, context)
    return _state(tx, number)


@command(
    "TRANSACTION|KILL",
    3,
    _FLAGS,
    summary="Rolls a transaction back if it is still open, and returns what became of it.",
    since="keyhaus 0.1",
    group=GROUP,
    syntax="id",
)
async def kill(tx: Transaction, args: list[bytes], context: Context) -> Any:
    number = _number(args[2])
    transaction = _reached(tx, number, context)
    if transaction is not None:
        tx.store.transactions.end(transaction, TransactionKilled())
    return _state(tx, number)


add_help("TRANSACTION", group=GROUP, since="keyhaus 0.1")
