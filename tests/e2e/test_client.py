"""The Python clients, asynchronous and blocking, against a real server: plain commands, transactions, lost connections.

Every story is told to both clients and on both engines, unless it is about one of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

import keyhaus
from tests.support.clients import AnyClient, Flavour
from tests.support.processes import RunningKeyhaus, keyhaus_server
from tests.support.proxy import Cut, Proxy, at, proxy

Story: TypeAlias = Callable[[AnyClient], Awaitable[None]]
Tell: TypeAlias = Callable[[Story], None]

_IN_BETWEEN = (Cut.BEFORE, Cut.AFTER, Cut.HALF, Cut.SENT)


@pytest.fixture(scope="module", params=["memory", "rocksdb"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningKeyhaus]:
    directory = tmp_path_factory.mktemp("keyhaus")
    options = ("--engine", request.param, "--data-dir", str(directory / "data"), "--log-level", "warning")
    with keyhaus_server(directory, *options) as running:
        yield running
    assert "Traceback" not in "\n".join(running.lines)


@pytest.fixture(params=["sync", "async"])
def flavour(request: pytest.FixtureRequest) -> Flavour:
    return Flavour(request.param)


@pytest.fixture
def between(server: RunningKeyhaus) -> Iterator[Proxy]:
    with proxy(server.port) as running:
        yield running


def _run(flavour: Flavour, port: int, story: Story, **options: Any) -> None:
    async def run() -> None:
        async with asyncio.timeout(60), flavour.open(port, **options) as client:
            await story(client)

    asyncio.run(run())


@pytest.fixture
def tell(flavour: Flavour, server: RunningKeyhaus) -> Tell:
    """Runs a story with a client of an empty database."""

    def run(story: Story) -> None:
        async def emptied(client: AnyClient) -> None:
            await client.execute("FLUSHALL")
            await story(client)

        _run(flavour, server.port, emptied)

    return run


@pytest.fixture
def tell_cut(flavour: Flavour, between: Proxy) -> Tell:
    """Runs a story with a client behind the proxy."""

    def run(story: Story) -> None:
        async def emptied(client: AnyClient) -> None:
            await client.execute("FLUSHALL")
            between.requests.clear()
            await story(client)

        _run(flavour, between.port, emptied)

    return run


def _names(between: Proxy) -> list[bytes]:
    """The requests that the proxy saw, those of a new connection aside."""
    return [words[0] for words in between.requests if words[0] not in (b"CLIENT", b"HELLO")]


# commands


def test_values_go_in_as_text_bytes_or_numbers_and_come_out_as_bytes(tell: Tell) -> None:
    async def story(client: AnyClient) -> None:
        await client.put("ä", b"\x00\xff")
        assert await client.get("ä".encode()) == b"\x00\xff" and await client.get("none") is None
        assert await client.incr("n") == 1 and await client.incr("n", 41) == 42 and await client.get("n") == b"42"
        await client.mset({"a": 1, "b": "two"})
        assert await client.mget("a", "none", b"b") == [b"1", None, b"two"]
        assert await client.exists("a", "b", "none") == 2 and await client.delete("a", "none") == 1
        assert await client.execute("APPEND", "b", b"!") == 4
        with pytest.raises(TypeError):
            await client.put("a", True)

    tell(story)


def test_a_value_is_set_under_conditions_and_for_a_time(tell: Tell) -> None:
    async def story(client: AnyClient) -> None:
        assert await client.set("k", 1, only_existing=True) is False
        assert await client.set("k", 1, only_new=True, ttl_ms=60_000) is True
        assert await client.set("k", 2, only_new=True) is False
        assert await client.set("k", 3, keep_ttl=True) is True
        assert 0 < await client.execute("PTTL", "k") <= 60_000
        await client.put("k", 4)
        assert await client.execute("PTTL", "k") == -1

    tell(story)


def test_a_range_is_read_page_by_page_in_order(tell: Tell) -> None:
    async def story(client: AnyClient) -> None:
        rows = [(b"k%04d" % number, b"%d" % number) for number in range(2_500)]
        await client.mset(dict(rows))
        assert [pair async for pair in client.scan()] == rows
        assert [pair async for pair in client.scan(reverse=True)] == rows[::-1]
        assert [pair async for pair in client.scan("k0010", "k0020", limit=3)] == rows[10:13]
        assert [pair async for pair in client.scan("k0010", "k0020", limit=3, reverse=True)] == rows[19:16:-1]
        assert [pair async for pair in client.scan(limit=0)] == []
        async with client.transaction() as tx:
            assert len([pair async for pair in tx.scan("k1", "k2")]) == 1_000

    tell(story)


def test_an_error_of_the_server_is_of_its_class(tell: Tell) -> None:
    async def story(client: AnyClient) -> None:
        await client.put("k", "text")
        with pytest.raises(keyhaus.UserError, match="not an integer"):
            await client.incr("k")
        with pytest.raises(keyhaus.UserError, match="unknown command"):
            await client.execute("NO-SUCH")
        with pytest.raises(keyhaus.ReadOnly):
            await client.run(lambda tx: tx.put("k", "other"), mode="readonly")
        with pytest.raises(keyhaus.Conflict) as raised:
            await _conflict(client)
        assert raised.value.retryable and raised.value.code == "CONFLICT" and "'k'" in raised.value.message

    tell(story)


async def _conflict(client: AnyClient) -> None:
    async with client.transaction("optimistic") as tx:
        await tx.get("k")
        await tx.put("copy", 1)
        await client.put("k", "other")


@pytest.mark.parametrize(
    "words", [("begin",), ("MULTI",), ("select", 1), ("client", b"reply", "off"), (b"TX", "a", "b")]
)
def test_what_belongs_to_a_connection_is_not_sent_on_a_shared_one(tell: Tell, words: tuple[Any, ...]) -> None:
    async def story(client: AnyClient) -> None:
        with pytest.raises(keyhaus.UserError, match="belongs to one connection"):
            await client.execute(*words)

    tell(story)


def test_the_url_chooses_the_database_and_the_client_says_who_it_is(flavour: Flavour, server: RunningKeyhaus) -> None:
    async def story(client: AnyClient) -> None:
        said = await client.execute("CLIENT", "INFO")
        assert b" db=3 " in said and b" lib-name=keyhaus " in said

    _run(flavour, server.port, story, database=3)


# transactions


def test_a_block_commits_at_its_end_and_rolls_back_if_it_raises(tell: Tell) -> None:
    async def story(client: AnyClient) -> None:
        async with client.transaction(durability="always", timeout_ms=5_000) as tx:
            await tx.put("a", 1)
            assert await tx.get("a") == b"1" and await client.get("a") is None
        assert await client.get("a") == b"1" and await client.kill(tx.id) == tx.seqno
        tx = client.transaction()
        with pytest.raises(ZeroDivisionError):
            await _fail_in(tx, tx.delete("a"))
        assert await client.get("a") == b"1" and await client.kill(tx.id) == "rolledback" and tx.seqno is None
        with pytest.raises(keyhaus.UnknownTransaction, match="has ended"):
            await tx.get("a")

    tell(story)


async def _fail_in(transaction: Any, first: Awaitable[object]) -> None:
    async with transaction:
        await first
        raise ZeroDivisionError


def test_an_error_that_is_caught_leaves_the_transaction_open(tell: Tell) -> None:
    async def story(client: AnyClient) -> None:
        async with client.transaction() as tx:
            await tx.put("a", "text")
            with pytest.raises(keyhaus.UserError):
                await tx.incr("a")
            with pytest.raises(keyhaus.UserError):
                await tx.execute("FLUSHALL")
            await tx.put("b", 1)
        assert await client.mget("a", "b") == [b"text", b"1"]

    tell(story)


def test_two_that_lock_what_they_will_write_wait_for_each_other(tell: Tell, flavour: Flavour) -> None:
    async def story(client: AnyClient) -> None:
        async def add(_: int) -> None:
            for _ in range(5):
                async with client.transaction() as tx:
                    await tx.lock("sum")
                    await tx.put("sum", int(await tx.get("sum") or 0) + 1)

        await flavour.together(*map(add, range(4)))
        assert await client.get("sum") == b"20"

    tell(story)


def test_a_conflict_or_a_deadlock_is_retried_until_it_succeeds(tell: Tell, flavour: Flavour) -> None:
    async def story(client: AnyClient) -> None:
        for mode in ("pessimistic", "optimistic"):
            await client.put("sum", 0)

            async def add(tx: AnyClient) -> int:
                value = int(await tx.get("sum")) + 1  # no lock: two that do so can't both go on
                await tx.put("sum", value)
                return value

            async def work(mode: str = mode, add: Any = add) -> list[int]:
                return [await client.run(add, mode=mode, retries=100) for _ in range(5)]

            results = await flavour.together(*(work() for _ in range(4)))
            assert sorted(itertools.chain(*results)) == [*range(1, 21)] and await client.get("sum") == b"20"

    tell(story)


def test_a_connection_serves_on_after_a_conflict_at_commit(tell: Tell) -> None:
    async def story(client: AnyClient) -> None:
        async with client.transaction():
            other = await client.execute("CLIENT", "ID")
        first = await client.execute("CLIENT", "ID")
        assert first != other
        with pytest.raises(keyhaus.Conflict):
            await _conflict(client)
        assert await client.execute("CLIENT", "ID") == first and await client.get("k") == b"other"

    tell(story)


@pytest.mark.parametrize("again", [True, False])
def test_a_transaction_that_the_server_has_ended_takes_its_connection_along(tell: Tell, again: bool) -> None:
    """There it would refuse what comes next, a plain command too."""

    async def story(client: AnyClient) -> None:
        async def lose() -> None:
            async with client.transaction() as tx:
                await tx.put("k", 1)
                await client.kill(tx.id)
                if again:
                    await tx.get("k")

        for _ in range(3):
            with pytest.raises(keyhaus.UnknownTransaction) as raised:
                await lose()
            assert raised.value.retryable
            assert await client.get("k") is None

    tell(story)


def test_a_transaction_that_ended_with_an_error_fails_for_that_reason_at_its_end(tell: Tell) -> None:
    async def story(client: AnyClient) -> None:
        async def lose() -> None:
            async with client.transaction() as tx:
                await tx.put("other", 1)
                with pytest.raises(keyhaus.LockTimeout):
                    await tx.get("k")
                with pytest.raises(keyhaus.LockTimeout):
                    await tx.put("other", 2)

        await client.execute("CONFIG", "SET", "lock-timeout", 50)
        async with client.transaction() as holder:
            await holder.put("k", 1)
            with pytest.raises(keyhaus.LockTimeout):
                await lose()
            assert await client.get("other") is None
        await client.execute("CONFIG", "SET", "lock-timeout", 10_000)

    tell(story)


def test_only_what_may_succeed_is_tried_again_and_not_for_ever(tell: Tell) -> None:
    async def story(client: AnyClient) -> None:
        tries = 0

        async def lose(tx: AnyClient) -> None:
            nonlocal tries
            tries += 1
            await tx.put("copy", await tx.get("k") or 0)
            await client.incr("k")

        with pytest.raises(keyhaus.Conflict):
            await client.run(lose, mode="optimistic", retries=2)
        assert tries == 3 and await client.exists("copy") == 0
        tries = 0

        async def fail(tx: AnyClient) -> None:
            nonlocal tries
            tries += 1
            await tx.put("copy", 1)
            await tx.incr("text")

        await client.put("text", "text")
        with pytest.raises(keyhaus.UserError):
            await client.run(fail)
        assert tries == 1 and await client.exists("copy") == 0

    tell(story)


def test_a_decorated_function_takes_a_client_or_joins_a_transaction(server: RunningKeyhaus) -> None:
    @keyhaus.transactional(retries=3)
    def move(tx: keyhaus.Transaction, giver: str, taker: str, *, amount: int) -> int:
        tx.incr(taker, amount)
        return tx.incr(giver, -amount)

    @keyhaus.transactional(retries=3)
    async def move_async(tx: keyhaus.AsyncTransaction, giver: str, taker: str, *, amount: int) -> int:
        await tx.incr(taker, amount)
        return await tx.incr(giver, -amount)

    url = f"keyhaus://127.0.0.1:{server.port}"
    with keyhaus.Client(url) as client:
        client.mset({"a": 10, "b": 0})
        assert move(client, "a", "b", amount=4) == 6
        tx = client.transaction()
        with contextlib.suppress(ZeroDivisionError), tx:
            assert move(tx, "a", "b", amount=4) == 2
            raise ZeroDivisionError
        assert client.mget("a", "b") == [b"6", b"4"] and move.__name__ == "move"

    async def run() -> None:
        async with keyhaus.AsyncClient(url) as client:
            assert await move_async(client, "b", "a", amount=1) == 3
            tx = client.transaction()
            with pytest.raises(ZeroDivisionError):
                await _fail_in(tx, move_async(tx, "a", "b", amount=4))
            assert await client.mget("a", "b") == [b"7", b"3"]

    asyncio.run(run())


# lost connections


@pytest.mark.parametrize(("cut", "executed"), [(Cut.BEFORE, 0), (Cut.AFTER, 1), (Cut.HALF, 1)])
def test_a_write_is_sent_once_and_its_outcome_is_unknown(
    tell_cut: Tell, between: Proxy, cut: Cut, executed: int
) -> None:
    async def story(client: AnyClient) -> None:
        between.judge = at(b"INCRBY", cut=cut)
        with pytest.raises(keyhaus.OutcomeUnknown) as raised:
            await client.incr("n")
        assert not raised.value.retryable
        assert _names(between) == [b"INCRBY"]
        assert await client.incr("n") == executed + 1

    tell_cut(story)


def test_a_read_is_sent_again_but_not_for_ever(tell_cut: Tell, between: Proxy) -> None:
    async def story(client: AnyClient) -> None:
        await client.put("k", "v")
        for cut in _IN_BETWEEN:
            between.judge = at(b"GET", cut=cut, times=2)
            assert await client.get("k") == b"v"
        between.judge = at(b"GET", cut=Cut.HALF, times=3)
        with pytest.raises(keyhaus.ConnectionLost):
            await client.get("k")

    tell_cut(story)


@pytest.mark.parametrize(
    "place", [(b"BEGIN",), (b"TX", b"GET"), (b"TX", b"SET"), (b"COMMIT",)], ids=lambda p: p[-1].decode()
)
@pytest.mark.parametrize("cut", _IN_BETWEEN, ids=lambda cut: cut.name)
def test_a_transaction_whose_connection_is_cut_happens_once(
    tell_cut: Tell, between: Proxy, place: tuple[bytes, ...], cut: Cut
) -> None:
    async def story(client: AnyClient) -> None:
        tries = 0

        async def add(tx: AnyClient) -> int:
            nonlocal tries
            tries += 1
            value = int(await tx.get("sum") or 0) + 1
            await tx.put("sum", value)
            return value

        between.judge = at(*place, cut=cut)
        assert await client.run(add) == 1
        assert await client.get("sum") == b"1"
        names = _names(between)
        assert names.count(b"TRANSACTION") == (1 if place == (b"COMMIT",) else 0)
        if place == (b"COMMIT",) and cut is not Cut.SENT:
            committed = cut in (Cut.AFTER, Cut.HALF)
            assert tries == names.count(b"COMMIT") == (1 if committed else 2)
        # No connection is used again after a cut in a way that a plain command would notice.
        assert await client.incr("sum") == 2

    tell_cut(story)


def test_a_commit_whose_reply_was_lost_has_its_number(tell_cut: Tell, between: Proxy) -> None:
    async def story(client: AnyClient) -> None:
        between.judge = at(b"COMMIT", cut=Cut.AFTER)
        async with client.transaction() as tx:
            await tx.put("k", "v")
        assert tx.seqno is not None and tx.seqno == await client.kill(tx.id)
        between.judge = at(b"COMMIT", cut=Cut.BEFORE)
        with pytest.raises(keyhaus.ConnectionLost, match="nothing of it happened") as raised:
            await client.run(lambda tx: tx.put("k", "other"), retries=0)
        assert raised.value.retryable and await client.get("k") == b"v"

    tell_cut(story)


def test_a_commit_that_arrives_late_is_refused(tell_cut: Tell, between: Proxy) -> None:
    """T9: whoever is told that nothing of it happened may do it again."""

    async def story(client: AnyClient) -> None:
        async def add(tx: AnyClient) -> int:
            return int(await tx.incr("sum"))

        between.judge = at(b"COMMIT", cut=Cut.LATE)
        assert await client.run(add) == 1
        assert between.held.is_set()
        (reply,) = between.deliver()
        assert reply.startswith(b"-NOTX ")

    tell_cut(story)
    assert [words[0] for words in between.requests].count(b"COMMIT") == 2


@pytest.mark.parametrize("said", [b"+expired\r\n", b"-POISONED the journal can't be written\r\n", None])
def test_a_commit_that_nobody_can_tell_of_is_not_retried(
    flavour: Flavour, between: Proxy, server: RunningKeyhaus, said: bytes | None
) -> None:
    async def story(client: AnyClient) -> None:
        def judge(words: list[bytes]) -> Cut | bytes:
            if words[0] == b"COMMIT":
                return Cut.AFTER
            return Cut.PASS if words[0] != b"TRANSACTION" else said or Cut.BEFORE

        between.judge = judge
        before = int(await client.get("told") or 0)
        with pytest.raises(keyhaus.OutcomeUnknown) as raised:
            await client.run(lambda tx: tx.incr("told"))
        assert not raised.value.retryable and "COMMIT tx-" in raised.value.message
        assert await client.get("told") == b"%d" % (before + 1)

    _run(flavour, between.port, story, timeout=0.5 if said is None else 30)


def test_a_bank_behind_a_bad_connection_counts_each_success_once(
    tell_cut: Tell, between: Proxy, flavour: Flavour, seed: int
) -> None:
    async def story(client: AnyClient) -> None:
        choices = random.Random(seed)
        guard = threading.Lock()

        def judge(words: list[bytes]) -> Cut:
            with guard:
                return choices.choice(_IN_BETWEEN) if choices.random() < 0.15 else Cut.PASS

        async def work(mode: str) -> int:
            async def move(tx: AnyClient) -> None:
                if mode == "pessimistic":
                    await tx.lock("a")
                await tx.put("a", int(await tx.get("a") or 0) - 1)
                await tx.incr("b")

            successes = 0
            for _ in range(8):
                with contextlib.suppress(keyhaus.ConnectionLost, keyhaus.Conflict, keyhaus.Deadlock):
                    await client.run(move, mode=mode, retries=6)
                    successes += 1
            return successes

        between.judge = judge
        successes = sum(await flavour.together(*map(work, ("pessimistic", "optimistic") * 2)))
        between.judge = lambda words: Cut.PASS
        assert await client.mget("a", "b") == [b"-%d" % successes, b"%d" % successes]
        assert successes > 10

    tell_cut(story)


def test_a_commit_is_resolved_after_a_crash_and_a_restart(tmp_path: Path, flavour: Flavour) -> None:
    options = ("--data-dir", str(tmp_path / "data"))
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(keyhaus_server(tmp_path, *options))
        between = stack.enter_context(proxy(first.port))
        executed = at(b"COMMIT", cut=Cut.AFTER)

        def judge(words: list[bytes]) -> Cut | bytes:
            if words[:1] == [b"TRANSACTION"] and first.process.poll() is None:
                first.kill()
                between.upstream = stack.enter_context(keyhaus_server(tmp_path, *options)).port
                return Cut.BEFORE
            return executed(words)

        async def story(client: AnyClient) -> None:
            between.judge = judge
            async with client.transaction() as tx:
                await tx.put("k", "v")
            assert await client.get("k") == b"v" and tx.seqno == await client.kill(tx.id)

        _run(flavour, between.port, story)
        assert [words[0] for words in between.requests].count(b"COMMIT") == 1


def test_a_connection_that_a_restart_has_closed_is_not_used(tmp_path: Path, flavour: Flavour) -> None:
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(keyhaus_server(tmp_path, "--engine", "memory"))
        port = first.port

        async def story(client: AnyClient) -> None:
            assert await client.incr("n") == 1
            await asyncio.to_thread(first.stop)  # the loop sees the end of the connection meanwhile
            with pytest.raises(keyhaus.ConnectionLost) as raised:
                await client.incr("n")
            assert raised.value.retryable and isinstance(raised.value, ConnectionError)
            second = ("--engine", "memory", "--listen", f"resp://127.0.0.1:{port}")
            stack.enter_context(keyhaus_server(tmp_path, *second))
            assert await client.incr("n") == 1

        _run(flavour, port, story)


def test_who_finds_all_connections_in_use_waits_for_one(flavour: Flavour, server: RunningKeyhaus) -> None:
    async def story(client: AnyClient) -> None:
        await client.delete("n")
        results = await flavour.together(*(client.incr("n") for _ in range(30)))
        assert sorted(results) == [*range(1, 31)]
        async with client.transaction(), client.transaction():
            with pytest.raises(keyhaus.ConnectionLost, match="in use"):
                await client.get("n")
        assert await client.get("n") == b"30"

    _run(flavour, server.port, story, max_connections=2, timeout=1)


def test_a_closed_client_says_so(flavour: Flavour, server: RunningKeyhaus) -> None:
    async def story(client: AnyClient) -> None:
        await client.close()
        with pytest.raises(keyhaus.Error, match="the client is closed"):
            await client.get("k")

    _run(flavour, server.port, story)


# tasks that are cancelled


async def _held(between: Proxy) -> None:
    assert await asyncio.to_thread(between.held.wait, 30)


def _behind(between: Proxy, story: Callable[[keyhaus.AsyncClient], Coroutine[Any, Any, None]], **options: Any) -> None:
    _run(Flavour("async"), between.port, story, **options)


def test_the_reply_to_a_cancelled_call_is_nobodys(between: Proxy) -> None:
    async def story(client: keyhaus.AsyncClient) -> None:
        await client.mset({"a": "first", "b": "second"})
        between.judge = at(b"GET", cut=Cut.HOLD)
        task = asyncio.create_task(client.get("a"))
        await _held(between)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        between.release()
        assert [await client.get("b") for _ in range(5)] == [b"second"] * 5

    _behind(between, story, max_connections=1)


def test_calls_that_are_cancelled_anywhere_leave_the_others_their_replies(server: RunningKeyhaus, seed: int) -> None:
    async def story(client: keyhaus.AsyncClient) -> None:
        choices = random.Random(seed)
        await client.mset({f"k{number}": number for number in range(10)})

        async def ask(number: int) -> bytes | None:
            if number % 3:
                return await client.get(f"k{number}")
            return await client.run(lambda tx: tx.get(f"k{number}"), mode="readonly")

        for _ in range(60):
            tasks = {asyncio.create_task(ask(number)): number for number in range(10)}
            for task in choices.sample([*tasks], 5):
                for _ in range(choices.randrange(8)):
                    await asyncio.sleep(0)
                task.cancel()
            for task, number in tasks.items():
                with contextlib.suppress(asyncio.CancelledError):
                    assert await task == b"%d" % number
        # No connection was lost to the others either.
        assert len(await asyncio.gather(*(client.get("k1") for _ in range(20)))) == 20

    _run(Flavour("async"), server.port, story, max_connections=3, timeout=5)


def test_a_cancelled_transaction_is_rolled_back_at_once(between: Proxy) -> None:
    async def story(client: keyhaus.AsyncClient) -> None:
        await client.put("k", "before")
        between.judge = at(b"TX", b"EXISTS", cut=Cut.HOLD)

        async def work() -> None:
            async with client.transaction() as tx:
                await tx.put("k", "inside")
                await tx.exists("k")

        task = asyncio.create_task(work())
        await _held(between)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        between.release()
        await client.put("k", "after")  # waits for no lock until a time-out
        assert await client.get("k") == b"after"

    _behind(between, story)


def test_a_transaction_one_of_whose_commands_was_cancelled_is_not_committed(between: Proxy) -> None:
    async def story(client: keyhaus.AsyncClient) -> None:
        await client.delete("k")
        between.judge = at(b"TX", b"GET", cut=Cut.HOLD)

        async def work() -> None:
            async with client.transaction() as tx:
                await tx.put("k", 1)
                task = asyncio.create_task(tx.get("k"))
                await _held(between)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

        with pytest.raises(keyhaus.ConnectionLost, match="interrupted"):
            await work()
        between.release()
        assert await client.get("k") is None

    _behind(between, story)


def test_what_became_of_a_cancelled_commit_can_be_asked(between: Proxy) -> None:
    async def story(client: keyhaus.AsyncClient) -> None:
        between.judge = at(b"COMMIT", cut=Cut.HOLD)
        transaction = client.transaction()

        async def work() -> None:
            async with transaction as tx:
                await tx.put("k", "v")

        task = asyncio.create_task(work())
        await _held(between)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        between.release()
        assert isinstance(await client.kill(transaction.id), int)

    _behind(between, story)


def test_the_commands_of_several_tasks_take_turns_in_a_transaction(tell: Tell, flavour: Flavour) -> None:
    async def story(client: AnyClient) -> None:
        async with client.transaction() as tx:
            assert sorted(await flavour.together(*(tx.incr("n") for _ in range(20)))) == [*range(1, 21)]
        assert await client.get("n") == b"20"

    tell(story)


def test_a_reply_that_does_not_come_is_not_waited_for_for_ever(flavour: Flavour, between: Proxy) -> None:
    async def story(client: AnyClient) -> None:
        between.judge = at(b"INCRBY", cut=Cut.HOLD)
        with pytest.raises(keyhaus.OutcomeUnknown):
            await client.incr("waits")
        between.release()

    _run(flavour, between.port, story, timeout=0.2)
