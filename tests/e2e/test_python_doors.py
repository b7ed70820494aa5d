"""The same stories told to both clients and to the database within the process, beside and inside of a transaction."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias

import pytest

import keyhaus
from keyhaus.client.errors import ConnectionLost
from keyhaus.core.errors import TransactionTooLarge
from tests.support.clients import AnyClient, Blocking, Flavour
from tests.support.embedded import SMALL
from tests.support.processes import RunningKeyhaus, keyhaus_server
from tests.support.proxy import Cut, Proxy, at, proxy

Story: TypeAlias = Callable[[Any], Awaitable[None]]
Tell: TypeAlias = Callable[[Story], None]

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1 << 63, -(1 << 63), (1 << 64) - 1, 1 << 64, -(1 << 300), 0.5, -0.0, math.inf, 1e-320),
    *("", "é\0", "123", b"", b"\xff\0", [], [1, [2, None]], (), (1, ("x",)), {}, {"a": 1, 2: b"x", None: (True,)}),
    *(set(), {1, "a", b"b"}, frozenset(), frozenset({(1, 2)}), {(1, 2): {3: [4.0]}}),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningKeyhaus]:
    directory = tmp_path_factory.mktemp("keyhaus")
    with keyhaus_server(directory, "--data-dir", str(directory / "data"), "--log-level", "warning") as running:
        yield running
    assert "Traceback" not in "\n".join(running.lines)


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, keyhaus.Database]]:
    with contextlib.ExitStack() as stack:
        rocksdb = stack.enter_context(keyhaus.open(tmp_path_factory.mktemp("embedded") / "data", **SMALL))
        yield {"rocksdb": rocksdb, "memory": stack.enter_context(keyhaus.open(engine="memory"))}


@pytest.fixture(params=["sync", "async", "embedded-rocksdb", "embedded-memory"])
def told(request: pytest.FixtureRequest) -> Tell:
    """Runs a story with a door to an empty database."""
    kind = request.param

    def run(story: Story) -> None:
        async def emptied() -> None:
            async with asyncio.timeout(60), contextlib.AsyncExitStack() as stack:
                if kind.startswith("embedded"):
                    databases: dict[str, keyhaus.Database] = request.getfixturevalue("databases")
                    door: AnyClient = Blocking(databases[kind.partition("-")[2]])
                else:
                    port = request.getfixturevalue("server").port
                    door = await stack.enter_async_context(Flavour(kind).open(port))
                await door.execute("FLUSHALL")
                await story(door)

        asyncio.run(emptied())

    return run


@pytest.fixture(params=["plain", "pessimistic", "optimistic"])
def tell(request: pytest.FixtureRequest, told: Tell) -> Tell:
    """Runs a story with what reads and writes: a door itself, or a transaction of it."""

    def run(story: Story) -> None:
        async def within(door: AnyClient) -> None:
            if request.param == "plain":
                await story(door)
                return
            async with door.transaction(request.param) as tx:
                await story(tx)

        told(within)

    return run


async def _all(iterator: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in iterator]


# values


def test_values_go_in_as_words_and_come_out_as_bytes(tell: Tell) -> None:
    async def story(it: AnyClient) -> None:
        await it.put("ä", b"\x00\xff")
        assert await it.get("ä".encode()) == b"\x00\xff" and await it.get("none") is None
        await it.put(bytearray(b"n"), 0.1)
        assert await it.get(memoryview(b"n")) == b"0.1"
        assert await it.exists("ä", "n", "n", "none") == 3
        assert await it.delete("n", "none") == 1
        for wrong in (True, None, [1]):
            with pytest.raises(TypeError, match="keys, values and arguments are"):
                await it.put("k", wrong)
        assert await it.set("k", 1, only_existing=True) is False and await it.set("k", 1, only_new=True) is True

    tell(story)


def test_many_are_one(tell: Tell) -> None:
    async def story(it: AnyClient) -> None:
        await it.put_many({"a": 1, "b": "two"})
        await it.put_many((key, b"x") for key in (b"c", "d"))
        assert await it.get_many(["d", "none", b"a"]) == await it.mget("d", "none", b"a") == [b"x", None, b"1"]
        assert await it.delete_many(iter(("a", "b", "none"))) == 2
        await it.put_many({})
        await it.put_objects([])
        assert await it.get_many(()) == await it.get_objects([]) == [] and await it.delete_many([]) == 0
        with pytest.raises(TypeError):
            await it.put_many({"e": 1, "f": None})
        assert await it.count() == 2

    tell(story)


def test_a_value_is_put_where_there_is_none_or_the_expected_one(tell: Tell) -> None:
    async def story(it: AnyClient) -> None:
        assert await it.compare_and_set("k", "", "new") is False
        assert await it.put_if_absent("k", "one", ttl=60) is True
        assert await it.put_if_absent("k", "two") is False
        assert 50 < await it.ttl("k") <= 60
        assert await it.compare_and_set("k", "two", "three") is False
        assert await it.compare_and_set("k", "one", "three") is True
        assert await it.get("k") == b"three" and await it.ttl("k") is None
        await it.put_object("o", [1])
        with pytest.raises(keyhaus.WrongType):
            await it.compare_and_set("o", "[1]", "x")

    tell(story)


def test_counters_count(tell: Tell) -> None:
    async def story(it: AnyClient) -> None:
        assert await it.incr("n") == 1 and await it.incr("n", 41) == 42 and await it.decr("n", 50) == -8
        assert (
            await it.decr("m") == -1 and await it.incr_float("f", 0.5) == 0.5 and await it.incr_float("n", 0.5) == -7.5
        )
        await it.put("text", "x")
        with pytest.raises(keyhaus.UserError, match="not an integer"):
            await it.incr("text")
        assert await it.get("text") == b"x"

    tell(story)


def test_times_to_live_are_seconds_timedeltas_or_milliseconds(tell: Tell) -> None:
    async def story(it: AnyClient) -> None:
        await it.put("a", 1, ttl=100)
        await it.put("b", 1, ttl=timedelta(minutes=2))
        await it.put("c", 1, ttl_ms=90_000)
        await it.put_objects({"d": [1], "e": (2,)}, ttl=80.5)
        times = [await it.ttl(key) for key in "abcde"]
        assert all(most - 10 < time <= most for time, most in zip(times, (100, 120, 90, 80.5, 80.5), strict=True))
        assert await it.persist("a") is True and await it.persist("a") is False and await it.persist("none") is False
        assert await it.ttl("a") is None and await it.ttl("none") is None
        assert await it.expire("d", timedelta(hours=1)) is True and await it.expire("none", 5) is False
        assert 3_000 < await it.ttl("d") <= 3_600 and await it.get_object("d") == [1]
        assert await it.expire("e", 0) is True and await it.get_object("e", "gone") == "gone"
        await it.set("b", 2, keep_ttl=True)
        assert 100 < await it.ttl("b") <= 120
        with pytest.raises(keyhaus.UserError, match="invalid expire time"):
            await it.put("x", 1, ttl=0)
        with pytest.raises(keyhaus.UserError, match="invalid expire time"):
            await it.put_object("x", 1, ttl=-5)
        with pytest.raises(TypeError, match="not as both"):
            await it.put("x", 1, ttl=1, ttl_ms=1000)
        assert await it.exists("x") == 0

    tell(story)


def test_a_value_is_gone_after_its_time(told: Tell) -> None:
    async def story(door: AnyClient) -> None:
        await door.put_object("k", (1,), ttl=0.02)
        while await door.get_object("k", "gone") != "gone":
            pass  # until the story's own end
        assert await door.count() == 0 and await _all(door.range()) == []

    told(story)


# typed values


def test_typed_values_come_back_equal_and_of_their_types(tell: Tell) -> None:
    async def story(it: AnyClient) -> None:
        keys = [f"{number:02}" for number in range(len(VALUES))]
        for key, value in zip(keys, VALUES, strict=True):
            await it.put_object(key, value)
            _same(await it.get_object(key, "missing"), value)
        rows = await _all(it.range_objects())
        assert [key.decode() for key, _ in rows] == keys
        await it.delete_many(keys)
        await it.put_objects(zip(keys, VALUES, strict=True))
        for found in ([value for _, value in rows], await it.get_objects(keys)):
            for value, expected in zip(found, VALUES, strict=True):
                _same(value, expected)
        backwards = await _all(it.range_objects("03", "", reverse=True, limit=2))
        assert [key for key, _ in backwards] == [b"%02d" % (len(VALUES) - number) for number in (1, 2)]
        assert await it.get_objects(["none", "00"], ...) == [..., None]

    tell(story)


def _same(value: Any, expected: Any) -> None:
    assert type(value) is type(expected) and repr_of(value) == repr_of(expected)


def repr_of(value: Any) -> str:
    """What shows types and signs, in one order for sets."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{repr_of(key)}: {repr_of(item)}' for key, item in value.items())}}}"
    if isinstance(value, list | tuple | set | frozenset):
        items = [*map(repr_of, value)]
        return f"{type(value).__name__}({sorted(items) if isinstance(value, set | frozenset) else items})"
    return repr(value)


def test_typed_and_plain_values_are_one_data(tell: Tell) -> None:
    async def story(it: AnyClient) -> None:
        await it.put_many({"text": "é", "raw": b"\xff", "n": 5})
        assert await it.get_objects(["text", "raw", "n", "none"], 0) == ["é", b"\xff", "5", 0]
        await it.put_objects({"o": {"a": [1]}, "t": "é", "b": bytearray(b"\xff")})
        assert await it.get_many(["o", "t", "b"]) == [b'{"a":[1]}', "é".encode(), b"\xff"]
        assert await it.get_object("b") == b"\xff"
        with pytest.raises(keyhaus.WrongType):
            await it.incr("o")

    tell(story)


@pytest.mark.parametrize("wrong", [object(), 1j, [object()], "\ud800", {"a": {1j}}])
def test_a_value_of_another_type_is_refused_and_nothing_put(told: Tell, wrong: Any) -> None:
    async def story(door: AnyClient) -> None:
        with pytest.raises(keyhaus.UserError):
            await door.put_objects({"a": 1, "b": wrong})
        assert await door.count() == 0

    told(story)


# ranges


KEYS = (b"", b"\0", b"a", b"a\0", b"a\xff", b"a\xff\xff", b"b", b"b*", b"\xfe\xff", b"\xff", b"\xff\0", b"\xff\xff")


@pytest.mark.parametrize("reverse", [False, True])
def test_ranges_have_the_bounds_that_they_say(tell: Tell, reverse: bool) -> None:
    async def story(it: AnyClient) -> None:
        rows = {key: b"<%b>" % key for key in KEYS}
        await it.put_many(rows)
        for start in ("", *KEYS, b"zz"):
            for end in ("", b"\0\0", b"a", b"a\xff", b"b", b"\xff", b"\xff\xff\xff"):
                low, high = it_bytes(start), it_bytes(end)
                expected = sorted(key for key in KEYS if low <= key and (not high or key < high))
                expected = expected[::-1] if reverse else expected
                assert await _all(it.range(start, end, reverse=reverse, keys_only=True)) == expected
        for prefix in (b"", b"a", b"a\xff", b"\xff", b"\xff\xff", b"c"):
            expected = sorted((key for key in KEYS if key.startswith(prefix)), reverse=reverse)
            assert await _all(it.range(prefix=prefix, reverse=reverse)) == [(key, rows[key]) for key in expected]
            assert await _all(it.range_objects(prefix=prefix, reverse=reverse, limit=2)) == [
                (key, value.decode() if value.isascii() else value)
                for key, value in ((key, rows[key]) for key in expected[:2])
            ]
            assert await it.count(prefix=prefix) == len(expected)
        assert await it.count() == len(KEYS) and await it.count(match="b*") == 2 and await it.count("a", "b") == 4
        with pytest.raises(TypeError, match="not both"):
            it.range("a", prefix="b")
        with pytest.raises(ValueError, match="limit"):
            it.range(limit=-1)

    tell(story)


def it_bytes(word: str | bytes) -> bytes:
    return word.encode() if isinstance(word, str) else word


def test_ranges_go_page_by_page(tell: Tell) -> None:
    async def story(it: AnyClient) -> None:
        rows = [(b"k%04d" % number, b"%d" % number) for number in range(2_500)]
        await it.put_many(rows)
        assert await _all(it.range()) == await _all(it.scan()) == rows
        assert await _all(it.range(reverse=True, keys_only=True)) == [key for key, _ in rows[::-1]]
        assert await _all(it.range_objects(limit=1_001)) == [(key, value.decode()) for key, value in rows[:1_001]]
        assert await _all(it.range("k0010", "k0020", limit=3, reverse=True)) == rows[19:16:-1]
        assert await _all(it.range(limit=0)) == [] and await _all(it.range(match="k??99")) == rows[99::100]
        assert await it.count("k1") == 1_500
        page, following = await it.page("k0010", limit=2)
        assert page == rows[10:12] and following == b"k0012"
        page, following = await it.page("", "k0010", limit=2, reverse=True)
        assert page == rows[9:7:-1] and following == b"k0007\0"

    tell(story)


def test_an_iterator_may_be_left_half_way(tell: Tell) -> None:
    async def story(it: AnyClient) -> None:
        await it.put_many((f"{number:04}", number) for number in range(1_500))
        for many in (1, 999, 1_000, 1_001):
            seen = []
            rows = it.range(keys_only=True)
            async for key in rows:
                seen.append(key)
                if len(seen) == many:
                    break
            await it.put("beside", "it")  # nothing stands in the way
            assert seen == [b"%04d" % number for number in range(many)]
        assert await it.count() == 1_501

    tell(story)


def test_a_range_that_changes_on_the_way_is_walked_on(told: Tell) -> None:
    async def story(door: AnyClient) -> None:
        await door.put_many((f"{number:04}", number) for number in range(3_000))
        seen = []
        async for key in door.range(keys_only=True):
            seen.append(key)
            if len(seen) == 500:
                await door.delete_many(f"{number:04}" for number in range(0, 3_000, 2))
                await door.put("00001", "behind")
                await door.put("9", "ahead")
        odd = [b"%04d" % number for number in range(1_000, 3_000) if number % 2]
        assert seen == [b"%04d" % number for number in range(1_000)] + odd + [b"9"]

    told(story)


def test_ranges_are_deleted_as_one_and_never_all_by_mistake(tell: Tell) -> None:
    async def story(it: AnyClient) -> None:
        await it.put_many(dict.fromkeys(KEYS[1:], 1))
        assert await it.delete_range("a", "b") == 4
        assert await it.delete_range(prefix=b"\xff\xff") == 1
        assert await it.delete_range(b"\xff") == 2
        assert await it.delete_range("x", "a") == 0
        with pytest.raises(TypeError, match="say which keys"):
            await it.delete_range()
        assert await it.count() == 4 and await it.delete_range("", "") == 4

    tell(story)


# errors


def test_errors_are_of_their_classes_and_nothing_is_done(told: Tell) -> None:
    async def story(door: AnyClient) -> None:
        await door.execute("CONFIG", "SET", "max-transaction-bytes", 4_096)
        try:
            many = [(f"k{number}", "x" * 100) for number in range(100)]
            for call in (lambda: door.put_many(many), lambda: door.put_objects(many)):
                with pytest.raises(TransactionTooLarge, match="max-transaction-bytes"):
                    await call()
            assert await door.count() == 0
        finally:
            await door.execute("CONFIG", "SET", "max-transaction-bytes", 64 << 20)
        with pytest.raises(keyhaus.UserError, match="max-key-bytes"):
            await door.put_many({"k" * 70_000: 1})
        await door.execute("CONFIG", "SET", "max-reply-bytes", 2 << 20)
        try:
            await door.put("large", "x" * 1_500_000)
            with pytest.raises(keyhaus.UserError, match="max-reply-bytes"):
                await door.get_many(["large", "large"])
        finally:
            await door.execute("CONFIG", "SET", "max-reply-bytes", 512 << 20)
        with pytest.raises(keyhaus.UserError, match="unknown command"):
            await door.execute("NO-SUCH")
        with pytest.raises(keyhaus.UserError, match="mode is pessimistic"):
            door.transaction("hopeful") if isinstance(door, keyhaus.AsyncClient) else door.real.transaction("hopeful")
        with pytest.raises(keyhaus.ReadOnly):
            await door.run(lambda tx: tx.put_object("k", 1), mode="readonly")
        with pytest.raises(ValueError, match="counted from 0"):
            await door.run(lambda tx: tx.get("k"), retries=-1)

    told(story)


def test_any_command_has_the_same_reply(told: Tell) -> None:
    async def story(door: AnyClient) -> None:
        assert await door.execute("SET", "k", 1.5) == b"OK" and await door.execute("PING") == b"PONG"
        assert await door.execute("MGET", "k", "none") == [b"1.5", None] and await door.execute("STRLEN", "k") == 3
        assert await door.execute("CONFIG", "GET", "memtable-bytes") == {b"memtable-bytes": b"%d" % (64 << 20)}
        (described,) = await door.execute("COMMAND", "INFO", "GET")
        assert described[:2] == [b"get", 2] and sorted(described[2]) == [b"fast", b"readonly"]
        assert isinstance(await door.execute("CLIENT", "INFO"), bytes)

    told(story)


# transactions


def test_a_transaction_may_end_before_its_block(told: Tell) -> None:
    async def story(door: AnyClient) -> None:
        async with door.transaction() as tx:
            await tx.put("a", 1)
            assert await tx.commit() == tx.seqno
            assert await door.get("a") == b"1"
            for call in (lambda: tx.get("a"), tx.commit, tx.rollback):
                with pytest.raises(keyhaus.UnknownTransaction, match="has ended") as raised:
                    await call()
                assert not raised.value.retryable
        assert await door.kill(tx.id) == tx.seqno
        async with door.transaction() as tx:
            await tx.lock("a")
            await tx.put("a", 2)
            await tx.rollback()
            await door.put("b", 1)
        assert tx.seqno is None and await door.kill(tx.id) == "rolledback" and await door.get("a") == b"1"
        with pytest.raises(keyhaus.UnknownTransaction, match="is not begun"):
            await door.transaction().get("a")
        async with door.transaction() as tx:
            assert await door.kill(tx.id) == "rolledback"
            await tx.rollback()  # that much is true already

    told(story)


def test_a_transaction_that_can_not_go_on_says_so_again(told: Tell) -> None:
    async def story(door: AnyClient) -> None:
        await door.put("a", 1)

        async def lose() -> None:
            async with door.transaction("optimistic") as tx:
                await tx.get("a")
                await door.put("a", 2)
                await tx.put("b", 1)
                with pytest.raises(keyhaus.Conflict):
                    await tx.commit()
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await lose()
        assert await door.exists("b") == 0

        async def end() -> None:
            async with door.transaction() as tx:
                assert await door.kill(tx.id) == "rolledback"
                await tx.commit()

        with pytest.raises(keyhaus.TransactionEnded):
            await end()
        assert await door.get("a") == b"2"

    told(story)


# changes


def test_changes_are_told_in_order_and_resumed(told: Tell) -> None:
    async def story(door: AnyClient) -> None:
        begin = await door.position()
        await door.put_many({"a": 1, "b": 2})
        await door.put("a", 3, ttl=1_000)
        await door.delete("b")
        await door.execute("FLUSHDB")
        told = await _all(door.changes(begin.seqno, wait=0))
        operations = [tuple(operation) for change in told for operation in change.operations]
        expires = operations[2][4]
        assert expires is not None and told[1].unix_ms < expires
        assert operations == [
            ("put", 0, b"a", b"1", None, None),
            ("put", 0, b"b", b"2", None, None),
            ("put", 0, b"a", b"3", expires, None),
            ("del", 0, b"b", None, None, None),
            ("flush", 0, None, None, None, None),
        ]
        assert [change.seqno for change in told] == sorted({change.seqno for change in told})
        after = [change.seqno async for change in door.changes(told[1].seqno, history=begin.history, wait=0)]
        assert after == [change.seqno for change in told[2:]]
        assert (await door.position()).seqno == told[-1].seqno
        await door.execute("SWAPDB", 0, 1)
        (swap,) = await _all(door.changes(told[-1].seqno, wait=timedelta(0)))
        assert tuple(swap.operations[0]) == ("swap", 0, None, None, None, 1)
        await door.execute("SWAPDB", 0, 1)

    told(story)


def test_changes_are_of_a_database_and_a_prefix(told: Tell) -> None:
    async def story(door: AnyClient) -> None:
        begin = await door.position()
        await door.put_many({"a:1": 1, "b:1": 1})
        await door.put("b:2", 2)
        found = await _all(door.changes(begin.seqno, prefix="b:", database=0, wait=0.01))
        assert [[operation.key for operation in change.operations] for change in found] == [[b"b:1"], [b"b:2"]]
        assert await _all(door.changes(begin.seqno, database=5, wait=0)) == []

    told(story)


def test_changes_that_can_not_be_told_have_their_errors(told: Tell) -> None:
    async def story(door: AnyClient) -> None:
        with pytest.raises(keyhaus.ChangesLost, match="history"):
            await _all(door.changes(0, history="0" * 32, wait=0))
        with pytest.raises(keyhaus.UserError, match="above the newest"):
            await _all(door.changes(1 << 62, wait=0))

    told(story)


@pytest.mark.parametrize("kind", ["sync", "async", "embedded"])
def test_changes_that_are_kept_no_longer_are_too_old(kind: str, tmp_path: Path) -> None:
    async def story(door: AnyClient) -> None:
        for number in range(200):
            await door.put("k", "x" * 1_000)
            assert number >= 0
        with pytest.raises(keyhaus.ChangesTooOld, match="go on|oldest|kept"):
            await _all(door.changes(0, wait=0))

    async def run() -> None:
        with contextlib.ExitStack() as stack:
            if kind == "embedded":
                await story(Blocking(stack.enter_context(keyhaus.open(engine="memory", feed_bytes=20_000))))
            else:
                options = ("--engine", "memory", "--set", "feed-bytes=20000")
                running = stack.enter_context(keyhaus_server(tmp_path, *options))
                async with Flavour(kind).open(running.port) as door:
                    await story(door)

    asyncio.run(run())


def test_who_follows_is_told_as_it_happens(told: Tell) -> None:
    async def story(door: AnyClient) -> None:
        begin = await door.position()

        async def follow() -> list[bytes]:
            seen = []
            async for change in door.changes(begin.seqno, prefix="n:"):
                seen += [operation.key for operation in change.operations]
                if len(seen) == 3:
                    break
            return seen

        if isinstance(door, Blocking):
            follower = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(follow())))
        else:
            follower = asyncio.create_task(follow())
        for number in range(3):
            await asyncio.sleep(0)
            await door.put(f"m:{number}", 0)
            await door.put(f"n:{number}", 0)
        assert await follower == [b"n:0", b"n:1", b"n:2"]

    told(story)


def test_sync_waits_for_the_disk_where_there_is_one(told: Tell, request: pytest.FixtureRequest) -> None:
    async def story(door: AnyClient) -> None:
        await door.put("k", 1)
        if "memory" in request.node.name:
            with pytest.raises(keyhaus.UserError):
                await door.sync()
        else:
            await door.sync()

    told(story)


# lost connections


@pytest.fixture(params=["sync", "async"])
def flavour(request: pytest.FixtureRequest) -> Flavour:
    return Flavour(request.param)


@pytest.fixture
def between(server: RunningKeyhaus) -> Iterator[Proxy]:
    with proxy(server.port) as running:
        yield running


@pytest.fixture
def tell_cut(flavour: Flavour, between: Proxy) -> Tell:
    """Runs a story with a client behind the proxy."""

    def run(story: Story) -> None:
        async def emptied() -> None:
            async with asyncio.timeout(60), flavour.open(between.port) as client:
                await client.execute("FLUSHALL")
                between.requests.clear()
                await story(client)

        asyncio.run(emptied())

    return run


WRITES: dict[bytes, Callable[[AnyClient], Awaitable[Any]]] = {
    b"SET": lambda it: it.put("k", 1),
    b"MSET": lambda it: it.put_many({"k": 1}),
    b"CAS": lambda it: it.compare_and_set("k", 0, 1),
    b"DEL": lambda it: it.delete_many(["k"]),
    b"DELRANGE": lambda it: it.delete_range(prefix="k"),
    b"TYPED": lambda it: it.put_object("k", [1]),
    b"INCRBY": lambda it: it.incr("k"),
    b"INCRBYFLOAT": lambda it: it.incr_float("k", 0.5),
    b"PEXPIRE": lambda it: it.expire("k", 60),
    b"PERSIST": lambda it: it.persist("k"),
}
READS: dict[tuple[bytes, ...], Callable[[AnyClient], Awaitable[Any]]] = {
    (b"MGET",): lambda it: it.get_many(["k"]),
    (b"TYPED", b"GET"): lambda it: it.get_object("k"),
    (b"TYPED", b"RANGE"): lambda it: _all(it.range_objects()),
    (b"RANGE",): lambda it: _all(it.range()),
    (b"DBSIZE",): lambda it: it.count(),
    (b"PTTL",): lambda it: it.ttl("k"),
    (b"INFO",): lambda it: it.position(),
    (b"CHANGES",): lambda it: _told_of(it, b"k"),
}


async def _told_of(it: AnyClient, key: bytes) -> list[Any]:
    """The newest changes of a key."""
    changes = await _all(it.changes((await it.position()).seqno - 1, prefix=key, wait=0))
    assert changes
    return changes


@pytest.mark.parametrize("name", WRITES, ids=bytes.decode)
@pytest.mark.parametrize("cut", [Cut.BEFORE, Cut.AFTER, Cut.HALF], ids=lambda cut: cut.name)
def test_a_write_is_sent_at_most_once(tell_cut: Tell, between: Proxy, name: bytes, cut: Cut) -> None:
    async def story(client: AnyClient) -> None:
        between.judge = at(name, cut=cut)
        with pytest.raises(keyhaus.OutcomeUnknown, match="the connection was lost") as raised:
            await WRITES[name](client)
        assert not raised.value.retryable
        assert [words[0] for words in between.requests].count(name) == 1
        if name == b"INCRBY":
            assert await client.get("k") == (None if cut is Cut.BEFORE else b"1")

    tell_cut(story)


@pytest.mark.parametrize("name", READS, ids=lambda name: b" ".join(name).decode())
def test_a_read_is_sent_again(tell_cut: Tell, between: Proxy, name: tuple[bytes, ...]) -> None:
    async def story(client: AnyClient) -> None:
        await client.put_object("k", [1])
        expected = await READS[name](client)
        for cut in (Cut.BEFORE, Cut.AFTER, Cut.HALF):
            between.judge = at(*name, cut=cut, times=2)
            found = await READS[name](client)
            assert found == expected
        between.judge = at(*name, cut=Cut.AFTER, times=3)
        with pytest.raises(ConnectionLost):
            await READS[name](client)

    tell_cut(story)


def test_who_follows_goes_on_where_it_was_after_a_cut(tell_cut: Tell, between: Proxy) -> None:
    async def story(client: AnyClient) -> None:
        begin = await client.position()
        await client.put("a", 1)
        between.judge = at(b"CHANGES", cut=Cut.HALF, times=2)
        seen = []
        async for change in client.changes(begin.seqno):
            seen += [operation.key for operation in change.operations]
            if len(seen) == 1:
                between.judge = at(b"CHANGES", cut=Cut.AFTER)
                await client.put("b", 2)
            elif len(seen) == 2:
                break
        assert seen == [b"a", b"b"]

    tell_cut(story)


@pytest.mark.parametrize("steps", range(0, 40, 3))
def test_a_cancelled_call_never_leaves_its_reply_to_the_next(server: RunningKeyhaus, steps: int) -> None:
    """redis/redis-py#2624: on the one connection that there is, each reply is that of its own request."""

    async def story() -> None:
        async with asyncio.timeout(60), Flavour("async").open(server.port, max_connections=1) as client:
            await client.put_objects({f"k{number}": number for number in range(100)})
            calls: tuple[Callable[[], Awaitable[Any]], ...] = (
                lambda: client.get_object("k1"),
                lambda: client.get_many(["k2", "k3"]),
                lambda: _all(client.range_objects()),
                lambda: _told_of(client, b"k"),
                lambda: client.run(lambda tx: tx.get_object("k4")),
            )
            for call in calls:
                task = asyncio.ensure_future(call())
                for _ in range(steps):
                    await asyncio.sleep(0)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                for number in (7, 8):
                    assert await client.get_object(f"k{number}") == number
                    assert await client.get(f"k{number + 1}") == b"%d" % (number + 1)

    asyncio.run(story())
