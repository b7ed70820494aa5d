"""What one session has queued and watches: MULTI, EXEC, DISCARD and WATCH."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from keyhaus.commands.spec import CommandSpec, Flag
from keyhaus.core import limits
from keyhaus.core.errors import Error, ExecAborted, LimitExceeded, UserError
from keyhaus.core.reply import NULL_ARRAY, reply_bytes
from keyhaus.store.transaction import Transaction
from keyhaus.store.watch import Mark

if TYPE_CHECKING:
    from keyhaus.session.session import Session

WATCHED_KEY_OVERHEAD: Final = 400
WORD_OVERHEAD: Final = 40  # of a bytes object and its place in a list


class Multi:
    """MULTI's queue and WATCH's marks.

    It does not hold its session: the two would keep each other, and what the last request brought, once their client is
    gone.

    Attributes:
        failed: Whether something was refused that was to be queued: EXEC will do nothing.
        needs_memory: Whether anything that is queued may add to the data.
        queued_bytes: What the queue takes.
    """

    def __init__(self, tx: Transaction) -> None:
        self._store, self._tx = tx.store, tx
        self._mark: Mark | None = None
        self._watched_bytes = 0
        self._queue: list[tuple[CommandSpec, list[bytes]]] = []
        self.queued_bytes = 0
        self.failed = self.needs_memory = False

    def length(self) -> int:
        """How many commands wait for EXEC."""
        return len(self._queue)

    def watched_keys(self) -> int:
        return len(self._mark.keys) if self._mark else 0

    def discard(self) -> None:
        """Forgets all of it, what is watched too."""
        self._queue = []
        self.queued_bytes = 0
        self.failed = self.needs_memory = False
        self.unwatch()

    def enqueue(self, session: Session, spec: CommandSpec, args: list[bytes]) -> Any:
        """Between MULTI and EXEC: the reply to a command that waits for EXEC."""
        if spec.flags & Flag.NO_MULTI:
            self.failed = True
            return session.failed(UserError("Command not allowed inside a transaction"))
        self.queued_bytes += 64 + WORD_OVERHEAD * len(args) + sum(map(len, args))
        most = self._store.settings.integer("max-transaction-bytes")
        if self.queued_bytes > most:
            self.failed = True
            self._queue = []
            return session.failed(LimitExceeded("max-transaction-bytes", self.queued_bytes, most))
        if not self.failed:
            self._queue.append((spec, args))
            if spec.needs_memory and not (self._mark is not None and self._mark.dirty):
                self.needs_memory = True  # by Redis' rule: what it does not queue any more does not count
        return "QUEUED"

    async def execute(self, session: Session) -> Any:
        """EXEC: what was queued, as one transaction; a command's own error does not stop the others (as in Redis)."""
        tx, home = self._tx, self._tx.database
        tx.atomic = True
        try:
            await self._order_queued()
            while True:
                reply = self._run_queue(session)
                if isinstance(reply, Error):
                    tx.undo(0)
                try:
                    wait = tx.gather() if tx.needs else tx.commit()
                except Error as error:
                    wait, reply = None, error
                if wait is None and not isinstance(reply, Error):
                    session.discard()
                    return reply
                # Nothing has happened. Where there is no room, or something is still needed, all of it is run again,
                # WATCH looked at again too.
                tx.database = home
                tx.rollback()
                if wait is None:
                    session.discard()
                    raise reply
                try:
                    await wait
                except Error:
                    session.discard()
                    raise
                tx.begin()
        finally:
            tx.atomic = False
            tx.let_go()

    async def _order_queued(self) -> None:
        """T8: what range reads need is put in order first, so that nothing pauses once the first command has run."""
        if not any(spec.flags & Flag.RANGES for spec, _ in self._queue):
            return
        home = self._tx.database
        selected = {args[1] for spec, args in self._queue if spec.name == "SELECT"}
        others = [number for number in range(len(self._store.spaces)) if b"%d" % number in selected]
        for database in (home, *others):
            self._tx.database = database
            await self._tx.order()
        self._tx.database = home

    def _run_queue(self, session: Session) -> Any:
        """The replies of all that was queued, or why there are none."""
        if self.failed:
            return ExecAborted("Transaction discarded because of previous errors.")
        if self._mark is not None and self._changed(self._mark):
            return NULL_ARRAY
        room = most = self._store.settings.integer("max-reply-bytes")
        replies = []
        limited = self._store.evictor.limit
        for spec, args in self._queue:
            if limited and spec.uses is not None:
                self._store.evictor.note(self._tx.database, spec.uses.of(args))
            replies.append(self._run_queued(session, spec, args))
            room -= reply_bytes(replies[-1])
            if room < 0:
                return LimitExceeded("max-reply-bytes", most - room, most)
        return replies

    def _changed(self, mark: Mark) -> bool:
        """Whether a watched key was changed (T7) or has expired since; the answer depends on all that was."""
        store, tx = self._store, self._tx
        if not mark.dirty:
            if not store.watches.expired(mark, tx.now()):
                return False
            tx.carries_time = True  # again each time that EXEC has to be run again
        tx.depends = max(tx.depends, store.last)
        return True

    def _run_queued(self, session: Session, spec: CommandSpec, args: list[bytes]) -> Any:
        assert spec.handler is not None
        point = self._tx.mark()
        running = spec.handler(self._tx, args, session)
        try:
            while True:
                # T8: no pause within EXEC; a command that would wait finds its time over at once, as in Redis.
                running.send(None)
        except StopIteration as stop:
            return stop.value
        except Error as error:
            if self._tx.needs:
                return error  # all of it is run again
            self._tx.undo(point)
            return session.failed(error)

    # WATCH

    def watch(self, keys: list[bytes]) -> None:
        """WATCH: EXEC will do nothing if one of the keys is changed, or expires, until then. Raises LimitExceeded."""
        space = self._store.spaces[self._tx.database]
        records = [(key, self._tx.look(space, key)) for key in keys]
        if self._tx.needs:
            return
        if self._mark is None:
            self._mark = Mark()
            self._watched_bytes = 0
        longest = max(map(len, keys))
        if longest > limits.KEY_BYTES_MAX:
            raise LimitExceeded("max-key-bytes", longest, limits.KEY_BYTES_MAX)
        # What one key costs beside its own bytes: the entries of two dicts and a set.
        size = self._watched_bytes + sum(map(len, keys)) + WATCHED_KEY_OVERHEAD * len(keys)
        if size > limits.WATCHED_BYTES_MAX:
            raise LimitExceeded("watched-bytes", size, limits.WATCHED_BYTES_MAX)
        self._watched_bytes = size
        store = self._store
        store.watches.add(self._mark, self._tx.database, records, store.now())

    def unwatch(self) -> None:
        if self._mark is not None:
            self._store.watches.remove(self._mark)
            self._mark = None
