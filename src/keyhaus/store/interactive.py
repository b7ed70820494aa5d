"""Interactive transactions: begun, read, thought about, written and committed, over many commands.

    PessimisticTransaction   strict two-phase locking: each read and each write locks first, until the end
    SnapshotTransaction      READONLY: reads the store as it was at its begin, and never waits for a lock
    OptimisticTransaction    reads as READONLY does; its COMMIT is refused if anything that it read was changed since

The two others are in store/optimistic.py. A command that has to wait, for a lock or for cold rows, is undone and run
again once it can go on, as any command is (T8). A lock that was waited for is kept: nothing that it guards can have
changed meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Final

from keyhaus.core import limits
from keyhaus.core.errors import Conflict, Error, LimitExceeded, Poisoned, TransactionTooLarge
from keyhaus.core.ids import ID_BYTES, shown_id
from keyhaus.core.settings import Durability
from keyhaus.core.wait import Wait
from keyhaus.journal.format import DELETE, FAR, FLUSH, FRAME_BYTES, OPERATION_BYTES, PUT
from keyhaus.store import record as rec
from keyhaus.store.keyspace import Keyspace
from keyhaus.store.lock_requests import Client, Owner
from keyhaus.store.record import EXPIRES, TOMBSTONE, Record
from keyhaus.store.transaction import Transaction
from keyhaus.store.whole_keys import whole_keys

if TYPE_CHECKING:
    from keyhaus.store.store import Store

ENTRY_BYTES: Final = 200  # what a write, a lock or a read costs beside its own bytes, about
EXPIRY_BYTES: Final = 8
_OWN_GENERATION: Final = (0, 0)


def read_by_page(
    start: bytes, end: bytes | None, following: bytes | None, *, reverse: bool
) -> tuple[bytes, bytes | None]:
    """What a page rests on: also the key behind it, since the reply says that there is one."""
    if following is None:
        return start, end
    return (following.removesuffix(b"\0"), end) if reverse else (start, following + b"\0")


class _LockNeeded:
    """A lock that was not to be had at once.

    Attributes:
        wait: Queues up for it.
        size: What its key or range takes; None for a lock that is held already and is to become exclusive.
    """

    def __init__(self, wait: Callable[[], Wait], size: int | None) -> None:
        self.wait, self.size = wait, size


def _ignore(transaction: Interactive) -> None:
    pass


def _nothing() -> bool:
    return False


class Interactive(Transaction):
    """What all three kinds are.

    Attributes:
        number, name: Its id (T9), and as clients see it.
        mode: Its kind, as BEGIN names it.
        ordinal: How many were begun up to it: the younger of two has the greater one.
        begun_ns, idle_since_ns: When it was begun and when it was last used, by the monotonic clock.
        timeout_ms: For how long it may be idle.
        user: The identity that began it.
        durability: What it asked for, where it did.
        ended: Why it takes no further command; None while it is open.
        busy: Whether a command of it waits for something.
        deadline: When the first of the committed records expires that it read alive (T2).
        written: How many bytes its commit is to write into the journal.
        kept: What it keeps of what it has locked and read, in bytes.
        bytes: What all of it takes in memory, about.
        on_end: Called once it has ended, in whatever way.
        unread: Whether replies of its connection have not left yet.
    """

    takes_turns = True
    mode: ClassVar[str]

    __slots__ = (
        "_flushed",
        "_mark",
        "begun_ns",
        "busy",
        "bytes",
        "deadline",
        "durability",
        "ended",
        "idle_since_ns",
        "kept",
        "name",
        "number",
        "on_end",
        "ordinal",
        "timeout_ms",
        "unread",
        "user",
        "writing",
        "written",
    )

    def __init__(self, store: Store, database: int, client: Client, number: bytes) -> None:
        super().__init__(store, database, client)
        self.id = self.number = number
        self.name = shown_id(number)
        self.ordinal = store.transactions.begun + 1
        self.begun_ns = self.idle_since_ns = store.monotonic_ns()
        self.timeout_ms = 0
        self.user = "default"
        self.durability: Durability | None = None
        self.ended: Error | None = None
        self.busy = self.writing = False
        self.deadline = FAR
        self.written = FRAME_BYTES + ID_BYTES
        self.kept = self.bytes = 0
        self._mark = (0, 0)  # what was written, and taken, as its command began
        self.atomic = True
        self.on_end: Callable[[Interactive], None] = _ignore
        self.unread: Callable[[], bool] = _nothing
        self._flushed: dict[int, Keyspace] = {}

    def new_owner(self) -> Owner:
        assert self.client is not None
        owner = Owner(self.client, self.ordinal, self.name)
        owner.on_victim = self.end_as_victim
        return owner

    def end_as_victim(self, error: Error) -> None:
        """It was chosen to die of a deadlock."""
        self.store.transactions.end(self, error)

    # one command after the other

    def enter(self, writes: bool) -> None:
        """Begins a command, also when it is run again.

        Raises:
            Conflict: Something that it read has expired since (T2).
            Poisoned: The store is poisoned: what it has read may be lost, and it can commit nothing.
            SnapshotTooOld: What it reads could not be kept.
            UnknownTransaction: It was ended meanwhile.
        """
        if self.ended is not None:
            raise self.ended
        journal = self.store.journal
        if journal is not None and journal.poisoned is not None and self.rests_on_unsynced():
            raise Poisoned(journal.poisoned.message)
        self.started = 0  # what it depends on stays: its own writes were made from what it had read (C2)
        self.carries_time = False
        self.writing = writes
        self._mark = (self.written, self.kept - self.bytes)
        if self.deadline != FAR:
            self.check_alive()

    def rests_on_unsynced(self) -> bool:
        """Whether it can't go on in a poisoned store."""
        return True

    def rests(self) -> None:
        """It waits for nothing any more: its idle time begins anew (T5)."""
        self.busy = False
        self.idle_since_ns = self.store.monotonic_ns()

    def leave(self) -> None:
        """A command is over: its idle time begins."""
        self.idle_since_ns = self.store.monotonic_ns()
        if self._gathered is not None or self._choice or self.slot:
            self.let_go()

    def check_alive(self) -> None:
        """T2: what it rests on must not have expired. Raises Conflict."""
        if self.deadline <= self.now():
            self.carries_time = True
            raise Conflict("a record that the transaction read has expired since: run it again")

    def undo(self, mark: int) -> None:
        super().undo(mark)
        self._flushed = {database: space for database, space in self._flushed.items() if self._flushes(database)}
        self.written, less = self._mark
        self._take(self.kept - less - self.bytes)  # what is locked stays

    def _flushes(self, database: int) -> bool:
        return any(entry[0] == FLUSH and entry[1] == database for entry in self.operations)

    def check_commit(self) -> None:
        """What has to hold in the commit's step. Raises Conflict."""
        if self.deadline != FAR:
            self.check_alive()

    def prepare(self) -> Wait | None:
        """What COMMIT has to wait for before its step, beside a turn and room; None for nothing."""
        return None

    def forget(self) -> None:
        """Lets go of everything, once it has ended."""
        self.rollback()
        self.let_go()
        self._flushed = {}
        self._take(-self.bytes)

    # what it reads

    def get(self, key: bytes) -> Record | None:
        self.reads += 1
        if self.operations:
            self._apply_own()
            own = self._own.get(self.database)
            if own is not None and key in own:
                mine = own[key]
                if mine is None or (mine[7] & EXPIRES and rec.expires_of(mine) <= self.now()):
                    self.misses += 1
                    return None
                return mine
        record = self._committed(key)
        if record is None:
            self._missed()
            return None
        if record[7] and not self._visible(record):
            self.misses += 1
            return None
        return record

    def _committed(self, key: bytes) -> Record | None:
        raise NotImplementedError

    def _apply_own(self) -> None:
        for operation in self.operations[self._applied :]:
            kind, database = operation[0], operation[1]
            if kind == PUT:
                _, _, key, value, expires, flags = operation
                self._own.setdefault(database, {})[key] = rec.make(0, flags, value, expires)
            elif kind == DELETE:
                self._own.setdefault(database, {})[operation[2]] = None
            else:
                assert kind == FLUSH, "no other operation is let into an interactive transaction"
                self._flushed[database] = Keyspace(_OWN_GENERATION)
                self._own[database] = {}
        self._applied = len(self.operations)

    def _space(self) -> Keyspace:
        if self._flushed and self.database in self._flushed:
            return self._flushed[self.database]
        return self._committed_space()

    def _committed_space(self) -> Keyspace:
        return self.store.spaces[self.database]

    def _visible(self, record: Record) -> bool:
        """Its own records are judged by the command's time, committed ones remembered for it (T2)."""
        if record[7] & TOMBSTONE:
            return False
        if not record[7] & EXPIRES:
            return True
        expires = rec.expires_of(record)
        mine = not rec.seqno_of(record)
        if expires <= (self.now() if mine else self._judged_at()):
            self.carries_time = self.carries_time or not mine
            return False
        if not mine:
            self.deadline = min(self.deadline, expires)
        return True

    def _judged_at(self) -> int:
        return self.now()

    async def keys(self, matches: Callable[[bytes], bool] | None, most: int, *, typed: bool = False) -> list[bytes]:
        return await whole_keys(self, matches, most, typed=typed)

    def in_one_step(self) -> bool:
        return True

    # what it writes

    def put(self, key: bytes, value: bytes, expires: int = 0, flags: int = 0, *, typed: bool = False) -> None:
        self._write(OPERATION_BYTES + len(key) + len(value) + (EXPIRY_BYTES if expires else 0))
        Transaction.put(
            self, key, value, expires, flags, typed=typed
        )  # not by super(), whose look-up each write would pay

    def delete(self, key: bytes) -> None:
        self._write(OPERATION_BYTES + len(key))
        Transaction.delete(self, key)

    def _write(self, size: int) -> None:
        """It is to write so many bytes more. Raises TransactionTooLarge."""
        self.written += size
        store = self.store
        if self.written > store.max_bytes:
            raise TransactionTooLarge(self.written, store.max_bytes)
        self._take(size + ENTRY_BYTES)

    def keep(self, size: int) -> None:
        """It has locked, or read, a key or a range of so many bytes. Raises TransactionTooLarge."""
        self.kept += size + ENTRY_BYTES
        if self.kept > limits.TRANSACTION_READ_BYTES_MAX:
            what = "what the transaction has locked and read takes {} bytes"
            raise TransactionTooLarge(self.kept, limits.TRANSACTION_READ_BYTES_MAX, what, "TRANSACTION_READ_BYTES_MAX")
        self._take(size + ENTRY_BYTES)

    @staticmethod
    def check_ranges(ranges: int) -> None:
        """Everybody looks at each range often, so there are only so many. Raises TransactionTooLarge."""
        if ranges > limits.TRANSACTION_RANGES_MAX:
            what = "{} ranges are locked, or were read"
            raise TransactionTooLarge(ranges, limits.TRANSACTION_RANGES_MAX, what, "TRANSACTION_RANGES_MAX")

    def _take(self, size: int) -> None:
        self.bytes += size
        transactions = self.store.transactions
        transactions.bytes += size
        if size > 0 and transactions.bytes > transactions.most_bytes:
            raise transactions.too_large()

    # ending

    def commit(self) -> Wait | None:
        """Commits what it wrote, in one step; see `Transaction.commit`. Its own checks come right before."""
        if not self.operations:
            return None
        return self.store.commit(self)


class PessimisticTransaction(Interactive):
    """Strict two-phase locking (T1): what it has read stays as it is until it ends."""

    takes_turns = False  # what it writes is locked already
    mode = "pessimistic"

    __slots__ = ("_mapped",)

    def __init__(self, store: Store, database: int, client: Client, number: bytes) -> None:
        super().__init__(store, database, client, number)
        self._mapped: set[int] = set()
        self.owner = self.new_owner()

    def let_go(self) -> None:
        """Only what was fetched: locks stay until the end."""
        owner, self.owner = self.owner, None
        super().let_go()
        self.owner = owner

    def forget(self) -> None:
        super().forget()
        self.owner = None

    # locks

    def _lock(self, key: bytes | None, exclusive: bool) -> bool:
        """Locks a key, or the mapping entry (None); False where that has to be waited for."""
        owner, locks, database = self.owner, self.store.locks, self.database
        assert owner is not None
        size, held = 0 if key is None else len(key), len(owner.keys)
        if locks.take_key(owner, database, key, exclusive):
            if len(owner.keys) > held:  # else it was locked, or a range covers it
                self.keep(size)
            return True
        upgrades = (database, key) in owner.keys
        need = _LockNeeded(lambda: locks.wait_for_key(owner, database, key, exclusive), None if upgrades else size)
        self.needs[need] = None
        return False

    def _lock_key(self, key: bytes, exclusive: bool) -> bool:
        if self.database not in self._mapped:
            if not self._lock(None, False):
                return False
            self._mapped.add(self.database)
        if len(key) > limits.KEY_BYTES_MAX:
            check_bounds(key)
        return self._lock(key, exclusive)

    def _lock_range(self, start: bytes, end: bytes | None, exclusive: bool) -> bool:
        check_bounds(start, end)
        owner, locks, database = self.owner, self.store.locks, self.database
        assert owner is not None
        if not self._lock(None, False):
            return False
        before, size = len(owner.ranges), len(start) + len(end or b"")
        self.check_ranges(before)
        if locks.ranges >= limits.LOCKED_RANGES_MAX:
            what = "{} ranges are locked by all transactions together"
            raise TransactionTooLarge(locks.ranges + 1, limits.LOCKED_RANGES_MAX, what, "LOCKED_RANGES_MAX")
        if locks.take_range(owner, database, start, end, exclusive):
            if len(owner.ranges) > before:
                self.keep(size)
            return True
        self.needs[_LockNeeded(lambda: locks.wait_for_range(owner, database, start, end, exclusive), size)] = None
        return False

    def lock(self, keys: list[bytes]) -> None:
        """LOCK: locks keys exclusively, before they are read."""
        for key in keys:
            if not self._lock_key(key, True):
                return

    def gather(self) -> Wait:
        lock = next((need for need in self.needs if isinstance(need, _LockNeeded)), None)
        if lock is None:
            return super().gather()
        self.needs = {}
        if lock.size is not None:
            self.keep(lock.size)
        wait: Wait = lock.wait()
        return wait

    # reading and writing

    def _committed(self, key: bytes) -> Record | None:
        if not self._lock_key(key, self.writing):
            return None
        # `look` and `_space` written out: a read pays two calls less.
        space = self._space() if self._flushed else self.store.spaces[self.database]
        record = space.records.get(key)
        if record is None and space.below:
            record = self._look_below(space, key)
        if self.store.last > self.store.synced:
            self._note(record)
        return record

    def page(
        self, start: bytes, end: bytes | None, limit: int, *, reverse: bool = False, heads: bool = False
    ) -> tuple[list[tuple[bytes, Record]], bytes | None]:
        rows, following = super().page(start, end, limit, reverse=reverse, heads=heads)
        if not self.needs:
            self._lock_range(*read_by_page(start, end, following, reverse=reverse), self.writing)
        return rows, following

    def count(self) -> int:
        if not self._lock_range(b"", None, False):
            return 0
        return super().count()

    async def random_key(self) -> bytes | None:
        if not self._lock_range(b"", None, False):
            return None
        return await super().random_key()

    def put(self, key: bytes, value: bytes, expires: int = 0, flags: int = 0, *, typed: bool = False) -> None:
        if self._lock_key(key, True):
            super().put(key, value, expires, flags, typed=typed)

    def delete(self, key: bytes) -> None:
        if self._lock_key(key, True):
            super().delete(key)

    def flush(self, database: int) -> None:
        if self._lock(None, True):
            self._mapped.add(database)
            self._write(OPERATION_BYTES)
            super().flush(database)


def check_bounds(*keys: bytes | None) -> None:
    """What is locked or remembered is no longer than a key may be. Raises LimitExceeded."""
    for key in keys:
        if key is not None and len(key) > limits.KEY_BYTES_MAX + 1:  # a page may end right behind the longest key
            raise LimitExceeded("max-key-bytes", len(key), limits.KEY_BYTES_MAX)
