"""redis.asyncio works unmodified: pipelines, WATCH, a pool, and many tasks at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import pytest
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from tests.support.processes import HOST, RunningKeyhaus, keyhaus_server

# redis-py types a pipeline's commands by what they return elsewhere, so that no chain of them would pass.
Client: TypeAlias = Any
Story: TypeAlias = Callable[[Client], Awaitable[None]]
TASKS = 100


@pytest.fixture(scope="module", params=["rocksdb", "memory"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningKeyhaus]:
    directory = tmp_path_factory.mktemp("keyhaus")
    options = ("--engine", request.param, "--data-dir", str(directory / "data"), "--log-level", "warning")
    with keyhaus_server(directory, *options, listen="auto") as running:
        yield running


@pytest.fixture(params=[2, 3], ids=["RESP2", "RESP3"])
def tell(request: pytest.FixtureRequest, server: RunningKeyhaus) -> Callable[[Story], None]:
    """Runs a story with a client of an empty database."""

    @asynccontextmanager
    async def connected() -> AsyncIterator[Client]:
        options: dict[str, Any] = {"protocol": request.param, "retry": Retry(NoBackoff(), 0)}
        async with redis.asyncio.Redis(host=HOST, port=server.port, **options) as client:
            await client.flushall()
            yield client

    async def run(story: Story) -> None:
        async with asyncio.timeout(60), connected() as client:
            await story(client)

    return lambda story: asyncio.run(run(story))


def test_commands_and_pipelines(tell: Callable[[Story], None]) -> None:
    async def story(client: Client) -> None:
        assert await client.set("k", "v") is True
        assert await client.get("k") == b"v" and await client.get("none") is None
        assert await client.config_get("maxclients") == {"maxclients": "10000"}
        for transaction in (False, True):
            async with client.pipeline(transaction=transaction) as pipeline:
                pipeline.set("n", 1).incr("n").get("n").incr("k").mget("k", "n")
                *replies, error, values = await pipeline.execute(raise_on_error=False)
                assert replies == [True, 2, b"2"] and values == [b"v", b"2"]
                assert isinstance(error, redis.ResponseError)
        assert [key async for key in client.scan_iter()] in ([b"k", b"n"], [b"n", b"k"])

    tell(story)


def test_many_tasks_share_a_client(tell: Callable[[Story], None]) -> None:
    """Each reply belongs to its request, however many are under way on however many connections."""

    async def story(client: Client) -> None:
        async def work(number: int) -> list[bytes]:
            for turn in range(5):
                await client.set(f"key:{number}", f"{number}/{turn}")
                assert await client.get(f"key:{number}") == f"{number}/{turn}".encode()
            async with client.pipeline(transaction=bool(number % 2)) as pipeline:
                replies = await pipeline.incr("sum").echo(f"{number}").get(f"key:{number}").execute()
            return list(replies[1:])

        said = await asyncio.gather(*map(work, range(TASKS)))
        assert said == [[b"%d" % number, b"%d/4" % number] for number in range(TASKS)]
        assert await client.get("sum") == b"%d" % TASKS and await client.dbsize() == TASKS + 1

    tell(story)


def test_tasks_wait_for_one_connection_in_turn(tell: Callable[[Story], None]) -> None:
    async def story(client: Client) -> None:
        address = client.connection_pool.connection_kwargs
        pool = redis.asyncio.BlockingConnectionPool(
            host=HOST, port=address["port"], protocol=address["protocol"], max_connections=1, timeout=30
        )
        async with redis.asyncio.Redis.from_pool(pool) as narrow:
            assert sorted(await asyncio.gather(*(narrow.incr("n") for _ in range(50)))) == list(range(1, 51))
            assert len({await narrow.client_id() for _ in range(3)}) == 1

    tell(story)


def test_transactions_of_many_tasks_lose_nothing(tell: Callable[[Story], None], seed: int) -> None:
    """Optimistic, by WATCH: money moves between accounts, and its sum stays."""
    accounts = [f"account:{number}" for number in range(4)]
    choices = random.Random(seed)
    transfers = [(choices.sample(accounts, 2), choices.randint(1, 50)) for _ in range(40)]

    async def story(client: Client) -> None:
        await client.mset(dict.fromkeys(accounts, 100))

        async def transfer(pair: list[str], amount: int) -> None:
            giver, taker = pair

            async def move(pipeline: Client) -> None:
                has = int(await pipeline.get(giver))
                pipeline.multi()
                if has >= amount:
                    pipeline.decrby(giver, amount).incrby(taker, amount)

            await client.transaction(move, giver, taker)

        async def watch() -> None:
            for _ in range(20):
                assert sum(map(int, await client.mget(accounts))) == 100 * len(accounts)

        await asyncio.gather(watch(), *(transfer(*each) for each in transfers))
        left = [*map(int, await client.mget(accounts))]
        assert sum(left) == 100 * len(accounts) and min(left) >= 0

    tell(story)


def test_a_task_that_is_cancelled_leaves_the_others_their_replies(tell: Callable[[Story], None]) -> None:
    async def story(client: Client) -> None:
        await client.set("k", "v" * 100_000)

        async def work() -> None:
            for _ in range(20):
                assert len(await client.get("k")) == 100_000
                assert await client.echo("x") == b"x"

        tasks = [asyncio.create_task(work()) for _ in range(10)]
        for task in tasks:
            assert await client.incr("n") > 0
            task.cancel()
        # While it connects, redis-py may keep the cancelling to itself, and the task goes on to its end.
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert outcome is None or isinstance(outcome, asyncio.CancelledError)
        assert await client.echo("still here") == b"still here" and await client.get("n") == b"10"

    tell(story)
