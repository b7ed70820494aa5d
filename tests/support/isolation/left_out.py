"""Negative controls: the product without one of its rules, and then some history must break.

Each is a patch of the product's own code, switched on by name, as in `tests/support/simulate/planted.py`. T4 is not
among them: that a transaction runs one command at a time is no mechanism here, a connection executes nothing else
before it has answered.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Final
from unittest.mock import patch

from keyhaus.core.errors import Conflict, Error, UnknownTransaction
from keyhaus.core.reply import NULL_ARRAY
from keyhaus.journal.format import DELETE, LAPSE
from keyhaus.session.multi import Multi
from keyhaus.session.session import Session
from keyhaus.store import interactive, optimistic, turns
from keyhaus.store import record as rec
from keyhaus.store import store as stores
from keyhaus.store.eviction import Evictor
from keyhaus.store.interactive import Interactive, PessimisticTransaction
from keyhaus.store.keyspace import Keyspace
from keyhaus.store.locks import Locks
from keyhaus.store.optimistic import Guard, OptimisticTransaction, SnapshotTransaction
from keyhaus.store.outcomes import ROLLED_BACK, Outcomes
from keyhaus.store.record import BYTES, TOMBSTONE
from keyhaus.store.store import Store
from keyhaus.store.sweeper import Sweeper
from keyhaus.store.transaction import Transaction
from keyhaus.store.transactions import Transactions
from keyhaus.store.watch import Watches
from tests.support.isolation import replay
from tests.support.isolation import without_locks as without
from tests.support.isolation.recorder import Recorder
from tests.support.simulate.planted import PLANTED

MEMORY, DURABLE = "memory", "durable"


async def _execute_with_pauses(multi: Any, session: Any) -> Any:
    """EXEC pauses between its commands."""
    tx = multi._tx
    tx.atomic = True
    try:
        if multi.failed or (multi._mark is not None and multi._changed(multi._mark)):
            reply: Any = multi._run_queue(session)
            session.discard()
            if isinstance(reply, Error):
                raise reply
            tx.commit()
            return NULL_ARRAY
        replies = []
        for spec, args in list(multi._queue):
            await session.store.turn()
            replies.append(multi._run_queued(session, spec, args))
        session.discard()
        tx.started = 0
        while (wait := tx.commit()) is not None:
            await wait
        return replies
    finally:
        tx.atomic = False
        tx.let_go()


# time


def _begin_keeping_time(transaction: Any) -> None:
    transaction.depends = 0


def _rollback_keeping_time(transaction: Any) -> None:
    started = transaction.started
    _rollback(transaction)
    transaction.started = started


_rollback = Transaction.rollback


def _delete_with_mark(store: Any, seqno: int, database: int, key: bytes, *, lapse: bool) -> None:
    """Tombstones of what had expired can be told from others."""
    marked = (seqno | (TOMBSTONE | BYTES) << 56).to_bytes(8, "little")
    with patch.object(stores, "tombstone", (lambda seqno: marked) if lapse else rec.tombstone):
        _delete(store, seqno, database, key, lapse=lapse)


_delete = Store._delete


def _seqno_of_others(record: bytes) -> int:
    return 0 if record[7] & TOMBSTONE and record[7] & BYTES else rec.seqno_of(record)


class _Turnless(Transaction):
    """It asks for no locks of others."""

    takes_turns = False
    __slots__ = ()


def _lapse_locked(sweeper: Any, number: int, keys: list[bytes]) -> list[bytes] | None:
    transaction = _Turnless(sweeper._store, number)
    transaction.operations = [(LAPSE, number, key) for key in keys]
    return [] if transaction.commit() is None else None


def _evict_locked(evictor: Any, space: Any, key: bytes) -> bool:
    transaction = evictor._transaction = _Turnless(evictor._store)
    transaction.operations.append((DELETE, evictor._store.spaces.index(space), key))
    return transaction.commit() is None


# validation

_check_commit = OptimisticTransaction.check_commit


def _checking_without(name: str) -> Any:
    """Validation in which one part of what was read is forgotten."""

    def check_commit(transaction: Any) -> None:
        kept = getattr(transaction, name)
        setattr(transaction, name, type(kept)())
        try:
            _check_commit(transaction)
        finally:
            setattr(transaction, name, kept)

    return check_commit


def _none_later(transaction: Any) -> Iterator[int]:
    return iter(())


def _later_in_ranges_of_active(transaction: Any) -> Iterator[int]:
    """The slices go on in the active table of the moment, as if it stayed the same."""
    since = transaction.snapshot.seqno
    for database, start, end in transaction.ranges:
        for table in transaction.store.spaces[database].tables(transaction.snapshot.view):
            at = start
            while at is not None:
                at, looked_at = transaction._later_slice(table.records, table.ordered, at, end, since)
                yield looked_at


def _later_points_of_first_tables(transaction: Any) -> Iterator[int]:
    """The same for the keys that it has read."""
    since = transaction.snapshot.seqno
    for database, keys in transaction.points.items():
        tables = transaction.store.spaces[database].tables(transaction.snapshot.view)
        for key in keys:
            records = (table.records.get(key) for table in tables)
            newest = next((record for record in records if record is not None), None)
            if newest is not None and rec.seqno_of(newest) > since:
                raise Conflict("left out")
            yield 1


def _page_remembered_at_once(
    transaction: Any, start: bytes, end: bytes | None, limit: int, *, reverse: bool = False, heads: bool = False
) -> Any:
    depends = transaction.depends
    rows, following = Interactive.page(transaction, start, end, limit, reverse=reverse, heads=heads)
    transaction.depends = max(depends, transaction.snapshot.seqno)
    transaction._remember_range(*interactive.read_by_page(start, end, following, reverse=reverse))
    return rows, following


# the rest

_end, _status = Transactions.end, Transactions.status


def _end_unless_busy(transactions: Any, transaction: Any, error: Error | None = None) -> None:
    """KILL says that it is over, and a COMMIT under way goes on."""
    if transaction.busy and transaction.ended is None and type(error) is UnknownTransaction:
        transactions.outcomes.ended(transaction.number, ROLLED_BACK)
    else:
        _end(transactions, transaction, error)


def _status_first(transactions: Any, number: bytes) -> Any:
    end = transactions.outcomes._ends.get(number)
    return _status(transactions, number) if end is None else end or "rolledback"


def _touch_all_marks(watches: Any, database: int, key: bytes, *, deleted: bool) -> None:
    for marks in watches.databases.get(database, {}).values():
        for mark in marks:
            mark.dirty = True


def _flush_same_generation(store: Any, seqno: int, number: int, database: int, now: int) -> None:
    _flush(store, seqno, 0, database, now)


_flush = Store._flush


def _visible_silently(transaction: Any, record: bytes) -> bool:
    seen = _visible(transaction, record)
    transaction.carries_time = False
    return seen


_visible = Interactive._visible


def _nothing(*args: Any, **more: Any) -> None:
    return None


def _no(*args: Any, **more: Any) -> bool:
    return False


_Patch = tuple[Any, str, Any]
# The marks and dependencies are not looked at: only what is lost shows it.
_CRASHES_ONLY: Final[tuple[_Patch, ...]] = ((Recorder, "check_mark", _nothing), (replay, "_rests", lambda *args: ""))
LEFT_OUT: Final[dict[str, tuple[str, str, tuple[_Patch, ...]]]] = {
    "one-step": (
        "C1, T8: EXEC runs without a pause",
        MEMORY,
        ((Multi, "execute", _execute_with_pauses),),
    ),
    "mapping": (
        "S4: a pessimistic access locks the database's mapping entry",
        MEMORY,
        ((PessimisticTransaction, "_lock", without.lock_no_mapping),),
    ),
    "mapping-validated": (
        "S4: an optimistic access rests on it",
        MEMORY,
        ((OptimisticTransaction, "check_commit", _checking_without("databases")),),
    ),
    "own-generation": (
        "S4: each flush of a commit makes a generation of its own",
        DURABLE,
        ((Store, "_flush", _flush_same_generation),),
    ),
    "clock-after-wait": (
        "S6: the clock is read after the last wait",
        MEMORY,
        ((Transaction, "begin", _begin_keeping_time), (Transaction, "rollback", _rollback_keeping_time)),
    ),
    "shared-locks": (
        "T1: a pessimistic read takes a shared lock",
        MEMORY,
        ((PessimisticTransaction, "_committed", without.read_without_lock),),
    ),
    "two-phase": (
        "T1: locks are held until the end",
        MEMORY,
        ((PessimisticTransaction, "leave", without.leave_and_release),),
    ),
    "snapshot": (
        "T1: a snapshot reads what was there at its begin",
        MEMORY,
        ((SnapshotTransaction, "look", Transaction.look),),
    ),
    "snapshot-time": (
        "T1: a snapshot's reads judge expiry by its own time",
        MEMORY,
        ((SnapshotTransaction, "_judged_at", Interactive._judged_at),),
    ),
    "validate-points": (
        "T1: a later commit to a key that was read is a conflict",
        MEMORY,
        ((OptimisticTransaction, "_later_points", _none_later),),
    ),
    "expiry-at-commit": (
        "T2: what was read alive must not have expired",
        MEMORY,
        ((Interactive, "check_alive", _nothing),),
    ),
    "sweep-passes": (
        "T2: sweeping passes over locked keys",
        MEMORY,
        ((Sweeper, "_lapse", _lapse_locked),),
    ),
    "evict-passes": (
        "T2: so does eviction",
        MEMORY,
        ((Store, "locked", _no), (Evictor, "_evict", _evict_locked)),
    ),
    "lazy-passes": (
        "T2: so does a plain command's lazy expiry",
        MEMORY,
        ((turns, "_pass_over", _nothing),),
    ),
    "sweep-counts": (
        "T2: sweeping and lazy expiry count as later commits",
        MEMORY,
        ((Store, "_delete", _delete_with_mark), (optimistic, "rec", SimpleNamespace(seqno_of=_seqno_of_others))),
    ),
    "range-locks": (
        "T3: a pessimistic range read locks its range",
        MEMORY,
        ((PessimisticTransaction, "_lock_range", without.lock_no_range),),
    ),
    "next-key": (
        "T3: and the key behind it that it tells of",
        MEMORY,
        (
            (interactive, "read_by_page", without.read_by_page_alone),
            (optimistic, "read_by_page", without.read_by_page_alone),
        ),
    ),
    "validate-ranges": (
        "T3: a later commit into a range that was read is a conflict",
        MEMORY,
        ((OptimisticTransaction, "_later_in_ranges", _none_later),),
    ),
    "sealed-ranges": (
        "T3: also where a flush begins meanwhile",
        DURABLE,
        ((OptimisticTransaction, "_later_in_ranges", _later_in_ranges_of_active),),
    ),
    "sealed-points": (
        "T7: also where a flush begins meanwhile",
        DURABLE,
        ((OptimisticTransaction, "_later_points", _later_points_of_first_tables),),
    ),
    "cold-page": (
        "no conflict without a reason: of a page that waits for rows nothing is known yet",
        DURABLE,
        ((SnapshotTransaction, "page", _page_remembered_at_once),),
    ),
    "guard": ("T3, T7: also while much is looked through", MEMORY, ((Guard, "note", _nothing),)),
    "connection-waits": (
        "T5: a transaction waits for whatever its connection waits for",
        MEMORY,
        ((Locks, "_circle", without.circle_of_owners), (Locks, "_waited_for", lambda locks, client: True)),
    ),
    "own-connection": (
        "T5: nobody waits for a transaction of its own connection",
        MEMORY,
        ((Locks, "_break_circles", without.break_circles_of_others),),
    ),
    "queue-edges": (
        "T5: a request waits for earlier waiters, too",
        MEMORY,
        ((Locks, "_break_circles", without.break_circles_of_holders),),
    ),
    "overtake": (
        "T5: a circle through a place in a queue is broken by overtaking",
        MEMORY,
        ((Locks, "_overtake", without.kill_instead),),
    ),
    "youngest": (
        "T5: the victim of a deadlock is the youngest transaction on it",
        MEMORY,
        ((Locks, "_kill_youngest", without.kill_oldest),),
    ),
    "writes-wait": (
        "T6: plain writes and optimistic COMMITs wait for locks on what they write",
        MEMORY,
        ((stores, "wait_for_turn", without.no_turn),),
    ),
    "look-again": (
        "T6: after a wait a plain command looks again",
        MEMORY,
        ((Session, "_commit", without.commit_noting), (Session, "_again", without.commit_as_it_was)),
    ),
    "validate-again": (
        "T6: and an optimistic COMMIT validates again",
        MEMORY,
        ((OptimisticTransaction, "check_commit", without.check_before_waiting),),
    ),
    "key-order": (
        "T6: locks held while waiting are taken in order",
        MEMORY,
        ((turns, "_take_in_order", without.take_in_any_order), (turns, "ROUNDS_FREE", 0)),
    ),
    "watch": ("T7: commits touch the marks", MEMORY, ((Watches, "touch", _nothing),)),
    "watch-only-keys": (
        "T7: EXEC fails for no conflict that Redis would not see",
        MEMORY,
        ((Watches, "touch", _touch_all_marks),),
    ),
    "watch-flush": ("T7: FLUSHDB, FLUSHALL and SWAPDB touch them too", MEMORY, ((Watches, "touch_all", _nothing),)),
    "watch-expiry": ("T7: EXEC finds a watched key that has expired since", MEMORY, ((Watches, "expired", _no),)),
    "fence": (
        "T9: what KILL has ended is not committed any more",
        MEMORY,
        ((Transactions, "end", _end_unless_busy), (Transactions, "status", _status_first)),
    ),
    "outcomes": (
        "T9: outcomes go into the base",
        DURABLE,
        ((Outcomes, "take", lambda outcomes: []),),
    ),
    "versions": (
        "S8: a snapshot's versions are kept",
        MEMORY,
        ((Keyspace, "_keep", _nothing),),
    ),
    "asks": (
        "C3: a transaction's replies are as durable as it asks",
        DURABLE,
        ((Session, "ask_as", _nothing),),
    ),
    "told-before-sync": (
        "C3: a reply is told before its sync",
        DURABLE,
        (*PLANTED["always-as-written"][1], *_CRASHES_ONLY),
    ),
    "synced-without-sync": (PLANTED["ack-before-sync"][0], DURABLE, PLANTED["ack-before-sync"][1]),
    "dependency": (PLANTED["no-dependency"][0], DURABLE, (*PLANTED["no-dependency"][1], *_CRASHES_ONLY)),
    "expiry-silent": (
        "S6: an expiry that a transaction's reply rests on is a commit",
        MEMORY,
        ((Interactive, "_visible", _visible_silently),),
    ),
}


@contextlib.contextmanager
def left_out(name: str | None) -> Iterator[None]:
    """Leaves one of them out; None for none."""
    with contextlib.ExitStack() as stack:
        for owner, attribute, replacement in LEFT_OUT[name][2] if name is not None else ():
            stack.enter_context(patch.object(owner, attribute, replacement))
        yield
