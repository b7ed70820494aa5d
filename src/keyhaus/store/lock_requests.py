"""Who holds locks, for whom, on what, and who waits for one: what the lock manager (store/locks.py) deals with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from keyhaus.core.errors import Deadlock, quoted
from keyhaus.core.wait import Wait

_GRANTED: Final = Wait()
_GRANTED.fire()


class Client:
    """A node of the wait-for graph.

    Attributes:
        waiting: The request that it waits for; None while it waits for none.
        owners: Its owners that hold or want anything.
    """

    __slots__ = ("owners", "waiting")

    def __init__(self) -> None:
        self.waiting: Request | None = None
        self.owners: dict[Owner, None] = {}


class Owner:
    """Who holds locks.

    Attributes:
        client: Whose it is.
        begun: Orders transactions by age: the youngest of a deadlock dies. Plain commands have 0 and never die.
        name: How errors name it.
        keys: What keys it holds, by (database, key): whether exclusively. The key None is the mapping entry.
        ranges: What ranges it holds.
        on_victim: Called when it dies of a deadlock.
        since_ns: Since when it waits for its turn, through all rounds (T6); 0: each wait counts by itself.
    """

    __slots__ = ("begun", "client", "keys", "name", "on_victim", "ranges", "since_ns")

    def __init__(self, client: Client, begun: int = 0, name: str = "a plain command") -> None:
        self.client = client
        self.begun = begun
        self.name = name
        self.keys: dict[tuple[int, bytes | None], bool] = {}
        self.ranges: list[Range] = []
        self.since_ns = 0
        self.on_victim: Callable[[Deadlock], None] = lambda error: None

    @property
    def plain(self) -> bool:
        return not self.begun


class Range:
    """A lock on the keys from `start` to before `end` (None: all behind), also on those that are not there."""

    __slots__ = ("database", "end", "exclusive", "owner", "start")

    def __init__(self, owner: Owner, database: int, start: bytes, end: bytes | None, exclusive: bool) -> None:
        self.owner, self.database = owner, database
        self.start, self.end, self.exclusive = start, end, exclusive

    def holds(self, key: bytes) -> bool:
        return self.start <= key and (self.end is None or key < self.end)

    def overlaps(self, start: bytes, end: bytes | None) -> bool:
        return (self.end is None or start < self.end) and (end is None or self.start < end)

    def covers(self, start: bytes, end: bytes | None) -> bool:
        return self.start <= start and (self.end is None or (end is not None and end <= self.end))


class Request:
    """Somebody waits for a lock: on a key, on the mapping entry (`key` None), or on a range.

    Attributes:
        owner: Who.
        database, key, span, exclusive: For what.
        number: Its place: requests are served in this order.
        overtakes: Whether it goes before earlier ones, since they wait for it.
        wait: Fires once it is granted, or will never be.
        blocker: A holder that was in its way when that was looked at last; None for none.
        behind: An earlier request that was, where no holder was.
    """

    __slots__ = (
        "behind",
        "blocker",
        "database",
        "exclusive",
        "key",
        "number",
        "overtakes",
        "owner",
        "since_ns",
        "span",
        "wait",
    )

    def __init__(self, owner: Owner, database: int, key: bytes | None, span: Range | None, exclusive: bool) -> None:
        self.owner, self.database, self.key, self.span, self.exclusive = owner, database, key, span, exclusive
        self.number = self.since_ns = 0
        self.overtakes = False
        self.wait = _GRANTED
        self.blocker: Owner | None = None
        self.behind: Request | None = None

    def clashes(self, other: Request) -> bool:
        """Whether both can't be granted."""
        if self.owner is other.owner or self.database != other.database or not (self.exclusive or other.exclusive):
            return False
        if self.span is None and other.span is None:
            return self.key == other.key
        if self.span is not None and other.span is not None:
            return self.span.overlaps(other.span.start, other.span.end)
        span, key = (self.span, other.key) if self.span is not None else (other.span, self.key)
        assert span is not None
        return key is not None and span.holds(key)

    def shown(self) -> str:
        """What it is for, as errors say it."""
        if self.span is not None:
            end = "the end" if self.span.end is None else quoted(self.span.end)
            return f"the lock on {quoted(self.span.start)} to {end} in database {self.database}"
        what = "its mapping" if self.key is None else f"key {quoted(self.key)}"
        return f"the lock on {what} in database {self.database}"
