"""A transaction: what a command reads and writes through, and what its reply depends on.

A plain command is a transaction of its own, EXEC's commands share one. Writes gather in `operations` and change nothing
until `commit` takes them in one step (C1); so a command that fails halfway leaves nothing, and one that has to wait can
simply be run again. Every read notes the seqno that it depends on (C2).

A read of something that is not in memory gives nothing and notes a need. Whoever runs the transaction looks at `needs`
before anything else: where there are any, all that was read and written is worth nothing, `gather` fetches them, and
the transaction is run again (T8).
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Final

from keyhaus.core import limits
from keyhaus.core.errors import LimitExceeded, SnapshotTooOld, UserError
from keyhaus.core.keys import PLAIN_END
from keyhaus.core.wait import Wait
from keyhaus.journal.format import DELETE, FLUSH, LAPSE, PUT, SWAP, Operation
from keyhaus.store import record as rec
from keyhaus.store.gather import MISSING, Gathered, Segment
from keyhaus.store.keyspace import Keyspace
from keyhaus.store.lock_requests import Client, Owner
from keyhaus.store.record import EXPIRES, TOMBSTONE, Record
from keyhaus.store.whole_keys import whole_keys

if TYPE_CHECKING:
    from keyhaus.store.store import Store

_NO_GENERATION: Final = (0, 0)
_NOBODY: Final = Client()


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
        needs: What has to be fetched before it can be run again; anything that it did until then is worth nothing.
        atomic: Whether nothing may be read as of an earlier moment (EXEC).
        cut: Where the page that was read last ended early, since much had to be fetched for it; None where it did not.
        slot: When a stalled commit may go on, in nanoseconds; 0 where it was not stalled.
        client: Whose it is, in the graph of who waits for whom; None where nobody can wait for its turn.
        owner: What holds locks for it; None while it has none.
        id: What its commit's frame carries, so that it can be asked for (T9); None for nothing.
        rounds: How often it has waited for its turn among the locks of others (T6).
    """

    takes_turns: ClassVar[bool] = True  # whether its writes wait for the locks of others

    __slots__ = (
        "_applied",
        "_choice",
        "_gathered",
        "_own",
        "_own_order",
        "_spaces",
        "atomic",
        "carries_time",
        "client",
        "cut",
        "database",
        "depends",
        "id",
        "misses",
        "needs",
        "operations",
        "owner",
        "reads",
        "rounds",
        "slot",
        "started",
        "store",
        "waits_for_sync",
    )

    def __init__(self, store: Store, database: int = 0, client: Client | None = None) -> None:
        self.store = store
        self.database = database
        self.client = client
        self.owner: Owner | None = None
        self.rounds = 0
        self.id: bytes | None = None
        self.operations: list[Operation] = []
        self.depends = 0
        self.reads = self.misses = 0
        self.carries_time = False
        self.waits_for_sync = False
        self.started = 0
        self.needs: dict[Any, None] = {}
        self.atomic = False
        self.slot = 0
        self._gathered: Gathered | None = None
        self.cut: bytes | None = None
        self._choice = 0.0  # RANDOMKEY's, so that it chooses the same when it is run again
        # What the operations up to `_applied` made of things: per database its own records (None: deleted), and the
        # generations that lie under the numbers where it flushed or swapped.
        self._own: dict[int, dict[bytes, Record | None]] = {}
        self._own_order: tuple[int, int, list[bytes]] = (0, 0, [])  # as of which operation, of which database, the keys
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
        space = store.spaces[self.database]
        record = space.records.get(key)
        if record is None and space.below:
            record = self._look_below(space, key)
        if store.last > store.synced:
            self._note(record)
        if record is None:
            self._missed()
            return None
        return self._alive(key, record) if record[7] else record

    def _missed(self) -> None:
        """A point read has found nothing; if it needs something first it will be counted when it is run again."""
        if self.needs:
            self.reads -= 1
        else:
            self.misses += 1

    def look(self, space: Keyspace, key: bytes) -> Record | None:
        """The newest record or tombstone of a generation, whatever its expiry; a need where it isn't known."""
        record = space.records.get(key)
        return self._look_below(space, key) if record is None and space.below else record

    def _look_below(self, space: Keyspace, key: bytes) -> Record | None:
        for table in space.sealed:
            record = table.records.get(key)
            if record is not None:
                return record
        if not space.based:
            return None
        gathered = self._gathered
        if gathered is not None:
            for since, table in space.retired:
                if since > gathered.view and (record := table.records.get(key)) is not None:
                    return record
        row = space.prefix + key
        record = space.views.cache.get(row)
        if record is not None:
            return record or None
        if gathered is not None:
            found = gathered.rows.get(row, MISSING)
            if found is not MISSING:
                return found  # type: ignore[return-value]
        self.needs[space, key] = None
        return None

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
            record = self.look(self._space(), key)
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
        """Waits until the keys in memory are in order; a range read afterwards needs no pause for that (T8)."""
        while not all(table.ordered.deal() for table in self._tables(self._space())):
            await self.store.turn()

    def _tables(self, space: Keyspace) -> list[Any]:
        gathered = self._gathered
        return space.tables(space.views.newest if gathered is None else gathered.view)

    async def scan(
        self, start: bytes, end: bytes | None, limit: int, *, reverse: bool = False, heads: bool = False
    ) -> tuple[list[tuple[bytes, Record]], bytes | None]:
        """A page of records in the order of their keys.

        Args:
            start: The first key that may be in it.
            end: The first key behind the range; None for an open end.
            limit: How many keys to look at, at the most; those whose time is over count.
            reverse: Walk from the end.
            heads: The values don't matter: the records may be cut off behind their heads.

        Returns:
            The records, and where the next page goes on: its start, or when reversed its end; None at the end.
        """
        await self.order()
        return self.page(start, end, limit, reverse=reverse, heads=heads)

    def page(
        self, start: bytes, end: bytes | None, limit: int, *, reverse: bool = False, heads: bool = False
    ) -> tuple[list[tuple[bytes, Record]], bytes | None]:
        """`scan` without waiting: whatever is not in order yet is put in order at once."""
        self.depends = max(self.depends, self.store.last)
        self.cut = None
        rows: list[tuple[bytes, Record]] = []
        for looked_at, (key, record) in enumerate(self._walk(start, end, reverse, limit, heads)):
            if looked_at == limit:
                # Going on at the key itself (or behind it, when the end is exclusive) skips nothing.
                return rows, key + b"\0" if reverse else key
            if self._visible(record):
                rows.append((key, record))
        return rows, self.cut

    def _visible(self, record: Record) -> bool:
        if record[7] & EXPIRES and rec.expires_of(record) <= self.now():
            self.carries_time = True
            return False
        return True

    def _walk(
        self, start: bytes, end: bytes | None, reverse: bool, limit: int, heads: bool
    ) -> Iterator[tuple[bytes, Record]]:
        """Keys and records of a range, the transaction's own writes merged in; expired ones are among them."""
        self._apply_own()
        space = self._space()
        own = self._own.get(self.database) or {}
        tables = self._tables(space)
        segment = self._segment(space, start, end, reverse, heads, limit) if space.based else None
        sources: list[Iterator[bytes]] = []
        for table in tables:
            while not table.ordered.deal():
                pass
            sources.append(table.ordered.descending(end) if reverse else table.ordered.ascending(start))
        if own:
            keys = self._ordered_own(own)
            keys = keys[bisect_left(keys, start) : len(keys) if end is None else bisect_left(keys, end)]
            sources.append(reversed(keys) if reverse else iter(keys))
        if segment is not None:
            if segment.full:
                self.cut = segment.covered  # a page ends where enough was fetched for it
            sources.append(self._fetched(segment, start, end))
        before: bytes | None = None
        for key in sources[0] if len(sources) == 1 else heapq.merge(*sources, reverse=reverse):
            if self.needs or (key < start if reverse else (end is not None and key >= end)):
                return
            if self.cut is not None and (key < self.cut if reverse else key >= self.cut):
                return
            if key == before:
                continue
            before = key
            record = own[key] if key in own else self._record_of(key, tables, segment)
            if record is not None and not record[7] & TOMBSTONE:
                yield key, record

    def _ordered_own(self, own: dict[bytes, Record | None]) -> list[bytes]:
        """Its own keys in order, kept for the pages that follow."""
        applied, database, keys = self._own_order
        if (applied, database) != (self._applied, self.database):
            keys = sorted(own)
            self._own_order = self._applied, self.database, keys
        return keys

    def _record_of(self, key: bytes, tables: list[Any], segment: Segment | None) -> Record | None:
        for table in tables:
            record: Record | None = table.records.get(key)
            if record is not None:
                return record
        return None if segment is None else segment.records.get(key)

    def _segment(
        self, space: Keyspace, start: bytes, end: bytes | None, reverse: bool, heads: bool, limit: int
    ) -> Segment:
        """What was fetched of a range of the base, or is to be."""
        for segment in () if self._gathered is None else self._gathered.segments:
            if segment.holds(space, start, end, reverse, heads):
                break
        else:
            segment = Segment(space, start, end, reverse, heads)
            if self._gathered is not None:
                self._gathered.segments.append(segment)
        # Two more than are looked at: one that says where the next page begins, one that the merge looks ahead.
        segment.rows = min(max(limit + 2, 2 * len(segment.keys)), 2 * limits.SCAN_COUNT_MAX)
        return segment

    def _fetched(self, segment: Segment, start: bytes, end: bytes | None) -> Iterator[bytes]:
        keys = segment.fetched(start, end)
        yield from (reversed(keys) if segment.reverse else keys)
        if not segment.complete and not segment.full:
            self.needs[segment] = None

    def all(self, *, typed: bool = False) -> Iterator[tuple[bytes, Record]]:
        """Every key and record in memory, in no order; nothing may change while it is walked. Typed keys if wanted."""
        self.depends = max(self.depends, self.store.last)
        self._apply_own()
        own = self._own.get(self.database) or {}
        for key, record in self._space().records.items():
            if key not in own and not record[7] & TOMBSTONE and (typed or key < PLAIN_END) and self._visible(record):
                yield key, record
        for key, mine in own.items():
            if mine is not None and (typed or key < PLAIN_END) and self._visible(mine):
                yield key, mine

    async def keys(self, matches: Callable[[bytes], bool] | None, most: int, *, typed: bool = False) -> list[bytes]:
        """All keys that match, in no order, typed keys only if they are wanted.

        Raises:
            LimitExceeded: They take more than `most` bytes.
        """
        self._apply_own()
        if not self._space().below:
            return [key for key, _ in self.all(typed=typed) if matches is None or matches(key)]
        return await whole_keys(self, matches, most, typed=typed)

    def in_one_step(self) -> bool:
        """Whether all that it reads has to be read in one step, as no snapshot has it: EXEC's, or its own writes."""
        self._apply_own()
        return self.atomic or bool(self._own) or self._spaces is not None

    async def random_key(self) -> bytes | None:
        """Some plain key, each about as likely as any other; None for an empty database."""
        await self.order()
        self.depends = max(self.depends, self.store.last)
        self._apply_own()
        if self._space().below:
            return self._random_below(self._space())
        own = [key for key, record in (self._own.get(self.database) or {}).items() if record is not None]
        ordered = self._space().ordered
        while not ordered.deal():
            pass
        # Dead entries are met and passed over; where only few live, the walk below finds them.
        for _ in range(100):
            key = ordered.sample(self.store.random, own)
            if key is None:
                return None
            if key < PLAIN_END and self.get(key) is not None:
                return key
        living = [key for key, _ in self.all()]
        return self.store.random.choice(living) if living else None

    def _random_below(self, space: Keyspace, start: bytes | None = None) -> bytes | None:
        """From some key that was there at a flush, a few steps on; at the end of the keys, on from the first one."""
        self._choice = self._choice or self.store.random.random()
        spread = limits.RANDOM_KEY_SPREAD
        start = min(space.landmark(self._choice) if start is None else start, PLAIN_END)
        rows, following = self.page(start, PLAIN_END, spread, heads=True)
        while not rows and not self.needs and (following is not None or start):
            start = following or b""
            rows, following = self.page(start, PLAIN_END, spread, heads=True)
        return rows[int(self._choice * 1e9) % len(rows)][0] if rows else None

    def count(self) -> int:
        """How many keys the database has; expired ones that were not swept yet count."""
        self._apply_own()
        space = self._space()
        own = self._own.get(self.database)
        depends, count = self.store.last, space.count
        if not space.exact():
            counted = None if self._gathered is None else self._gathered.counts.get(space)
            if counted is None or self.atomic or own or counted[1] < self.store.mapped[self.database]:
                self.needs[space] = None
            else:
                count, depends = counted  # as of a moment within this command, at which it lay here already (S4)
        self.depends = max(self.depends, depends)
        for key, record in (own or {}).items():
            there = self.look(space, key)
            count += (record is not None) - (there is not None and not there[7] & TOMBSTONE)
        return count

    # needs

    def gather(self) -> Wait:
        """Fetches what the last run noted.

        Raises:
            LimitExceeded: All that it needs takes more memory than a reply may.
            StorageError: Something could not be read.
        """
        gathered, store = self._gathered, self.store
        if gathered is not None and isinstance(gathered.failure, SnapshotTooOld):
            # What was fetched of a lost view goes with no other: all of it is fetched anew.
            self.let_go()
            self.needs = {}
            return store.turn()
        if gathered is None:
            gathered = self._gathered = Gathered(self._pin())
        if gathered.failure is not None:
            raise gathered.failure
        most = store.settings.integer("max-reply-bytes")
        if gathered.bytes > most:
            raise LimitExceeded("max-reply-bytes", gathered.bytes, most)
        needs, self.needs = list(self.needs), {}
        for need in needs:
            if isinstance(need, Segment) and need not in gathered.segments:
                gathered.segments.append(need)
        return store.gatherer.gather(gathered, needs)

    def new_owner(self) -> Owner:
        """Who is to hold locks for it."""
        return Owner(self.client or _NOBODY)

    def _pin(self) -> int:
        """Pins the view that is to be fetched from."""
        return self.store.views.pin()

    def let_go(self) -> None:
        """Forgets what was fetched and frees what was locked for its turn, once the command has its reply."""
        if self.owner is not None:
            self.store.locks.end(self.owner)
            self.owner = None
        self.rounds = 0
        gathered, self._gathered = self._gathered, None
        self._choice = 0.0
        self.slot = 0
        if gathered is not None:
            self.store.views.unpin(gathered.view)

    # writing

    def put(self, key: bytes, value: bytes, expires: int = 0, flags: int = 0, *, typed: bool = False) -> None:
        """Puts a value under a key.

        Args:
            key: The key.
            value: The value's bytes.
            expires: When it ends, in milliseconds since 1970; 0 for never.
            flags: The record's kind (`record.BYTES`, `record.OBJECT`).
            typed: Whether it may be a typed key (core/keys.py).
        """
        if len(key) > limits.KEY_BYTES_MAX:
            raise LimitExceeded("max-key-bytes", len(key), limits.KEY_BYTES_MAX)
        if key >= PLAIN_END and not typed:
            raise UserError("keys that begin with 16 bytes 0xFF are kept for typed keys")
        self.operations.append((PUT, self.database, key, value, expires, flags | EXPIRES if expires else flags))

    def delete(self, key: bytes) -> None:
        """Deletes a key, whether it is there or not."""
        self.operations.append((DELETE, self.database, key))

    def flush(self, database: int) -> None:
        """Empties a database."""
        self.operations.append((FLUSH, database))

    def swap(self, one: int, other: int) -> None:
        """Exchanges two databases.

        Who watches a key has to be told whether there is one of that name on the other side, so that is looked at
        first. Where others were exchanged before, any of them may lie there.
        """
        spaces = self.store.spaces
        exchanged = any(operation[0] == SWAP for operation in self.operations)
        for database, beside in ((one, other), (other, one)):
            for key in self.store.watches.databases.get(database, ()):
                for space in spaces if exchanged else (spaces[beside],):
                    self.look(space, key)
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
            if self._applied > mark:
                self._forget_own()

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
            self.slot = 0
            if self._applied:
                self._forget_own()
        return wait

    def rollback(self) -> None:
        """Forgets what was not committed, so that it can be used again; what a reply depends on stays."""
        self.operations = []
        self.needs = {}
        self.carries_time = False
        self.started = 0
        if self._applied:
            self._forget_own()

    def _forget_own(self) -> None:
        self._own, self._spaces, self._applied = {}, None, 0
        self._own_order = 0, 0, []

    def begin(self) -> None:
        """Makes it ready for the next command."""
        self.depends = 0
        self.started = 0
