"""redis-py works unmodified: both protocols, both of its parsers, a durable database and one in memory."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, TypeAlias

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from examples.lock import NotAcquired, lock, release
from tests.support.processes import HOST, RunningKeyhaus, keyhaus_server

# redis-py types a pipeline's commands by what they return elsewhere, so that no chain of them would pass.
Client: TypeAlias = Any
Connect: TypeAlias = Callable[..., Client]
FIVE_MB = 5 * 1024 * 1024
PARSERS = {
    "hiredis": {2: "_HiredisParser", 3: "_HiredisParser"},
    "python": {2: "_RESP2Parser", 3: "_RESP3Parser"},
}


@pytest.fixture(scope="module", params=["rocksdb", "memory"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningKeyhaus]:
    directory = tmp_path_factory.mktemp("keyhaus")
    options = ("--engine", request.param, "--data-dir", str(directory / "data"), "--log-level", "warning")
    with keyhaus_server(directory, *options, listen="auto") as running:
        yield running


@pytest.fixture(
    params=[(2, "hiredis"), (3, "hiredis"), (2, "python"), (3, "python")], ids=lambda p: f"RESP{p[0]}-{p[1]}"
)
def connect(request: pytest.FixtureRequest, server: RunningKeyhaus) -> Iterator[Connect]:
    """Makes clients; the database is empty at first."""
    protocol, parser = request.param
    pools = []

    def make(**options: Any) -> Client:
        options = {"protocol": protocol, "socket_timeout": 30, "retry": Retry(NoBackoff(), 0), **options}
        pool = redis.ConnectionPool(
            host=HOST, port=server.port, parser_class=getattr(redis._parsers, PARSERS[parser][protocol]), **options
        )
        pools.append(pool)
        made: Client = redis.Redis(connection_pool=pool)
        return made

    make().flushall()
    yield make
    for pool in pools:
        pool.disconnect()


@pytest.fixture
def client(connect: Connect) -> Client:
    return connect()


def test_as_in_every_tutorial(server: RunningKeyhaus) -> None:
    client: Client
    with redis.Redis(port=server.port) as client:
        assert client.set("greeting", "hello") is True
        assert client.get("greeting") == b"hello"
    with redis.Redis(port=server.port, decode_responses=True) as client:
        assert client.get("greeting") == "hello"
    with closing(redis.from_url(f"redis://{HOST}:{server.port}/3?protocol=3")) as client:
        assert client.get("greeting") is None
        assert client.set("greeting", "three") is True
    with redis.Redis(port=server.port, db=3) as client:
        assert client.get("greeting") == b"three"


# values and keys


def test_strings_and_numbers(client: Client) -> None:
    assert client.set("k", "v", nx=True) is True
    assert client.set("k", "w", nx=True) is None
    assert client.set("k", "w", get=True) == b"v"
    assert client.getset("k", "x") == b"w"
    assert client.append("k", "yz") == 3
    assert client.getrange("k", 0, 1) == b"xy"
    assert client.setrange("k", 5, "!") == 6
    assert client.get("k") == b"xyz\0\0!"
    assert client.strlen("k") == 6
    assert [client.incr("n"), client.incrby("n", 10), client.decr("n", 3)] == [1, 11, 8]
    assert client.incrbyfloat("n", 0.5) == 8.5
    assert client.mset({"a": 1, "b": 2}) is True
    assert client.msetnx({"b": 3, "c": 3}) is False
    assert client.mget("a", "b", "c") == [b"1", b"2", None]
    assert client.getdel("a") == b"1"
    assert client.getex("b", ex=100) == b"2" and 0 < client.ttl("b") <= 100
    assert client.substr("k", 1, 2) == b"yz"


def test_decoded_replies(connect: Connect) -> None:
    client = connect(decode_responses=True)
    client.mset({"schlüssel": "wért", "b": "2"})
    assert client.get("schlüssel") == "wért"
    assert sorted(client.keys()) == ["b", "schlüssel"]
    assert client.mget(["schlüssel", "none"]) == ["wért", None]
    assert client.type("b") == "string"
    assert client.config_get("maxclients") == {"maxclients": "10000"}
    with client.pipeline() as pipeline:
        assert pipeline.get("schlüssel").set("b", "x").execute() == ["wért", True]


def test_keys(client: Client) -> None:
    client.mset({"a": 1, "b": 2, "c": 3})
    assert client.exists("a", "b", "none") == 2
    assert client.delete("a", "none") == 1 and client.unlink("b") == 1
    assert client.rename("c", "d") is True and client.renamenx("d", "e") is True
    assert client.copy("e", "f") is True and client.touch("e", "f") == 2
    assert client.randomkey() in (b"e", b"f")
    assert client.move("f", 5) == 1 and client.dbsize() == 1
    assert client.object("encoding", "e") == b"int"
    assert client.memory_usage("e") > 0
    payload = client.dump("e")
    assert client.restore("g", 0, payload) in (True, b"OK") and client.get("g") == b"3"
    assert client.swapdb(0, 5) is True and client.keys() == [b"f"]


def test_expiry(client: Client) -> None:
    client.set("k", "v")
    assert client.ttl("k") == -1 and client.ttl("none") == -2
    assert client.expire("k", 100) is True and 99 <= client.ttl("k") <= 100
    assert client.expire("k", 200, nx=True) is False and client.expire("k", 50, gt=True) is False
    assert client.expire("k", 200, xx=True) is True and client.expire("k", 50, lt=True) is True
    assert client.pexpire("k", 100_000) is True and 99_000 < client.pttl("k") <= 100_000
    when = client.time()[0] + 1000
    assert client.expireat("k", when) is True and client.expiretime("k") == when
    assert client.pexpireat("k", when * 1000 + 7) is True and client.pexpiretime("k") == when * 1000 + 7
    assert client.persist("k") is True and client.persist("k") is False
    assert client.execute_command("SETEX", "s", 100, "v") is True
    assert client.execute_command("PSETEX", "p", 100_000, "v") is True
    assert client.set("k", "v", exat=when) is True and client.set("k", "w", keepttl=True) is True
    assert client.expiretime("k") == when
    assert client.set("k", "v", px=1) is True
    while client.exists("k"):  # each look is a round trip, and there is one millisecond to pass
        pass
    assert client.get("k") is None and client.expire("s", -1) is True and client.exists("s") == 0


def test_scan_iter_finds_every_key_once(client: Client) -> None:
    client.mset({f"key:{number}": number for number in range(2500)})
    client.mset({f"other:{number}": number for number in range(10)})
    found = list(client.scan_iter(count=100))
    assert len(found) == len(set(found)) == 2510
    assert len(set(client.scan_iter(match="key:1*", count=1000))) == 1111
    assert set(client.scan_iter(match="other:*")) == {b"other:%d" % number for number in range(10)}
    assert list(client.scan_iter(_type="list")) == []


def test_values_of_megabytes(client: Client, seed: int) -> None:
    value = random.Random(seed).randbytes(FIVE_MB)
    assert client.set("big", value) is True
    assert client.get("big") == value
    assert client.getrange("big", FIVE_MB - 10, -1) == value[-10:]
    with client.pipeline(transaction=False) as pipeline:
        for _ in range(4):
            pipeline.get("big").ping()
        assert pipeline.execute() == [value, True] * 4


# pipelines and transactions


@pytest.mark.parametrize("transaction", [False, True])
def test_pipelines(client: Client, transaction: bool) -> None:
    with client.pipeline(transaction=transaction) as pipeline:
        pipeline.set("a", 1).incr("a").get("a").get("none").delete("a", "b").mget("a", "b")
        assert pipeline.execute() == [True, 2, b"2", None, 1, [None, None]]
        assert pipeline.execute() == []


@pytest.mark.parametrize("transaction", [False, True])
def test_a_pipeline_of_ten_thousand(client: Client, transaction: bool) -> None:
    with client.pipeline(transaction=transaction) as pipeline:
        for number in range(5000):
            pipeline.set(f"key:{number}", number).incr("sum")
        assert pipeline.execute() == [reply for number in range(1, 5001) for reply in (True, number)]
    assert client.dbsize() == 5001


@pytest.mark.parametrize("transaction", [False, True])
def test_an_error_in_a_pipeline_leaves_the_rest(client: Client, transaction: bool) -> None:
    with client.pipeline(transaction=transaction) as pipeline:
        pipeline.set("a", "x").incr("a").set("b", 1)
        replies = pipeline.execute(raise_on_error=False)
        assert replies[::2] == [True, True] and isinstance(replies[1], redis.ResponseError)
        pipeline.incr("a").incr("b")
        with pytest.raises(redis.ResponseError, match=r"^Command # 1 \(.*a.*\) of pipeline caused error: value is not"):
            pipeline.execute()
    assert client.get("b") == b"2"


def test_an_error_while_queueing_aborts_all(client: Client) -> None:
    with client.pipeline() as pipeline:
        pipeline.set("a", 1).execute_command("NOTHING")
        with pytest.raises(redis.ResponseError, match="unknown command 'NOTHING'"):
            pipeline.execute()
    with client.pipeline() as pipeline:
        pipeline.set("a", 1).execute_command("GET")
        with pytest.raises(redis.ResponseError, match="wrong number of arguments for 'get' command"):
            pipeline.execute()
    assert client.get("a") is None


def test_a_watched_key_that_changes_stops_exec(client: Client, connect: Connect) -> None:
    client.set("k", 1)
    other = connect()
    with client.pipeline() as pipeline:
        pipeline.watch("k")
        value = int(pipeline.get("k"))
        other.set("k", 10)
        pipeline.multi()
        pipeline.set("k", value + 1)
        with pytest.raises(redis.WatchError):
            pipeline.execute()
        assert client.get("k") == b"10"
        pipeline.watch("k")
        pipeline.unwatch()
        other.set("k", 11)
        assert pipeline.get("k").execute() == [b"11"]


def test_transaction_tries_again_until_nobody_was_in_between(client: Client, connect: Connect) -> None:
    client.set("k", 1)
    other, disturb = connect(), [1, 1, 0]

    def double(pipeline: Any) -> None:
        value = int(pipeline.get("k"))
        if disturb.pop(0):
            other.incr("k")
        pipeline.multi()
        pipeline.set("k", value * 2)

    assert client.transaction(double, "k") == [True]
    assert client.get("k") == b"6" and disturb == []


# connections


def test_clients_are_told_and_killed(client: Client, connect: Connect) -> None:
    other = connect(max_connections=1)
    assert client.client_getname() is None
    assert client.client_setname("first") is True and other.client_setname("second") is True
    assert client.client_getname() in ("first", b"first")
    own = client.client_info()
    assert own["name"] == "first" and own["id"] == client.client_id() and own["cmd"] == "client|info"
    assert own["lib-name"] == "redis-py" and own["lib-ver"] == redis.__version__
    listed = {entry["name"]: entry for entry in client.client_list()}
    assert {"first", "second"} <= set(listed)
    second = listed["second"]
    assert int(second["id"]) == other.client_id() and second["addr"].startswith(f"{HOST}:")
    assert client.client_list(client_id=[second["id"]])[0]["name"] == "second"
    connection = other.connection_pool.get_connection()
    assert client.client_kill_filter(_id=second["id"]) == 1
    with pytest.raises(redis.ConnectionError):
        connection.read_response()
    other.connection_pool.release(connection)
    assert other.client_getname() is None  # a new connection
    address = next(entry["addr"] for entry in client.client_list() if int(entry["id"]) == other.client_id())
    assert client.client_kill(address) is True
    with pytest.raises(redis.ResponseError, match="No such client"):
        client.client_kill(address)


def test_a_named_client_of_a_chosen_database(connect: Connect) -> None:
    client = connect(client_name="named", db=7, health_check_interval=1)
    assert client.client_getname() in ("named", b"named")
    assert client.client_info()["db"] in (7, "7")
    assert client.echo("hello") == b"hello" and client.ping() is True


def test_a_pool_of_threads(connect: Connect) -> None:
    client = connect(max_connections=8)
    gate = threading.Barrier(8)
    wrong: list[Any] = []

    def work(number: int) -> None:
        gate.wait()
        for turn in range(50):
            key, value = f"{number}", f"{number}/{turn}".encode()
            client.set(key, value)
            if (got := client.get(key)) != value:
                wrong.append((key, value, got))
            client.incr("sum")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and client.get("sum") == b"400"


def test_the_server_tells_about_itself(client: Client) -> None:
    info = client.info()
    assert info["redis_version"].count(".") == 2 and info["arch_bits"] == 64 and info["cluster_enabled"] == 0
    assert client.info("keyspace") == {}
    client.set("k", "v", ex=100)
    assert client.info("keyspace")["db0"]["keys"] == 1 and client.info("keyspace")["db0"]["expires"] == 1
    assert client.config_set("slowlog-max-len", 64) is True
    assert client.config_get("slowlog-max*") in ({"slowlog-max-len": "64"}, {b"slowlog-max-len": b"64"})
    assert client.config_set("slowlog-max-len", 128) is True
    assert client.config_resetstat() is True
    assert client.command_count() > 70 and client.command()["get"]["arity"] == 2
    assert client.slowlog_reset() is True and client.slowlog_len() == 0 and client.slowlog_get() == []
    assert client.wait(0, 10) == 0
    assert client.dbsize() == 1 and client.flushdb() is True and client.dbsize() == 0


def test_errors_have_their_classes(client: Client, connect: Connect) -> None:
    client.set("k", "x")
    with pytest.raises(redis.ResponseError, match="^value is not an integer or out of range$"):
        client.incr("k")
    with pytest.raises(redis.ResponseError, match="^unknown command 'NOTHING'"):
        client.execute_command("NOTHING")
    with pytest.raises(redis.ResponseError, match="^wrong number of arguments for 'get' command$"):
        client.execute_command("GET")
    with pytest.raises(redis.ResponseError, match="^DB index is out of range$"):
        client.execute_command("SELECT", 99)
    with pytest.raises(redis.ResponseError, match="^EXEC without MULTI$"):
        client.execute_command("EXEC")
    with pytest.raises(redis.ResponseError, match="^BUSYKEY "):
        client.restore("k", 0, client.dump("k"))
    with pytest.raises(redis.ResponseError, match="DUMP payload version or checksum are wrong"):
        client.restore("l", 0, b"xxxxxxxxxxxx")
    with pytest.raises(redis.AuthenticationError):
        connect(username="nobody", password="wrong").ping()
    assert client.get("k") == b"x"


# the lock of examples/lock.py


def test_a_lock_is_held_by_one_at_a_time(connect: Connect) -> None:
    client = connect()
    client.set("count", 0)

    def work() -> None:
        for _ in range(10):
            with lock(client, "lock", wait_s=30):
                client.set("count", int(client.get("count")) + 1)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.get("count") == b"30" and client.exists("lock") == 0


def test_only_the_holder_gives_a_lock_back(client: Client) -> None:
    with lock(client, "lock") as token:
        assert client.get("lock") == token.encode() and 0 < client.pttl("lock") <= 10_000
        with pytest.raises(NotAcquired), lock(client, "lock", wait_s=0):
            raise AssertionError("taken twice")
        assert release(client, "lock", "somebody else's") is False
        client.set("lock", "taken over")
    assert client.get("lock") == b"taken over"
