"""The recorder: what the store and its clients do becomes a history, and each life of the store is checked at its end.

It stands where the simulation's oracle stands: it hears of each commit, each command that is executed and each reply
that leaves. Of a life that a crash has ended two histories are checked: all that was executed; and what survived, that
is the commits up to where the recovery has cut, with all reads of those who may believe what they were told (everybody
after a mere kill, after a loss of power those who asked for `always`). So nobody was told of what is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keyhaus.core.errors import Error, Poisoned
from keyhaus.core.wait import Wait
from keyhaus.store.interactive import Interactive
from keyhaus.store.snapshot import Snapshot
from keyhaus.store.store import Store
from keyhaus.store.transaction import Transaction
from tests.support.isolation import reasons, replay
from tests.support.isolation.callers import Call, Caller
from tests.support.isolation.circles import watch_circles
from tests.support.isolation.ledger import Ledger
from tests.support.isolation.operations import (
    ALWAYS,
    ANYBODY,
    DONE,
    GONE,
    OPEN,
    OPTIMISTIC,
    Operation,
    Placed,
    Step,
)
from tests.support.simulate.clients import Client
from tests.support.simulate.oracle import Broken, Commit, Oracle, words


class Recorder(Oracle):
    """Attributes:
    ledger: The operations.
    survived: Those of earlier lives that count.
    all: Those of all lives.
    callers: The clients.
    """

    def __init__(self, note: Callable[[str], None] | None) -> None:
        super().__init__(note)
        self.ticks = 0
        self.ledger = Ledger(self.tick, self.time)
        self.survived: list[Operation] = []
        self.all: list[Operation] = []
        self.callers: list[Caller] = []

    def tick(self) -> int:
        self.ticks += 1
        return self.ticks

    def time(self) -> int:
        """The store's clock, without moving it."""
        return max(self.store.clock_ms, self.store._unix_ms())

    # what the store does

    def watch(self, store: Store) -> None:
        super().watch(store)
        self._placed: list[Placed] = []
        self._seqno_ticks: dict[int, tuple[int, int]] = {store.last: (self.tick(), self.time())}
        end, ledger = store.transactions.end, self.ledger
        ledger.operations, ledger.causes = [], {}

        def observed_end(transaction: Interactive, error: Error | None = None) -> None:
            if transaction.ended is None:
                ledger.causes[transaction.name.encode()] = "ROLLBACK" if error is None else error.code
            end(transaction, error)

        store.transactions.end = observed_end  # type: ignore[method-assign]
        watch_circles(store.locks)

    def _committed(self, commit: Commit, transaction: Transaction) -> None:
        self._take(commit)
        placed = Placed(commit.seqno, commit.unix_ms, commit.operations, self.tick(), transaction.id)
        self._placed.append(placed)
        self._seqno_ticks[placed.seqno] = (self.tick(), self.time())  # right behind it
        self.model.apply(placed.seqno, placed.operations)
        evicts = transaction is self.store.evictor._transaction
        call = None if self._running is None or evicts else _caller(self._running).call
        if call is not None:
            call.commits.append(placed)
            return
        self.ledger.swept(placed, self.time(), "evict" if evicts else "")
        if self._note is not None:
            self._note(f"{'evict' if evicts else 'sweep'} {placed.seqno} {placed.operations}")

    def _began(self, snapshot: Snapshot) -> None:
        if self._running is not None:
            call = _caller(self._running).call
            assert call is not None
            call.snapshot = (self.tick(), snapshot.unix_ms)

    # commands

    def begins(self, client: Client, args: list[bytes]) -> None:
        caller = _caller(client)
        caller.next_call(args)
        self._running = client

    def ran(self, client: Client, reply: Any) -> None:
        caller, self._running = _caller(client), None
        call = caller.call
        assert call is not None
        if reply.__class__ is Wait:
            if call.commits:
                raise Broken(f"PAUSE after its commit {call.commits}: {words(call.args)}")
            if caller.session.lock_client.waiting is not None:
                call.waited = True
                self.note(
                    f"client {caller.number} waits: {words(call.args)}: {caller.session.lock_client.waiting.shown()}"
                )
            return
        caller.call = None
        call.reply, call.depends, call.synced = reply, caller.session.depends, self.store.synced
        call.point, call.time = self.tick(), self.time()
        self.happened.append((caller.number, call.args, _plain(reply), call.depends))
        if self._note is not None:
            done = "".join(f", commit {commit.seqno} {commit.operations}" for commit in call.commits)
            self._note(f"client {caller.number}: {words(call.args)} -> {reply!r} depends on {call.depends}{done}")
        self.counts["replies"] += 1
        caller.untold.append(call)
        self.ledger.answered(call)
        if call.args == [b"DBSIZE"] and call.finishes is not None and call.depends in self._seqno_ticks:
            # Perhaps counted at an earlier moment within the command: the one that the reply depends on.
            point, time = self._seqno_ticks[call.depends]
            call.finishes.point, call.finishes.time = max(point, call.sent), max(time, call.begun_at)

    def told(self, client: Client, reply: Any) -> None:
        caller = _caller(client)
        call = caller.untold.popleft()
        if reply is not call.reply:
            if isinstance(reply, Poisoned) and self.store.poisoned is not None:
                self.counts["replaced by POISONED"] += 1
                return
            raise Broken(f"ORDER: {reply!r} instead of {call.reply!r} for {words(call.args)}")
        self.check_mark(call)
        believed = ALWAYS if call.sync else ANYBODY
        if call.sync:
            self.told_always = max(self.told_always, call.depends)
        self.told_any = max(self.told_any, call.depends)
        for step in call.steps:
            step.told = believed
        if call.finishes is not None:
            call.finishes.ended, call.finishes.told = self.tick(), believed
            call.finishes.times = (call.finishes.times[0], max(call.finishes.times[1], self.time()))

    def check_mark(self, call: Call) -> None:
        """C3: what leaves is as durable as its asker wants."""
        store = self.store
        if call.depends > (store.synced if call.sync or store.poisoned is not None else store.written):
            raise Broken(
                f"EARLY: {words(call.args)} -> {call.reply!r} depends on {call.depends}, written {store.written}, "
                f"synced {store.synced}"
            )

    def vanished(self, caller: Caller, disconnect: Callable[[], None]) -> None:
        """A client is gone, without a word."""
        call = caller.call
        self.note(f"client {caller.number} vanishes{'' if call is None else f' while {words(call.args)} waits'}")
        self.ledger.abandon(caller, "VANISHED")
        disconnect()
        caller.forget()

    # the end of a life

    def check_life(self, begin: Any, what: str = "executed") -> None:
        """What was executed since `begin` is a strict serial history."""
        operations = self.ledger.operations
        self.all += operations
        for operation in operations:
            if operation.outcome == OPEN and operation.name in self.ledger.causes:
                operation.outcome, operation.why = GONE, self.ledger.causes[operation.name]
        replay.check(list(replay.settled(operations)), begin, what)
        reasons.check(operations, self._placed, begin)

    def recovered(self, candidates: list[int], found: list[dict[bytes, tuple[bytes, int]]], killed: bool) -> int:
        begin = self.begin.copy()
        for caller in self.callers:
            self.ledger.abandon(caller, "CRASH")
            caller.forget()
        self.check_life(begin)
        lives = self.ledger.operations
        cut = super().recovered(candidates, found, killed)
        lost = [one for one in lives if one.commit is not None and one.commit.seqno > cut]
        for one in lost:
            if one.told >= (ANYBODY if killed else ALWAYS):
                raise Broken(f"LOST: the history ends at {cut}: {one}")
            one.outcome, one.why = GONE, "LOST"
        survivors = list(_believed(lives, ANYBODY if killed else ALWAYS))
        replay.check(survivors, begin, f"survived, up to {cut}")
        self.survived += survivors
        self.ledger.counts["lost"] += len([one for one in lost if one.mode != "sweep"])
        return cut


def _believed(operations: list[Operation], least: int) -> Any:
    """What of a life counts after its crash: what is committed, and what was read by those who may believe it."""
    for operation in operations:
        # What EXEC's client has read of the keys that it watches counts only as far as it was told of it.
        operation.watched = [step for step in operation.watched if step.told >= least]
        if operation.outcome == DONE and (operation.commit is not None or operation.told >= least):
            yield operation
            continue
        steps: list[Step] = []
        for step in operation.steps:
            if step.told < least:
                break
            steps.append(step)
        if operation.mode != OPTIMISTIC and (part := replay.cut_off(operation, steps)) is not None:
            yield part


def _plain(reply: Any) -> Any:
    """A reply without what errors say: that may name any one of several keys."""
    if isinstance(reply, list):
        return [_plain(one) for one in reply]
    return reply.code if isinstance(reply, Error) else reply


def _caller(client: Client) -> Caller:
    assert isinstance(client, Caller)
    return client
