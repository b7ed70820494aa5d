"""Eviction, through sessions, without a loop: who goes, what is refused, what waits, and how much memory is taken."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import pytest

import keyhaus.commands  # noqa: F401  (fills the table)
from benchmarks.eviction import play_exact, trace
from keyhaus.commands.spec import TABLE, Flag
from keyhaus.core.errors import Error, UserError
from keyhaus.core.limits import EVICTION_SLACK_BYTES, EVICTION_STEP_KEYS
from keyhaus.core.reply import NULL_ARRAY
from keyhaus.core.settings import Settings, check
from keyhaus.core.wait import Wait
from keyhaus.journal.format import DELETE
from keyhaus.session.hub import Hub
from keyhaus.session.session import Session
from keyhaus.store.keyspace import ENTRY_BYTES
from keyhaus.store.store import Store
from tests.support.sessions import Sessions
from tests.support.turns import ManualClock, ManualSpawn

LIMIT = 300_000
OOM = "command not allowed when used memory > 'maxmemory'."


class Cache:
    """A store in memory under a limit, and sessions in it."""

    def __init__(self, policy: str = "noeviction", limit: int = LIMIT, seed: int = 0, **settings: Any) -> None:
        self.clock = ManualClock()
        self.spawn = ManualSpawn(seed)
        self.settings = Settings(engine="memory", max_memory=limit, max_memory_policy=policy, **settings)
        self.store = Store(self.spawn, self.clock, self.settings)
        self.hub = Hub(self.store, self.settings, self.clock, "0" * 40)
        self.session = self.open()
        self.waited = 0

    def open(self) -> Session:
        return self.hub.open_session()

    def start(self, *words: bytes | str | int, by: Session | None = None) -> Any:
        """A command's reply, or the Wait that it has come to."""
        args = [word if type(word) is bytes else str(word).encode() for word in words]
        return (by or self.session).execute(args)

    def run(self, *words: bytes | str | int, by: Session | None = None) -> Any:
        """A command's reply; turns are taken while it waits, and only then."""
        reply = self.start(*words, by=by)
        while isinstance(reply, Wait):
            self.waited += 1
            while not reply.fired:
                assert self.spawn.take_turn(), "it waits for something that never comes"
            reply = (by or self.session).resume()
        return reply

    def settle(self) -> int:
        turns = 0
        while self.spawn.take_turn():
            turns += 1
        return turns

    @property
    def used(self) -> int:
        return self.store.evictor.used()

    def count(self) -> int:
        return sum(space.count for space in self.store.spaces)

    def exists(self, *keys: str) -> list[int]:
        return [self.run("EXISTS", key) for key in keys]


def _refused(reply: Any) -> bool:
    return isinstance(reply, Error) and reply.code == "OOM" and reply.message == OOM


# what is refused


@pytest.mark.parametrize("policy", ["noeviction", "volatile-ttl"])
def test_writes_are_refused_where_nothing_may_be_given_up(policy: str) -> None:
    cache = Cache(policy)
    while cache.used <= LIMIT:
        assert cache.run("SET", f"key:{cache.count()}", "x" * 1000) == "OK"
    assert _refused(cache.run("SET", "new", "x"))
    assert _refused(cache.run("APPEND", "key:1", "x"))
    assert cache.run("GET", "key:1") == b"x" * 1000
    assert cache.run("EXPIREAT", "none", 1) == 0
    assert cache.run("DEL", "key:1", "key:2") == 2
    assert cache.run("SET", "new", "x") == "OK"
    assert cache.store.evictor.evicted_keys == 0


def test_every_command_that_may_need_memory_says_so() -> None:
    # What Redis lets pass beside these does not make a value, or not a larger one.
    passing = ["DEL", "UNLINK", "GETDEL", "FLUSHDB", "FLUSHALL", "SWAPDB", "DELRANGE", "MOVE", "RENAME", "RENAMENX"]
    passing += ["PERSIST", "GETEX", "EXPIRE", "PEXPIRE", "EXPIREAT", "PEXPIREAT"]
    writing = {name for name, spec in TABLE.items() if spec.flags & Flag.WRITE}
    assert {name for name in writing if not TABLE[name].needs_memory} == set(passing)


def test_a_limit_that_is_lowered_evicts_in_the_background_in_steps() -> None:
    cache = Cache("allkeys-lru", 10_000_000)
    for number in range(1000):
        cache.run("SET", number, "x" * 100)
    assert cache.run("CONFIG", "SET", "maxmemory", LIMIT // 10) == "OK"
    assert cache.count() == 1000
    before = cache.count()
    while cache.spawn.take_turn():
        assert before - cache.count() <= EVICTION_STEP_KEYS
        before = cache.count()
    assert 0 < cache.used <= LIMIT // 10
    assert cache.count() + cache.store.evictor.evicted_keys == 1000


def test_a_policy_that_comes_later_frees_what_is_too_much() -> None:
    cache = Cache("noeviction", 0)
    for number in range(1000):
        cache.run("SET", number, "x" * 100)
    cache.run("CONFIG", "SET", "maxmemory", LIMIT // 10)
    cache.settle()
    assert cache.count() == 1000
    assert _refused(cache.run("SET", "new", "x"))
    cache.run("CONFIG", "SET", "maxmemory-policy", "allkeys-lfu")
    cache.settle()
    assert cache.used <= LIMIT // 10


def test_each_command_makes_room_by_no_more_than_a_step() -> None:
    cache = Cache("allkeys-lru", 10_000_000)
    for number in range(1000):
        cache.run("SET", number, "x" * 100)
    cache.run("CONFIG", "SET", "maxmemory", LIMIT // 10)
    for command in (("GET", "none"), ("PING",), ("SET", "new", "x"), ("INCR", "counter")):
        before = cache.store.evictor.evicted_keys
        assert not isinstance(cache.start(*command), Wait)
        assert cache.store.evictor.evicted_keys - before == EVICTION_STEP_KEYS


def test_a_write_waits_where_more_comes_in_than_goes_out() -> None:
    cache = Cache("allkeys-lru")
    while not cache.store.evictor.evicted_keys:
        cache.run("SET", cache.count(), "x" * 10)
    large = 150_000
    assert cache.start("SET", "large", "x" * large) == "OK"
    other = cache.open()
    wait = cache.start("SET", "larger", "x" * large)
    assert isinstance(wait, Wait)
    assert cache.start("GET", "none", by=other) is None
    assert cache.start("DEL", "none", by=other) == 0
    assert cache.run("SET", "third", "x", by=other) == "OK"
    while not wait.fired:
        assert cache.spawn.take_turn()
    reply = cache.session.resume()
    while isinstance(reply, Wait):
        assert cache.spawn.take_turn()
        reply = cache.session.resume() if reply.fired else reply
    assert reply == "OK"
    assert cache.used <= LIMIT + EVICTION_SLACK_BYTES + large + 1000


def test_who_waits_goes_on_when_the_limit_is_taken_away_or_nothing_is_left() -> None:
    for policy, words in (("allkeys-lru", ("maxmemory", "0")), ("noeviction", ("maxmemory-policy", "noeviction"))):
        cache = Cache("allkeys-lru")
        while not cache.store.evictor.evicted_keys:
            cache.run("SET", cache.count(), "x" * 10)
        cache.run("SET", "large", "x" * 150_000)
        wait = cache.start("SET", "larger", "x" * 150_000)
        assert isinstance(wait, Wait)
        cache.start("CONFIG", "SET", *words, by=cache.open())
        cache.settle()
        assert wait.fired
        reply = cache.session.resume()
        assert reply == "OK" if policy != "noeviction" else _refused(reply)


# who goes


def test_volatile_ttl_gives_up_what_expires_next_of_all_databases() -> None:
    cache = Cache("volatile-ttl", 0)
    order = list(range(1, 101))
    random.Random(7).shuffle(order)
    for seconds in order:
        cache.run("SELECT", seconds % 3)
        cache.run("SET", f"ttl:{seconds}", "x" * 100, "EX", 1000 + seconds)
        cache.run("SET", f"stays:{seconds}", "x" * 100)
    cache.run("CONFIG", "SET", "maxmemory", cache.used - 60 * 200)
    cache.settle()
    gone = cache.store.evictor.evicted_keys
    assert 10 < gone < 60
    for seconds in order:
        cache.run("SELECT", seconds % 3)
        assert cache.exists(f"ttl:{seconds}", f"stays:{seconds}") == [int(seconds > gone), 1]


def test_volatile_ttl_follows_deadlines_that_change() -> None:
    cache = Cache("volatile-ttl", 0)
    for number in range(3):
        cache.run("SET", number, "x" * 1000, "EX", 100 + number)
    cache.run("EXPIRE", 0, 1000)
    cache.run("PERSIST", 1)
    cache.run("CONFIG", "SET", "maxmemory", cache.used - 1000)
    cache.settle()
    assert cache.exists("0", "1", "2") == [1, 1, 0]


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu"])
def test_with_as_many_samples_as_keys_hardly_any_but_the_least_used_goes(policy: str) -> None:
    cache = Cache(policy, 1 << 30, max_memory_samples=100)
    for number in range(100):
        cache.run("SET", number, "x" * 100)
    used = list(range(100))
    random.Random(3).shuffle(used)
    for number in used[:70]:
        for _ in range(5):
            cache.clock.ms += 10
            cache.run("GET", number)
    for number in used[70:]:
        cache.run("EXISTS", number)
    cache.run("CONFIG", "SET", "maxmemory", cache.used * 8 // 10)
    cache.settle()
    assert 15 < cache.store.evictor.evicted_keys < 30
    # A key whose place in the table another one has taken is unknown, and may go before its time.
    assert sum(cache.exists(*map(str, used[:70]))) >= 55


def test_lru_evicts_about_in_the_order_of_use() -> None:
    cache = Cache("allkeys-lru", 1 << 30, max_memory_samples=50)
    for number in range(50):
        cache.run("SET", number, "x" * 100)
    order = list(range(50))
    random.Random(5).shuffle(order)
    for number in order:
        cache.clock.ms += 10
        cache.run("GET", number)
    for left in (40, 25, 7):
        while cache.count() > left:
            cache.run("CONFIG", "SET", "maxmemory", cache.used - 1)
            cache.settle()
        assert sum(cache.exists(*map(str, order[50 - left :]))) >= left - 6


@pytest.mark.parametrize("name", ["zipf", "scan"])
@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu"])
def test_as_many_reads_hit_as_in_an_exact_lru(policy: str, name: str, seed: int) -> None:
    cache = Cache(policy, LIMIT, seed)
    hits = reads = 0
    for key in trace(name, 5000, 20_000, seed):
        cache.clock.ms += reads % 5 == 0
        reads += 1
        if cache.run("GET", key) is None:
            assert cache.run("SET", key, "x" * 100) == "OK"
        else:
            hits += 1
    exact = play_exact(trace(name, 5000, 20_000, seed), cache.count())
    assert hits / reads > exact - 0.03


# commits


def test_an_eviction_is_a_deletion_with_a_commit_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache("allkeys-lru")
    commits: list[list[Any]] = []
    commit = cache.store.commit

    def noted(transaction: Any) -> Any:
        commits.append(list(transaction.operations))
        return commit(transaction)

    monkeypatch.setattr(cache.store, "commit", noted)
    while cache.store.evictor.evicted_keys < 10:
        cache.run("SET", cache.store.last, "x" * 1000)
    deletions = [operations for operations in commits if operations[0][0] == DELETE]
    assert [len(operations) for operations in deletions] == [1] * 10
    assert len(commits) == cache.store.last


def test_what_was_flushed_or_swapped_is_no_candidate_any_more() -> None:
    cache = Cache("allkeys-lru")
    for words in (("FLUSHALL",), ("SWAPDB", 0, 1), ("FLUSHDB",), ("PING",)):
        for _ in range(1000):
            cache.clock.ms += 1
            assert cache.run("SET", cache.store.last, "x" * 1000) == "OK"
        assert cache.run(*words) in ("OK", "PONG")
    evicted = cache.store.evictor.evicted_keys
    assert evicted > 500
    cache.settle()
    assert 0 < cache.used <= LIMIT


def test_watch_sees_an_eviction() -> None:
    cache = Cache("allkeys-lru")
    cache.run("SET", "watched", "x")
    cache.run("WATCH", "watched")
    cache.clock.ms += 100
    other = cache.open()
    while cache.exists("watched") == [1]:
        cache.clock.ms += 1
        cache.run("SET", cache.store.last, "x" * 1000, by=other)
    cache.run("MULTI")
    cache.run("PING")
    assert cache.run("EXEC") is NULL_ARRAY


def test_evictions_are_counted_and_told() -> None:
    cache = Cache("allkeys-lru")
    while cache.store.evictor.evicted_keys < 5:
        cache.run("SET", cache.store.last, "x" * 1000)
    told = cache.run("INFO", "stats", "memory").decode()
    assert f"\r\nevicted_keys:{cache.store.evictor.evicted_keys}\r\n" in told
    assert f"\r\nmaxmemory:{LIMIT}\r\n" in told
    assert "\r\nmaxmemory_policy:allkeys-lru\r\n" in told
    assert cache.run("CONFIG", "RESETSTAT") == "OK"
    assert "\r\nevicted_keys:0\r\n" in cache.run("INFO", "stats").decode()


def test_what_a_snapshot_looks_at_is_not_evicted_for() -> None:
    cache = Cache("allkeys-lru")
    while not cache.store.evictor.evicted_keys:
        cache.run("SET", cache.store.last, "x" * 100)
    before = cache.count()
    with_snapshot = cache.store.snapshot()
    for _ in range(before // 2):
        assert cache.run("SET", cache.store.last, "x" * 100) == "OK"
    assert cache.count() > before * 0.9
    cache.run("FLUSHALL")
    assert cache.used == 0
    assert cache.run("SET", "a", "x" * LIMIT) == "OK"
    assert _refused(cache.run("SET", "b", "x")) or cache.exists("a") == [0]
    with_snapshot.close()
    cache.settle()
    assert cache.used <= LIMIT + 1000


# what is kept


def test_nothing_is_kept_without_a_limit_or_a_policy_that_asks_for_it() -> None:
    for settings in ({"limit": 0, "policy": "allkeys-lru"}, {"policy": "noeviction"}, {"policy": "volatile-ttl"}):
        cache = Cache(**settings)  # type: ignore[arg-type]
        cache.run("SET", "a", "b")
        assert all(space.uses is None for space in cache.store.spaces)
    assert cache.store.spaces[0].entry_bytes > ENTRY_BYTES
    cache.run("CONFIG", "SET", "maxmemory", 0)
    assert cache.store.spaces[0].entry_bytes == ENTRY_BYTES


def test_what_is_counted_follows_from_what_is_there(seed: int) -> None:
    generator = random.Random(seed)
    cache = Cache("noeviction", 0, seed)
    for _ in range(3000):
        key = generator.randrange(100)
        match generator.randrange(8):
            case 0:
                cache.run("DEL", key)
            case 1:
                cache.run("SET", key, "x" * generator.randrange(2000), "PX", generator.randrange(1, 10_000))
            case 2:
                cache.run("CONFIG", "SET", "maxmemory", generator.choice((0, 1 << 40)))
            case 3:
                policies = ("noeviction", "allkeys-lru", "allkeys-lfu", "volatile-ttl")
                cache.run("CONFIG", "SET", "maxmemory-policy", generator.choice(policies))
            case 4:
                cache.run(*generator.choice((("FLUSHDB",), ("SWAPDB", 0, 1), ("SELECT", generator.randrange(3)))))
            case _:
                cache.run("SET", key, "x" * generator.randrange(2000))
    for number in range(16):
        cache.run("SELECT", number)
        for key in range(100):
            cache.run("DEL", key)
    for space in cache.store.spaces:
        while space.deadlines:
            space.pop_deadline()
    assert cache.used == 0


def test_object_tells_what_is_kept() -> None:
    cache = Cache("allkeys-lru")
    cache.run("SET", "a", "b")
    cache.clock.ms += 7000
    assert cache.run("OBJECT", "IDLETIME", "a") == 7
    assert "LFU maxmemory policy is not selected" in str(cache.run("OBJECT", "FREQ", "a"))
    cache.run("EXISTS", "a")
    assert cache.run("OBJECT", "IDLETIME", "a") == 7
    cache.run("TOUCH", "a")
    assert cache.run("OBJECT", "IDLETIME", "a") == 0
    cache.run("CONFIG", "SET", "maxmemory-policy", "allkeys-lfu", "lfu-log-factor", 0)
    cache.run("SET", "b", "c")
    for _ in range(20):
        cache.run("GET", "b")
    assert cache.run("OBJECT", "FREQ", "b") == 25
    assert "An LFU maxmemory policy is selected, idle time not tracked" in str(cache.run("OBJECT", "IDLETIME", "b"))
    cache.clock.ms += 60_000 * 10
    assert cache.run("OBJECT", "FREQ", "b") == 15
    cache.run("CONFIG", "SET", "maxmemory", 0)
    assert "only while max-memory" in str(cache.run("OBJECT", "FREQ", "b"))
    assert cache.run("OBJECT", "FREQ", "none") is None


def test_what_exec_runs_uses_its_keys() -> None:
    cache = Cache("allkeys-lfu", lfu_log_factor=0)
    cache.run("SET", "a", "b")
    cache.run("MULTI")
    for _ in range(3):
        cache.run("GET", "a")
    assert cache.run("OBJECT", "FREQ", "a", by=cache.open()) == 5
    cache.run("EXEC")
    assert cache.run("OBJECT", "FREQ", "a") == 8


# the bound


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu", "volatile-ttl", "noeviction"])
def test_memory_never_passes_the_limit_by_more_than_one_command(policy: str, seed: int) -> None:
    generator = random.Random(seed)
    cache = Cache(policy, LIMIT, seed)
    sessions = [cache.open() for _ in range(4)]
    model: OrderedDict[bytes, bytes] = OrderedDict()
    for command in _commands(generator):
        cache.clock.ms += generator.randrange(20)
        own = sum(map(len, command)) + 600 * len(command)
        reply = cache.run(*command, by=generator.choice(sessions))
        assert cache.used <= LIMIT + EVICTION_SLACK_BYTES + own, command
        if reply == "OK" and command[0] == b"SET":
            model[command[1]] = command[2]
        elif command[0] == b"GET" and reply is not None:
            assert reply == model[command[1]]
    if policy != "noeviction":
        assert cache.store.evictor.evicted_keys > (20 if policy != "volatile-ttl" else 0)


def _commands(generator: random.Random) -> Iterator[list[bytes]]:
    for number in range(4000):
        key = b"key:%d" % min(int(generator.expovariate(0.01)), 800)
        size = generator.choice((1, 10, 100, 1000, 1000, 20_000 if number % 50 == 0 else 10))
        match generator.randrange(10):
            case 0 | 1 | 2:
                yield [b"GET", key]
            case 3:
                yield [b"DEL", key]
            case 4:
                yield [b"PEXPIRE", key, b"%d" % generator.randrange(1, 10_000_000)]
            case 5 | 6:
                yield [b"SET", key, generator.randbytes(size), b"PX", b"%d" % generator.randrange(1, 10_000_000)]
            case _:
                yield [b"SET", key, generator.randbytes(size)]


# where it is no setting


def test_the_setting_is_refused_where_data_need_not_fit_into_memory() -> None:
    check("memory", {"max-memory": 1})
    check("rocksdb", {"max-memory": 0})
    with pytest.raises(UserError, match=r"memory engine.*cache-bytes.*memtable-bytes"):
        check("rocksdb", {"max-memory": 1})
    cache = Cache("noeviction", 0)
    cache.settings.put("engine", "rocksdb")
    assert "cache-bytes" in str(cache.run("CONFIG", "SET", "timeout", 5, "maxmemory", "1gb"))
    assert cache.settings["timeout"] == cache.settings["max-memory"] == 0


def test_redis_names_are_other_names() -> None:
    cache = Cache("noeviction", 0)
    told = cache.run("CONFIG", "GET", "max*memory*")
    assert told[b"maxmemory"] == told[b"max-memory"] == b"0"
    assert told[b"maxmemory-policy"] == told[b"max-memory-policy"] == b"noeviction"
    assert told[b"maxmemory-samples"] == told[b"max-memory-samples"] == b"5"
    assert cache.run("CONFIG", "SET", "maxmemory", "1mb", "max-memory-samples", 10) == "OK"
    assert cache.run("CONFIG", "GET", "maxmemory") == {b"maxmemory": b"1048576"}
    assert "duplicate" in str(cache.run("CONFIG", "SET", "maxmemory", 1, "max-memory", 2))


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu", "volatile-ttl"])
def test_eviction_gives_up_where_all_keys_are_locked_and_goes_on_once_they_are_not(policy: str) -> None:
    sessions = Sessions(max_memory_policy=policy)
    client, other = sessions.connect(), sessions.connect()
    client("SET", "k", "v", *(["EX", "100"] if policy == "volatile-ttl" else []))
    client("BEGIN")
    client("GET", "k")
    sessions.settings.put("max-memory", 1)
    sessions.settle()
    other.raises("OOM", "SET", "l", "v")
    client("ROLLBACK")
    assert other("SET", "l", "v") == "OK"
    assert other("GET", "k") is None
