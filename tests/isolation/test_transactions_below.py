"""Transactions over data that lies in the base: cold reads among locks and snapshots, and flushes in between.

The base is the model engine on the simulated disk; every read of it is a wait, after which the command is run again.
"""

from __future__ import annotations

from typing import Any

import pytest

from keyhaus.core.errors import Corruption, Error
from keyhaus.core.limits import SWEEP_KEYS_MAX
from keyhaus.core.wait import Wait
from keyhaus.session.hub import Hub
from keyhaus.session.session import Session
from tests.support.based import BasedStore

MODES = pytest.mark.parametrize("mode", ["PESSIMISTIC", "OPTIMISTIC", "READONLY"])
WRITING = pytest.mark.parametrize("mode", ["PESSIMISTIC", "OPTIMISTIC"])
KEPT = {b"a": b"1", b"b": b"2", b"c": b"3", b"d": b"4"}


class Client:
    """A session over the base, whose requests are driven as far as they go."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.session: Session = bench.hub.open_session()
        self._wait: Wait | None = None
        self._reply: Any = None

    def send(self, *words: str | int | bytes) -> None:
        self._take(self.session.execute([word if isinstance(word, bytes) else str(word).encode() for word in words]))

    def waits(self) -> bool:
        """Whether the request still waits once everything that can go on has."""
        self._bench.settle()
        return self._wait is not None

    def reply(self) -> Any:
        assert not self.waits(), "it waits for something that does not come"
        return self._reply

    def __call__(self, *words: str | int | bytes) -> Any:
        self.send(*words)
        return self.reply()

    def fails(self, *words: str | int) -> str:
        reply = self(*words)
        assert isinstance(reply, Error), reply
        return reply.code

    def _take(self, result: Any) -> None:
        self._wait, self._reply = None, result
        if isinstance(result, Wait):
            self._wait = result
            result.on_fire(lambda: self._bench.it.spawn.soon(lambda: self._take(self.session.resume())))


class Bench:
    """A store whose keys are all in the base, and cold."""

    def __init__(self) -> None:
        self.it = BasedStore()
        self.open()
        client = self.connect()
        for key, value in KEPT.items():
            client("SET", key, value)
        self.flush()

    def open(self) -> None:
        """Takes over the store, after a restart too."""
        self.store = self.it.store
        self.hub = Hub(self.store, self.store.settings, self.it.clock, "run")

    def connect(self) -> Client:
        return Client(self)

    def settle(self) -> None:
        self.it.settle()

    def flush(self) -> None:
        self.it.flush()
        self.it.forget_cached()

    def pass_ms(self, milliseconds: int) -> None:
        """Time passes, and what is due happens."""
        for _ in range(milliseconds // 100):
            self.it.clock.ms += 100
            self.it.spawn.ring()
            self.settle()


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def one(bench: Bench) -> Client:
    return bench.connect()


@pytest.fixture
def other(bench: Bench) -> Client:
    return bench.connect()


def rows(page: Any) -> dict[bytes, bytes]:
    following, flat = page
    assert following is None
    return dict(zip(flat[::2], flat[1::2], strict=True))


# what it sees


@MODES
def test_what_is_in_the_base_is_read(bench: Bench, one: Client, mode: str) -> None:
    one("BEGIN", mode)
    cold = bench.store.gatherer.cold_reads
    assert one("MGET", "a", "missing", "d") == [b"1", None, b"4"]
    assert bench.store.gatherer.cold_reads > cold
    assert rows(one("RANGE", "", "")) == KEPT
    assert one("RANGE", "a", "d", "REV", "LIMIT", 2) == [b"a\0", [b"c", b"3", b"b", b"2"]]
    assert sorted(one("KEYS", "*")) == sorted(KEPT)
    assert one("DBSIZE") == 4
    assert one("RANDOMKEY") in KEPT
    assert one("COMMIT") == "OK"


@WRITING
def test_its_own_writes_lie_above_the_base(bench: Bench, one: Client, other: Client, mode: str) -> None:
    one("BEGIN", mode)
    one("SET", "b", "own")
    one("SET", "bb", "own")
    assert one("DEL", "c", "missing") == 1
    own = {b"a": b"1", b"b": b"own", b"bb": b"own", b"d": b"4"}
    for _ in range(2):
        assert rows(one("RANGE", "", "")) == own
        assert sorted(one("KEYS", "*")) == sorted(own)
        assert one("DBSIZE") == 4
        assert one("INCR", "a") in (2, 3)
        own[b"a"] = b"%d" % (int(own[b"a"]) + 1)
        bench.flush()
    assert rows(other("RANGE", "", "")) == KEPT
    assert one("COMMIT") == "OK"
    assert rows(other("RANGE", "", "")) == own
    assert other("DBSIZE") == 4
    bench.flush()
    assert rows(other("RANGE", "", "")) == own


@WRITING
def test_its_own_flush_hides_the_base(bench: Bench, one: Client, other: Client, mode: str) -> None:
    one("BEGIN", mode)
    assert one("GET", "a") == b"1"
    one("FLUSHDB")
    assert one("MGET", "a", "b") == [None, None]
    assert one("DBSIZE") == 0
    assert one("RANDOMKEY") is None
    one("SET", "b", "own")
    assert rows(one("RANGE", "", "")) == {b"b": b"own"}
    assert one("DBSIZE") == 1
    assert one("COMMIT") == "OK"
    assert rows(other("RANGE", "", "")) == {b"b": b"own"}


@pytest.mark.parametrize("mode", ["OPTIMISTIC", "READONLY"])
def test_a_snapshot_stays_as_it_was_across_flushes(bench: Bench, one: Client, other: Client, mode: str) -> None:
    one("BEGIN", mode)
    other("SET", "a", "later")
    other("SET", "new", "later")
    bench.flush()
    assert one("MGET", "a", "new") == [b"1", None]
    other("DEL", "b")
    bench.flush()
    assert rows(one("RANGE", "", "")) == KEPT
    other("FLUSHALL")
    other("SET", "c", "later")
    bench.flush()
    assert one("MGET", "a", "b", "c") == [b"1", b"2", b"3"]
    assert rows(one("RANGE", "", "")) == KEPT
    assert one("DBSIZE") == 4
    assert one("RANDOMKEY") in KEPT
    assert one("COMMIT") == "OK" if mode == "READONLY" else one.fails("COMMIT") == "CONFLICT"
    assert rows(one("RANGE", "", "")) == {b"c": b"later"}


# validation


@pytest.mark.parametrize(
    ("reads", "changes"),
    [
        ("GET a", "SET a 9"),
        ("GET a", "DEL a"),
        ("GET missing", "SET missing 9"),
        ("GET missing", "SET missing 9; DEL missing"),
        ("RANGE a d", "SET c 9"),
        ("RANGE a d", "SET cc 9"),
        ("RANGE a d", "DEL b"),
        ("DBSIZE", "SET new 1"),
        ("DBSIZE", "DEL a"),
        ("KEYS *", "SET new 1"),
        ("DELRANGE a c", "SET bb 1"),
        ("RANDOMKEY", "SET new 1"),
        ("GET a", "FLUSHDB"),
        ("GET a", "SWAPDB 0 1; SWAPDB 0 1"),
        ("INCR a", "INCR a"),
    ],
)
@pytest.mark.parametrize("flushes", [0, 1, 2])
def test_a_change_is_a_conflict_also_once_it_is_flushed(
    bench: Bench, one: Client, other: Client, reads: str, changes: str, flushes: int
) -> None:
    one("BEGIN", "OPTIMISTIC")
    assert not isinstance(one(*reads.split()), Error)
    one("SET", "mine", 1)
    for line in changes.split("; "):
        assert not isinstance(other(*line.split()), Error)
    for number in range(flushes):
        bench.flush()
        other("SELECT", 2)
        other("SET", "beside", number)
    assert one.fails("COMMIT") == "CONFLICT"
    assert one("GET", "mine") is None


@pytest.mark.parametrize("reads", ["GET a", "GET missing", "RANGE a c", "MGET a b c d"])
def test_a_flush_alone_is_no_change(bench: Bench, one: Client, other: Client, reads: str) -> None:
    one("BEGIN", "OPTIMISTIC")
    bench.flush()
    one(*reads.split())
    other("SET", "x", 1)
    bench.flush()
    one("SET", "mine", 1)
    assert one("COMMIT") == "OK"
    bench.flush()
    assert one("GET", "mine") == b"1"


@pytest.mark.parametrize(
    ("page", "beside"), [("RANGE a  LIMIT 2", "d"), ("RANGE   REV LIMIT 2", "a"), ("SCAN 0 COUNT 2", "d")]
)
def test_a_cold_page_is_all_that_a_commit_rests_on(
    bench: Bench, one: Client, other: Client, page: str, beside: str
) -> None:
    one("BEGIN", "OPTIMISTIC")
    assert len(one(*page.split(" "))[1]) in (2, 4)
    one("SET", "x", 1)
    other("SET", beside, "changed")
    assert one("COMMIT") == "OK"


def test_a_read_that_waits_for_its_row_is_counted_once(bench: Bench, one: Client) -> None:
    statistics = bench.hub.statistics

    def counted(*words: str) -> tuple[int, int]:
        before = statistics.hits, statistics.misses
        one(*words)
        one.session.count_reads()
        return statistics.hits - before[0], statistics.misses - before[1]

    assert counted("GET", "a") == (1, 0)
    assert counted("GET", "nothing") == (0, 1)
    for mode in ("PESSIMISTIC", "OPTIMISTIC", "READONLY"):
        bench.it.forget_cached()
        one("BEGIN", mode)
        assert counted("GET", "b") == (1, 0)
        assert counted("GET", "nothing") == (0, 1)
        assert counted("COMMIT") == (0, 0)


# locks


def test_a_cold_key_is_locked_before_it_is_fetched(bench: Bench, one: Client, other: Client) -> None:
    one("BEGIN")
    assert one("GET", "a") == b"1"
    other.send("SET", "a", 9)
    assert other.waits()
    bench.flush()
    assert one("GET", "a") == b"1"
    assert one("RANGE", "a", "c") == [None, [b"a", b"1", b"b", b"2"]]
    assert one("COMMIT") == "OK"
    assert other.reply() == "OK"


def test_a_lock_is_waited_for_and_then_the_rows(bench: Bench, one: Client, other: Client) -> None:
    one("BEGIN")
    one("SET", "a", "new")
    other("BEGIN")
    other.send("MGET", "a", "b", "missing")
    assert other.waits()
    assert one("COMMIT") == "OK"
    bench.flush()
    assert other.reply() == [b"new", b"2", None]
    other("SET", "b", "own")
    assert other("COMMIT") == "OK"
    assert one("MGET", "a", "b") == [b"new", b"own"]


def test_nothing_comes_into_a_range_of_the_base(bench: Bench, one: Client, other: Client) -> None:
    one("BEGIN")
    assert one("RANGE", "b", "d", "KEYS") == [None, [b"b", b"c"]]
    other.send("DELRANGE", "", "")
    assert other.waits()
    bench.flush()
    assert one("RANGE", "b", "d", "KEYS") == [None, [b"b", b"c"]]
    assert one("COMMIT") == "OK"
    assert other.reply() == 4
    assert one("DBSIZE") == 0


def test_a_deadlock_over_cold_keys(bench: Bench, one: Client, other: Client) -> None:
    one("BEGIN")
    other("BEGIN")
    assert one("GET", "a") == b"1"
    assert other("GET", "b") == b"2"
    one.send("APPEND", "b", "x")
    assert one.waits()
    assert other.fails("APPEND", "a", "x") == "DEADLOCK"
    assert one.reply() == 2
    assert one("COMMIT") == "OK"
    assert other.fails("COMMIT") == "NOTX"


# expiry


@pytest.fixture
def expiring(bench: Bench) -> Bench:
    bench.connect()("SET", "e", "5", "PX", 1000)
    bench.flush()
    return bench


@WRITING
@pytest.mark.parametrize("read", ["GET e", "RANGE a f", "KEYS *", "INCR e"])
def test_what_was_read_alive_from_the_base_and_expires_is_a_conflict(expiring: Bench, mode: str, read: str) -> None:
    one = expiring.connect()
    one("BEGIN", mode)
    assert not isinstance(one(*read.split()), Error)
    expiring.it.clock.ms += 1000
    assert one.fails("COMMIT") == "CONFLICT"


def test_the_sweeper_passes_over_locked_keys_of_the_base(expiring: Bench) -> None:
    bench, one, other = expiring, expiring.connect(), expiring.connect()
    one("BEGIN", "TIMEOUT", 1_000_000)
    one("LOCK", "e")
    bench.pass_ms(2000)
    assert other("DBSIZE") == 5
    assert other("GET", "e") is None
    assert other("DBSIZE") == 5
    assert one("ROLLBACK") == "OK"
    bench.pass_ms(1000)
    assert other("DBSIZE") == 4


def test_what_is_locked_amid_a_look_at_expired_keys_is_swept_later() -> None:
    bench = Bench()
    one, two, other = bench.connect(), bench.connect(), bench.connect()
    other("SET", "sooner", 1, "PX", 1000)
    other("SET", "later", 1, "PX", 2000)
    bench.flush()
    one("BEGIN", "TIMEOUT", 1_000_000)
    one("LOCK", "later")
    two("BEGIN", "TIMEOUT", 1_000_000)
    locked: list[str] = []

    def lock(helper: str, method: str) -> None:
        if (helper, method) == ("base", "get") and not locked:  # the record of `sooner` is on its way to the sweeper
            locked.append("sooner")
            two.send("LOCK", "sooner")

    bench.it.fails = lock
    bench.it.clock.ms += 3000  # both are due at the next look
    bench.pass_ms(5000)
    assert locked
    assert other("DBSIZE") == len(KEPT) + 2
    for client in (one, two):
        assert client("ROLLBACK") == "OK"
    bench.pass_ms(5000)
    assert other("DBSIZE") == len(KEPT)


def test_what_has_expired_in_the_base_behind_many_locked_keys_is_swept() -> None:
    bench = Bench()
    one, other = bench.connect(), bench.connect()
    keys = [f"locked:{number}" for number in range(2 * SWEEP_KEYS_MAX + 1)]
    for key in keys:
        other("SET", key, 1, "PX", 1000)
    other("SET", "free", 1, "PX", 2000)
    bench.flush()
    one("BEGIN", "TIMEOUT", 1_000_000)
    one("LOCK", *keys)
    bench.pass_ms(4000)
    assert other("DBSIZE") == len(KEPT) + len(keys)
    assert one("ROLLBACK") == "OK"
    bench.pass_ms(3000)
    assert other("DBSIZE") == len(KEPT)


# what can't be read


@MODES
@pytest.mark.parametrize("read", ["GET a", "RANGE a z", "KEYS *", "INCR a"])
def test_a_read_that_fails_is_told_and_the_transaction_lives_on(
    bench: Bench, one: Client, mode: str, read: str
) -> None:
    one("BEGIN", mode)
    broken = [True]

    def fail(helper: str, method: str) -> None:
        if broken[0] and helper == "base" and method in ("get", "page"):
            raise Corruption("bad sum", "000007.sst", 4711)

    bench.it.fails = fail
    if mode == "READONLY" and read == "INCR a":
        assert one.fails(*read.split()) == "READONLY"
    else:
        assert one.fails(*read.split()) == "CORRUPTION"
    broken[0] = False
    assert one("GET", "a") == b"1"
    assert one("COMMIT") == "OK"


@MODES
def test_a_count_that_fails_is_told_and_the_transaction_lives_on(
    bench: Bench, one: Client, other: Client, mode: str
) -> None:
    other("SET", "blind", 1)  # nobody knows yet whether that key is new
    one("BEGIN", mode)
    broken = [True]

    def fail(helper: str, method: str) -> None:
        if broken[0] and helper == "base" and method in ("get", "page", "count"):
            raise Corruption("bad sum", "000007.sst", 4711)

    bench.it.fails = fail
    assert one.fails("DBSIZE") == "CORRUPTION"
    broken[0] = False
    assert one("GET", "a") == b"1"
    assert one("DBSIZE") == 5
    assert one("COMMIT") == "OK"


@MODES
def test_a_read_of_too_much_is_told_and_the_transaction_lives_on(bench: Bench, one: Client, mode: str) -> None:
    one("SET", "large", "x" * 700_000)
    one("SET", "larger", "x" * 700_000)
    bench.flush()
    assert one("CONFIG", "SET", "max-reply-bytes", 1 << 20) == "OK"
    one("BEGIN", mode)
    assert one.fails("MGET", "large", "larger", "missing", "a") == "LIMIT"
    assert one("GET", "a") == b"1"
    assert one("COMMIT") == "OK"


@WRITING
def test_what_only_seemed_too_large_before_the_rows_were_there_is_not(bench: Bench, one: Client, mode: str) -> None:
    assert one("CONFIG", "SET", "max-transaction-bytes", 2000) == "OK"
    one("BEGIN", mode)
    assert one("SET", "a", "x" * 3000, "NX") is None  # the key is there, which is not known at first
    assert one("COMMIT") == "OK"


# ends


def test_what_became_of_transactions_is_known_after_restarts(bench: Bench, one: Client) -> None:
    committed = one("BEGIN")
    one("SET", "a", "new")
    seqno = one("COMMIT", "WITHSEQNO")
    bench.it.synced()
    left = one("BEGIN")
    one("SET", "b", "new")
    bench.it.kill()
    bench.open()
    client = bench.connect()
    assert client("TRANSACTION", "STATUS", committed) == [b"committed", seqno]
    assert client("TRANSACTION", "STATUS", left) == b"unknown"
    assert client("MGET", "a", "b") == [b"new", b"2"]


def test_an_outcome_of_a_run_is_known_after_a_restart(bench: Bench, one: Client) -> None:
    committed = one("BEGIN")
    one("SET", "a", "new")
    seqno = one("COMMIT", "WITHSEQNO")
    bench.flush()
    bench.it.stop()
    bench.it.start()
    bench.open()
    assert bench.connect()("TRANSACTION", "STATUS", committed) == [b"committed", seqno]
