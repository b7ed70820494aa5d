"""The interactive transactions of a store: which are open, for how long they may be, and what became of the others."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from keyhaus.core.errors import (
    Conflict,
    Deadlock,
    Error,
    LimitExceeded,
    LockTimeout,
    SnapshotTooOld,
    TransactionTimeout,
    TransactionTooLarge,
    UnknownTransaction,
)
from keyhaus.core.ids import make_id
from keyhaus.core.settings import Durability
from keyhaus.store.interactive import Interactive, PessimisticTransaction
from keyhaus.store.lock_requests import Client
from keyhaus.store.locks import WAIT_BUCKETS_MS
from keyhaus.store.optimistic import OptimisticTransaction, SnapshotTransaction
from keyhaus.store.outcomes import ROLLED_BACK, Outcomes

if TYPE_CHECKING:
    from keyhaus.store.store import Store

WATCH_MS: Final = 100
KINDS: Final[dict[str, type[Interactive]]] = {
    kind.mode: kind for kind in (PessimisticTransaction, OptimisticTransaction, SnapshotTransaction)
}
_CAUSES: Final = {
    Conflict: "conflicts",
    Deadlock: "deadlocks",
    LockTimeout: "lock_timeouts",
    TransactionTimeout: "timeouts",
    TransactionTooLarge: "too_large",
    SnapshotTooOld: "snapshots_too_old",
}


class OwnEnd(UnknownTransaction):
    """Its client has ended it."""


class TransactionKilled(UnknownTransaction):
    """Somebody has ended it."""

    def __init__(self) -> None:
        super().__init__("TRANSACTION KILL has ended it")


class Transactions:
    """All interactive transactions of a store.

    Attributes:
        open: Those that are open, by id, in the order of their begin.
        outcomes: What became of the others (T9).
        begun: How many were ever begun: their order, by which the youngest of a deadlock is found.
        counts: How many were begun, committed and rolled back, and why; CONFIG RESETSTAT begins anew.
        bytes, most_bytes: What all open ones take in memory, about, and may take.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.open: dict[bytes, Interactive] = {}
        self.outcomes = Outcomes()
        self.begun = 0
        self.counts: Counter[str] = Counter()
        self.bytes = 0
        self.most_bytes = 0
        self._watching = False
        settings = store.settings
        settings.observe("lock-timeout", self._set_lock_timeout)
        settings.observe("transactions-max-bytes", self._set_most_bytes)

    def _set_lock_timeout(self, milliseconds: int) -> None:
        self._store.locks.timeout_ms = milliseconds

    def _set_most_bytes(self, most: int) -> None:
        self.most_bytes = most

    def begin(
        self,
        mode: str,
        database: int,
        client: Client,
        *,
        durability: Durability | None = None,
        timeout_ms: int | None = None,
        user: str = "default",
    ) -> Interactive:
        """Begins a transaction.

        Args:
            mode: `pessimistic`, `optimistic` or `readonly`.
            database: The database that its commands address.
            client: Whose it is, in the graph of who waits for whom.
            durability: What its replies wait for; None: what the server has.
            timeout_ms: After how long without a command it is ended; None: what the server has.
            user: Who begins it.

        Raises:
            LimitExceeded: So many are open already.
            StorageError: The store takes no more.
        """
        store, settings = self._store, self._store.settings
        store.check_open()
        most = settings.integer("max-transactions")
        if len(self.open) >= most:
            raise LimitExceeded("max-transactions", len(self.open) + 1, most, "open transactions")
        number = make_id(store.now(), store.spawn.random_bytes(10))
        transaction = KINDS[mode](store, database, client, number)
        transaction.durability, transaction.user = durability, user
        transaction.timeout_ms = settings.integer("transaction-idle-ms") if timeout_ms is None else timeout_ms
        self.open[number] = transaction
        self.begun += 1
        self.counts["begun"] += 1
        if not self._watching:
            self._watching = True
            store.spawn.later(WATCH_MS, self._watch)
        return transaction

    def _forget(self) -> None:
        settings = self._store.settings
        kept = settings.integer("transaction-outcome-ms") + settings.integer("transaction-max-ms")
        self.outcomes.forget(self._store.now() - kept)

    def too_large(self) -> TransactionTooLarge:
        """What is said where all of them together take too much."""
        what = "open transactions take {} bytes"
        return TransactionTooLarge(self.bytes, self.most_bytes, what, "transactions-max-bytes")

    # time

    def _watch(self) -> None:
        """Looks at the times of all that are open, ten times a second while there are any."""
        self._watching = bool(self.open)
        self._forget()
        for transaction in list(self.open.values()):
            self._look(transaction)
        if self._watching:
            self._store.spawn.later(WATCH_MS, self._watch)

    def _look(self, transaction: Interactive) -> None:
        if transaction.ended is not None:
            return
        now = self._store.monotonic_ns()
        age = self._store.settings.integer("transaction-max-ms")
        if now - transaction.begun_ns >= age * 1_000_000:
            self.end(transaction, TransactionTimeout(f"the transaction was open for longer than {age} ms"))
        elif transaction.busy or transaction.unread():
            # Idle time begins when the reply has left (T5), which may be as late as the next look.
            transaction.idle_since_ns = now + WATCH_MS * 1_000_000
        elif now - transaction.idle_since_ns >= transaction.timeout_ms * 1_000_000:
            text = f"the transaction was idle for longer than {transaction.timeout_ms} ms"
            self.end(transaction, TransactionTimeout(text))

    # ends

    def committed(self, transaction: Interactive) -> int:
        """A transaction's commit was made, or it wrote nothing; the seqno of its serial point."""
        seqno = self._store.last
        if transaction.operations:
            # The commit set it; its id is noted already, in the same step.
            seqno = transaction.depends
        elif isinstance(transaction, SnapshotTransaction) and transaction.mode == "readonly":
            seqno = transaction.snapshot.seqno
        if transaction.number not in self.open:
            return seqno
        self.counts["committed"] += 1
        if not transaction.operations:
            self.outcomes.ended(transaction.number, seqno)
        self._close(transaction, OwnEnd("the transaction was committed"))
        return seqno

    def end(self, transaction: Interactive, error: Error | None = None) -> None:
        """Rolls a transaction back; `error` says why where its client didn't ask for it."""
        if transaction.ended is not None:
            return
        self.counts["rolled_back"] += 1
        cause = _CAUSES.get(type(error)) if error is not None else None
        if cause is not None:
            self.counts[cause] += 1
        self.outcomes.ended(transaction.number, ROLLED_BACK)
        self._close(transaction, error or OwnEnd("the transaction was rolled back"))

    def _close(self, transaction: Interactive, ended: Error) -> None:
        transaction.ended = ended
        del self.open[transaction.number]
        if transaction.owner is not None:
            self._store.locks.end(transaction.owner, ended)
        transaction.forget()
        transaction.on_end(transaction)

    # questions

    def status(self, number: bytes) -> int | str:
        """`open`, the commit's seqno, `rolledback`, `unknown` or `expired`."""
        self._forget()
        return "open" if number in self.open else self.outcomes.of(number)

    def reset_counters(self) -> None:
        """CONFIG RESETSTAT: counts from here on."""
        self.counts.clear()
        self._store.locks.reset_counters()

    def statistics(self) -> dict[str, Any]:
        """The fields of INFO's section `transactions`."""
        locks = self._store.locks
        counts = self.counts
        facts: dict[str, Any] = {
            "transactions_open": len(self.open),
            "transactions_begun": counts["begun"],
            "transactions_committed": counts["committed"],
            "transactions_rolled_back": counts["rolled_back"],
            **{f"transactions_{name}": counts[name] for name in _CAUSES.values()},
            "transaction_outcomes": len(self.outcomes),
            "transactions_bytes": self.bytes,
            "lock_holders": locks.active,
            "lock_waiters": locks.waiting,
            "lock_waits": locks.waits,
            "lock_wait_ms": locks.wait_ns // 1_000_000,
        }
        buckets = zip((*map(str, WAIT_BUCKETS_MS), "inf"), locks.wait_times, strict=True)
        facts["lock_wait_histogram_ms"] = ",".join(f"{most}={count}" for most, count in buckets)
        return facts
