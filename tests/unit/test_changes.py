"""CHANGES over memory mode's feed: what is told, what is passed over, and what is refused."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import pytest

from keyhaus.commands.spec import TABLE
from keyhaus.core.errors import ChangesLost, ChangesTooOld, Error, LimitExceeded
from keyhaus.core.limits import CHANGES_COUNT, PAGE_BYTES_MAX
from keyhaus.core.wait import Wait
from keyhaus.store import changes as feed
from keyhaus.store.transaction import Transaction
from tests.support.surroundings import Surrounded
from tests.support.turns import BEGIN_MS


class Followed(Surrounded):
    """A database in memory and one who follows it."""

    def changes(self, after: int, *words: bytes | str | int) -> Any:
        return self.run("CHANGES", "AFTER", after, *words)

    def seqnos(self, after: int, *words: bytes | str | int) -> list[int]:
        return [entry[0] for entry in self.changes(after, *words)]

    def begin(self, *words: str) -> Coroutine[Wait, None, Any]:
        """CHANGES, not run yet."""
        handler = TABLE["CHANGES"].handler
        assert handler is not None
        self.tx.begin()
        return handler(self.tx, [b"CHANGES", *(word.encode() for word in words)], self.client)

    def until_blocked(self, running: Coroutine[Wait, None, Any]) -> Wait:
        """Runs it up to where it waits for others."""
        while not (wait := running.send(None)).outside:
            while not wait.fired:
                assert self.spawn.take_turn()
        return wait

    def put(self, key: bytes) -> None:
        """Somebody else's commit."""
        transaction = Transaction(self.store)
        transaction.put(key, b"v")
        assert transaction.commit() is None
        while self.spawn.take_turn():
            pass


@pytest.fixture
def database() -> Followed:
    return Followed(engine="memory")


def test_each_operation_is_told_in_its_own_form(database: Followed) -> None:
    database.run("SET", "a", "1")
    database.run("SET", "b", "2", "PX", 1000)
    database.run("DEL", "a")
    database.run("FLUSHDB")
    database.run("SWAPDB", 0, 3)
    assert database.changes(0) == [
        [1, BEGIN_MS, [[b"put", 0, b"a", b"1"]]],
        [2, BEGIN_MS, [[b"put", 0, b"b", b"2", BEGIN_MS + 1000]]],
        [3, BEGIN_MS, [[b"del", 0, b"a"]]],
        [4, BEGIN_MS, [[b"flush", 0]]],
        [5, BEGIN_MS, [[b"swap", 0, 3]]],
    ]


def test_a_key_whose_time_is_over_is_told_as_deleted(database: Followed) -> None:
    database.run("SET", "a", "1", "PX", 10)
    database.clock.ms += 11
    assert database.run("GET", "a") is None
    assert database.changes(1) == [[2, BEGIN_MS + 11, [[b"del", 0, b"a"]]]]


def test_a_commit_of_several_operations_is_one_entry(database: Followed) -> None:
    database.run("MSET", "a", "1", "b", "2")
    assert database.changes(0) == [[1, BEGIN_MS, [[b"put", 0, b"a", b"1"], [b"put", 0, b"b", b"2"]]]]


def test_the_end_has_nothing_after_it(database: Followed) -> None:
    assert database.changes(0) == []
    database.run("SET", "a", "1")
    assert database.changes(1) == []


def test_a_prefix_filters_operations_and_commits_without_any_left(database: Followed) -> None:
    database.run("MSET", "a:1", "1", "b:1", "2")
    database.run("SET", "b:2", "3")
    database.run("DEL", "a:1", "b:1")
    assert database.changes(0, "PREFIX", "a:") == [
        [1, BEGIN_MS, [[b"put", 0, b"a:1", b"1"]]],
        [3, BEGIN_MS, [[b"del", 0, b"a:1"]]],
    ]


def test_whole_databases_have_no_key_that_a_prefix_could_leave_out(database: Followed) -> None:
    database.run("FLUSHDB")
    database.run("SWAPDB", 0, 1)
    assert database.seqnos(0, "PREFIX", "a:") == [1, 2]


def test_one_database_is_told_of_its_own_operations_only(database: Followed) -> None:
    database.run("SET", "a", "1")
    database.tx.database = 1
    database.run("SET", "b", "2")
    database.run("FLUSHALL")
    database.run("SWAPDB", 1, 2)
    database.run("SWAPDB", 2, 3)
    assert database.changes(0, "DB", 1) == [
        [2, BEGIN_MS, [[b"put", 1, b"b", b"2"]]],
        [3, BEGIN_MS, [[b"flush", 1]]],
        [4, BEGIN_MS, [[b"swap", 1, 2]]],
    ]


def test_a_page_has_count_commits(database: Followed) -> None:
    for number in range(CHANGES_COUNT + 10):
        database.run("SET", number, "v")
    assert database.seqnos(3, "COUNT", 2) == [4, 5]
    assert len(database.changes(0)) == CHANGES_COUNT
    assert len(database.changes(0, "COUNT", 10**9)) == CHANGES_COUNT + 10


def test_a_page_is_bounded_in_bytes_and_a_larger_commit_comes_alone(
    database: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keyhaus.commands.changes.PAGE_BYTES_MAX", 10_000)
    assert PAGE_BYTES_MAX == 16 << 20
    for size in (3000, 3000, 3000, 50_000, 10):
        database.run("SET", "k", b"v" * size)
    assert database.seqnos(0) == [1, 2]
    assert database.seqnos(2) == [3]
    assert database.seqnos(3) == [4]
    assert database.seqnos(4) == [5]


def test_what_does_not_fit_behind_many_small_ones_waits_for_the_next_page(
    database: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keyhaus.commands.changes.PAGE_BYTES_MAX", 1_000_000)
    for _ in range(1000):
        database.run("SET", "k", "v")
    database.run("SET", "k", bytes(900_000))
    assert database.seqnos(0, "COUNT", 2000)[-1] == 1000
    assert database.seqnos(1000) == [1001]


@pytest.mark.parametrize(
    "words",
    [
        ("BEFORE", "0"),
        ("AFTER", "x"),
        ("AFTER", "-1"),
        ("AFTER", "0", "COUNT"),
        ("AFTER", "0", "COUNT", "0"),
        ("AFTER", "0", "COUNT", "-1"),
        ("AFTER", "0", "BLOCK", "-1"),
        ("AFTER", "0", "DB", "-1"),
        ("AFTER", "0", "DB", "16"),
        ("AFTER", "0", "LIMIT", "1"),
    ],
)
def test_what_makes_no_sense_is_refused(database: Followed, words: tuple[str, ...]) -> None:
    assert isinstance(database.run("CHANGES", *words), Error)


def test_another_historys_numbers_are_lost(database: Followed) -> None:
    database.run("SET", "a", "1")
    assert database.seqnos(0, "HISTORY", database.store.history) == [1]
    assert type(database.changes(0, "HISTORY", "0" * 32)) is ChangesLost


def test_a_number_above_the_newest_is_an_error(database: Followed) -> None:
    database.run("SET", "a", "1")
    reply = database.changes(2)
    assert isinstance(reply, Error)
    assert reply.code == "ERR"
    assert "newest commit, 1" in reply.message


def test_the_feed_in_memory_is_bounded_and_says_what_is_too_old() -> None:
    database = Followed(engine="memory", feed_bytes=10_000)
    for number in range(30):
        database.run("SET", "k", b"%d" % number + b"v" * 1000)
    assert type(database.changes(0)) is ChangesTooOld
    oldest = database.store.statistics()["changes_oldest"]
    assert 0 < oldest < 30
    assert type(database.changes(oldest - 1)) is ChangesTooOld
    assert database.seqnos(oldest) == list(range(oldest + 1, 31))
    database.server.settings.put("feed-bytes", 0)
    database.store.settings.put("feed-bytes", 0)
    assert type(database.changes(oldest)) is ChangesTooOld
    assert database.changes(30) == []


def test_who_blocks_is_woken_by_a_commit(database: Followed) -> None:
    running = database.begin("AFTER", "0", "BLOCK", "5000")
    wait = database.until_blocked(running)
    assert wait.timeout_ms == 5000
    database.put(b"a")
    assert wait.fired
    assert database.drive(running) == [[1, BEGIN_MS, [[b"put", 0, b"a", b"v"]]]]


def test_who_blocks_goes_on_waiting_while_nothing_wanted_comes(database: Followed) -> None:
    running = database.begin("AFTER", "0", "PREFIX", "a", "BLOCK", "0")
    assert database.until_blocked(running).timeout_ms is None
    database.put(b"b")
    wait = database.until_blocked(running)
    assert not wait.fired
    database.put(b"a")
    assert [entry[0] for entry in database.drive(running)] == [2]


def test_who_blocks_in_vain_gets_nothing(database: Followed) -> None:
    assert database.changes(0, "BLOCK", 70) == []
    assert database.waited_ms == [70]


def test_inside_multi_nobody_blocks(database: Followed) -> None:
    database.client.in_multi = True
    assert database.changes(0, "BLOCK", 0) == []
    database.run("SET", "a", "1")
    assert database.seqnos(0, "BLOCK", 0) == [1]


def test_what_was_looked_at_in_vain_is_not_looked_at_again(database: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader with a filter learns no number to go on from: the feed remembers it instead."""
    looked_at: list[int] = []
    entry = feed.entry

    def counting(wanted: feed.Wanted, frame: Any) -> Any:
        looked_at.append(frame.seqno)
        return entry(wanted, frame)

    monkeypatch.setattr(feed, "entry", counting)
    for number in range(2500):
        database.run("SET", b"b%d" % number, "v")
    assert database.changes(0, "PREFIX", "a") == []
    assert len(looked_at) == 2500
    database.run("SET", "a", "v")
    looked_at.clear()
    assert database.seqnos(0, "PREFIX", "a") == [2501]
    assert looked_at == [2501]
    assert database.seqnos(0, "PREFIX", "b24", "COUNT", 1) == [25]


def test_what_is_remembered_of_readers_is_bounded(database: Followed) -> None:
    database.run("SET", "b", "v")
    for number in range(40):
        assert database.changes(0, "PREFIX", b"a%d" % number + bytes(50_000)) == []
    kept = database.store.changes
    assert sum(kept.passed(0, feed.Wanted(None, b"a%d" % number + bytes(50_000))) for number in range(40)) == 20


def test_a_long_feed_is_told_in_turns(database: Followed) -> None:
    for number in range(3000):
        database.run("SET", number, "v")
    database.waits = 0
    turns: list[Wait] = []
    running = database.begin("AFTER", "0", "COUNT", "3000")
    try:
        while True:
            turns.append(running.send(None))
            while not turns[-1].fired:
                assert database.spawn.take_turn()
    except StopIteration as stop:
        assert len(stop.value) == 3000
    assert len(turns) >= 2


def test_a_command_that_failed_is_not_told(database: Followed) -> None:
    assert type(database.run("SET", b"k" * 70_000, "v")) is LimitExceeded
    assert database.changes(0) == []
