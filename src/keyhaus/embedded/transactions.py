"""Transactions of an embedded database: `with`, and functions that are run again where others came in between."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from keyhaus.core.access.blocking.access import TransactionAccess
from keyhaus.core.access.words import Word, encode
from keyhaus.core.errors import Error, UnknownTransaction
from keyhaus.core.transactional import TransactionEnded, pause
from keyhaus.embedded.replies import PlainReplies

if TYPE_CHECKING:
    from keyhaus.embedded.database import Database

# No network lies between: what stands in the way is gone sooner.
FIRST_SECONDS: Final = 0.001
SECONDS_MAX: Final = 0.1

_Result = TypeVar("_Result")


class Transaction(PlainReplies, TransactionAccess):
    """A transaction, from the `with` that begins it to its end.

    It commits at the end of the `with`, or rolls back where that ends with an exception. It belongs to the thread that
    began it, and to others it is unknown; one thread may have several. `execute` takes commands that read or write
    data. Once a command was told that the transaction can't go on, all later ones, and `commit`, are told the same.

    Attributes:
        id: As the table's commands name it (TRANSACTION STATUS, …); empty before it is begun.
        seqno: The number of its commit, once it is committed.
    """

    def __init__(self, database: Database, begin: list[bytes]) -> None:
        self._database, self._begin = database, begin
        self._id = b""
        self._thread = 0
        self._failure: Error | None = None  # why it can't go on
        self._ended = False
        self.seqno: int | None = None

    @property
    def id(self) -> str:
        return self._id.decode()

    def __enter__(self) -> Transaction:
        if self._id:
            raise RuntimeError("a transaction is begun once")
        self._id = self._database._begin(self._begin)
        self._thread = threading.get_ident()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._ended:
            return
        if kind is None:
            self.commit()
        else:
            with contextlib.suppress(UnknownTransaction):  # another thread's
                self.rollback()

    def lock(self, *keys: Word) -> None:
        """Locks keys before they are read, as one that will write them: so two that do so wait for each other."""
        self._ask([b"LOCK", *map(encode, keys)])

    def commit(self) -> int:
        """Makes it happen; its sequence number, once the commit is as durable as it was asked to be.

        Raises:
            UnknownTransaction: It is not begun, has been committed or rolled back before, or is another thread's.
            TransactionEnded: It was ended meanwhile; nothing of it has happened, and all of it may be run again.
            TransactionError: Nothing of it has happened. Where it is retryable, all of it may be run again.
            DiskFull: Nothing of it has happened; it is rolled back.
            Poisoned: It may have happened: the disk failed. TRANSACTION STATUS says more after a restart.
        """
        self._check_own()
        self._ended = True
        if self._failure is not None:
            raise self._failure.with_traceback(None)
        try:
            seqno: int = self._database._ask([b"COMMIT", self._id, b"WITHSEQNO"])
        except UnknownTransaction as error:
            raise TransactionEnded(error.raw) from None
        except Error as error:
            if not error.ends_transaction:
                with contextlib.suppress(Error):
                    self._roll_back()
            raise
        self.seqno = seqno
        return seqno

    def rollback(self) -> None:
        """Gives it up: nothing of it happens.

        Raises:
            UnknownTransaction: It is not begun, has been committed or rolled back before, or is another thread's.
        """
        self._check_own()
        self._ended = True
        with contextlib.suppress(Error):  # it may be gone already
            self._roll_back()

    def _roll_back(self) -> None:
        self._database._ask([b"ROLLBACK", self._id])

    def _check_own(self) -> None:
        """Raises UnknownTransaction where the calling thread has no such open transaction."""
        if self._ended or not self._id:
            raise UnknownTransaction(f"the transaction {'has ended' if self._ended else 'is not begun'}")
        if self._thread != threading.get_ident():
            raise UnknownTransaction("a transaction is used by the thread that began it only")

    def _ask(self, args: list[bytes]) -> Any:
        self._check_own()
        if self._failure is not None:
            raise self._failure.with_traceback(None)
        try:
            return self._database._ask([b"TX", self._id, *args])
        except UnknownTransaction as error:
            self._failure = TransactionEnded(error.raw)
            raise self._failure from None
        except Error as error:
            if error.ends_transaction:
                self._failure = error
            raise


def run_again(attempt: Callable[[], _Result], retries: int, sleep: Callable[[float], None] = time.sleep) -> _Result:
    """The result of an attempt, which is made again after retryable errors, up to so many times more."""
    if retries < 0:
        raise ValueError("retries are counted from 0")
    failures = 0
    while True:
        try:
            return attempt()
        except Error as error:
            failures += 1
            if not error.retryable or failures > retries:
                raise
        sleep(pause(failures, FIRST_SECONDS, SECONDS_MAX))
