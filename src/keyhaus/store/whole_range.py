"""A whole range, read at one moment, however many pages it has."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import TypeAlias

from keyhaus.core import limits
from keyhaus.core.errors import LimitExceeded
from keyhaus.core.wait import Wait
from keyhaus.store import record as rec
from keyhaus.store.record import Record
from keyhaus.store.transaction import Transaction

Rows: TypeAlias = list[tuple[bytes, Record]]
_Read: TypeAlias = Callable[..., Coroutine[Wait, None, tuple[Rows, bytes | None]]]


async def whole_range(
    tx: Transaction, start: bytes, end: bytes | None, *, limit: int | None, most: int, reverse: bool = False
) -> tuple[Rows, bytes | None]:
    """All records of a range, in order: at a snapshot, in slices, unless the transaction reads all in one step.

    Args:
        tx: The transaction.
        start: The first key that may be among them.
        end: The first key behind the range; None for an open end.
        limit: How many records at the most; None for all.
        most: How many bytes they may take.
        reverse: Walk from the end.

    Returns:
        The records, and the first key that the limit has left out; None where it has left out none.

    Raises:
        LimitExceeded: They take more than `most` bytes.
    """
    if tx.in_one_step():
        await tx.order()
        return await _walk(tx, partial(_page_now, tx), start, end, limit, most, reverse)
    snapshot = tx.store.snapshot()
    try:
        tx.depends = max(tx.depends, snapshot.seqno)
        result = await _walk(tx, partial(snapshot.page, tx.database), start, end, limit, most, reverse)
        if snapshot.saw_expired:
            tx.carries_time = True
        return result
    finally:
        snapshot.close()


async def _page_now(
    tx: Transaction, start: bytes, end: bytes | None, limit: int, *, reverse: bool
) -> tuple[Rows, bytes | None]:
    return tx.page(start, end, limit, reverse=reverse)


async def _walk(
    tx: Transaction, read: _Read, start: bytes, end: bytes | None, limit: int | None, most: int, reverse: bool
) -> tuple[Rows, bytes | None]:
    rows: Rows = []
    room = most
    while True:
        step = limits.SCAN_COUNT_MAX if limit is None else min(limits.SCAN_COUNT_MAX, limit + 1 - len(rows))
        page, following = await read(start, end, step, reverse=reverse)
        for key, record in page:
            if len(rows) == limit:
                return rows, key
            room -= len(key) + rec.value_bytes(record)
            if room < 0:
                raise LimitExceeded("max-reply-bytes", most - room, most)
            rows.append((key, record))
        if following is None or tx.needs:
            return rows, None
        if reverse:
            end = following
        else:
            start = following
