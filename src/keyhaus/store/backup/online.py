"""Backups of a running store: the store's side of it, in the owner's turn.

    checkpoint of the base → commits up to now → files of the base → commits up to then → the backup's own file

The checkpoint is made by the process that keeps the base, everything else by a helper of its own: the loop only says
what comes next. The commits are copied twice, so that the backup ends where it was finished and not where it was begun;
what is to be copied is pinned, and if the journal needs that room all the same, the backup ends where the first copy
did.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from keyhaus.core.disk import OsDisk
from keyhaus.core.errors import StorageError, UserError
from keyhaus.core.spawn import Helper, HelperLost
from keyhaus.core.wait import Wait
from keyhaus.store import layout
from keyhaus.store.backup import form
from keyhaus.store.backup.writer import Facts

if TYPE_CHECKING:
    from keyhaus.store.store import Store

log = logging.getLogger("keyhaus.backup")

CHECKPOINT: Final = "checkpoint"  # a directory of the database, there while a backup is made
DIRECTORY: Final = "backups"  # where backups go by default, in the database's directory
FACTORY: Final = "keyhaus.store.backup.writer:open_writer"

_Then = Callable[[Any], None]


class Running:
    """A backup that is being made.

    Attributes:
        directory: Where to.
        step: What is being done: checkpoint, journal, files, finish.
        number: The number that it will have; 0 while it isn't known.
        bytes_total, bytes_done, files_total, files_done: How far the files of the base are copied.
        began_ms: When it began.
        over: Fires at its end, however it ends.
        error: Why it failed; None while it hasn't.
    """

    def __init__(self, directory: str, began_ms: int) -> None:
        self.directory, self.began_ms = directory, began_ms
        self.step = "checkpoint"
        self.number = self.bytes_total = self.bytes_done = self.files_total = self.files_done = 0
        self.over = Wait()
        self.error: BaseException | None = None


class Backups:
    """Makes a store's backups, one at a time.

    Attributes:
        directory: Where they go if nothing else is said.
        running: The one that is being made; None while none is.
        last: The last one that succeeded, as it is listed; None where none has.
        last_ms: When that was; at the start the time of the newest that is there, or of the start.
        last_error: Why the last attempt failed; empty where it didn't.
        last_seconds: How long the last attempt took; -1 where there was none.
        made: How many succeeded.
        on_step: Called at each named step, for tests that stop there.
    """

    def __init__(self, store: Store, data: str, directory: str) -> None:
        """Args:
        store: The store.
        data: Its directory.
        directory: Where backups go if nothing else is said.
        """
        self._store, self._data = store, str(Path(data).resolve())
        self.directory = str(Path(directory).resolve()) if directory else f"{self._data}/{DIRECTORY}"
        self.running: Running | None = None
        self.last: dict[str, Any] | None = None
        self.last_ms = store.now()
        self.last_error = ""
        self.last_seconds = -1
        self.made = 0
        self.on_step: Callable[[str], None] = lambda step: None
        self._saved_at = store.last
        self._helper: Helper | None = None
        self._unpin: Callable[[], None] = lambda: None
        self._facts: dict[str, Any] = {}
        self._closed = False
        self._look_at_earlier()
        self._discard()

    def _look_at_earlier(self) -> None:
        disk = OsDisk(self.directory, read_only=True)
        try:
            found, damaged = form.readable(disk)
        except FileNotFoundError:
            return
        except (OSError, StorageError) as error:
            log.warning("the backups in %s can't be read: %s", self.directory, error)
            return
        for damage in damaged:
            log.warning("a backup is damaged: %s", damage)
        if found:
            self.last_ms = found[-1].ended_ms

    @property
    def commits_since(self) -> int:
        """By how many numbers the store has gone on since the last backup, or since the start."""
        return max(0, self._store.synced - self._saved_at)

    def place(self, wanted: str) -> str:
        """The directory that a client names: only the one for backups, or one below it, is written to.

        Raises UserError for any other.
        """
        path = Path(self.directory, wanted).resolve()
        if not path.is_relative_to(self.directory):
            raise UserError(
                f"{wanted} is not below {self.directory} (backup-dir): a client can have backups made only there"
            )
        return str(path)

    def start(self, directory: str = "") -> Running:
        """Begins a backup. Raises UserError where one is being made, StorageError where none can be."""
        store = self._store
        if self.running is not None:
            raise UserError("Background save already in progress")
        if store.poisoned is not None:
            raise StorageError(store.poisoned.message)
        journal, ground = store.journal, store.ground
        assert journal is not None
        assert ground is not None
        running = self.running = Running(directory or self.directory, store.now())
        self._unpin = journal.closed.pin(store.base_seqno)
        self.on_step("checkpoint")

        def told(meta: bytes | None, error: BaseException | None) -> None:
            if running is not self.running:
                return
            if error is not None:
                return self._failed(error)
            self._begin(meta)

        ground.call("checkpoint", None, (f"{self._data}/{CHECKPOINT}",), told)
        return running

    def _begin(self, row: bytes | None) -> None:
        store, running = self._store, self.running
        assert running is not None
        try:
            meta = layout.decode_meta(row, "base")
        except StorageError as error:
            return self._failed(error)
        seqno, clock = (0, 0) if meta is None else (meta.seqno, meta.clock)
        self._facts = msgspec.to_builtins(Facts(store.history, seqno, clock, 0))
        keep = store.settings.integer("backup-keep")
        args = (running.directory, self._data, f"{self._data}/{CHECKPOINT}", keep)
        try:
            self._helper = store.spawn.helper("backup-writer", FACTORY, args, background=True)
        except OSError as error:
            return self._failed(error)
        self._ask("prepare", (store.history,), self._prepared)

    def _ask(
        self, method: str, args: tuple[Any, ...], then: _Then, otherwise: Callable[[], None] | None = None
    ) -> None:
        helper = self._helper
        assert helper is not None

        def answered(result: Any, error: BaseException | None) -> None:
            if helper is not self._helper:
                return
            if error is None:
                return then(result)
            if otherwise is not None and not isinstance(error, HelperLost):
                log.warning("a backup ends where it was begun: %s", error)
                return otherwise()
            self._failed(error)

        helper.call(method, args, answered)

    def _prepared(self, plan: dict[str, int]) -> None:
        running = self.running
        assert running is not None
        running.number, running.files_total, running.bytes_total = plan["number"], plan["files"], plan["bytes"]
        self._step("journal")
        base_seqno: int = self._facts["base_seqno"]
        self._mark(lambda seqno, unix_ms: self._journal(base_seqno, seqno, unix_ms))

    def _mark(self, then: Callable[[int, int], None]) -> None:
        """Waits until all that was executed by now is synced (S7); `then(seqno, time)`: no later commit is so old."""
        store = self._store
        journal = store.journal
        assert journal is not None
        running, seqno, unix_ms = self.running, store.last, store.now() - 1
        journal.demand(seqno)

        def look() -> None:
            if running is not self.running:
                return
            if journal.poisoned is not None:
                self._failed(StorageError(journal.poisoned.message))
            elif store.synced >= seqno:
                then(seqno, unix_ms)
            else:
                journal.wait(look)

        look()

    def _journal(self, after: int, to_seqno: int, to_ms: int) -> None:
        self._ask("journal", self._chain(after, to_seqno), lambda _: self._copy(to_seqno, to_ms))

    def _chain(self, after: int, newest: int) -> tuple[Any, ...]:
        journal = self._store.journal
        assert journal is not None
        return msgspec.json.encode(journal.manifest), after, newest

    def _copy(self, to_seqno: int, to_ms: int) -> None:
        self._step("files")

        def copied(told: list[int]) -> None:
            running = self.running
            assert running is not None
            running.bytes_done += told[0]
            running.files_done = running.files_total - told[1]
            if told[1]:
                self._ask("copy", (), copied)
            else:
                self._step("journal")
                self._mark(lambda seqno, unix_ms: self._further(to_seqno, to_ms, seqno, unix_ms))

        self._ask("copy", (), copied)

    def _further(self, to_seqno: int, to_ms: int, seqno: int, unix_ms: int) -> None:
        """What was committed while the files were copied."""
        self._ask(
            "journal",
            self._chain(to_seqno, seqno),
            lambda _: self._finish(seqno, unix_ms),
            lambda: self._finish(to_seqno, to_ms),
        )

    def _finish(self, to_seqno: int, to_ms: int) -> None:
        self._step("finish")
        self._ask("finish", ({**self._facts, "top": self._store.last}, to_seqno, to_ms), self._finished)

    def _finished(self, told: dict[str, Any]) -> None:
        self.last, self.last_ms, self.last_error = told, told["ended_ms"], ""
        self._saved_at = told["to_seqno"]
        self.made += 1
        for damage in told["damaged"]:
            log.warning("no earlier backup is taken away while one is damaged: %s", damage)
        log.info("a backup was made", extra={name: told[name] for name in ("number", "to_seqno", "added_bytes")})
        self._end(None)

    def _failed(self, error: BaseException) -> None:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        self.last_error = reason
        log.error("a backup has failed: %s", reason)
        self._end(error)

    def _end(self, error: BaseException | None) -> None:
        running, self.running = self.running, None
        helper, self._helper = self._helper, None
        if helper is not None:
            helper.close()
        self._unpin()
        self._unpin = lambda: None
        self._discard()
        assert running is not None
        self.last_seconds = max(0, self._store.now() - running.began_ms) // 1000
        running.error = error
        running.over.fire()

    def _step(self, name: str) -> None:
        assert self.running is not None
        self.running.step = name
        self.on_step(name)

    def _discard(self) -> None:
        """Takes away the checkpoint, which keeps files that the base may have given up since."""
        ground = self._store.ground
        if ground is not None and not self._closed:
            ground.call("discard", None, (f"{self._data}/{CHECKPOINT}",), lambda _, error: None)

    def close(self) -> None:
        """The store ends: what is not finished is none."""
        self._closed = True
        if self.running is not None:
            self._failed(StorageError("the database is closing"))

    def statistics(self) -> dict[str, Any]:
        """Numbers for INFO."""
        running = self.running
        facts: dict[str, Any] = {
            "running": int(running is not None),
            "made": self.made,
            "last_ms": self.last_ms,
            "last_error": self.last_error,
            "last_seconds": self.last_seconds,
            "current_seconds": -1 if running is None else max(0, self._store.now() - running.began_ms) // 1000,
            "commits_since": self.commits_since,
        }
        return facts
