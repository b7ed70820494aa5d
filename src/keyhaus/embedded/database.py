"""`keyhaus.open`: the same database within a Python process.

It has the server's commands, transactions and promises: a write that has returned is on the disk. One process has a
directory at a time; its threads share the database, each with a session of its own.
"""

from __future__ import annotations

import atexit
import os
import secrets
import sys
import threading
import weakref
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

from keyhaus.core.access.blocking.access import Door
from keyhaus.core.access.words import Durability, Mode, Word, begin_words, encode
from keyhaus.core.clock import SystemClock
from keyhaus.core.disk import OsLock
from keyhaus.core.errors import Closed, StorageError, UserError
from keyhaus.core.helper_process import END_SECONDS
from keyhaus.core.settings import TABLE, Settings, check, parse
from keyhaus.core.transactional import RETRIES
from keyhaus.core.wait import Wait
from keyhaus.embedded.caller import NOT_OURS, Caller
from keyhaus.embedded.interrupts import MAIN, Place, place_of_this_thread
from keyhaus.embedded.replies import PlainReplies
from keyhaus.embedded.spawn import TurnSpawn
from keyhaus.embedded.transactions import Transaction, run_again
from keyhaus.embedded.turns import Turns
from keyhaus.session.hub import Hub
from keyhaus.store import opening
from keyhaus.store.store import Store

_DIRECTORIES: Final = ("archive-dir", "backup-dir")
_Result = TypeVar("_Result")


def open_database(
    path: str | os.PathLike[str] | None = None,
    engine: str = "rocksdb",
    durability: str = "always",
    **settings: int | str | bool,
) -> Database:
    """Opens a database, and makes it where there is none; exported as `keyhaus.open`.

    Args:
        path: The directory of the data; only the memory engine needs none.
        engine: `rocksdb`, or `memory` for data that is gone when the database is closed.
        durability: When a write returns: `always` (it is on the disk), `everysec` or `none`.
        settings: Any other setting, with underscores for dashes: `memtable_bytes="256mb"`.

    Raises:
        TypeError: There is no such setting, or no path.
        UserError: A setting's value is none.
        Corruption: Something that was synced is missing or damaged.
        StorageError: It can't be opened: it is in use, another version's, or the disk fails.
    """
    return Database(_settings(path, {"engine": engine, "durability": durability, **settings}))


def _settings(path: str | os.PathLike[str] | None, values: dict[str, Any]) -> Settings:
    parsed: dict[str, Any] = {}
    for keyword, value in values.items():
        name = keyword.replace("_", "-")
        if name not in TABLE or name == "dir":
            raise TypeError(f"there is no setting {keyword}; docs/reference/settings.md lists them")
        text = ("yes" if value else "no") if isinstance(value, bool) else str(value)
        try:
            parsed[keyword] = parse(name, text)
        except UserError as error:
            raise UserError(f"{keyword}={value!r}: {error.message}") from None
        if name in _DIRECTORIES and text:
            parsed[keyword] = str(Path(text).absolute())  # the process may go to another directory
    settings = Settings(**parsed)
    if settings["state-file"]:
        raise UserError("state-file is for keyhaus serve: keyhaus import and keyhaus export read and write such a file")
    check(settings["engine"], {"max-memory": settings["max-memory"]})
    if path is not None:
        settings.put("dir", str(Path(path).absolute()))
    elif settings["engine"] != "memory":
        raise TypeError("a database needs a path, except with engine='memory'")
    return settings


class _Ticket:
    """Lies in a thread's own storage, and nowhere else: when the thread ends, so does what it has here."""

    __slots__ = ("_gone", "caller")

    def __init__(self, caller: Caller, gone: Callable[[Caller], None]) -> None:
        self.caller, self._gone = caller, gone

    def __del__(self) -> None:
        self._gone(self.caller)


class _Own(threading.local):
    """What a thread has here. The frames of a traceback that is kept may keep the caller, but no ticket."""

    caller: Caller | None = None
    ticket: _Ticket | None = None


class Database(PlainReplies, Door):
    """An open database. Every method may be called by any thread.

    Attributes:
        path: The directory of the data; None in memory mode.
    """

    def __init__(self, settings: Settings) -> None:
        """Opens it; see `open_database`."""
        self.path = None if settings["engine"] == "memory" else settings["dir"]
        self._process = os.getpid()
        self._own = _Own()
        self._callers: set[Caller] = set()
        self._refusal: str | None = None
        self._closing = threading.RLock()  # a signal handler may come in between with a second one
        self._closed = False
        self._stopped: threading.Event | None = None
        self._failure: BaseException | None = None
        self._turns = Turns()
        self._lock: OsLock | None = opening.take(settings)
        self._spawn = TurnSpawn(self._turns)
        MAIN.guard()
        try:
            self._store = self._driven(opening.open_store(settings, self._spawn))
        except BaseException:
            self._let_go(patience_seconds=0)
            raise
        self._hub = Hub(self._store, settings, SystemClock(), secrets.token_hex(20))
        self._hub.own_facts = lambda: {"fast_lane": "none", "executable": sys.executable}
        self._turns.on_torn = self._tear
        journal, gathering = self._store.journal, self._turns.gathering
        if journal is not None:
            journal.holds_back, gathering.go_on = gathering.holds_back, journal.go_on
        atexit.register(self.close)
        _OPEN.add(self)

    def _driven(self, running: Coroutine[Wait, None, Store]) -> Store:
        """Runs a coroutine that awaits core's Waits."""
        while True:
            fired = threading.Event()
            self._turns.enter()
            try:
                running.send(None).on_fire(fired.set)
            except StopIteration as stop:
                store: Store = stop.value
                return store
            finally:
                self._turns.leave()
            fired.wait()

    # commands

    def _ask(self, args: list[bytes]) -> Any:
        return (self._own.caller or self._caller()).execute(args)

    def get(self, key: Word) -> bytes | None:
        caller = self._own.caller
        if caller is not None and (value := caller.look(key if key.__class__ is bytes else encode(key))) is not None:
            return value
        return super().get(key)

    get.__doc__ = Door.get.__doc__

    def _begin(self, args: list[bytes]) -> bytes:
        return self._caller().begin(args)

    def _caller(self) -> Caller:
        """What this thread has here. Raises Closed."""
        caller = self._own.caller
        if caller is None:
            if self._refusal is not None:
                raise Closed(self._refusal)
            place = place_of_this_thread()
            caller = Caller(self._hub, self._turns, place)
            with self._turns.taken(place):
                self._admit(caller)
            self._own.ticket = _Ticket(caller, self._thread_ends)
            self._own.caller = caller
        return caller

    def _admit(self, caller: Caller) -> None:
        self._callers.add(caller)
        if self._refusal is not None:
            caller.refuse(self._refusal)

    def _thread_ends(self, caller: Caller) -> None:
        self._turns.post(self._forget_caller, caller)

    def _forget_caller(self, caller: Caller) -> None:
        caller.end_session()
        self._callers.discard(caller)

    # transactions

    def transaction(
        self, mode: Mode = "pessimistic", *, durability: Durability | None = None, timeout_ms: int | None = None
    ) -> Transaction:
        """A transaction, to be used in a `with`, which begins and ends it.

        Args:
            mode: `pessimistic` (locks what it reads and writes), `optimistic` (reads a snapshot; its commit is refused
                where something that it read was changed since) or `readonly` (reads a snapshot).
            durability: When its commit returns; None: as the database's.
            timeout_ms: After how long without a command it is rolled back; None: as the settings say.

        Raises:
            UserError: An argument is none.
        """
        return Transaction(self, begin_words(mode, durability, timeout_ms))

    def run(
        self,
        function: Callable[[Transaction], _Result],
        *,
        retries: int = RETRIES,
        mode: Mode = "pessimistic",
        durability: Durability | None = None,
        timeout_ms: int | None = None,
    ) -> _Result:
        """Runs a function in a transaction; again after a retryable error (a conflict, a deadlock), with a pause.

        Args:
            function: Gets the transaction. It may be called several times: what it does elsewhere is not taken back.
            retries: How often it is run again at the most.
            mode, durability, timeout_ms: As `transaction` has them.

        Returns:
            What the function returned, once that is committed.

        Raises:
            Error: What can't be tried again, or was tried often enough.
        """

        def attempt() -> _Result:
            with self.transaction(mode, durability=durability, timeout_ms=timeout_ms) as transaction:
                return function(transaction)

        return run_again(attempt, retries)

    # the end

    def close(self) -> None:
        """Ends all transactions, writes out everything, and gives the directory free; the second time does nothing.

        Commands that wait are ended with `Closed`; writes that wait for the disk still return.

        Raises:
            StorageError: The journal could not be closed cleanly.
        """
        if self._process != os.getpid():
            return
        place = place_of_this_thread()
        if place.inside:
            raise RuntimeError("a signal handler can't close the database in the middle of a step")
        with self._closing:
            if self._closed:
                return
            stopped = self._stopped or self._stop(place)
            stopped.wait()
            self._let_go()
        failure = self._failure
        if failure is not None:
            text = f"the journal could not be closed: {failure}"
            raise failure if isinstance(failure, StorageError) else StorageError(text)

    def _stop(self, place: Place) -> threading.Event:
        """Begins the end; what it gives is set once the journal is closed."""
        self._stopped = stopped = threading.Event()

        def closed(error: BaseException | None) -> None:
            self._failure = error
            self._store.close_ground()
            stopped.set()

        with self._turns.taken(place):
            self._refuse("the database is closed")
            self._store.close(closed)
        return stopped

    def _refuse(self, why: str) -> None:
        self._refusal = why
        for caller in self._callers:
            caller.refuse(why)

    def _let_go(self, patience_seconds: float = END_SECONDS) -> None:
        """Ends the threads and processes, and gives the directory free."""
        if self._closed:
            return
        self._closed = True
        self._spawn.close(patience_seconds)
        if self._lock is not None:
            self._lock.release()
        MAIN.release()
        atexit.unregister(self.close)
        _OPEN.discard(self)

    def _tear(self, error: BaseException) -> None:
        """A signal handler's exception broke into a step, so memory is not to be trusted any more."""
        why = f"{type(error).__name__} broke into a step: open the database again"
        if self._store.journal is not None:
            self._store.journal.fail(RuntimeError(why))
        self._refuse(why)

    def _forked(self) -> None:
        """In a forked child: all of it is the parent's."""
        for caller in self._callers:
            caller.forget()
        self._refusal = NOT_OURS
        self._spawn.forget()
        if self._lock is not None:
            self._lock.forget()

    def __enter__(self) -> Database:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<keyhaus.Database {self.path or 'in memory'}, {state}>"


_OPEN: Final[weakref.WeakSet[Database]] = weakref.WeakSet()


def _after_fork() -> None:
    MAIN.forget()
    for database in list(_OPEN):
        database._forked()


os.register_at_fork(after_in_child=_after_fork)
