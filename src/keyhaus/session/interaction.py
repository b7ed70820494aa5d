"""The interactive transactions of one session: which are open, which one is current, and commands inside of them.

After BEGIN a session's data commands run in its current transaction. If that one ends by itself (a conflict, a
deadlock, its time), nothing slips out of it: data commands answer NOTX, with the reason, until the client has said
COMMIT, ROLLBACK, BEGIN or RESET. Older ones stay reachable by their ids.
"""

from __future__ import annotations

import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final

from keyhaus.commands.spec import CommandSpec
from keyhaus.core.errors import (
    Conflict,
    Error,
    Internal,
    UnknownTransaction,
    UserError,
)
from keyhaus.core.ids import NO_ID, read_id
from keyhaus.core.settings import Durability
from keyhaus.core.wait import Wait
from keyhaus.store.interactive import Interactive
from keyhaus.store.transaction import Transaction
from keyhaus.store.transactions import OwnEnd

if TYPE_CHECKING:
    from keyhaus.session.session import Session

log = logging.getLogger("keyhaus.session")


REASONS_KEPT: Final = 16  # of transactions that have ended by themselves, so that who names them is told


class Interaction:
    """What a session knows of its interactive transactions.

    Attributes:
        current: The one that data commands run in; None for none.
        broken: Why the current one ended, until the client takes note of it.
        broken_depends: What is told of that end depends on it (C2): the newest commit then, of a conflict.
        open: All of them, by id.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._store = session.store
        self.current: Interactive | None = None
        self.broken: Error | None = None
        self._broken_number = b""  # whose end that was
        self.broken_depends = 0
        self.open: dict[bytes, Interactive] = {}
        self._reasons: dict[bytes, Error] = {}

    # begin and end

    def begin(self, mode: str, durability: Durability | None, timeout_ms: int | None) -> str:
        """BEGIN: the new one is the current one; its id. Raises LimitExceeded, StorageError."""
        session = self._session
        transaction = self._store.transactions.begin(
            mode,
            session.database,
            session.lock_client,
            durability=durability,
            timeout_ms=timeout_ms,
            user=session.user,
        )
        transaction.on_end = self._ended
        transaction.unread = session.has_unread
        self.open[transaction.number] = transaction
        if not session.names_only:
            self.current, self.broken = transaction, None
        return transaction.name

    def _ended(self, transaction: Interactive) -> None:
        self.open.pop(transaction.number, None)
        if transaction.ended is not None and transaction.ended.__class__ is not OwnEnd:
            self._reasons[transaction.number] = transaction.ended
            if len(self._reasons) > REASONS_KEPT:
                del self._reasons[next(iter(self._reasons))]
        if self.current is transaction:
            self.current = None
            self.broken, self._broken_number = transaction.ended, transaction.number
            self.broken_depends = self._store.last if isinstance(self.broken, Conflict) else 0

    def find(self, word: bytes | None) -> Interactive:
        """The transaction that a command names, or the current one.

        Raises:
            UnknownTransaction: It is none of this connection's, or none is current.
        """
        if word is None:
            if self.current is not None:
                return self.current
            if self.broken is not None:
                raise _ended_by(self.broken)
            if not self.open:
                raise UnknownTransaction("no transaction is current on this connection: say BEGIN first")
            others = ", ".join(transaction.name for transaction in self.open.values())
            raise UnknownTransaction(f"no transaction is current on this connection: name one of those open, {others}")
        number = read_id(word)
        if number is None:
            raise UnknownTransaction(NO_ID)
        transaction = self.open.get(number)
        if transaction is not None:
            return transaction
        reason = self._reasons.get(number)
        if reason is not None:
            raise _ended_by(reason)
        raise UnknownTransaction("there is no such open transaction on this connection; TRANSACTION STATUS says more")

    def not_open(self) -> UnknownTransaction:
        """What a data command is told whose transaction has ended."""
        assert self.broken is not None
        return UnknownTransaction(f"{_ended_by(self.broken).message}: say BEGIN or ROLLBACK")

    def _names_broken(self, word: bytes | None) -> bool:
        """Whether a COMMIT or ROLLBACK is about the transaction that was current and has ended."""
        return self.broken is not None and (word is None or read_id(word) == self._broken_number)

    def take_note(self) -> None:
        """The client knows that its transaction has ended."""
        self.broken = None

    async def commit(self, word: bytes | None) -> tuple[Interactive, int]:
        """COMMIT: the transaction, and the seqno of its serial point.

        Raises:
            TransactionError: It could not be committed; it is rolled back and gone.
            StorageError: Nothing was done. It lives on where that may pass (DISKFULL).
        """
        transaction = self._end_of(word)
        current = transaction is self.current
        self._session.ask_as(transaction)
        transaction.busy = True
        try:
            while True:
                if transaction.ended is not None:
                    raise transaction.ended
                transaction.started = 0
                wait = transaction.prepare()
                if wait is None:
                    transaction.check_commit()
                    wait = transaction.commit()
                if wait is None:
                    break
                await wait
            seqno = self._store.transactions.committed(transaction)
        except Error as error:
            reason = error
            if isinstance(error, Conflict):
                if transaction.carries_time and transaction.ended is None:
                    try:
                        await self._commit_time()
                    except Error as failure:
                        reason = failure  # nobody can be told of an expiry that is in no commit (S6)
                self._session.rests_on(self._store.last)  # decided by a commit that may be as new as that (C2)
            if reason.ends_transaction:
                self._store.transactions.end(transaction, reason)
            raise reason from None
        finally:
            transaction.rests()
            if transaction.ended is None:
                transaction.let_go()  # of what it locked for its turn (T6)
            elif current:
                self.take_note()
        return transaction, seqno

    def _end_of(self, word: bytes | None) -> Interactive:
        """The transaction that a COMMIT or ROLLBACK is about; of one that has ended the client takes note by it."""
        noted = self._names_broken(word)
        if noted:
            self._session.rests_on(self.broken_depends)
        try:
            return self.find(word)
        finally:
            if noted:
                self.take_note()

    def rollback(self, word: bytes | None) -> None:
        """ROLLBACK. Raises UnknownTransaction."""
        transaction = self._end_of(word)
        current = transaction is self.current
        self._store.transactions.end(transaction)
        if current:
            self.take_note()

    def abandon(self) -> None:
        """The client is gone, or begins anew: all of them are rolled back, and their locks are free."""
        for transaction in list(self.open.values()):
            self._store.transactions.end(transaction)
        self.current = self.broken = None

    # commands inside

    def refusal(self, spec: CommandSpec) -> Error:
        """Why a request about data can't run: its transaction has ended, or it is not allowed inside of one."""
        if self.broken is not None:
            return self.not_open()
        return UserError(f"{spec.name} is not allowed while a transaction is current: COMMIT or ROLLBACK first")

    def run(self, transaction: Interactive, spec: CommandSpec, args: list[bytes]) -> Any:
        """Runs a command inside a transaction: its reply, or a coroutine for the rest where it has to wait."""
        handler = spec.handler
        assert handler is not None
        reply: Any = None
        wait: Wait | None = None
        point = len(transaction.operations)
        try:
            transaction.enter(spec.writes)
        except Error as error:
            if transaction.carries_time and transaction.ended is None:
                return self._rest(transaction, spec, args, point, None, None, error)
            return self._failed(transaction, point, error)
        running = handler(transaction, args, self._session)
        try:
            wait = running.send(None)
        except StopIteration as stop:
            reply = stop.value
            if not transaction.needs and not transaction.carries_time:
                self._session.depends = transaction.depends
                transaction.leave()
                return reply
        except Error as error:
            reply = error
        except Exception:
            log.exception("a command failed inside a transaction", extra={"command": spec.wire_name})
            return self._fault(transaction)
        if wait is None and isinstance(reply, Error) and not transaction.needs and not transaction.carries_time:
            return self._failed(transaction, point, reply)
        return self._rest(transaction, spec, args, point, running if wait is not None else None, wait, reply)

    async def _rest(
        self,
        transaction: Interactive,
        spec: CommandSpec,
        args: list[bytes],
        point: int,
        running: Coroutine[Wait, None, Any] | None,
        wait: Wait | None,
        reply: Any,
    ) -> Any:
        """The rest of a command that has to wait: runs it again until it needs nothing more."""
        handler = spec.handler
        assert handler is not None
        transaction.busy = True
        try:
            while True:
                if running is not None:
                    try:
                        reply = await _driven(transaction, running, wait)
                    except Error as error:
                        reply = error  # for want of what it needs, perhaps
                if not transaction.needs or transaction.ended is not None:
                    break
                transaction.undo(point)
                needed = transaction.gather()  # it may die of a deadlock here, and then takes nothing any more
                transaction.needs = {}
                await needed
                transaction.enter(spec.writes)
                running, wait = handler(transaction, args, self._session), None
            if transaction.carries_time and transaction.ended is None:
                transaction.depends = max(transaction.depends, await self._commit_time())
        except Error as error:
            reply = error
        except Exception:
            log.exception("a command failed inside a transaction", extra={"command": spec.wire_name})
            return self._fault(transaction)
        finally:
            transaction.rests()
            self._session.take_reads(transaction)
            if running is not None:
                running.close()
        if isinstance(reply, Error):
            return self._failed(transaction, point, reply)
        self._session.depends = transaction.depends
        transaction.leave()
        return reply

    async def _commit_time(self) -> int:
        """S6: an answer that rests on an expiry depends on a commit that carries the time; its seqno."""
        while True:
            carrier = Transaction(self._store)
            carrier.carries_time = True
            wait = carrier.commit()
            if wait is None:
                return carrier.depends
            await wait

    def _failed(self, transaction: Interactive, point: int, error: Error) -> Error:
        """A command failed: nothing of it happens; after some errors the transaction can't go on."""
        transaction.needs = {}
        if transaction.ended is None:  # else somebody ended it while this command waited
            if error.ends_transaction:
                self._store.transactions.end(transaction, error)
            else:
                transaction.undo(point)
        self._session.depends = transaction.depends
        if isinstance(error, Conflict):
            self._session.depends = self._store.last  # decided by a commit that may be as new as that (C2)
        transaction.leave()
        return self._session.failed(error)

    def _fault(self, transaction: Interactive) -> Error:
        error = Internal()
        self._store.transactions.end(transaction, error)
        self._session.depends = 0
        return self._session.failed(error)


def _ended_by(reason: Error) -> UnknownTransaction:
    code = "" if isinstance(reason, UnknownTransaction) else f"{reason.code} "
    return UnknownTransaction(f"the transaction has ended ({code}{reason.message})")


async def _driven(transaction: Interactive, running: Coroutine[Wait, None, Any], wait: Wait | None) -> Any:
    """Drives a handler to its end, from the Wait on that it has given; if its transaction ends meanwhile, so does it.

    Raises:
        Error: What the handler raises, or why the transaction has ended.
    """
    while True:
        if wait is not None:
            await wait
        if transaction.ended is not None:
            running.close()
            raise transaction.ended
        try:
            wait = running.send(None)
        except StopIteration as stop:
            return stop.value
