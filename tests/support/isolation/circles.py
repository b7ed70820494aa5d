"""Deadlocks, looked at by somebody who knows nothing of queues: whoever dies of one is on a circle of holders.

Each member of the circle waits for a lock, and the next one holds what it can't share with it; the victim is the
youngest transaction on it (T5). At the end of a history all locks are free.
"""

from __future__ import annotations

from typing import Any

from keyhaus.core.errors import Error
from keyhaus.store.lock_requests import Owner, Request
from keyhaus.store.locks import Locks
from keyhaus.store.store import Store
from tests.support.simulate.oracle import Broken


def watch_circles(locks: Locks) -> None:
    """Looks at each deadlock before its victim dies."""
    kill, end = locks._kill_youngest, locks.end

    def observed_kill(circle: list[tuple[Request, Owner]]) -> None:
        _check_circle(circle)
        youngest = max(
            (owner for request, held in circle for owner in (request.owner, held)), key=lambda one: one.begun
        )
        ended: list[Owner] = []

        def observed_end(owner: Owner, error: Error | None = None) -> None:
            ended.append(owner)
            end(owner, error)

        locks.end = observed_end  # type: ignore[method-assign]
        kill(circle)
        locks.end = end  # type: ignore[method-assign]
        if ended[0] is not youngest:
            raise Broken(f"CIRCLE: {ended[0].name} dies, and {youngest.name} is younger")

    locks._kill_youngest = observed_kill  # type: ignore[method-assign]


def _check_circle(circle: list[tuple[Request, Owner]]) -> None:
    for place, (request, owner) in enumerate(circle):
        following = circle[(place + 1) % len(circle)][0]
        if request.owner.client.waiting is not request:
            raise Broken(f"CIRCLE: {request.shown()} is waited for by nobody")
        if not _holds(owner, request):
            raise Broken(
                f"CIRCLE: {owner.name} holds nothing of {request.shown()}, that {request.owner.name} waits for"
            )
        if following.owner.client is not owner.client:
            raise Broken(f"CIRCLE: {owner.name} doesn't wait with {following.owner.name}")
    if all(owner.plain for _, owner in circle) and all(request.owner.plain for request, _ in circle):
        raise Broken("CIRCLE: plain commands wait for each other alone")


def _holds(owner: Owner, request: Request) -> bool:
    """Whether an owner holds a lock that a request can't share, by looking at all that it holds."""
    if owner is request.owner:
        return False
    span = request.span
    for (database, key), exclusive in owner.keys.items():
        if database == request.database and (exclusive or request.exclusive):
            if span is None and key == request.key:
                return True
            if span is not None and key is not None and span.start <= key and (span.end is None or key < span.end):
                return True
    for held in owner.ranges:
        if held.database != request.database or not (held.exclusive or request.exclusive):
            continue
        if span is None:
            key = request.key
            if key is not None and held.start <= key and (held.end is None or key < held.end):
                return True
        elif (held.end is None or span.start < held.end) and (span.end is None or held.start < span.end):
            return True
    return False


def check_free(store: Store) -> None:
    """Nobody holds or waits for anything any more. Raises Broken."""
    locks = store.locks
    left: dict[str, Any] = {
        "open": list(store.transactions.open),
        "bytes": store.transactions.bytes,
        "active": locks.active,
        "waiting": locks.waiting,
        "guards": store.guards,
        "snapshots": len(store.snapshots),
    }
    for database, where in locks._databases.items():
        left[f"holders in {database}"] = where.holders
        left[f"ranges in {database}"] = where.ranges
        left[f"queues in {database}"] = where.queues
        left[f"range queue in {database}"] = where.range_queue
    if any(left.values()):
        raise Broken(f"LOCKS are not free: { ({name: what for name, what in left.items() if what}) }")
