"""EXEC and COMMIT that can't simply go through: large replies, no room in the journal, watched keys that expire.

Over the simulated disk and scheduler, through a session; the test drives the waits.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from keyhaus.core.errors import DiskFull, Error, LimitExceeded
from keyhaus.core.reply import NULL_ARRAY
from keyhaus.core.settings import Settings
from keyhaus.core.wait import Wait
from keyhaus.session.hub import Hub
from keyhaus.session.session import Session
from keyhaus.store.store import Store
from tests.support.simulation import SimulatedDisk, SimulatedSpawn


class Clock:
    def __init__(self) -> None:
        self.ms = 1_000_000

    def unix_ms(self) -> int:
        return self.ms

    def monotonic_ns(self) -> int:
        return self.ms * 1_000_000


class Bench:
    """A durable store with two sessions, and a journal that can be told to have no room."""

    def __init__(self, **settings: Any) -> None:
        generator = random.Random(1)
        self.spawn, self.clock = SimulatedSpawn(generator), Clock()
        values = Settings(journal_segment_bytes=1 << 20, **settings)
        self.store = Store.open(SimulatedDisk(generator), self.spawn, self.clock, values)
        self.spawn.settle()
        self.hub = Hub(self.store, values, self.clock, "run")
        self.one, self.other = self.hub.open_session(), self.hub.open_session()

    def run(self, session: Session, *words: bytes) -> Any:
        reply = session.execute(list(words))
        while isinstance(reply, Wait):
            self.spawn.settle()
            reply = session.resume()
        self.spawn.settle()
        return reply

    def without_room(self, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
        """The journal has no room for the next `times` commits that ask; what waits is called soon."""
        journal = self.store.journal
        assert journal is not None
        room, left = journal.room, [times]

        def refuse(size: int, frees: bool) -> Wait | None:
            if not left[0]:
                return room(size, frees)
            left[0] -= 1
            wait = Wait()
            self.spawn.soon(wait.fire)
            return wait

        monkeypatch.setattr(journal, "room", refuse)


def test_a_refused_exec_takes_nothing_with_it() -> None:
    bench = Bench(max_reply_bytes=100_000)
    bench.run(bench.one, b"SET", b"k", b"precious")
    bench.run(bench.one, b"SET", b"big", bytes(90_000))
    bench.run(bench.one, b"MULTI")
    for words in ((b"SET", b"k", b"new", b"PXAT", b"1"), (b"GET", b"k"), (b"GET", b"big"), (b"GET", b"big")):
        assert bench.run(bench.one, *words) == "QUEUED"
    assert isinstance(bench.run(bench.one, b"EXEC"), LimitExceeded)
    assert bench.run(bench.one, b"GET", b"k") == b"precious"


def test_exec_stops_building_replies_past_the_limit() -> None:
    bench = Bench(max_reply_bytes=100_000)
    bench.run(bench.one, b"SET", b"big", bytes(60_000))
    bench.run(bench.one, b"MULTI")
    for _ in range(5):
        bench.run(bench.one, b"GET", b"big")
    bench.run(bench.one, b"INCR", b"counter")
    reply = bench.run(bench.one, b"EXEC")
    assert isinstance(reply, LimitExceeded)
    assert "120" in reply.message, "it went on after the second value"
    assert bench.run(bench.one, b"GET", b"counter") is None


def test_exec_that_waits_for_room_is_run_whole_later(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    bench.run(bench.one, b"MULTI")
    bench.run(bench.one, b"INCR", b"a")
    bench.run(bench.one, b"INCR", b"b")
    bench.without_room(monkeypatch, 3000)
    assert bench.run(bench.one, b"EXEC") == [1, 1]
    assert bench.run(bench.one, b"MGET", b"a", b"b") == [b"1", b"1"]
    assert not bench.one.in_multi


def test_a_watched_key_that_expired_aborts_exec_although_there_was_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    bench.run(bench.one, b"SET", b"k", b"v", b"PX", b"100")
    bench.run(bench.one, b"WATCH", b"k")
    bench.run(bench.one, b"MULTI")
    bench.run(bench.one, b"SET", b"other", b"1")
    bench.clock.ms += 1000
    bench.without_room(monkeypatch, 1)
    last = bench.store.last
    assert bench.run(bench.one, b"EXEC") is NULL_ARRAY
    assert bench.store.last == last + 1, "it rests on an expiry, whose time is committed (S6)"
    assert bench.run(bench.one, b"EXISTS", b"other") == 0


def test_watch_looks_again_after_the_wait_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    bench.run(bench.one, b"WATCH", b"k")
    bench.run(bench.one, b"MULTI")
    bench.run(bench.one, b"SET", b"k", b"mine")
    bench.without_room(monkeypatch, 1)
    waiting = bench.one.execute([b"EXEC"])
    assert isinstance(waiting, Wait)
    assert bench.run(bench.other, b"SET", b"k", b"theirs") == "OK"
    bench.spawn.settle()
    assert bench.one.resume() is NULL_ARRAY
    assert bench.run(bench.one, b"GET", b"k") == b"theirs"


def test_a_plain_command_that_waits_for_room_sees_what_came_between(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    bench.without_room(monkeypatch, 1)
    waiting = bench.one.execute([b"INCR", b"n"])
    assert isinstance(waiting, Wait)
    assert bench.run(bench.other, b"INCR", b"n") == 1
    bench.spawn.settle()
    assert bench.one.resume() == 2


def test_an_optimistic_commit_that_finds_a_full_disk_keeps_no_lock_and_may_be_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench()
    bench.run(bench.other, b"BEGIN")
    bench.run(bench.other, b"SET", b"k", b"locked")
    bench.run(bench.one, b"BEGIN", b"OPTIMISTIC")
    bench.run(bench.one, b"SET", b"k", b"mine")
    waiting = bench.one.execute([b"COMMIT"])
    assert isinstance(waiting, Wait)
    bench.run(bench.other, b"ROLLBACK")
    with monkeypatch.context() as patched:
        patched.setattr(bench.store.journal, "room", _full)
        reply = bench.one.resume()
        assert isinstance(reply, DiskFull)
    assert bench.other.execute([b"SET", b"k", b"theirs"]) == "OK"
    assert bench.run(bench.one, b"COMMIT") == "OK", "nothing that it read was changed"
    assert bench.run(bench.other, b"GET", b"k") == b"mine"


def _full(size: int, frees: bool) -> Wait | None:
    raise DiskFull("there is no room")


def test_watch_is_bounded_by_bytes() -> None:
    bench = Bench()
    key = bytes(60_000)
    replies = [bench.run(bench.one, b"WATCH", key + b"%d" % number) for number in range(400)]
    assert "OK" in replies
    assert isinstance(replies[-1], LimitExceeded)
    assert isinstance(bench.run(bench.one, b"WATCH", bytes(70_000)), LimitExceeded)


def test_an_exec_whose_handler_has_a_fault_ends_the_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    bench.run(bench.one, b"MULTI")
    bench.run(bench.one, b"SET", b"k", b"v")
    monkeypatch.setattr(bench.one.multi, "_run_queue", lambda session: 1 // 0)
    reply = bench.run(bench.one, b"EXEC")
    assert isinstance(reply, Error)
    assert reply.code == "INTERNAL"
    assert not bench.one.in_multi
