"""Replies become operations: what each client did, and what became of it, as it was told.

The rules of sessions (spec of BEGIN, COMMIT, TX, MULTI, …) are written down here once more, and each reply has to fit
them: nothing slips out of a transaction, nothing is written before its COMMIT, nothing of what is gone is ever there,
and what STATUS and KILL have said stays true (T9).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from keyhaus.core.errors import Error, StorageError
from keyhaus.core.reply import NULL_ARRAY
from keyhaus.journal.format import LAPSE
from tests.support.isolation.callers import Call, Caller, State
from tests.support.isolation.operations import (
    DONE,
    EXEC,
    GONE,
    OPEN,
    OPTIMISTIC,
    PESSIMISTIC,
    PLAIN,
    READONLY,
    SWEEP,
    Operation,
    Placed,
    Step,
)
from tests.support.isolation.reasons import WATCHED
from tests.support.isolation.views import WRITES
from tests.support.simulate.oracle import Broken, words

# After these a transaction is rolled back and gone.
FATAL: Final = frozenset(
    ("CONFLICT", "DEADLOCK", "LOCKTIMEOUT", "TXTOOLARGE", "TXTIMEOUT", "SNAPSHOTTOOOLD", "POISONED", "INTERNAL")
)
CONTENTION: Final = frozenset(("CONFLICT", "DEADLOCK", "LOCKTIMEOUT", WATCHED))
_LEAVES_MULTI: Final = frozenset((b"EXEC", b"DISCARD", b"MULTI", b"WATCH", b"RESET"))
_MODES: Final = {b"PESSIMISTIC": PESSIMISTIC, b"OPTIMISTIC": OPTIMISTIC, b"READONLY": READONLY}


class Ledger:
    """Attributes:
    operations: Those of this life of the store, in the order of their begin.
    named: Transactions of all lives, by id.
    causes: Why transactions were ended, by id, as the store says.
    fenced: Ids of which somebody was told that no write of theirs will ever appear.
    counts: How many operations there were, and how they ended.
    """

    def __init__(self, tick: Callable[[], int], time: Callable[[], int]) -> None:
        self._tick, self._time = tick, time
        self.operations: list[Operation] = []
        self.named: dict[bytes, Operation] = {}
        self.causes: dict[bytes, str] = {}
        self.fenced: set[bytes] = set()
        self.counts: Counter[str] = Counter()
        self._number = 0

    def add(self, call: Call | None, mode: str, point: int, time: int) -> Operation:
        self._number += 1
        if call is None:
            operation = Operation(self._number, -1, mode, point, (time, time))
        else:
            operation = Operation(self._number, call.caller.number, mode, call.sent, (call.begun_at, time))
            operation.database, operation.sync = call.caller.state.database, call.sync
        operation.point, operation.time = point, time
        self.operations.append(operation)
        return operation

    def swept(self, commit: Placed, time: int, why: str = "") -> None:
        """A commit that nobody asked for."""
        operation = self.add(None, SWEEP, commit.point, time)
        operation.commit, operation.outcome, operation.why, operation.ended = commit, DONE, why, commit.point

    # one reply

    def answered(self, call: Call) -> None:
        """A request has got its reply."""
        state, name = call.caller.state, call.args[0]
        if state.queue is not None and name not in _LEAVES_MULTI:
            if call.reply == "QUEUED":
                state.queue.append(call.args)
            elif not isinstance(call.reply, Error):
                raise Broken(f"SLIPPED out of MULTI: {_said(call)}")
            return
        handler = _HANDLERS.get(name)
        if handler is not None:
            handler(self, call)
        elif state.broken is not None:
            self._refused(call)
        elif state.current is not None:
            self._inside(call, state.current, call.args)
        else:
            self._plain(call)

    def _refused(self, call: Call) -> None:
        """The current transaction has ended: nothing slips out of it."""
        if not isinstance(call.reply, Error) or call.reply.code not in ("NOTX", "OOM"):
            raise Broken(f"SLIPPED out of a transaction that has ended: {_said(call)}")
        self._no_writes(call)

    def _no_writes(self, call: Call) -> None:
        """Nothing was committed but what lets expired keys go, or the time."""
        for commit in call.commits:
            if any(entry[0] != LAPSE for entry in commit.operations):
                raise Broken(f"LEAKED: {commit.operations} were committed by {_said(call)}")
            self.swept(commit, call.time)

    def _step(self, call: Call, args: list[bytes], reply: Any, database: int) -> Step:
        carried = bool(call.commits)
        step = Step(args, reply, database, call.time, call.point, call.depends, call.synced, carried)
        call.steps.append(step)
        return step

    def _gone(self, operation: Operation, why: str) -> None:
        operation.outcome, operation.why = GONE, why
        operation.contended = operation.contended or why in CONTENTION
        operation.ended = self._tick()
        operation.times = (operation.times[0], max(operation.times[1], self._time()))
        self.counts[f"gone: {why}"] += 1

    def _leave(self, state: State, operation: Operation, *, silent: bool = False) -> None:
        """A transaction is no longer open; unless its client has said so itself, it has to take note."""
        state.open.pop(operation.name, None)
        if state.current is operation:
            state.current, state.broken = None, None if silent else operation

    def _dead(self, call: Call, operation: Operation, *, silent: bool = False) -> None:
        """A transaction isn't there any more: there has to be a reason."""
        why = self.causes.get(operation.name)
        if why is None:
            raise Broken(f"NOTX without a reason: {_said(call)}: {operation}")
        self._no_writes(call)
        self._gone(operation, why)
        self._leave(call.caller.state, operation, silent=silent)

    # outside of transactions

    def _plain(self, call: Call) -> None:
        operation = self.add(call, PLAIN, call.point, call.time)
        operation.contended = call.waited
        reply = call.reply
        if call.waited and call.args[0] not in WRITES:
            raise Broken(f"WAITED for a lock: {_said(call)}")
        if isinstance(reply, StorageError) or (isinstance(reply, Error) and reply.code in FATAL):
            self._no_writes(call)
            return self._gone(operation, reply.code)
        operation.steps.append(self._step(call, call.args, reply, operation.database))
        self._done(call, operation)
        if call.snapshot is not None and call.args[0] == b"KEYS":
            operation.point, operation.time = call.snapshot
        state = call.caller.state
        single = call.args[0] in (b"GET", b"EXISTS", b"STRLEN") and len(call.args) == 2
        if single and (operation.database, call.args[1]) in state.marks:
            state.watched.append(operation.steps[0])

    def _done(self, call: Call, operation: Operation) -> None:
        if call.commits:
            operation.commit = call.commits[-1]
            operation.point, operation.time = operation.commit.point, call.time
        operation.outcome, call.finishes = DONE, operation
        self.counts[f"done: {operation.mode}"] += 1

    def _exec(self, call: Call) -> None:
        state, reply = call.caller.state, call.reply
        queue, marks, watched = state.queue, state.marks, state.watched
        if queue is None:
            return _needs_error(call)
        state.queue, state.marks, state.watched = None, {}, []
        operation = self.add(call, EXEC, call.point, call.time)
        operation.marks, operation.watched, operation.contended = marks, watched, call.waited
        if not isinstance(reply, list):
            self._no_writes(call)
            return self._gone(operation, WATCHED if reply is NULL_ARRAY else reply.code)
        if len(reply) != len(queue):
            raise Broken(f"REPLIES: {len(queue)} were queued: {_said(call)}")
        for args, one in zip(queue, reply, strict=True):
            operation.steps.append(self._step(call, args, one, state.database))
            if args[0] == b"SELECT" and one == "OK":
                state.database = int(args[1])
        self._done(call, operation)

    def _multi(self, call: Call) -> None:
        state = call.caller.state
        if self._diverted(call) or isinstance(call.reply, Error):
            return _needs_error(call)
        state.queue = []

    def _discard(self, call: Call) -> None:
        state = call.caller.state
        if state.queue is None:
            return _needs_error(call)
        state.queue, state.marks, state.watched = None, {}, []

    def _watch(self, call: Call) -> None:
        state = call.caller.state
        if self._diverted(call) or state.queue is not None:
            return _needs_error(call)
        if not isinstance(call.reply, Error):
            for key in call.args[1:]:
                state.marks.setdefault((state.database, key), call.point)

    def _unwatch(self, call: Call) -> None:
        call.caller.state.marks, call.caller.state.watched = {}, []

    def _select(self, call: Call) -> None:
        if self._diverted(call):
            return _needs_error(call)
        if call.reply == "OK":
            call.caller.state.database = int(call.args[1])

    def _whole(self, call: Call) -> None:
        """FLUSHALL and SWAPDB."""
        if self._diverted(call):
            self._no_writes(call)
            return _needs_error(call)
        self._plain(call)

    @staticmethod
    def _diverted(call: Call) -> bool:
        return call.caller.state.current is not None or call.caller.state.broken is not None

    def _reset(self, call: Call) -> None:
        self.abandon(call.caller, "RESET")

    def abandon(self, caller: Caller, why: str) -> None:
        """A client begins anew, or is no more."""
        for operation in caller.state.open.values():
            self._gone(operation, self.causes.get(operation.name, why))
        caller.state = State()

    # transactions

    def _begin(self, call: Call) -> None:
        state, reply = call.caller.state, call.reply
        if isinstance(reply, Error):
            return None
        word = call.args[1] if len(call.args) > 1 else b""
        operation = self.add(call, _MODES.get(word, PESSIMISTIC), call.point, call.time)
        if b"DURABILITY" in call.args:
            operation.sync = call.args[call.args.index(b"DURABILITY") + 1] == b"always"
        operation.name = reply
        state.open[reply] = self.named[reply] = state.current = operation
        state.broken = None
        return None

    def _inside(self, call: Call, operation: Operation, args: list[bytes]) -> None:
        """A command of a transaction was answered."""
        reply = call.reply
        operation.contended = operation.contended or call.waited
        call.sync = operation.sync
        if call.waited and operation.mode != PESSIMISTIC:
            raise Broken(f"WAITED for a lock: {_said(call)}: {operation}")
        code = reply.code if isinstance(reply, Error) else ""
        if code == "NOTX":
            return self._dead(call, operation)
        self._no_writes(call)
        if code in FATAL:
            self._gone(operation, code)
            return self._leave(call.caller.state, operation)
        failed = isinstance(reply, StorageError)
        (operation.failed if failed else operation.steps).append(self._step(call, args, reply, operation.database))
        return None

    def _tx(self, call: Call) -> None:
        operation = call.caller.state.open.get(call.args[1])
        if operation is None:
            return _needs_error(call)
        return self._inside(call, operation, call.args[2:])

    def _commit(self, call: Call) -> None:
        state, reply = call.caller.state, call.reply
        words_ = [word for word in call.args[1:] if word != b"WITHSEQNO"]
        operation = state.open.get(words_[0]) if words_ else state.current
        if operation is None:
            self._no_writes(call)
            _needs_error(call)
        else:
            operation.contended = operation.contended or call.waited
            call.sync = operation.sync
            code = reply.code if isinstance(reply, Error) else ""
            if code == "NOTX":
                self._dead(call, operation, silent=True)
            elif code in FATAL:
                self._no_writes(call)
                self._gone(operation, code)
                self._leave(state, operation, silent=True)
            elif not code:
                self._committed(call, operation)
        if not words_ or (state.broken is not None and words_[0] == state.broken.name):
            state.broken = None

    def _committed(self, call: Call, operation: Operation) -> None:
        if operation.name in self.fenced:
            raise Broken(f"FENCED: {operation.name!r} was said to be over, and then committed: {_said(call)}")
        state = call.caller.state
        if operation.mode != READONLY:
            operation.point, operation.time = call.point, call.time
        elif call.commits:
            raise Broken(f"LEAKED: a READONLY transaction commits {call.commits}")
        operation.times = (operation.times[0], call.time)
        self._done(call, operation)
        seqno = operation.commit.seqno if operation.commit is not None else None
        if isinstance(call.reply, int) and seqno is not None and call.reply != seqno:
            raise Broken(f"SEQNO: the commit is {seqno}: {_said(call)}")
        self._leave(state, operation, silent=True)

    def _rollback(self, call: Call) -> None:
        state = call.caller.state
        self._no_writes(call)
        operation = state.open.get(call.args[1]) if len(call.args) > 1 else state.current
        if operation is None:
            _needs_error(call)
        elif isinstance(call.reply, Error):
            self._dead(call, operation, silent=True)
        else:
            self._gone(operation, "ROLLBACK")
            self._leave(state, operation, silent=True)
        if len(call.args) == 1 or (state.broken is not None and call.args[1] == state.broken.name):
            state.broken = None

    def _transaction(self, call: Call) -> None:
        """TRANSACTION STATUS and KILL."""
        reply, word = call.reply, call.args[2]
        operation = self.named.get(word)
        if operation is None or isinstance(reply, Error):
            return
        committed = operation.outcome == DONE and operation.commit is not None
        if reply == b"open":
            wrong = operation.outcome != OPEN or word in self.causes or call.args[1] == b"KILL"
        elif isinstance(reply, list):
            wrong = operation.outcome != DONE
            wrong = wrong or (operation.commit is not None and reply[1] != operation.commit.seqno)
        else:
            wrong = committed and reply != b"expired"
            if reply in (b"rolledback", b"unknown"):
                self.fenced.add(word)
                wrong = wrong or (operation.outcome == OPEN and word not in self.causes and reply == b"unknown")
        if wrong:
            raise Broken(f"STATUS: {_said(call)}: {operation}")


def _said(call: Call) -> str:
    return f"client {call.caller.number}: {words(call.args)} -> {call.reply!r}"


def _needs_error(call: Call) -> None:
    if not isinstance(call.reply, Error):
        raise Broken(f"REFUSED it is to be: {_said(call)}")


_HANDLERS: Final[dict[bytes, Callable[[Ledger, Call], None]]] = {
    b"EXEC": Ledger._exec,
    b"MULTI": Ledger._multi,
    b"DISCARD": Ledger._discard,
    b"WATCH": Ledger._watch,
    b"UNWATCH": Ledger._unwatch,
    b"SELECT": Ledger._select,
    b"FLUSHALL": Ledger._whole,
    b"SWAPDB": Ledger._whole,
    b"RESET": Ledger._reset,
    b"BEGIN": Ledger._begin,
    b"TX": Ledger._tx,
    b"COMMIT": Ledger._commit,
    b"ROLLBACK": Ledger._rollback,
    b"TRANSACTION": Ledger._transaction,
}
