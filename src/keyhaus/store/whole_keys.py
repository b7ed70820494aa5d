"""All keys of a database, read at one moment, however many pages they have."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from keyhaus.core import limits
from keyhaus.core.errors import LimitExceeded
from keyhaus.core.keys import PLAIN_END

if TYPE_CHECKING:
    from keyhaus.store.transaction import Transaction


async def whole_keys(
    tx: Transaction, matches: Callable[[bytes], bool] | None, most: int, *, typed: bool
) -> list[bytes]:
    """All keys that match: at a snapshot, in slices, unless the transaction reads all in one step.

    Args:
        tx: The transaction.
        matches: Which keys are wanted; None for all.
        most: How many bytes they may take.
        typed: Whether typed keys are among them.

    Raises:
        LimitExceeded: They take more than `most` bytes.
    """
    end = None if typed else PLAIN_END
    if tx.in_one_step():
        return _in_one_step(tx, matches, most, end)
    snapshot = tx.store.snapshot()
    try:
        tx.depends = max(tx.depends, snapshot.seqno)
        found: list[bytes] = []
        room = most
        start: bytes | None = b""
        while start is not None:
            rows, start = await snapshot.page(tx.database, start, end, limits.SCAN_COUNT_MAX, heads=True)
            for key, _ in rows:
                if matches is None or matches(key):
                    room -= len(key)
                    found.append(key)
            if room < 0:
                raise LimitExceeded("max-reply-bytes", most - room, most)
        if snapshot.saw_expired:
            tx.carries_time = True
        return found
    finally:
        snapshot.close()


def _in_one_step(tx: Transaction, matches: Callable[[bytes], bool] | None, most: int, end: bytes | None) -> list[bytes]:
    found: list[bytes] = []
    room = most
    start: bytes | None = b""
    while start is not None and not tx.needs:
        rows, start = tx.page(start, end, limits.SCAN_COUNT_MAX, heads=True)
        for key, _ in rows:
            room -= len(key)  # what was fetched for it is held, whether it matches or not
            if room < 0:
                raise LimitExceeded("max-reply-bytes", most - room, most)
            if matches is None or matches(key):
                found.append(key)
    return found
