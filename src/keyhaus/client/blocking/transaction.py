# Made from aio/transaction.py by tools/generate_client.py: change it there, then run make client.
"""A transaction, from BEGIN at the start of a block to COMMIT or ROLLBACK at its end, on a connection of its own.

Invariants:

- Every request names the transaction: one that arrives anywhere else is refused there.
- Nothing is sent twice, COMMIT neither. If the connection breaks before COMMIT was sent, the transaction is gone: the
  server rolls it back. If it breaks at COMMIT, the server is asked on another connection what became of it, in a way
  that also keeps it from being committed later (T9): so it is known for good, or said to be unknown.
- The connection goes back to the others only if the server has confirmed the end. Otherwise it is closed.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from keyhaus.client.blocking.connections import Connection, Connections
from keyhaus.client.blocking.driver import Lock, sleep
from keyhaus.client.errors import ConnectionLost, OutcomeUnknown
from keyhaus.client.words import request
from keyhaus.core.access.blocking.access import TransactionAccess
from keyhaus.core.access.replies import Outcome, outcome
from keyhaus.core.access.words import Word, encode
from keyhaus.core.errors import Conflict, Error, UnknownTransaction
from keyhaus.core.transactional import TransactionEnded, pause


class Transaction(TransactionAccess):
    """A transaction; `client.transaction()` makes one for a `with` block.

    It commits at the end of the block, or rolls back where that raises. Once a command was told that the transaction
    can't go on, all later ones, and `commit`, are told the same.

    Attributes:
        id: Its name, once it has begun.
        seqno: The number of its commit, once it is committed.
    """

    def __init__(self, connections: Connections, begin: list[bytes]) -> None:
        self.id = ""
        self.seqno: int | None = None
        self._connections = connections
        self._begin = begin
        self._connection: Connection | None = None
        self._turn = Lock()
        self._failed: Error | None = None  # why it can't be committed any more

    def __enter__(self) -> Transaction:
        if self.id:
            raise RuntimeError("a transaction has one block: ask the client for another one")
        connection = self._connections.take()
        try:
            name: bytes = connection.ask(request(self._begin))
        except BaseException as error:
            self._connections.give_back(connection)
            if isinstance(error, OutcomeUnknown):
                raise ConnectionLost(f"BEGIN: {error.message}") from error
            raise
        self.id, self._connection = name.decode(), connection
        return self

    def _ask(self, args: list[bytes]) -> Any:
        """Sends a command that reads or writes data, to be run inside the transaction.

        Raises:
            ConnectionLost: The connection broke, and the transaction is gone.
            TransactionError: The server has rolled it back.
            Error: The command failed; the transaction goes on.
        """
        asked = request([b"TX", self.id.encode(), *args])
        with self._turn:
            connection = self._connection
            if connection is None:
                raise self._not_open()
            if self._failed is not None:
                raise self._failed
            try:
                return connection.ask(asked)
            except Error as error:
                self._failed = _consequence(error)
                if self._failed is None or self._failed is error:
                    raise
                raise self._failed from error
            except BaseException:
                self._failed = ConnectionLost("the transaction is gone: one of its commands was interrupted")
                raise

    def lock(self, *keys: Word) -> None:
        """Locks keys before they are read, as one that will write them: so two that do so wait for each other."""
        self._ask([b"LOCK", *map(encode, keys)])

    def commit(self) -> int:
        """Makes it happen, before its block ends; its sequence number.

        Raises:
            UnknownTransaction: It has not begun, or has been committed or rolled back before.
            TransactionEnded: It was ended meanwhile; nothing of it has happened, and all of it may be run again.
            TransactionError: Nothing of it has happened. Where it is retryable, all of it may be run again.
            ConnectionLost: The connection broke, and nothing of it has happened.
            OutcomeUnknown: Nobody can say whether it has happened.
        """
        self._finish(None)
        assert self.seqno is not None
        return self.seqno

    def rollback(self) -> None:
        """Gives it up, before its block ends: nothing of it happens.

        Raises:
            UnknownTransaction: It has not begun, or has been committed or rolled back before.
        """
        self._finish(Exception)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._connection is not None:
            self._finish(kind)

    def _not_open(self) -> UnknownTransaction:
        return UnknownTransaction(f"the transaction {'has ended' if self.id else 'is not begun'}")

    def _finish(self, kind: type[BaseException] | None) -> None:
        """Ends it: commits where there is no error. Gives the connection back."""
        connection, self._connection = self._connection, None
        if connection is None:
            raise self._not_open()
        try:
            try:
                with self._turn:  # a command of another thread may be under way
                    self._end(connection, kind)
            except Conflict:
                if self._failed is not None:
                    connection.drop()
                raise
            except BaseException:
                connection.drop()
                raise
            finally:
                self._connections.give_back(connection)
        except OutcomeUnknown as lost:
            self.seqno = self._settle(lost)

    def _end(self, connection: Connection, kind: type[BaseException] | None) -> None:
        """COMMIT or ROLLBACK. Raises OutcomeUnknown where the connection was lost at COMMIT."""
        if kind is not None and (self._failed is not None or not issubclass(kind, Exception)):
            connection.drop()  # what cancels must not wait for a reply
        elif kind is not None:
            try:
                connection.ask(request([b"ROLLBACK", self.id.encode()]))
            except Error:
                connection.drop()
        elif self._failed is not None:
            raise self._failed
        else:
            try:
                self.seqno = connection.ask(request([b"COMMIT", self.id.encode(), b"WITHSEQNO"]))
            except UnknownTransaction as error:
                raise TransactionEnded(error.raw) from error

    def _settle(self, lost: OutcomeUnknown) -> int:
        """The number of a commit whose reply was lost.

        Raises:
            ConnectionLost: Nothing of it happened.
            OutcomeUnknown: Nobody can say.
        """
        try:
            became = final_outcome(self._connections, self.id)
        except Error as error:
            raise OutcomeUnknown(f"COMMIT {self.id}: {lost.message}; what became of it: {error.message}") from error
        if isinstance(became, int):
            return became
        if became == "expired":
            raise OutcomeUnknown(f"COMMIT {self.id}: {lost.message}; the server no longer knows what became of it")
        raise ConnectionLost(f"COMMIT {self.id}: {lost.message}; nothing of it happened") from lost


def _consequence(error: Error) -> Error | None:
    """Why a transaction can't go on after an error of one of its commands; None where it can."""
    if isinstance(error, OutcomeUnknown | ConnectionLost):
        return ConnectionLost(f"the transaction is gone: {error.message}")
    if isinstance(error, UnknownTransaction):
        return TransactionEnded(error.raw)
    return error if error.ends_transaction else None


def final_outcome(connections: Connections, name: str) -> Outcome:
    """Ends a transaction if it is still open, and says for good what became of it (T9).

    Asks again if the connection is lost, for as long as a reply may take: a second time says the same as the first.

    Returns:
        The number of its commit; or `rolledback` or `unknown`, which promise that no write of it will ever appear; or
        `expired`, if it was begun too long ago to say.

    Raises:
        OutcomeUnknown: The server could not be reached.
        Error: The server can't say.
    """
    until = time.monotonic() + connections.timeout
    failures = 0
    while True:
        try:
            connection = connections.take()
            try:
                reply = connection.ask(request([b"TRANSACTION", b"KILL", name.encode()]))
            finally:
                connections.give_back(connection)
        except (ConnectionLost, OutcomeUnknown) as error:
            failures += 1
            seconds = pause(failures)
            if time.monotonic() + seconds > until:
                raise OutcomeUnknown(f"the server could not be asked: {error.message}") from error
            sleep(seconds)
        else:
            return outcome(reply)
