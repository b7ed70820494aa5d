"""Check 1: each operation is run again on plain dicts, at its serial point and that point's time.

    COMMIT            at its commit, in the order of the numbers; without writes when it was answered
    READONLY          at its BEGIN
    plain, EXEC       at their commit, or where they ran
    rolled back       what it had read still holds at its last command, since its locks do; of its writes is nothing

What an operation leaves must be what its commit did, as far as anybody can see at that time. Where a reply differs,
`search` looks for another order: what is reported as an ANOMALY has no explanation in any.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from keyhaus.journal.format import FLUSH, LAPSE, SWAP
from tests.support.isolation.operations import (
    DONE,
    EXEC,
    PESSIMISTIC,
    PLAIN,
    READONLY,
    SWEEP,
    Operation,
    Placed,
    Step,
)
from tests.support.isolation.search import Found, search
from tests.support.isolation.views import View
from tests.support.simulate.model import Model
from tests.support.simulate.oracle import Broken


def play(operation: Operation, model: Model, time: int) -> str:
    """Runs an operation on the model at a time; what is wrong with it, nothing: empty."""
    commit = operation.commit
    if operation.mode == SWEEP:
        assert commit is not None
        wrong = _swept(commit, model, time, evicts=operation.why == "evict")
        model.apply(commit.seqno, commit.operations)
        return wrong
    for step in operation.watched:
        if wrong := View(model, operation, time).differs(step):
            return f"watched: {wrong}"
    view = View(model, operation, time)
    for step in operation.steps:
        if wrong := view.differs(step):
            return wrong
        if wrong := _rests(operation, step, view):
            return wrong
    if operation.partial:
        return ""
    if commit is not None:
        model.apply(commit.seqno, commit.operations)
    for number, (space, seen) in enumerate(zip(model.spaces, view.spaces, strict=True)):
        if space.rows != seen.rows:
            for key in {**space.rows, **seen.rows}:
                row, other = space.rows.get(key), seen.rows.get(key)
                if row != other and _visible(row, time) != _visible(other, time):
                    return f"its commands leave {key!r} in {number} as {other}, its commit as {row}"
    return ""


def _visible(row: tuple[bytes, int] | None, time: int) -> tuple[bytes, int] | None:
    return None if row is None or (row[1] and row[1] <= time) else row


def _swept(commit: Placed, model: Model, time: int, *, evicts: bool) -> str:
    """A commit that nobody asked for may delete what has expired, or is evicted, and nothing else."""
    for operation in commit.operations:
        row = model.spaces[operation[1]].rows.get(operation[2]) if operation[0] not in (FLUSH, SWAP) else None
        if row is None or (not evicts and (operation[0] != LAPSE or _visible(row, time) is not None)):
            return f"swept {operation[2]!r} in {operation[1]} at {time}: it was {row}"
    return ""


def _rests(operation: Operation, step: Step, view: View) -> str:
    """What a reply rests on it depends on (C2); what rests on an expiry is a commit (S6)."""
    committed = operation.commit is not None and operation.mode in (PLAIN, EXEC)
    if view.rested and not step.carried and not committed:
        return f"{step} rests on an expiry, and no commit carries the time"
    if view.bound > max(step.depends, step.synced) and not committed:
        return f"{step} depends on {step.depends}, and rests on {view.bound}"
    return ""


def settled(operations: Iterable[Operation]) -> Iterator[Operation]:
    """Those that can be run again: what is done, and what was read by what is gone."""
    for operation in operations:
        if operation.outcome == DONE:
            yield operation
        elif (part := cut_off(operation, operation.steps)) is not None:
            yield part


def cut_off(operation: Operation, steps: list[Step]) -> Operation | None:
    """What a transaction had read by some step; None where nothing is promised of it."""
    if not steps or operation.mode not in (PESSIMISTIC, READONLY):
        return None
    last = steps[-1]
    point, time = (operation.point, operation.time) if operation.mode == READONLY else (last.point, last.when)
    times = (operation.times[0], max(time, operation.times[0]))
    return replace(operation, steps=steps, commit=None, partial=True, point=point, time=time, times=times)


def check(operations: list[Operation], begin: Model, what: str) -> None:
    """Runs all of them again in their serial order. Raises Broken."""
    model = begin.copy()
    for operation in sorted(operations, key=lambda operation: (operation.point, operation.number)):
        if not operation.begun <= operation.point <= operation.ended and operation.mode != SWEEP:
            raise Broken(f"ORDER: outside of its own time: {operation}")
        if wrong := play(operation, model, operation.time):
            found = search(operations, begin, play)
            name = {Found.NONE: "ANOMALY", Found.OTHER: "ELSEWHERE", Found.UNKNOWN: "ANOMALY?"}[found]
            raise Broken(f"{name} ({what}): {wrong}: {operation}")
