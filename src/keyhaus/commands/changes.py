"""CHANGES: the commits that were made, in their order, for those who follow them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from keyhaus.commands.spec import Flag, command, integer, option
from keyhaus.core.context import Context
from keyhaus.core.errors import ChangesLost, Syntax, UserError
from keyhaus.core.limits import CHANGES_COUNT, CHANGES_COUNT_MAX, PAGE_BYTES_MAX
from keyhaus.store.changes import Room, Wanted
from keyhaus.store.transaction import Transaction


class _Options(NamedTuple):
    after: int
    history: bytes | None
    wanted: Wanted
    most: int
    block_ms: int | None


@command(
    "CHANGES",
    -3,
    Flag.READ | Flag.BLOCKING,
    summary="Returns the commits after seqno, in order: [seqno, unix-ms, [op, ...]], op being put, del, flush or swap.",
    since="keyhaus 0.1",
    group="generic",
    syntax="AFTER seqno [HISTORY id] [DB n] [PREFIX prefix] [COUNT n] [BLOCK ms]",
    complexity="O(m), m the number of commits looked at",
)
async def changes(tx: Transaction, args: list[bytes], context: Context) -> Any:
    options = _options(args)
    store = tx.store
    _check(tx, options)
    over, rest_ms = _timer(options.block_ms, context)
    feed, wanted = store.changes, options.wanted
    at = feed.passed(options.after, wanted)
    room = PAGE_BYTES_MAX
    entries: list[Any] = []
    while True:
        if at < feed.newest:
            page = await feed.page(
                at, wanted, Room(options.most - len(entries), room, not entries), may_wait=not context.in_multi
            )
            entries += page.entries
            room -= page.bytes
            at = page.at
            if len(entries) >= options.most or page.full or over():
                break
            await store.turn()
        elif entries or options.block_ms is None or context.in_multi:
            feed.ask_for_sync()  # so that who asks again and again is told of what is not synced otherwise
            break
        elif not await feed.further(rest_ms()):
            break
    last = entries[-1][0] if entries else options.after
    if at > last:
        feed.pass_over(last, wanted, at)
    return entries


def _check(tx: Transaction, options: _Options) -> None:
    """Whether the number may be one of this history; the answer depends on what it is compared with (C2)."""
    store, after = tx.store, options.after
    if options.history is not None and options.history.lower() != store.history.encode():
        raise ChangesLost(f"this is history {store.history}: its numbers are not those of the one that was asked for")
    if options.wanted.database is not None and options.wanted.database >= len(store.spaces):
        raise UserError("DB index is out of range")
    if after > store.changes.newest:
        tx.depends = max(tx.depends, min(after, store.last))
        tx.waits_for_sync = tx.depends > store.synced
    if after > store.last:
        raise UserError(f"{after} is above the newest commit, {store.last}")


def _timer(block_ms: int | None, context: Context) -> tuple[Callable[[], bool], Callable[[], float | None]]:
    """Whether the time of BLOCK is over, and what is left of it (None: no end)."""
    if not block_ms:
        return lambda: False, lambda: None
    clock = context.server.monotonic_ns
    until = clock() + block_ms * 1_000_000
    return lambda: clock() >= until, lambda: max(0.0, (until - clock()) / 1_000_000)


def _options(args: list[bytes]) -> _Options:
    if option(args[1]) != b"AFTER":
        raise Syntax
    words: dict[bytes, bytes] = {}
    place = 3
    while place < len(args):
        name = option(args[place])
        if name not in (b"HISTORY", b"DB", b"PREFIX", b"COUNT", b"BLOCK") or place + 1 == len(args):
            raise Syntax
        words[name] = args[place + 1]
        place += 2
    database = _natural(words[b"DB"]) if b"DB" in words else None
    count = _natural(words[b"COUNT"]) if b"COUNT" in words else CHANGES_COUNT
    if not count:
        raise Syntax
    return _Options(
        _natural(args[2], "seqno is not an integer or out of range"),
        words.get(b"HISTORY"),
        Wanted(database, words.get(b"PREFIX", b"")),
        min(count, CHANGES_COUNT_MAX),
        _natural(words[b"BLOCK"], "timeout is not an integer or out of range") if b"BLOCK" in words else None,
    )


def _natural(word: bytes, message: str = "value is not an integer or out of range") -> int:
    number = integer(word, message)
    if number < 0:
        raise Syntax(message)
    return number
