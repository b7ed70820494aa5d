"""The turn of a write among the locks of others (T6).

A plain command, an EXEC and an optimistic COMMIT take no locks to read. But what they write may be locked, and then
they wait, holding nothing: in the fair queue of one lock that is in the way. When it is theirs they look again, since
all that they rest on may have changed. After a few rounds they take what they write in order (database, mapping entry
first, then keys), exclusively, and hold it, so that they can't be overtaken for ever.
All rounds together take no longer than `lock-timeout`.

Deletions of what has expired pass over locked keys (T2): such a one becomes a commit that only carries the time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from keyhaus.core.wait import Wait
from keyhaus.journal.format import FLUSH, LAPSE, SWAP
from keyhaus.store.lock_requests import Owner
from keyhaus.store.locks import Locks

if TYPE_CHECKING:
    from keyhaus.store.transaction import Transaction

ROUNDS_FREE: Final = 2  # in which nothing is held while waiting

_Cell: TypeAlias = tuple[int, bytes | None]


def wait_for_turn(locks: Locks, transaction: Transaction) -> Wait | None:
    """What the commit of a transaction has to wait for before it writes; None for nothing.

    Raises:
        Deadlock: It would wait for a transaction of its own connection, or is the victim of a deadlock.
        LockTimeout: It has waited for too long.
    """
    owner = transaction.owner or transaction.new_owner()
    _pass_over(locks, transaction)
    cells = _cells(transaction)
    blocked = [cell for cell, exclusive in cells.items() if not locks.free_for(owner, *cell, exclusive)]
    if not blocked:
        return None
    if transaction.client is None:
        return Wait()  # whoever it is tries again
    transaction.owner = owner
    transaction.rounds += 1
    owner.since_ns = owner.since_ns or locks.monotonic_ns()
    if transaction.rounds <= ROUNDS_FREE:
        locks.release(owner)
        cell = min(blocked, key=_order)
        if locks.take_key(owner, *cell, cells[cell]):
            return wait_for_turn(locks, transaction)
        return locks.wait_for_key(owner, *cell, cells[cell])
    return _take_in_order(locks, owner, cells)


def _take_in_order(locks: Locks, owner: Owner, cells: dict[_Cell, bool]) -> Wait | None:
    """Takes one lock after the other, never one that comes before what is held."""
    wanted = sorted(cells, key=_order)
    held = len(owner.keys)
    if held and sorted(owner.keys, key=_order) != wanted[:held]:
        locks.release(owner)
    for cell in wanted:
        if not locks.take_key(owner, *cell, cells[cell]):
            return locks.wait_for_key(owner, *cell, cells[cell])
    return None


def _pass_over(locks: Locks, transaction: Transaction) -> None:
    operations = transaction.operations
    if any(entry[0] == LAPSE and locks.locked(entry[1], entry[2]) for entry in operations):
        transaction.carries_time = True
        transaction.operations = [
            entry for entry in operations if entry[0] != LAPSE or not locks.locked(entry[1], entry[2])
        ]


def _cells(transaction: Transaction) -> dict[_Cell, bool]:
    """What it writes, and whether that has to be exclusive: keys, and the mapping entries above them (S4)."""
    cells: dict[_Cell, bool] = {}
    for entry in transaction.operations:
        kind = entry[0]
        if kind == FLUSH:
            cells[entry[1], None] = True
        elif kind == SWAP:
            cells[entry[1], None] = cells[entry[2], None] = True
        elif kind != LAPSE:  # that has passed over what is locked, and a mapping entry's lock doesn't count (T2)
            cells.setdefault((entry[1], None), False)
            cells[entry[1], entry[2]] = True
    return cells


def _order(cell: _Cell) -> tuple[int, bool, bytes]:
    database, key = cell
    return database, key is not None, key or b""
