"""Locks: strict two-phase locking for interactive transactions, and the turn that writes wait for (T5, T6).

What is locked is a key of a database, a range of its keys, or its mapping entry (S4), shared or exclusively. A lock is
held until its owner ends. Who can't have one waits in a fair queue: for every holder and every earlier waiter in its
way. All else happens in the owner's turn, so a lock that is free costs two look-ups in dicts and no wait.

    owner    a transaction, or a plain command that has to wait for its turn
    client   whose owners they are: a connection, or an embedded thread; it waits for one request at a time, and with it
             wait all of its owners (T5)

Deadlocks are found as a request begins to wait, since only that makes a circle: from the request to those in its way,
to what their clients wait for, and so on. A circle of holders has a victim, the youngest transaction on it, never a
plain command. A circle that passes through a place in a queue is broken by overtaking. Nobody waits for a lock of
another owner of the same client: that would never come.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final

from keyhaus.core.errors import Deadlock, Error, LockTimeout
from keyhaus.core.wait import Wait
from keyhaus.store.cover import Cover
from keyhaus.store.lock_requests import Client, Owner, Range, Request
from keyhaus.store.ordered import OrderedKeys

CYCLE_SHOWN: Final = 8  # members of a deadlock that its error names, and others whom somebody waits for
EDGES_SHOWN: Final = 1000  # that are looked at for that
WAIT_BUCKETS_MS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)


class DeadlockWithItself(Deadlock):
    """Who asks would wait for a transaction of its own connection, or thread; to ask again is of no use."""

    retryable = False

    def __init__(self, request: Request, holder: Owner) -> None:
        super().__init__(
            f"{request.shown()} is held by {holder.name} of the same connection, which can't wait for itself: "
            f"end that one first, or use TX {holder.name}"
        )


class _Database:
    """The locks of one database.

    Attributes:
        holders: By key (None: the mapping entry) its only holder, or those who share it, in order.
        ordered: The order of the keys that are locked, for ranges.
        ranges, exclusive_ranges: The ranges that are held: all of them, and those that nobody else may read in.
        queues: By key those who wait for it, in order.
        range_queue: Those who wait for a range, in order.
    """

    def __init__(self) -> None:
        self.holders: dict[bytes | None, Owner | dict[Owner, None]] = {}
        # Those of `holders`, and of them those that are held exclusively, kept once anybody has asked for a range.
        self.keys: dict[bytes, None] = {}
        self.exclusive_keys: dict[bytes, None] = {}
        self.ordered: OrderedKeys | None = None
        self.exclusive_ordered = OrderedKeys(self.exclusive_keys)
        self.ranges: dict[Range, None] = {}
        self.exclusive_ranges: dict[Range, None] = {}
        self._cover: Cover | None = None
        self.queues: dict[bytes | None, deque[Request]] = {}
        self.range_queue: list[Request] = []

    def add_range(self, span: Range) -> None:
        self._cover = None
        self.ranges[span] = None
        if span.exclusive:
            self.exclusive_ranges[span] = None

    def remove_range(self, span: Range) -> None:
        self._cover = None
        del self.ranges[span]
        self.exclusive_ranges.pop(span, None)

    def ranged(self, key: bytes) -> bool:
        """Whether a key lies in any range that is held."""
        if not self.ranges:
            return False
        if self._cover is None:
            self._cover = Cover((span.start, span.end) for span in self.ranges)
        return self._cover.holds(key)

    def forget_order(self) -> None:
        """Where nobody has or wants a range the order is of no use, and would keep keys that nobody holds any more."""
        if self.ordered is not None and not self.ranges and not self.range_queue:
            self.ordered, self.keys, self.exclusive_keys = None, {}, {}

    def order(self, number: int, *, exclusive: bool) -> OrderedKeys:
        """The keys that are held, in order; with `exclusive` those only that nobody else may read."""
        if self.ordered is None:
            self.keys = dict.fromkeys(key for key in self.holders if key is not None)
            self.ordered = OrderedKeys(self.keys)
            self.exclusive_keys = {
                key: None
                for key, holders in self.holders.items()
                if key is not None and isinstance(holders, Owner) and holders.keys[number, key]
            }
            self.exclusive_ordered = OrderedKeys(self.exclusive_keys)
        ordered = self.exclusive_ordered if exclusive else self.ordered
        while not ordered.deal():
            pass
        return ordered

    def note(self, key: bytes, *, new: bool, exclusive: bool) -> None:
        """A key is held; only to be called where there is an order."""
        if new:
            self.keys[key] = None
            if self.ordered is not None and self.ordered.built:
                self.ordered.add(key)
        if exclusive:
            self.exclusive_keys[key] = None
            if self.exclusive_ordered.built:
                self.exclusive_ordered.add(key)


class Locks:
    """All locks of a store.

    Attributes:
        active: How many owners hold any: plain writes look no further where none does.
        timeout_ms: How long a request waits; 0 for ever.
        waits, deadlocks, timeouts: How often somebody had to wait, died of a deadlock, waited too long.
        waiting: How many wait now.
        wait_times: How many waits took up to each of WAIT_BUCKETS_MS, and longer.
        wait_ns: How long all of them took together.
        freed: How often somebody has let go of locks.
        ranges: How many ranges are held.
    """

    def __init__(self, monotonic_ns: Callable[[], int] = lambda: 0) -> None:
        self._databases: dict[int, _Database] = {}
        self._number = 0
        self.monotonic_ns = monotonic_ns
        self.active = self.waiting = self.freed = self.ranges = 0
        self.timeout_ms = 0
        self.reset_counters()

    def reset_counters(self) -> None:
        """Counts waits from here on."""
        self.wait_times = [0] * (len(WAIT_BUCKETS_MS) + 1)
        self.wait_ns = 0
        self.waits = self.deadlocks = self.timeouts = 0

    def _of(self, database: int) -> _Database:
        found = self._databases.get(database)
        if found is None:
            found = self._databases[database] = _Database()
        return found

    # taking

    def take_key(self, owner: Owner, database: int, key: bytes | None, exclusive: bool) -> bool:
        """Locks a key, or the mapping entry (None), if that is possible at once; whether it is locked."""
        there = owner.keys.get((database, key))
        if there is not None and (there or not exclusive):
            return True
        where = self._databases.get(database) or self._of(database)
        holders = where.holders.get(key)
        if (holders is not None and holders is not owner) or where.ranges or where.queues or where.range_queue:
            if owner.ranges and key is not None and _covered(owner, database, key, exclusive):
                return True
            if self._in_the_way(Request(owner, database, key, None, exclusive)):
                return False
        self._hold(where, owner, database, key, exclusive)
        return True

    def take_range(self, owner: Owner, database: int, start: bytes, end: bytes | None, exclusive: bool) -> bool:
        """Locks a range if that is possible at once; whether it is locked."""
        if any(
            span.database == database and span.exclusive >= exclusive and span.covers(start, end)
            for span in owner.ranges
        ):
            return True
        request = self._range_request(owner, database, start, end, exclusive)
        if self._in_the_way(request):
            return False
        assert request.span is not None
        self._hold_range(request.span)
        return True

    def _range_request(self, owner: Owner, database: int, start: bytes, end: bytes | None, exclusive: bool) -> Request:
        return Request(owner, database, None, Range(owner, database, start, end, exclusive), exclusive)

    def _hold(self, where: _Database, owner: Owner, database: int, key: bytes | None, exclusive: bool) -> None:
        """Holds a key from here on; exclusively, if it was shared before."""
        holders = where.holders.get(key)
        if holders is None:
            where.holders[key] = owner
        elif holders is not owner:
            if isinstance(holders, Owner):
                where.holders[key] = {holders: None, owner: None}
            else:
                holders[owner] = None
        if where.ordered is not None and key is not None:
            where.note(key, new=holders is None, exclusive=exclusive)
        if not owner.keys and not owner.ranges:
            owner.client.owners[owner] = None
            self.active += 1
        owner.keys[database, key] = exclusive

    def _hold_range(self, span: Range) -> None:
        """Ranges of one owner that touch become one, so that a scan page by page holds one range."""
        owner, where = span.owner, self._of(span.database)
        if not owner.keys and not owner.ranges:
            owner.client.owners[owner] = None
            self.active += 1
        for other in owner.ranges[::-1]:
            if other.database != span.database or other.exclusive is not span.exclusive or not _touch(other, span):
                continue
            span.start = min(span.start, other.start)
            span.end = None if other.end is None or span.end is None else max(span.end, other.end)
            owner.ranges.remove(other)
            where.remove_range(other)
            self.ranges -= 1
        owner.ranges.append(span)
        where.add_range(span)
        self.ranges += 1

    # waiting

    def wait_for_key(self, owner: Owner, database: int, key: bytes | None, exclusive: bool) -> Wait:
        """Queues up for a lock that could not be taken at once. Raises Deadlock."""
        return self._enqueue(Request(owner, database, key, None, exclusive))

    def wait_for_range(self, owner: Owner, database: int, start: bytes, end: bytes | None, exclusive: bool) -> Wait:
        """Queues up for a range that could not be locked at once. Raises Deadlock."""
        return self._enqueue(self._range_request(owner, database, start, end, exclusive))

    def _enqueue(self, request: Request) -> Wait:
        """The Wait fires once it is granted; it raises Deadlock, LockTimeout, or why its transaction was ended."""
        left_ms: float = self.timeout_ms
        if left_ms and request.owner.since_ns:
            left_ms -= (self.monotonic_ns() - request.owner.since_ns) / 1e6
            if left_ms <= 0:
                raise self._late(request)
        # A transaction holds locks while it waits: not for a client that is gone.
        wait = request.wait = Wait(left_ms or None, outside=not request.owner.plain)
        wait.late = lambda: self._late(request)
        self.waits += 1
        self._number += 1
        request.number = self._number
        where = self._of(request.database)
        if request.span is None:
            where.queues.setdefault(request.key, deque()).append(request)
        else:
            where.range_queue.append(request)
        request.since_ns = self.monotonic_ns()
        self.waiting += 1
        assert request.owner.client.waiting is None, "a client waits for one lock at a time"
        request.owner.client.waiting = request
        self._break_circles(request)
        return wait

    def _late(self, request: Request) -> LockTimeout:
        self.timeouts += 1
        self._withdraw(request)
        return LockTimeout(f"{request.shown()} was not to be had within lock-timeout ({self.timeout_ms} ms)")

    def _withdraw(self, request: Request) -> None:
        """Somebody waits no more, and holds nothing for having waited; those behind may go on."""
        if request.owner.client.waiting is not request:
            return
        self._dequeue(request)
        if request.span is None:
            self._serve(request.database, [request.key], [])
        else:
            self._serve(request.database, [], [request.span])

    def _dequeue(self, request: Request) -> None:
        where = self._of(request.database)
        if request.span is None:
            queue = where.queues[request.key]
            queue.remove(request)
            if not queue:
                del where.queues[request.key]
        else:
            where.range_queue.remove(request)
        request.owner.client.waiting = None
        self.waiting -= 1
        waited = self.monotonic_ns() - request.since_ns
        self.wait_ns += waited
        self.wait_times[bisect_left(WAIT_BUCKETS_MS, waited / 1e6)] += 1

    def release(self, owner: Owner) -> None:
        """Frees all that an owner holds that waits for nothing."""
        if owner.keys or owner.ranges:
            self.end(owner)

    def end(self, owner: Owner, error: Error | None = None) -> None:
        """Frees all that an owner holds, and ends its wait with `error`."""
        request = owner.client.waiting
        if request is not None and request.owner is owner:
            request.wait.error = error
            self._dequeue(request)
            request.wait.fire()
        else:
            request = None
        if owner.keys or owner.ranges:
            del owner.client.owners[owner]
            self.active -= 1
            self.freed += 1
        keys: dict[int, list[bytes | None]] = {}
        for database, key in owner.keys:
            where = self._databases[database]
            holders = where.holders[key]
            if isinstance(holders, Owner):
                del where.holders[key]
                if where.ordered is not None and key is not None:
                    del where.keys[key]
                    where.exclusive_keys.pop(key, None)
            else:
                del holders[owner]
                if len(holders) == 1:
                    where.holders[key] = next(iter(holders))
            if where.queues or where.range_queue:
                keys.setdefault(database, []).append(key)
        ranges, owner.ranges = owner.ranges, []
        spans: dict[int, list[Range]] = {}
        for span in ranges:
            self._databases[span.database].remove_range(span)
            self.ranges -= 1
            spans.setdefault(span.database, []).append(span)
        for database in {database for database, _ in owner.keys}:
            self._databases[database].forget_order()
        owner.keys = {}
        if request is not None:
            if request.span is None:
                keys.setdefault(request.database, []).append(request.key)
            else:
                spans.setdefault(request.database, []).append(request.span)
        for database in {**keys, **spans}:
            self._serve(database, keys.get(database, []), spans.get(database, []))

    def _serve(self, database: int, keys: Iterable[bytes | None], spans: list[Range]) -> None:
        """Grants what can be granted now that some keys and ranges were freed, in the order of the queues."""
        where = self._databases[database]
        if not where.queues and not where.range_queue:
            return
        touched = dict.fromkeys(key for key in keys if key in where.queues)
        if spans:
            for key in where.queues:
                if key is not None and any(span.holds(key) for span in spans):
                    touched[key] = None
        candidates = [request for key in touched for request in where.queues[key]] + where.range_queue
        if len(touched) + bool(where.range_queue) > 1:
            candidates.sort(key=lambda request: request.number)
        stopped: set[bytes | None] = set()
        for request in candidates:
            if request.owner.client.waiting is not request:
                continue  # what was granted before it had consequences
            if request.span is None and request.key in stopped and not request.overtakes:
                continue
            if self._still_in_the_way(request):
                # Behind an exclusive request that waits everybody else waits, too.
                if request.span is None and request.exclusive and not request.overtakes:
                    stopped.add(request.key)
            else:
                self._grant(request)

    def _grant(self, request: Request) -> None:
        self._dequeue(request)
        if request.span is None:
            self._hold(self._of(request.database), request.owner, request.database, request.key, request.exclusive)
        else:
            self._hold_range(request.span)
        request.wait.fire()

    # what is in the way

    def _in_the_way(self, request: Request) -> bool:
        request.blocker = next(self._holders(request), None)
        request.behind = None if request.blocker is not None else next(self._ahead(request), None)
        return request.blocker is not None or request.behind is not None

    def _still_in_the_way(self, request: Request) -> bool:
        """The same, for one that waits: who was in its way still is, unless it has let go of everything."""
        blocker, behind = request.blocker, request.behind
        if blocker is not None and (blocker.keys or blocker.ranges):
            return True
        if behind is not None and not request.overtakes and behind.owner.client.waiting is behind:
            return True
        return self._in_the_way(request)

    def free_for(self, owner: Owner, database: int, key: bytes | None, exclusive: bool) -> bool:
        """Whether no lock of others is held on a key, or on the mapping entry (None), that stands in the way."""
        where = self._databases.get(database)
        if where is None or (key not in where.holders and (key is None or not where.ranged(key))):
            return True
        return next(self._holders(Request(owner, database, key, None, exclusive)), None) is None

    def locked(self, database: int, key: bytes) -> bool:
        """Whether a key is under any lock, or within a range that is (T2)."""
        where = self._databases.get(database)
        return where is not None and (key in where.holders or where.ranged(key))

    def waits_for(self, owner: Owner | None) -> list[str]:
        """The names of those whom an owner waits for now, of a few at the most."""
        request = None if owner is None else owner.client.waiting
        if request is None or request.owner is not owner:
            return []
        names: dict[str, None] = {}
        for other in islice(self._edges(request, queued=True), EDGES_SHOWN):
            names[other.name] = None
            if len(names) == CYCLE_SHOWN:
                break
        return list(names)

    def _holders(self, request: Request) -> Iterator[Owner]:
        """Those who hold what a request can't share with them."""
        where, owner = self._of(request.database), request.owner
        span, exclusive = request.span, request.exclusive
        if span is None:
            yield from _others(where, owner, request.database, request.key, exclusive)
            if request.key is not None and where.ranged(request.key):
                for held in where.ranges if exclusive else where.exclusive_ranges:
                    if held.owner is not owner and held.holds(request.key):
                        yield held.owner
            return
        for held in where.ranges if exclusive else where.exclusive_ranges:
            if held.owner is not owner and held.overlaps(span.start, span.end):
                yield held.owner
        if not where.holders:
            return
        for key in where.order(request.database, exclusive=not exclusive).ascending(span.start):
            if span.end is not None and key >= span.end:
                return
            if key in where.holders:
                yield from _others(where, owner, request.database, key, exclusive)

    def _ahead(self, request: Request) -> Iterator[Request]:
        """The earlier requests that one waits for.

        Of those for the same key not behind the last exclusive one, which itself waits for all that are before it.
        """
        if request.overtakes:
            return
        where = self._of(request.database)
        if request.span is None:
            for other in reversed(where.queues.get(request.key, ())):
                if (not request.number or other.number < request.number) and request.clashes(other):
                    yield other
                    if other.exclusive and not other.overtakes:
                        break
            queues: Iterable[Iterable[Request]] = (where.range_queue,)
        else:
            queues = (where.range_queue, *where.queues.values())
        for queue in queues:
            for other in queue:
                if request.number and other.number >= request.number:
                    break  # they stand in the order of their numbers
                if request.clashes(other):
                    yield other

    # deadlocks

    def _break_circles(self, request: Request) -> None:
        """A request has begun to wait. Raises Deadlock where that can't be."""
        client = request.owner.client
        while client.waiting is request:
            mine = next((holder for holder in self._holders(request) if holder.client is client), None)
            if mine is not None:
                self.deadlocks += 1
                self._withdraw(request)
                raise DeadlockWithItself(request, mine)
            if not self._waited_for(client):
                return
            if circle := self._circle(request, queued=False):
                self._kill_youngest(circle)
            elif circle := self._circle(request, queued=True):
                self._overtake(circle)
            else:
                return

    def _waited_for(self, client: Client) -> bool:
        """Whether anybody may wait for what a client's owners hold: else it is on no circle."""
        for owner in client.owners:
            for database in {span.database for span in owner.ranges}:
                if self._databases[database].queues or self._databases[database].range_queue:
                    return True
            for database, key in owner.keys:
                where = self._databases[database]
                if where.range_queue or key in where.queues:
                    return True
        return False  # its request is in nobody's way either: it is the last of its queue

    def _circle(self, first: Request, *, queued: bool) -> list[tuple[Request, Owner]]:
        """A circle of waits that leads back to the client of `first`: who waits, and for whom; none: empty."""
        goal = first.owner.client
        seen = {goal}
        path: list[tuple[Request, Owner]] = []
        edges = [self._edges(first, queued)]
        waits = [first]
        while edges:
            owner = next(edges[-1], None)
            if owner is None:
                edges.pop()
                waits.pop()
                if path:
                    path.pop()
                continue
            if owner.client is goal:
                return [*path, (waits[-1], owner)]
            further = owner.client.waiting
            if further is None or owner.client in seen:
                continue
            seen.add(owner.client)
            path.append((waits[-1], owner))
            edges.append(self._edges(further, queued))
            waits.append(further)
        return []

    def _edges(self, request: Request, queued: bool) -> Iterator[Owner]:
        yield from self._holders(request)
        if queued:
            for other in self._ahead(request):
                yield other.owner

    def _overtake(self, circle: list[tuple[Request, Owner]]) -> None:
        """Breaks a circle where somebody on it waits for a place in a queue only, and for no holder."""
        for request, owner in circle:
            if all(holder is not owner for holder in self._holders(request)):
                request.overtakes = True
                if not self._in_the_way(request):
                    self._grant(request)
                return
        raise AssertionError("a circle of holders was not found at first")

    def _kill_youngest(self, circle: list[tuple[Request, Owner]]) -> None:
        members = {member for request, owner in circle for member in (request.owner, owner)}
        victim = max(members, key=lambda member: member.begun)
        assert not victim.plain, "plain commands alone are in no deadlock"
        self.deadlocks += 1
        steps = [f"{request.owner.name} waits for {owner.name} ({request.shown()})" for request, owner in circle]
        if len(steps) > CYCLE_SHOWN:
            steps[CYCLE_SHOWN:] = [f"… {len(steps) - CYCLE_SHOWN} more"]
        error = Deadlock(f"{victim.name} was rolled back, since it is the youngest of a deadlock: {'; '.join(steps)}")
        self.end(victim, error)
        victim.on_victim(error)


def _covered(owner: Owner, database: int, key: bytes, exclusive: bool) -> bool:
    return any(
        span.database == database and (span.exclusive or not exclusive) and span.holds(key) for span in owner.ranges
    )


def _others(where: _Database, owner: Owner, database: int, key: bytes | None, exclusive: bool) -> Iterator[Owner]:
    """The holders of a key that somebody can't share it with."""
    holders = where.holders.get(key)
    if holders is None or holders is owner:
        return
    if not exclusive and not isinstance(holders, Owner):
        return  # they share it already
    for other in (holders,) if isinstance(holders, Owner) else holders:
        if other is not owner and (exclusive or other.keys[database, key]):
            yield other


def _touch(one: Range, other: Range) -> bool:
    return (one.end is None or other.start <= one.end) and (other.end is None or one.start <= other.end)
