"""Whoever is refused for a conflict has a reason: something that it rests on was touched, or its time is over (T2, T7).

EXEC        a watched key was touched since WATCH, or has expired
OPTIMISTIC  what it read or wrote was touched since BEGIN, or its database flushed or swapped
all         a record that it may have read alive has expired
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from keyhaus.journal.format import FLUSH, PUT, SWAP
from tests.support.isolation.operations import EXEC, OPTIMISTIC, Operation, Placed, Step
from tests.support.simulate.model import Model
from tests.support.simulate.oracle import Broken

WATCHED: Final = "WATCH"  # why an EXEC did nothing
CONFLICT: Final = "CONFLICT"
_WHOLE: Final = frozenset((b"DBSIZE", b"KEYS", b"RANDOMKEY", b"SCAN", b"FLUSHDB"))
_RANGES: Final = frozenset((b"RANGE", b"DELRANGE"))
_PAIRS: Final = frozenset((b"MSET", b"MSETNX"))
_SEVERAL: Final = frozenset((b"MGET", b"EXISTS", b"DEL"))
_TWO: Final = frozenset((b"RENAME", b"RENAMENX", b"COPY"))


class Span(NamedTuple):
    """Keys of a database, from `start` to before `end` (None: all behind)."""

    database: int
    start: bytes
    end: bytes | None

    def holds(self, database: int, key: bytes) -> bool:
        return database == self.database and key >= self.start and (self.end is None or key < self.end)


def check(operations: list[Operation], commits: list[Placed], begin: Model) -> None:
    """Looks for a reason for each conflict. Raises Broken."""
    for operation in operations:
        if operation.why not in (WATCHED, CONFLICT):
            continue
        spans: list[tuple[Span, int]] = []
        if operation.mode == EXEC:
            spans = [(Span(database, key, key + b"\0"), since) for (database, key), since in operation.marks.items()]
        elif operation.mode == OPTIMISTIC:
            steps = [*operation.steps, *operation.failed]
            spans = [(span, operation.point) for step in steps for span in _spans(step)]
        before = [commit for commit in commits if commit.point < operation.ended]
        touched = any(_touches(commit, span) for span, since in spans for commit in before if commit.point > since)
        if not touched and not any(0 < deadline <= operation.times[1] for deadline in _deadlines(before, begin)):
            raise Broken(f"NEEDLESS: nothing that it rests on was touched or has expired: {operation}")


def _spans(step: Step) -> Iterator[Span]:
    """What a command reads and writes, at the most."""
    args, database = step.args, step.database
    name = args[0]
    if name in _WHOLE:
        yield Span(database, b"", None)
    elif name in _RANGES:
        yield _page(step)
    else:
        keys = args[1::2] if name in _PAIRS else args[1:] if name in _SEVERAL else args[1 : 3 if name in _TWO else 2]
        for key in keys:
            yield Span(database, key, key + b"\0")
        if b"DB" in args:
            yield Span(int(args[args.index(b"DB") + 1]), args[2], args[2] + b"\0")


def _page(step: Step) -> Span:
    """What a page rests on: up to the key behind it, if it says that there is one."""
    start, end = step.args[1], step.args[2] or None
    following = step.reply[0] if isinstance(step.reply, list) else None
    if following is None:
        return Span(step.database, start, end)
    if b"REV" in step.args:
        return Span(step.database, following.removesuffix(b"\0"), end)
    return Span(step.database, start, following + b"\0")


def _touches(commit: Placed, span: Span) -> bool:
    for operation in commit.operations:
        if operation[0] in (FLUSH, SWAP):
            if span.database in operation[1:]:
                return True
        elif span.holds(operation[1], operation[2]):
            return True
    return False


def _deadlines(commits: list[Placed], begin: Model) -> Iterator[int]:
    """All that were ever set."""
    for space in begin.spaces:
        for row in space.rows.values():
            yield row[1]
    for commit in commits:
        for operation in commit.operations:
            if operation[0] == PUT:
                yield operation[4]
