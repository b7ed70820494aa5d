"""The oracle: what was promised, checked at every reply, every commit and every recovery.

Each command is run on the model too, at its serial point, and must answer and do the same. Of every reply that left it
is remembered what it told (`told`), by whom it may be believed: after a power cut, what those with `always` heard must
be there, after a mere kill what anybody heard. What a recovery finds must be the state at one number of the order, not
before any of that, and later numbers must never come again.
"""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from keyhaus.core.errors import ChangesTooOld, DiskFull, Error, Poisoned, SnapshotTooOld, StorageError, UserError
from keyhaus.core.reply import NULL_ARRAY
from keyhaus.core.wait import Wait
from keyhaus.journal.format import DELETE, FAR, FLUSH, LAPSE, PUT, SWAP, Operation
from keyhaus.store.snapshot import Snapshot
from keyhaus.store.store import Store
from keyhaus.store.transaction import Transaction
from tests.support.simulate.model import Anything, Model, Refusal, Rows, visible

if TYPE_CHECKING:
    from tests.support.simulate.clients import Client

NEVER = -1  # no commit's number
DATABASES = 3


class Broken(BaseException):
    """A promise was broken; the first word says which. No `Exception`, since the product catches those."""


@dataclass(slots=True)
class Commit:
    seqno: int
    unix_ms: int
    operations: list[Operation]


@dataclass(slots=True)
class Expected:
    """A reply that was given and has not left."""

    args: list[bytes]
    reply: Any
    depends: int
    bound: int
    synced: bool


class Said(NamedTuple):
    """What was answered, for the trace; a string only where somebody reads it."""

    client: int
    args: list[bytes]
    reply: Any
    depends: int
    commit: Commit | None

    def __str__(self) -> str:
        commit = self.commit
        done = f", commit {commit.seqno} {commit.operations}" if commit is not None else ""
        return f"client {self.client}: {words(self.args)} -> {self.reply!r} depends on {self.depends}{done}"


class Moment:
    """What a snapshot is to see."""

    def __init__(self, snapshot: Snapshot, model: Model, restarts: int) -> None:
        self.snapshot, self.restarts = snapshot, restarts
        self.rows: list[Rows] = [visible(space.rows, snapshot.unix_ms) for space in model.spaces]
        self.expired = [len(space.rows) for space in model.spaces]
        self.newest = [max(space.newest, model.mapped[at]) for at, space in enumerate(model.spaces)]


class Oracle:
    """Attributes:
    model: The state as of the newest commit.
    commits: Those since the last recovery, in order.
    begin: The state at that recovery.
    given: The highest number that any commit ever got.
    told_always, told_any: The newest commit that those with `always`, and that anybody, was told of.
    counts: What happened, for the report.
    digest: Over all that happened: the same seed gives the same.
    """

    def __init__(self, note: Callable[[str], None] | None) -> None:
        self._note = note
        self.model = Model(DATABASES)
        self.begin = self.model.copy()
        self.commits: list[Commit] = []
        self.given = 0
        self.told_always = self.told_any = 0
        self.counts: Counter[str] = Counter()
        self.happened: list[Any] = []
        self.unreadable: Callable[[], bool] = lambda: False  # whether something was done to the base in this life
        self.store: Store
        self._running: Client | None = None
        self._pending: Commit | None = None
        self._sizes: dict[int, tuple[int, ...]] = {}
        self._cursors: dict[int, bytes] = {}
        self.moments: dict[Snapshot, Moment] = {}
        self._history: list[list[Any]] = []  # all that ever happened and was not lost, as CHANGES tells it
        self.excused: set[str] = set()  # what was done to the machine in this life

    def digest(self) -> int:
        """Over all that happened: the same seed gives the same."""
        return zlib.crc32(repr(self.happened).encode())

    def note(self, text: str) -> None:
        if self._note is not None:
            self._note(text)

    # the store's commits

    def watch(self, store: Store) -> None:
        """A life begins."""
        self.store = store
        if store.last < self.given:
            raise Broken(f"REUSED: numbers go on behind {store.last}, and {self.given} was given")
        # What a start has found it has synced, and all numbers up to its own are given (J6, J8).
        self.given = self.told_always = self.told_any = store.last
        self._running = self._pending = None
        self._cursors, self.moments = {}, {}
        self._sizes = {store.last: self.model.counts()}
        commit, begin = store.commit, store.snapshots.begin

        def observed_commit(transaction: Transaction) -> Wait | None:
            wait = commit(transaction)
            if wait is None:  # what it passed over (T2) is none of it any more
                self._committed(Commit(store.last, transaction.started, transaction.operations), transaction)
            return wait

        def observed_begin(aging: bool) -> Snapshot:
            snapshot = begin(aging)
            self._began(snapshot)
            return snapshot

        store.commit = observed_commit  # type: ignore[method-assign]
        store.snapshots.begin = observed_begin  # type: ignore[method-assign]

    def _began(self, snapshot: Snapshot) -> None:
        assert self.store.ground is not None
        moment = self.moments[snapshot] = Moment(snapshot, self.model, self.store.ground.restarts)
        if self._running is not None:
            self._running.moment = moment

    def _take(self, commit: Commit) -> None:
        """A commit is made."""
        if commit.seqno <= self.given:
            raise Broken(f"REUSED number {commit.seqno}: {self.given} was given before")
        if self.commits and commit.unix_ms < self.commits[-1].unix_ms:
            raise Broken(f"BACK the time of commit {commit.seqno} lies before the one before it")
        self.given = commit.seqno
        self.commits.append(commit)
        if commit.operations:
            self._history.append([commit.seqno, commit.unix_ms, [_told(one) for one in commit.operations]])
        self.counts["commits"] += 1
        self.happened.append((commit.seqno, commit.unix_ms, commit.operations))

    def _committed(self, commit: Commit, transaction: Transaction) -> None:
        self._take(commit)
        running = self._running
        if running is not None and running.session.tx is transaction:
            self._pending = commit
            return
        self.counts["swept"] += len(commit.operations)
        if self._note is not None:
            self._note(f"sweep {commit.seqno} {commit.operations}")
        self._lapsed(commit)
        self._sizes[commit.seqno] = self.model.counts()

    def _lapsed(self, commit: Commit) -> None:
        """A commit that nobody asked for may delete what has expired, and nothing else."""
        for kind, database, key in commit.operations:
            row = self.model.spaces[database].rows.get(key)
            if kind != LAPSE or row is None or not row[1] or row[1] > commit.unix_ms:
                raise Broken(f"SWEPT {key!r} in {database} at {commit.unix_ms}: it was {row}")
        self.model.apply(commit.seqno, commit.operations)

    # commands

    def begins(self, client: Client, args: list[bytes]) -> None:
        client.running, client.moment = args, None
        client.synced_before = self.store.synced
        self._running = client

    def goes_on(self, client: Client) -> None:
        self._running = client

    def ran(self, client: Client, reply: Any) -> None:
        """A command was run up to a reply or a wait."""
        self._running = None
        commit, self._pending = self._pending, None
        if reply.__class__ is Wait:
            if commit is not None:
                raise Broken(f"PAUSE after its commit {commit.seqno}: {client.running}")
            return
        args, session = client.running, client.session
        self.counts["replies"] += 1
        depends = session.depends
        self.happened.append((client.number, args, reply, depends))
        said = Said(client.number, args, reply, depends, commit)
        if self._note is not None:
            self._note(str(said))
        if self._refused(client, args, reply):
            if commit is not None:
                raise Broken(f"REFUSED and done: {said}")
            bound = 0
        else:
            bound = self._check(client, args, reply, commit, said)
            if bound > depends and bound > self.store.synced:
                raise Broken(f"DEPENDS on {bound} at least: {said}")
        synced = client.durability == "always" or args[0] == b"WAITAOF"
        client.expected.append(Expected(args, reply, depends, bound, synced))

    def _refused(self, client: Client, args: list[bytes], reply: Any) -> bool:
        """Whether it is an error of the storage's, for which there is a reason; then nothing was done."""
        if not isinstance(reply, Error) or isinstance(reply, UserError):
            return False
        fine = (
            (isinstance(reply, Poisoned) and self.store.poisoned is not None)
            or (isinstance(reply, DiskFull) and "full" in self.excused)
            or (isinstance(reply, ChangesTooOld) and int(args[2]) < self.store.changes.oldest)
            or (type(reply) is StorageError and self.unreadable())
            or (isinstance(reply, SnapshotTooOld) and args[0] == b"KEYS" and self.may_be_too_old(client.moment))
        )
        if not fine:
            raise Broken(f"ERROR without a reason: {words(args)} -> {reply.code} {reply}")
        self.counts[f"refused with {reply.code}"] += 1
        if args[0] == b"EXEC":
            client.queue, client.watched = None, {}
        return True

    def may_be_too_old(self, moment: Moment | None) -> bool:
        assert self.store.ground is not None
        return moment is not None and (
            moment.snapshot.ended is not None or self.store.ground.restarts > moment.restarts or "death" in self.excused
        )

    def _check(self, client: Client, args: list[bytes], reply: Any, commit: Commit | None, said: Said) -> int:
        """Runs the command on the model at its serial point; what the reply is bound to."""
        model = self.model
        transaction = client.session.tx
        now = commit.unix_ms if commit is not None else transaction.started or self.store.clock_ms
        model.begin(client.database, commit.seqno if commit is not None else NEVER, now)
        expected = self._expect(client, args, reply)
        if isinstance(expected, Refusal):
            fine = isinstance(reply, UserError)
        else:
            fine = bool(expected == reply) and not isinstance(reply, Error)
        if not fine:
            raise Broken(f"REPLY is to be {expected!r} at {now}: {said}")
        if commit is not None and args[0] == b"RANDOMKEY":
            self._lapsed(commit)  # those that it met on its way
        elif commit is None:
            if model.changed or model.rested:
                raise Broken(f"SILENT: it changes something or rests on an expiry, and is no commit: {said}")
            return model.bound
        self._same(commit, said)
        self._sizes[commit.seqno] = model.counts()
        return commit.seqno

    def _expect(self, client: Client, args: list[bytes], reply: Any) -> Any:
        name = args[0]
        if name == b"EXEC":
            return self._exec(client, reply)
        if name == b"MULTI":
            if client.queue is not None:
                return Refusal("nested")
            client.queue = []
            return "OK"
        if name == b"DISCARD":
            if client.queue is None:
                return Refusal("DISCARD without MULTI")
            client.queue, client.watched = None, {}
            return "OK"
        if name == b"WATCH" and client.queue is not None:
            return Refusal("WATCH inside MULTI")
        if client.queue is not None:
            client.queue.append(args)
            return "QUEUED"
        if name == b"WATCH":
            for key in args[1:]:
                client.watched.setdefault((client.database, key), (self._seen(client.database, key), self.given))
            return "OK"
        return self._single(client, args, reply, exec_=False) if name != b"WAITAOF" else self._waitaof()

    def _waitaof(self) -> Any:
        self.model.bound = self.commits[-1].seqno if self.commits else 0
        return [1, 0]

    def _single(self, client: Client, args: list[bytes], reply: Any, *, exec_: bool) -> Any:
        name, model = args[0], self.model
        if name == b"CHANGES":
            return self._changes(client, args, reply)
        if name == b"SCAN":
            return self._scan(client, args, reply)
        if name == b"DBSIZE" and not exec_:
            # Perhaps counted at an earlier moment within the command: the one that the reply depends on.
            sizes = self._sizes.get(client.session.depends)
            model.bound = client.session.depends
            return None if sizes is None else sizes[client.database]
        if name == b"KEYS" and not exec_ and client.moment is not None:
            return self._keys(client, client.moment, reply)
        result = model.run(args)
        if not exec_:
            client.database = model.database
        return result

    def _changes(self, client: Client, args: list[bytes], reply: Any) -> Any:
        """Exactly the commits behind a number, in their order, and only what is synced."""
        at = bisect_right(self._history, [int(args[2]), FAR])
        count = len(reply) if isinstance(reply, list) else 0
        expected = self._history[at : at + count]
        if not count and at < len(self._history) and self._history[at][0] <= client.synced_before:
            return self._history[at]
        if expected:
            if expected[-1][0] > self.store.synced:
                return f"nothing behind {self.store.synced}"
            self.model.bound = expected[-1][0]
        self.counts["changes read"] += count
        return expected

    def _keys(self, client: Client, moment: Moment, reply: Any) -> Any:
        rows = moment.rows[client.database]
        self.model.rested = len(rows) != moment.expired[client.database]
        self.model.bound = moment.newest[client.database]
        return Anything(lambda told: isinstance(told, list) and sorted(told) == sorted(rows), f"{sorted(rows)}")

    def _scan(self, client: Client, args: list[bytes], reply: Any) -> Any:
        model, handle = self.model, int(args[1])
        start = self._cursors.get(handle) if handle else b""
        if start is None:
            return Refusal("unknown cursor")
        keys, count = model.within(start), int(args[3])
        page = [key for key in keys[:count] if model.alive(key)]
        if len(keys) <= count:
            return [b"0", page]
        if isinstance(reply, list) and reply and reply[0] != b"0":
            self._cursors[int(reply[0])] = keys[count]
            return [reply[0], page]
        return ["a cursor", page]

    def _exec(self, client: Client, reply: Any) -> Any:
        model = self.model
        queue, watched = client.queue, client.watched
        client.queue, client.watched = None, {}
        if queue is None:
            return Refusal("EXEC without MULTI")
        dirty = possible = False
        newest = 0
        for (database, key), (seen, at) in watched.items():
            touched = max(model.spaces[database].touched.get(key, 0), model.mapped[database])
            newest = max(newest, touched)
            dirty = dirty or self._seen(database, key) != seen
            possible = possible or touched > at
        model.rested = dirty and not possible  # then it can only have expired
        if dirty or (possible and reply is NULL_ARRAY):
            model.bound = newest
            return NULL_ARRAY
        replies = reply if isinstance(reply, list) else []
        result: list[Any] = []
        for at, args in enumerate(queue):
            told = replies[at] if at < len(replies) else None
            one = self._single(client, args, told, exec_=True)
            result.append(Anything(lambda told: isinstance(told, UserError), "an error") if _fails(one) else one)
        client.database = model.database
        return result

    def _seen(self, database: int, key: bytes) -> Any:
        """What is visible under a key, at the time of the command; that it has expired is as if it weren't there."""
        row = self.model.spaces[database].rows.get(key)
        now = self.model.now
        return None if row is None or (row[1] and row[1] <= now) else row

    def _same(self, commit: Commit, said: Said) -> None:
        """The operations of a commit leave what the model has."""
        final: dict[tuple[int, bytes], Any] = {}
        for operation in commit.operations:
            kind = operation[0]
            if kind in (FLUSH, SWAP):
                return  # compared as a whole at the next recovery
            if kind == PUT:
                final[operation[1], operation[2]] = (operation[3], operation[4])
            elif kind in (DELETE, LAPSE):
                final[operation[1], operation[2]] = None
        for (database, key), row in final.items():
            if self.model.spaces[database].rows.get(key) != row:
                raise Broken(
                    f"DONE {key!r} is {row} by the commit, {self.model.spaces[database].rows.get(key)}: {said}"
                )

    # replies that leave

    def told(self, client: Client, reply: Any) -> None:
        expected = client.expected.popleft()
        if reply is not expected.reply:
            if isinstance(reply, Poisoned) and self.store.poisoned is not None:
                self.counts["replaced by POISONED"] += 1
                return
            raise Broken(f"ORDER: {reply!r} instead of {expected.reply!r} for {words(expected.args)}")
        needed = max(expected.depends, expected.bound)
        store = self.store
        if needed > (store.synced if expected.synced or store.poisoned is not None else store.written):
            raise Broken(
                f"EARLY: {words(expected.args)} -> {reply!r} needs {needed}, written {store.written}, synced "
                f"{store.synced}, poisoned {store.poisoned}"
            )
        if expected.synced:
            self.told_always = max(self.told_always, needed)
        self.told_any = max(self.told_any, needed)
        if isinstance(reply, list) and expected.args[0] == b"SCAN":
            client.cursor = reply[0]
        if expected.args[0] == b"CHANGES":
            client.followed = reply[-1][0] if isinstance(reply, list) and reply else client.followed
            if isinstance(reply, ChangesTooOld):
                client.followed = store.changes.oldest

    # recovery

    def state_at(self, seqno: int) -> Model:
        model = self.begin.copy()
        for commit in self.commits:
            if commit.seqno > seqno:
                break
            model.apply(commit.seqno, commit.operations)
        return model

    def check_whole(self) -> None:
        """The model is what the commits' operations make."""
        model = self.state_at(self.given)
        if [space.rows for space in model.spaces] != [space.rows for space in self.model.spaces]:
            raise Broken("DONE the commits' operations are not what the commands do")

    def recovered(self, candidates: list[int], found: list[dict[bytes, tuple[bytes, int]]], killed: bool) -> int:
        """A recovery has found this; the last of `candidates` that explains it is where the history was cut."""
        self.check_whole()
        floor = self.told_any if killed else self.told_always
        shown: Model | None = None
        for cut in candidates:
            shown = self.state_at(cut)
            if [space.rows for space in shown.spaces] == found:
                break
        else:
            assert shown is not None
            differing = [
                (database, key, space.rows.get(key), found[database].get(key))
                for database, space in enumerate(shown.spaces)
                for key in sorted({*space.rows, *found[database]})
                if space.rows.get(key) != found[database].get(key)
            ]
            raise Broken(f"STATE is not that at {candidates}: (database, key, model, found) {differing[:5]}")
        if cut < floor:
            raise Broken(f"LOST: the history ends at {cut}, and {floor} was told")
        self.note(f"recovered up to {cut}, told {self.told_always}, {self.told_any}, given {self.given}")
        lost = sum(commit.seqno > cut for commit in self.commits)
        self.counts["commits lost unconfirmed"] += lost
        assert shown is not None
        self._history = [entry for entry in self._history if entry[0] <= cut]
        self.begin, self.commits = shown.copy(), []
        self.model = shown
        return cut


def _told(operation: Operation) -> list[Any]:
    """An operation as CHANGES tells it."""
    kind = operation[0]
    if kind == PUT:
        return [b"put", *operation[1:5]] if operation[4] else [b"put", *operation[1:4]]
    return [{DELETE: b"del", LAPSE: b"del", FLUSH: b"flush", SWAP: b"swap"}[kind], *operation[1:]]


def _fails(result: Any) -> bool:
    return isinstance(result, Refusal)


def words(args: list[bytes]) -> str:
    return " ".join(repr(word)[1:] if len(word) < 40 else f"<{len(word)} bytes>" for word in args)
