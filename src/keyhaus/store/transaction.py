"""A transaction: what a command reads and writes through, and what its reply depends on.

A plain command is a transaction of its own, EXEC's commands share one. Writes gather in `operations` and change nothing
until `commit` takes them in one step (C1); so a command that fails halfway leaves nothing, and one that has to wait can
simply be run again. Every read notes the seqno that it depends on (C2).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from keyhaus.core import limits
from keyhaus.core.errors import LimitExceeded
from keyhaus.core.wait import Wait
from keyhaus.journal.format import DELETE, FLUSH, LAPSE, PUT, SWAP, Operation
from keyhaus.store import record as rec
from keyhaus.store.keyspace import Keyspace
from keyhaus.store.record import EXPIRES, TOMBSTONE, Record

if TYPE_CHECKING:
    from keyhaus.store.store import Store

_NO_GENERATION: Final = (0, 0)


class Transaction:
    """One unit of reading and writing.

    Attributes:
        store: The database.
        database: The number of the database that its commands address; may be changed between two accesses.
        operations: What it will have done, in order.
        depends: The seqno that a reply of it depends on; 0 for nothing. After a commit, the commit's.
        reads: How many point reads there were; whoever counts them sets it back.
        misses: How many of those found nothing.
        carries_time: It rests on an expiry that no operation of it expresses: its commit is made, be it empty (S6).
        started: Its time in milliseconds since 1970 once `now` was asked for, else 0.
        waits_for_sync: Its reply leaves only once it is synced, whatever durability the asker has (WAITAOF).
    """

    __slots__ = (
        "_applied",
        "_own",
        "_spaces",
        "carries_time",
        "database",
        "depends",
        "misses",
        "operations",
        "reads",
        "started",
        "store",
        "waits_for_sync",
    )

    def __init__(self, store: Store, database: int = 0) -> None:
        self.store = store
        self.database = database
        self.operations: list[Operation] = []
        self.depends = 0
        self.reads = self.misses = 0
        self.carries_time = False
        self.waits_for_sync = False
        self.started = 0
        # What the operations up to `_applied` made of things: per database its own records (None: deleted), and the
        # generations that lie under the numbers where it flushed or swapped.
        self._own: dict[int, dict[bytes, Record | None]] = {}
        self._spaces: list[Keyspace] | None = None
        self._applied = 0

    # reading

    def now(self) -> int:
        """The transaction's time in milliseconds since 1970: read once, so that all of it happens at one moment."""
        if not self.started:
            self.started = self.store.now()
        return self.started

    def get(self, key: bytes) -> Record | None:
        """The record under a key, None where there is none or its time is over."""
        self.reads += 1
        if self.operations:
            return self._get_own(key)
        store = self.store
        record = store.spaces[self.database].records.get(key)
        if store.last > store.synced:
            self._note(record)
        if record is None:
            self.misses += 1
            return None
        return self._alive(key, record) if record[7] else record

    def _note(self, record: Record | None) -> None:
        """C2: a point read depends on the record's or tombstone's seqno and on the database's mapping entry (S4)."""
        seqno = self.store.mapped[self.database]
        if record is not None:
            seqno = max(seqno, rec.seqno_of(record))
        self.depends = max(self.depends, seqno)

    def _alive(self, key: bytes, record: Record) -> Record | None:
        if record[7] & TOMBSTONE:
            self.misses += 1
            return None
        if record[7] & EXPIRES and rec.expires_of(record) <= self.now():
            self.misses += 1
            # The answer rests on the expiry, so the expiry becomes a commit: the key's own deletion (S6).
            self.operations.append((LAPSE, self.database, key))
            return None
        return record

    def _get_own(self, key: bytes) -> Record | None:
        self._apply_own()
        own = self._own.get(self.database)
        if own is not None and key in own:
            record = own[key]
        else:
            record = self._space().records.get(key)
            self._note(record)
        return None if record is None else self._alive(key, record)

    def _space(self) -> Keyspace:
        return (self._spaces or self.store.spaces)[self.database]

    def _apply_own(self) -> None:
        for operation in self.operations[self._applied :]:
            kind, database = operation[0], operation[1]
            if kind == PUT:
                _, _, key, value, expires, flags = operation
                self._own.setdefault(database, {})[key] = rec.make(0, flags, value, expires)
            elif kind in (DELETE, LAPSE):
                self._own.setdefault(database, {})[operation[2]] = None
            else:
                spaces = self._spaces = self._spaces or list(self.store.spaces)
                if kind == FLUSH:
                    spaces[database] = Keyspace(_NO_GENERATION)
                    self._own[database] = {}
                else:
                    other = operation[2]
                    spaces[database], spaces[other] = spaces[other], spaces[database]
                    mine, theirs = self._own.pop(database, {}), self._own.pop(other, {})
                    self._own[database], self._own[other] = theirs, mine
        self._applied = len(self.operations)

    # reading many

    async def order(self) -> None:
        """Waits until the database's keys are in order; a range read afterwards needs no pause (T8)."""
        while not self._space().ordered.deal():
            await self.store.turn()

    async def scan(
        self, start: bytes, end: bytes | None, limit: int, *, reverse: bool = False
    ) -> tuple[list[tuple[bytes, Record]], bytes | None]:
        """A page of records in the order of their keys.

        Args:
            start: The first key that may be in it.
            end: The first key behind the range; None for an open end.
            limit: How many keys to look at, at the most; those whose time is over count.
            reverse: Walk from the end.

        Returns:
            The records, and where the next page goes on: its start, or when reversed its end; None at the end.
        """
        await self.order()
        return self.page(start, end, limit, reverse=reverse)

    def page(
        self, start: bytes, end: bytes | None, limit: int, *, reverse: bool = False
    ) -> tuple[list[tuple[bytes, Record]], bytes | None]:
        """`scan` without waiting: whatever is not in order yet is put in order at once."""
        self.depends = max(self.depends, self.store.last)
        rows: list[tuple[bytes, Record]] = []
        for looked_at, (key, record) in enumerate(self._walk(start, end, reverse)):
            if looked_at == limit:
                # Going on at the key itself (or behind it, when the end is exclusive) skips nothing.
                return rows, key + b"\0" if reverse else key
            if self._visible(record):
                rows.append((key, record))
        return rows, None

    def _visible(self, record: Record) -> bool:
        if record[7] & EXPIRES and rec.expires_of(record) <= self.now():
            self.carries_time = True
            return False
        return True

    def _walk(self, start: bytes, end: bytes | None, reverse: bool) -> Iterator[tuple[bytes, Record]]:
        """Keys and records of a range, the transaction's own writes merged in; expired ones are among them."""
        self._apply_own()
        space = self._space()
        own = self._own.get(self.database) or {}
        while not space.ordered.deal():
            pass
        keys = space.ordered.descending(end) if reverse else space.ordered.ascending(start)
        if own:
            keys = _merged(keys, [key for key in own if key >= start and (end is None or key < end)], reverse)
        records = space.records
        for key in keys:
            if key < start if reverse else (end is not None and key >= end):
                return
            record = own[key] if key in own else records.get(key)
            if record is not None and not record[7] & TOMBSTONE:
                yield key, record

    def all(self) -> Iterator[tuple[bytes, Record]]:
        """Every key and record, in no order; nothing may change while it is walked."""
        self.depends = max(self.depends, self.store.last)
        self._apply_own()
        own = self._own.get(self.database) or {}
        for key, record in self._space().records.items():
            if key not in own and not record[7] & TOMBSTONE and self._visible(record):
                yield key, record
        for key, mine in own.items():
            if mine is not None and self._visible(mine):
                yield key, mine

    async def random_key(self) -> bytes | None:
        """Some key, each as likely as any other; None for an empty database."""
        await self.order()
        self.depends = max(self.depends, self.store.last)
        self._apply_own()
        own = [key for key, record in (self._own.get(self.database) or {}).items() if record is not None]
        ordered = self._space().ordered
        while not ordered.deal():
            pass
        # Dead entries are met and passed over; where only few live, the walk below finds them.
        for _ in range(100):
            key = ordered.sample(self.store.random, own)
            if key is None:
                return None
            if self.get(key) is not None:
                return key
        living = [key for key, _ in self.all()]
        return self.store.random.choice(living) if living else None

    def count(self) -> int:
        """How many keys the database has; expired ones that were not swept yet count."""
        self.depends = max(self.depends, self.store.last)
        self._apply_own()
        space = self._space()
        count = space.count
        for key, record in (self._own.get(self.database) or {}).items():
            there = space.records.get(key)
            count += (record is not None) - (there is not None and not there[7] & TOMBSTONE)
        return count

    # writing

    def put(self, key: bytes, value: bytes, expires: int = 0, flags: int = 0) -> None:
        """Puts a value under a key.

        Args:
            key: The key.
            value: The value's bytes.
            expires: When it ends, in milliseconds since 1970; 0 for never.
            flags: The record's kind (`record.BYTES`, `record.OBJECT`).
        """
        if len(key) > limits.KEY_BYTES_MAX:
            raise LimitExceeded("max-key-bytes", len(key), limits.KEY_BYTES_MAX)
        self.operations.append((PUT, self.database, key, value, expires, flags | EXPIRES if expires else flags))

    def delete(self, key: bytes) -> None:
        """Deletes a key, whether it is there or not."""
        self.operations.append((DELETE, self.database, key))

    def flush(self, database: int) -> None:
        """Empties a database."""
        self.operations.append((FLUSH, database))

    def swap(self, one: int, other: int) -> None:
        """Exchanges two databases."""
        self.operations.append((SWAP, one, other))

    # ending

    def mark(self) -> int:
        """A point to which `undo` can go back."""
        return len(self.operations)

    def undo(self, mark: int) -> None:
        """Takes back what was written since `mark`. What had expired by then stays true: its time is committed (S6)."""
        if len(self.operations) > mark:
            if any(entry[0] == LAPSE for entry in self.operations[mark:]):
                self.carries_time = True
            del self.operations[mark:]
            self._own, self._spaces, self._applied = {}, None, 0

    def commit(self) -> Wait | None:
        """Makes it happen, in one step.

        Returns:
            None once it is done; a Wait where there is no room in the journal yet: then nothing was done, and what
            was read may have changed when it fires, so the whole transaction is to be run again.

        Raises:
            TransactionTooLarge, DiskFull, Poisoned, Closed: nothing was done.
        """
        if not self.operations and not self.carries_time:
            return None
        wait = self.store.commit(self)
        if wait is None:
            self.operations = []
            self.carries_time = False
            if self._applied:
                self._own, self._spaces, self._applied = {}, None, 0
        return wait

    def rollback(self) -> None:
        """Forgets what was not committed, so that it can be used again; what a reply depends on stays."""
        self.operations = []
        self.carries_time = False
        self.started = 0
        if self._applied:
            self._own, self._spaces, self._applied = {}, None, 0

    def begin(self) -> None:
        """Makes it ready for the next command."""
        self.depends = 0
        self.started = 0


def _merged(keys: Iterator[bytes], own: list[bytes], reverse: bool) -> Iterator[bytes]:
    """Two ordered sequences of keys as one, each key once."""
    own.sort(reverse=not reverse)
    for key in keys:
        while own and (own[-1] > key if reverse else own[-1] < key):
            yield own.pop()
        if own and own[-1] == key:
            own.pop()
        yield key
    while own:
        yield own.pop()
