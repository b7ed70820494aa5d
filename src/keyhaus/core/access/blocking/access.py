# Made from aio/access.py by tools/generate_client.py: change it there, then run make client.
"""All methods: those that transactions have, and those that clients and databases have beside them."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import TypeVar

from keyhaus.core.access.blocking.commands import Commands
from keyhaus.core.access.blocking.driver import Faces
from keyhaus.core.access.blocking.objects import Objects
from keyhaus.core.access.replies import Change, Outcome, Position, change, outcome, position
from keyhaus.core.access.words import Durability, Mode, Seconds, Word, encode, milliseconds
from keyhaus.core.transactional import RETRIES

T = TypeVar("T")


class Access(Commands, Objects):
    """What reads and writes data: a client, a database within the process, or a transaction of one."""


class TransactionAccess(Access):
    """A transaction; how it begins and ends is the business of whoever has made it."""

    @abstractmethod
    def lock(self, *keys: Word) -> None:
        """Locks keys before they are read, as one that will write them: so two that do so wait for each other."""

    @abstractmethod
    def commit(self) -> int:
        """Makes it happen, before its block ends; its sequence number."""

    @abstractmethod
    def rollback(self) -> None:
        """Gives it up, before its block ends: nothing of it happens."""


class Door(Access, Faces):
    """A client, or a database within the process."""

    _block_ms_max = 60_000  # for so long one request waits for commits

    @abstractmethod
    def close(self) -> None:
        """Ends it; what is open is rolled back."""

    @abstractmethod
    def transaction(
        self, mode: Mode = "pessimistic", *, durability: Durability | None = None, timeout_ms: int | None = None
    ) -> TransactionAccess:
        """A transaction for a `with` block: committed at its end, rolled back if it raises."""

    @abstractmethod
    def run(
        self,
        function: Callable[[TransactionAccess], T],
        *,
        retries: int = RETRIES,
        mode: Mode = "pessimistic",
        durability: Durability | None = None,
        timeout_ms: int | None = None,
    ) -> T:
        """Runs a function in a transaction, and again in another one while that fails with a retryable error."""

    def kill(self, transaction_id: str) -> Outcome:
        """Ends a transaction if it is still open, and says for good what became of it.

        Returns:
            The number of its commit; or `rolledback` or `unknown`, which promise that no write of it will ever appear;
            or `expired`, if it was begun too long ago to say.
        """
        return outcome(self._ask([b"TRANSACTION", b"KILL", encode(transaction_id)]))

    def sync(self) -> None:
        """Waits until all earlier writes are on the disk, whatever the durability is.

        Raises:
            UserError: The database is in memory only.
        """
        self._ask([b"WAITAOF", b"1", b"0", b"0"])

    def position(self) -> Position:
        """The newest commit that is on the disk, and whose numbers these are: what `changes` may go on from."""
        return position(self._ask([b"INFO", b"keyhaus"]))

    def changes(
        self,
        after: int = 0,
        *,
        history: str | None = None,
        database: int | None = None,
        prefix: Word | None = None,
        wait: Seconds | None = None,
    ) -> Iterator[Change]:
        """The commits behind a number, in their order, and those that are still to come, as they come.

        Only what is on the disk is told. Where the connection breaks, it goes on behind the last commit that was told;
        where it can't, so may who asks again with that one's `seqno` and `position().history`.

        Args:
            after: The number; 0 for all that is kept.
            history: Whose number it is; None: that of the database as it is now.
            database: Operations on one database only; None: on all.
            prefix: Operations on keys that begin so only, and on whole databases.
            wait: For how many seconds, or what timedelta, to wait for another commit; then it ends. None: for ever.

        Raises:
            ChangesTooOld: What follows the number is no longer kept.
            ChangesLost: The number is none of this history: a crash took it back, or it is another history's.
        """
        if history is None:
            history = (self.position()).history
        options = [b"HISTORY", encode(history)]
        if database is not None:
            options += (b"DB", encode(database))
        if prefix is not None:
            options += (b"PREFIX", encode(prefix))
        patience_ms = None if wait is None else milliseconds(wait)
        until = _now_ms() + (patience_ms or 0)
        newest = 0
        while True:
            left_ms = self._block_ms_max if patience_ms is None else min(self._block_ms_max, until - _now_ms())
            blocks = [b"BLOCK", encode(left_ms)] if left_ms > 0 else []
            page = self._ask([b"CHANGES", b"AFTER", encode(after), *options, *blocks])
            for told in page:
                yield change(told)
                after = told[0]
            if page:
                until = _now_ms() + (patience_ms or 0)
                continue
            if left_ms <= 0:
                return
            # What was passed over in vain need not be kept for this reader, who would else be too late for it one day.
            after, newest = max(after, newest), (self.position()).seqno


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
