"""Threads that share an embedded database: they wait for each other's locks, meet in deadlocks, and lose no update.

What holds over the wire holds here: each thread's session is a node of the graph of who waits for whom (T5).
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from keyhaus.core.errors import Conflict, Deadlock, LockTimeout, UserError
from keyhaus.core.transactional import transactional
from keyhaus.embedded.database import Database, open_database
from keyhaus.embedded.transactions import Transaction, run_again
from tests.support.embedded import Running, until, waiting

THREADS = 6


@pytest.fixture
def database() -> Iterator[Database]:
    with open_database(engine="memory") as database:
        yield database


def test_who_waits_for_a_lock_holds_up_nobody_else(database: Database) -> None:
    with database.transaction() as transaction:
        transaction.put("k", "first")
        writer = Running(database.put, "k", "second")
        until(lambda: waiting(database) == 1)
        assert database.get("k") is None
        database.put("other", "v")
        assert Running(database.incr, "n").result() == 1
        assert Running(database.get, "other").result() == b"v"
        assert waiting(database) == 1
    writer.result()
    assert database.get("k") == b"second"


def test_a_lock_is_waited_for_within_a_transaction(database: Database) -> None:
    database.put("n", 1)
    begun = threading.Event()

    def add() -> None:
        with database.transaction() as transaction:
            begun.set()
            transaction.incr("n")

    with database.transaction() as transaction:
        transaction.lock("n")
        other = Running(add)
        begun.wait()
        until(lambda: waiting(database) == 1)
        assert transaction.incr("n", 10) == 11
    other.result()
    assert database.get("n") == b"12"


def test_of_a_deadlock_between_threads_the_youngest_dies_and_the_other_goes_on(database: Database) -> None:
    def other() -> None:
        with database.transaction() as younger:
            younger.put("b", "theirs")
            locked.set()
            until(lambda: waiting(database) == 1)
            younger.put("a", "theirs")

    locked = threading.Event()
    with database.transaction() as older:
        older.put("a", "mine")
        running = Running(other)
        locked.wait()
        older.put("b", "mine")  # waits until the younger one has died
    with pytest.raises(Deadlock, match="since it is the youngest"):
        running.result()
    assert database.execute("MGET", "a", "b") == [b"mine", b"mine"]


def test_a_victim_that_waits_is_woken(database: Database) -> None:
    def other() -> None:
        with database.transaction() as younger:
            younger.put("b", "theirs")
            locked.set()
            younger.put("a", "theirs")

    locked = threading.Event()
    with database.transaction() as older:
        older.put("a", "mine")
        running = Running(other)
        locked.wait()
        until(lambda: waiting(database) == 1)
        older.put("b", "mine")
        with pytest.raises(Deadlock):
            running.result()


def test_one_thread_that_waits_for_itself_is_told_at_once(database: Database) -> None:
    with database.transaction() as one:
        one.put("k", "one")
        with pytest.raises(Deadlock, match="of the same connection"):
            database.put("k", "plain")
        with pytest.raises(Deadlock), database.transaction() as other:
            other.put("k", "other")
        assert one.get("k") == b"one"
    assert database.get("k") == b"one"


def test_a_swallowed_deadlock_is_no_commit(database: Database) -> None:
    def swallow() -> None:
        with database.transaction() as other:
            other.put("j", "other")
            with contextlib.suppress(Deadlock):
                other.put("k", "other")

    with database.transaction() as one:
        one.put("k", "one")
        with pytest.raises(Deadlock):
            swallow()
    assert database.execute("MGET", "j", "k") == [None, b"one"]


def test_a_lock_that_is_not_to_be_had_in_time_ends_the_wait() -> None:
    with open_database(engine="memory", lock_timeout=30) as database, database.transaction() as transaction:
        transaction.put("k", "mine")
        with pytest.raises(LockTimeout, match="30 ms"):
            Running(database.put, "k", "theirs").result()
        database.put("other", "v")


def test_a_function_is_run_again_after_a_conflict(database: Database) -> None:
    database.put("n", 1)
    attempts: list[bytes | None] = []

    def add(transaction: Transaction) -> int:
        attempts.append(transaction.get("n"))
        if len(attempts) == 1:
            Running(database.put, "n", 5).result()
        return transaction.incr("n")

    assert database.run(add, mode="optimistic") == 6
    assert attempts == [b"1", b"5"]
    assert database.get("n") == b"6"


def test_what_can_not_be_tried_again_is_tried_once(database: Database) -> None:
    attempts: list[int] = []

    def fail(transaction: Transaction) -> None:
        attempts.append(1)
        transaction.put("n", "text")
        transaction.incr("n")

    with pytest.raises(UserError, match="not an integer"):
        database.run(fail)
    assert len(attempts) == 1
    assert database.get("n") is None


def test_attempts_and_pauses_are_bounded() -> None:
    attempts: list[int] = []
    pauses: list[float] = []

    def attempt() -> None:
        attempts.append(1)
        raise Conflict("again")

    with pytest.raises(Conflict):
        run_again(attempt, 12, pauses.append)
    assert (len(attempts), len(pauses)) == (13, 12)
    assert all(0 <= pause <= min(2**number, 100) / 1000 for number, pause in enumerate(pauses))
    assert len(set(pauses)) == 12


@transactional
def take(transaction: Transaction, account: str, amount: int) -> None:
    if int(transaction.get(account) or 0) < amount:
        raise ValueError("not enough")
    transaction.incr(account, -amount)


@transactional
def move(transaction: Transaction, source: str, target: str, amount: int = 1) -> str:
    """Moves money."""
    transaction.incr(target, amount)
    take(transaction, source, amount)
    return f"{amount} moved"


def test_transactional_functions_call_each_other_in_one_transaction(database: Database) -> None:
    database.put("a", 10)
    assert move(database, "a", "b", amount=4) == "4 moved"
    assert database.execute("MGET", "a", "b") == [b"6", b"4"]
    with pytest.raises(ValueError, match="not enough"):
        move(database, "a", "b", 7)
    assert database.execute("MGET", "a", "b") == [b"6", b"4"]
    with database.transaction() as transaction:
        move(transaction, "a", "b")
        transaction.rollback()
    assert database.execute("MGET", "a", "b") == [b"6", b"4"]
    assert (move.__name__, move.__doc__) == ("move", "Moves money.")


@pytest.mark.parametrize("mode", ["pessimistic", "optimistic"])
def test_no_update_is_lost_among_threads_that_run_again(mode: str, database: Database, seed: int) -> None:
    accounts = [f"account:{number}" for number in range(4)]
    for account in accounts:
        database.put(account, 100)
    sums: list[int] = []

    def transfers(generator: random.Random) -> None:
        for _ in range(30):
            source, target = generator.sample(accounts, 2)

            def transfer(transaction: Transaction, source: str = source, target: str = target) -> None:
                amount = min(int(transaction.get(source) or 0), 7)
                transaction.incr(source, -amount)
                transaction.incr(target, amount)

            database.run(transfer, mode=mode, retries=1000)

    def reads() -> None:
        while not ended.is_set():
            with database.transaction("readonly") as snapshot:
                sums.append(sum(int(snapshot.get(account) or 0) for account in accounts))

    ended = threading.Event()
    reader = Running(reads)
    writers = [Running(transfers, random.Random(seed + number)) for number in range(THREADS)]
    results: list[Any] = [writer.result() for writer in writers]
    ended.set()
    reader.result()
    assert results == [None] * THREADS
    assert sum(int(database.get(account) or 0) for account in accounts) == 400
    assert set(sums) == {400}
