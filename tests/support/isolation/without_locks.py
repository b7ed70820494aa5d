"""What locks, queues and turns are without one of their rules (T3, T5, T6): replacements for `left_out.py`."""

from __future__ import annotations

from typing import Any

from keyhaus.core.errors import Deadlock, Error
from keyhaus.core.wait import Wait
from keyhaus.session.session import Session
from keyhaus.store import turns
from keyhaus.store.interactive import PessimisticTransaction
from keyhaus.store.lock_requests import Owner, Request
from keyhaus.store.locks import Locks
from keyhaus.store.optimistic import OptimisticTransaction

# what is locked

_lock = PessimisticTransaction._lock
_committed = PessimisticTransaction._committed


def lock_no_mapping(transaction: Any, key: bytes | None, exclusive: bool) -> bool:
    return (key is None and not exclusive) or _lock(transaction, key, exclusive)


def read_without_lock(transaction: Any, key: bytes) -> Any:
    if transaction.writing:
        return _committed(transaction, key)
    return transaction.look(transaction._space(), key)


def lock_no_range(transaction: Any, start: bytes, end: bytes | None, exclusive: bool) -> bool:
    return bool(_lock(transaction, None, False))


def read_by_page_alone(start: bytes, end: bytes | None, following: bytes | None, *, reverse: bool) -> Any:
    return (start if following is None else following, end) if reverse else (start, following or end)


def leave_and_release(transaction: Any) -> None:
    """Locks are held for one command only."""
    transaction.busy = False
    transaction.idle_since_ns = transaction.store.monotonic_ns()
    if transaction.ended is None and transaction.owner is not None:
        transaction.store.locks.release(transaction.owner)
        transaction._mapped.clear()


# who waits for whom

_break_circles, _overtake = Locks._break_circles, Locks._overtake


def circle_of_owners(locks: Any, first: Request, *, queued: bool) -> list[tuple[Request, Owner]]:
    """Circles of owners alone, as if each of them could wait by itself."""
    goal, seen = first.owner, {first.owner}

    def walk(request: Request) -> list[tuple[Request, Owner]]:
        for owner in locks._edges(request, queued):
            if owner is goal:
                return [(request, owner)]
            further = owner.client.waiting
            if further is None or further.owner is not owner or owner in seen:
                continue
            seen.add(owner)
            if rest := walk(further):
                return [(request, owner), *rest]
        return []

    return walk(first)


def break_circles_of_others(locks: Any, request: Request) -> None:
    """Nobody asks whether it is a transaction of the same connection that is waited for."""
    client = request.owner.client
    while client.waiting is request and (circle := locks._circle(request, queued=False)):
        if all(owner.client is client for _, owner in circle):
            return
        locks._kill_youngest(circle)


def break_circles_of_holders(locks: Any, request: Request) -> None:
    """Places in queues are no edges."""
    client = request.owner.client
    if any(holder.client is client for holder in locks._holders(request)):
        _break_circles(locks, request)
    while client.waiting is request and (circle := locks._circle(request, queued=False)):
        locks._kill_youngest(circle)


def kill_instead(locks: Any, circle: list[tuple[Request, Owner]]) -> None:
    """A circle through a place in a queue has a victim too, where there is any."""
    if all(owner.plain for request, held in circle for owner in (request.owner, held)):
        _overtake(locks, circle)
    else:
        locks._kill_youngest(circle)


def kill_oldest(locks: Any, circle: list[tuple[Request, Owner]]) -> None:
    members = {owner for request, held in circle for owner in (request.owner, held) if not owner.plain}
    victim = min(members, key=lambda member: member.begun)
    error = Deadlock("the oldest dies")
    locks.end(victim, error)
    victim.on_victim(error)


# turns

_again = Session._again
_commit = Session._commit
_check_commit = OptimisticTransaction.check_commit


def no_turn(locks: Locks, transaction: Any) -> None:
    return None


def take_in_any_order(locks: Locks, owner: Owner, cells: dict[tuple[int, bytes | None], bool]) -> Wait | None:
    for cell in sorted(cells, key=turns._order, reverse=bool(locks._number % 2)):
        if not locks.take_key(owner, *cell, cells[cell]):
            return locks.wait_for_key(owner, *cell, cells[cell])
    return None


def commit_noting(session: Any, reply: Any) -> Any:
    result = _commit(session, reply)
    if isinstance(result, Wait):
        session._noted = reply
    return result


async def commit_as_it_was(session: Any, spec: Any, args: list[bytes], wait: Wait) -> Any:
    """After its turn has come a plain command writes what it was about to write before."""
    if session.tx.owner is None:
        return await _again(session, spec, args, wait)
    try:
        result: Any = wait
        while isinstance(result, Wait):
            await result
            session.tx.started = 0
            result = commit_noting(session, session._noted)
        return result
    except Error as error:
        session.tx.rollback()
        return session.failed(error)
    finally:
        session.tx.let_go()


def check_before_waiting(transaction: Any) -> None:
    if not transaction.rounds:
        _check_commit(transaction)
