"""One thread's door to a database: its session, driven by the thread itself.

The thread takes the turn and runs a command. Where that has to wait, and where the reply is not yet as durable as the
asker wants (C3), the thread leaves, so that others have their turn: their commits share a group of the journal with its
own. Then it is woken: by who fires what it waits for, or by who moves the journal's mark.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

from keyhaus.core.errors import Closed, Error, LimitExceeded, Poisoned, StorageError
from keyhaus.core.reply import NULL_ARRAY, Attributed
from keyhaus.core.wait import Wait
from keyhaus.embedded.interrupts import Place
from keyhaus.embedded.turns import Turns
from keyhaus.session.hub import Hub
from keyhaus.session.session import Session
from keyhaus.store.record import EXPIRES, OBJECT, TOMBSTONE, seqno_of

NOT_OURS: Final = "the database belongs to the process that opened it, not to its forked child: open it after a fork"
PROTOCOL: Final = 3  # replies with all their types
_NOT_PLAIN: Final = EXPIRES | OBJECT | TOMBSTONE


class CallerSession(Session):
    """A session that is a thread's."""

    caller: Caller

    def close(self, *, after_reply: bool = False) -> None:
        self.closing = True
        if not after_reply:
            self.caller.end_session()

    def has_unread(self) -> bool:
        return self.caller.waits_for_mark


class Caller:
    """What one thread needs to use one database.

    Attributes:
        waits_for_mark: Whether its reply waits for the journal.
    """

    def __init__(self, hub: Hub, turns: Turns, place: Place) -> None:
        self._hub, self._turns, self._place = hub, turns, place
        self._store = hub.store
        self._enter: Callable[[], object] = turns.enter
        self._session: CallerSession | None = None
        self._refusal: str | None = None  # why it has no session any more
        self._address = f"thread:{threading.get_native_id()}"
        self._busy = False  # a request is under way, also where a signal handler comes in between
        self._gate = threading.Lock()  # opened once each time that it is woken
        self._gate.acquire()
        # What follows changes in the turn only.
        self._asleep = False  # somebody is to wake it
        self._sleeps_within = False  # in the middle of a command, for a Wait
        self.waits_for_mark = False
        self._told = 0  # it was told, and is expected back
        self._depends = 0
        self._needs_sync = False
        self._failure: StorageError | None = None

    # requests

    def look(self, key: bytes) -> bytes | None:
        """GET without the way through the table: the value, where it is in memory, plain, and may be told at once.

        Returns:
            None where that isn't so, a missing key included: then `execute` knows what to do.
        """
        if self._busy or self._told:
            return None
        place = self._place
        self._busy = place.inside = True
        try:
            self._enter()
            try:
                session, store = self._session, self._store
                if session is None or session.diverts or store.evictor.limit:
                    return None
                database = session.tx.database
                record = store.spaces[database].records.get(key)
                if record is None or record[7] & _NOT_PLAIN:
                    return None
                if store.last > store.synced:
                    depends = max(seqno_of(record), store.mapped[database])
                    if depends > store.synced and not store.may_be_told(depends, self._hub.always):
                        return None  # C3
                self._hub.count_hit("get")
                return record[8:]
            finally:
                self._turns.leave()
        finally:
            self._busy = place.inside = False
            if place.pending:
                place.deliver()

    def execute(self, args: list[bytes]) -> Any:
        """Runs a request; its reply, once it may be told.

        Raises:
            Error: What the reply is, if it is one.
            RuntimeError: The thread is in the middle of a request: a signal handler calls.
        """
        self._refuse_handlers()
        place = self._place
        self._busy = place.inside = True
        try:
            self._enter()
            try:
                reply = self._run(args)
            except BaseException:
                self._turns.leave()
                raise
            if self.waits_for_mark:
                reply = self._await_mark(reply)
            else:
                self._turns.leave()
        finally:
            self._busy = place.inside = False
            if place.pending:
                place.deliver()
        if isinstance(reply, Error):
            raise reply.with_traceback(None)
        if isinstance(reply, Attributed):
            return reply.reply
        return None if reply is NULL_ARRAY else reply

    def begin(self, args: list[bytes]) -> bytes:
        """BEGIN of a transaction that is always named: it does not become the one that plain commands run in; its id.

        Raises:
            Error: There is none.
            RuntimeError: The thread is in the middle of a request: a signal handler calls.
        """
        self._refuse_handlers()
        with self._turns.taken(self._place):
            session = self._session or self._open_session()
            before = set(session.interaction.open)
            session.names_only = True
        try:
            name: bytes = self.execute(args)
        except BaseException:
            with self._turns.taken(self._place):  # a signal's handler may have come between its begin and its name
                for number in [number for number in session.interaction.open if number not in before]:
                    self._store.transactions.end(session.interaction.open[number])
            raise
        finally:
            session.names_only = False
        return name

    def _refuse_handlers(self) -> None:
        if self._busy:
            raise RuntimeError("this thread is in the middle of a call of the database: a signal handler can't use it")

    def _run(self, args: list[bytes]) -> Any:
        """The reply; `waits_for_mark` says whether it is to be held. The thread has the turn before and after."""
        session = self._session or self._open_session()
        hub = self._hub
        if self._told:
            self._turns.gathering.came(self._told)
            self._told = 0
        before = hub.monotonic_ns()
        try:
            reply = session.execute(args)
        except BaseException as error:
            self._torn(session, error)
            raise
        session.active_ns = after = hub.monotonic_ns()
        if after - before >= hub.slow_ns:
            hub.note_slow(session, args, after - before)
        while reply.__class__ is Wait:
            self._sleep(session, reply)
            reply = self._resume(session)
        hub.count(session.spec, 1, after - before)
        session.count_reads()
        if session.closing:
            self._end(session)
        if session.depends > self._store.synced:
            return self._held(session, reply)
        return reply

    def _resume(self, session: CallerSession) -> Any:
        try:
            return session.resume()
        except BaseException as error:
            self._torn(session, error)
            raise

    def _torn(self, session: CallerSession, error: BaseException) -> None:
        """A session turns each fault into a reply, so this came from outside, and may have broken a step in two."""
        self._turns.on_torn(error)
        self._end(session)

    # waiting

    def wake(self) -> None:
        """Lets it go on, if it sleeps; to be called in the turn."""
        if self._asleep:
            self._asleep = False
            self._gate.release()

    def _sleep(self, session: CallerSession, wait: Wait) -> None:
        """Leaves until a Wait has fired, or its time is over. Raises Closed where its session has ended meanwhile."""
        place = self._place
        self._asleep = self._sleeps_within = True
        wait.on_fire(self.wake)
        try:
            self._turns.leave()
            place.inside = False
            if place.pending:
                place.deliver()
            self._gate.acquire(timeout=-1 if wait.timeout_ms is None else wait.timeout_ms / 1000)
        except BaseException:
            self._wake_up()
            self._end(session)
            raise
        self._wake_up()
        wait.forget(self.wake)
        if session.closing:
            self._end(session)
            raise Closed(self._refusal or "CLIENT KILL has ended this thread's session")

    def _wake_up(self) -> None:
        """Takes the turn again."""
        self._place.inside = True
        self._enter()
        self._asleep = self._sleeps_within = False
        self._gate.acquire(False)  # it may have been woken since

    def _held(self, session: CallerSession, reply: Any) -> Any:
        """C3: a reply that is not durable enough for the asker is held."""
        store, depends = self._store, session.depends
        needs_sync = session.take_needs_sync()
        poisoned = store.poisoned
        if poisoned is not None:
            return Poisoned(poisoned.message)
        if not store.may_be_told(depends, needs_sync):
            assert store.journal is not None
            self._depends, self._needs_sync, self._failure = depends, needs_sync, None
            self._asleep = self.waits_for_mark = True
            if needs_sync:
                store.journal.demand(depends)
            store.journal.wait(self._look)
        return reply

    def _look(self) -> None:
        """A mark has moved, or never will again."""
        store = self._store
        if not self._asleep or not self.waits_for_mark:
            return
        poisoned = store.poisoned
        if store.may_be_told(self._depends, self._needs_sync):
            self._told = self._turns.gathering.told()
            self.wake()
        elif poisoned is not None:
            self._failure = Poisoned(poisoned.message)
            self.wake()
        else:
            assert store.journal is not None
            store.journal.wait(self._look)

    def _await_mark(self, reply: Any) -> Any:
        """Leaves, and waits until the reply may be told; it, or why it can't be."""
        place, turns = self._place, self._turns
        try:
            while True:
                lent = turns.leave_to_wait()
                if lent is not None:
                    lent()
                place.inside = False
                if place.pending:
                    place.deliver()
                if self._gate.acquire(timeout=-1 if lent is not None else turns.gathering.patience_seconds()):
                    break
                # The group that was held back has waited long enough for others.
                place.inside = True
                self._enter()
                turns.gathering.over()
        except BaseException:
            self._wake_up()
            self.waits_for_mark = False
            turns.gathering.let_go()
            turns.leave()
            raise
        self.waits_for_mark = False
        return self._failure or reply

    # its session

    def _open_session(self) -> CallerSession:
        """Raises Closed, LimitExceeded."""
        hub = self._hub
        if self._refusal is not None:
            raise Closed(self._refusal)
        most = hub.settings.integer("maxclients")
        if len(hub.sessions) >= most:
            raise LimitExceeded("maxclients", len(hub.sessions) + 1, most, "threads")
        session = hub.open_session(CallerSession)
        assert isinstance(session, CallerSession)
        hub.statistics.connections += 1
        session.caller = self
        session.protocol = PROTOCOL
        session.address = self._address
        self._session = session
        return session

    def _end(self, session: CallerSession) -> None:
        self._hub.close_session(session)
        if self._session is session:
            self._session = None

    def end_session(self) -> None:
        """Ends its session, if it has one: what it is in the middle of never happens, its transactions neither."""
        session = self._session
        if session is None:
            return
        session.closing = True
        if self._sleeps_within:
            self.wake()
        else:
            self._end(session)

    def refuse(self, refusal: str) -> None:
        """The database is closed: replies that wait for a mark still come, all else is refused."""
        self._refusal = refusal
        self.end_session()

    def forget(self) -> None:
        """In a forked child: nothing of the parent's is touched any more."""
        self._enter = self._refuse_child

    def _refuse_child(self) -> None:
        raise Closed(NOT_OURS)
