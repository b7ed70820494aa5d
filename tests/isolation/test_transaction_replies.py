"""When replies about transactions leave (C2, C3), and what becomes of clients that go, shown where no sync returns.

As in tests/crash/test_replies_wait.py a gate is shut that every sync has to pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.gated import Probe, gated_server
from tests.support.wire import parsed

OK = b"+OK\r\n"
VALUE = b"$1\r\nv\r\n"


class Bench:
    """A server whose syncs can be stopped, and connections to it."""

    def __init__(self, stack: contextlib.ExitStack, directory: Path, durability: str) -> None:
        values = {"durability": durability, "journal_segment_bytes": 256 << 10, "lock_timeout": 0}
        self.server, self.disk = stack.enter_context(gated_server(directory, **values))
        self._stack = stack

    def connect(self) -> Probe:
        return self._stack.enter_context(Probe(self.server.port))

    def held(self, *probes: Probe) -> None:
        """Replies are there and wait for the sync: whatever came before has been executed, and nothing was told."""
        self.disk.wait_for(lambda: "sync begins" in self.disk.events)
        probe = self.connect()
        assert probe.call(b"PING") == probe.call(b"PING") == b"+PONG\r\n"
        for held in probes:
            assert held.silent(), "told before the sync"
        assert "synced" not in self.disk.events


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def bench(stack: contextlib.ExitStack, tmp_path: Path, request: pytest.FixtureRequest) -> Bench:
    return Bench(stack, tmp_path, getattr(request, "param", "always"))


def words(text: str) -> list[bytes]:
    return text.encode().split()


def say(probe: Probe, text: str) -> Any:
    return parsed(probe.call(*words(text)))[0].plain()


def begun(probe: Probe, text: str = "BEGIN") -> bytes:
    number = say(probe, text)
    assert isinstance(number, bytes)
    assert number.startswith(b"tx-")
    return number


# durability


@pytest.mark.parametrize("mode", ["PESSIMISTIC", "OPTIMISTIC"])
def test_a_commit_is_told_once_it_is_synced_and_so_is_its_status(bench: Bench, mode: str) -> None:
    one, other = bench.connect(), bench.connect()
    bench.disk.shut()
    number = begun(one, f"BEGIN {mode}")
    assert say(one, "SET k v") == b"OK"  # nothing has happened yet
    one.send(words("COMMIT"))
    bench.disk.wait_for(lambda: "sync begins" in bench.disk.events)
    other.send([b"TRANSACTION", b"STATUS", number])
    bench.held(one, other)
    bench.disk.let_go()
    assert one.receive() == OK
    assert parsed(other.receive())[0].plain()[0] == b"committed"


@pytest.mark.parametrize("durability", ["none", "everysec"])
def test_a_commit_that_asks_for_less_waits_for_less(bench: Bench, durability: str) -> None:
    one, other, third = bench.connect(), bench.connect(), bench.connect()
    bench.disk.shut()
    begun(one, f"BEGIN DURABILITY {durability}")
    say(one, "SET k v")
    assert say(one, "COMMIT") == b"OK"
    begun(third, f"BEGIN DURABILITY {durability}")
    assert say(third, "GET k") == b"v"  # its own replies inside, too
    other.send(words("GET k"))
    bench.held(other)  # who asks for more is told nothing of it
    one.send(words("GET k"))
    bench.held(one)  # and so it is for the connection itself once it has ended
    bench.disk.let_go()
    assert other.receive() == one.receive() == VALUE


@pytest.mark.parametrize("bench", ["none", "everysec"], indirect=True)
def test_a_commit_that_asks_for_more_waits_for_the_sync(bench: Bench) -> None:
    one, other = bench.connect(), bench.connect()
    bench.disk.shut()
    assert say(other, "SET k 1") == b"OK"
    begun(one, "BEGIN DURABILITY always")
    one.send(words("GET k"))
    bench.held(one)
    bench.disk.let_go()
    assert one.receive() == b"$1\r\n1\r\n"
    bench.disk.shut()
    say(one, "SET k v")
    one.send(words("COMMIT WITHSEQNO"))
    bench.held(one)
    bench.disk.let_go()
    assert isinstance(parsed(one.receive())[0].plain(), int)


@pytest.mark.parametrize("bench", ["none"], indirect=True)
def test_a_commit_with_everysec_is_synced_soon_where_nobody_else_asks(bench: Bench) -> None:
    one = bench.connect()
    bench.disk.shut()
    begun(one, "BEGIN DURABILITY everysec")
    say(one, "SET k v")
    assert say(one, "COMMIT") == b"OK"
    bench.disk.wait_for(lambda: "sync begins" in bench.disk.events)


def test_what_is_read_inside_is_held_until_it_is_synced(bench: Bench) -> None:
    writer = bench.connect()
    readers = [bench.connect() for _ in range(3)]
    bench.disk.shut()
    writer.send(words("SET k v"))
    bench.disk.wait_for(lambda: "sync begins" in bench.disk.events)
    for reader, mode in zip(readers, ("PESSIMISTIC", "OPTIMISTIC", "READONLY"), strict=True):
        begun(reader, f"BEGIN {mode}")  # rests on nothing
        reader.send(words("GET k"))
    bench.held(writer, *readers)
    bench.disk.let_go()
    assert [reader.receive() for reader in readers] == [VALUE] * 3
    assert [reader.call(b"COMMIT") for reader in readers] == [OK] * 3


def test_a_conflict_is_told_once_what_it_rests_on_is_synced(bench: Bench) -> None:
    writer, one = bench.connect(), bench.connect()
    begun(one, "BEGIN OPTIMISTIC")
    say(one, "GET k")
    bench.disk.shut()
    writer.send(words("SET k v"))
    bench.disk.wait_for(lambda: "sync begins" in bench.disk.events)
    one.send(words("COMMIT"))
    bench.held(writer, one)
    bench.disk.let_go()
    assert one.receive().startswith(b"-CONFLICT ")


def test_what_no_data_decided_is_told_at_once(bench: Bench) -> None:
    writer, one = bench.connect(), bench.connect()
    bench.disk.shut()
    writer.send(words("SET k v"))
    bench.disk.wait_for(lambda: "sync begins" in bench.disk.events)
    number = begun(one)
    assert one.call(b"ROLLBACK") == OK
    assert one.call(b"COMMIT").startswith(b"-NOTX ")
    assert say(one, f"TRANSACTION STATUS {number.decode()}") == b"rolledback"
    begun(one, "BEGIN READONLY")
    assert one.call(b"SET", b"k", b"w").startswith(b"-READONLY ")
    bench.held(writer)


def test_locks_are_free_at_the_commit_and_who_reads_on_is_held_back(bench: Bench) -> None:
    one, other, third = bench.connect(), bench.connect(), bench.connect()
    begun(one)
    say(one, "SET k v")
    begun(other)
    other.send(words("GET k"))
    bench.disk.shut()
    one.send(words("COMMIT"))
    bench.held(one, other)
    begun(third)
    third.send(words("GET k"))  # both have the lock by now: they only wait to be told
    bench.held(other, third)
    bench.disk.let_go()
    assert other.receive() == third.receive() == VALUE


# clients


def test_a_whole_transaction_in_one_packet_is_answered_in_order(bench: Bench) -> None:
    one = bench.connect()
    one.send(*map(words, ("BEGIN", "SET k v", "GET k", "COMMIT", "GET k", "COMMIT")))
    replies = one.replies(6)
    assert replies[1:5] == [OK, VALUE, OK, VALUE]
    assert replies[5].startswith(b"-NOTX ")


def test_a_plain_write_of_a_client_that_says_no_more_is_answered(bench: Bench) -> None:
    holder, one = bench.connect(), bench.connect()
    begun(holder)
    say(holder, "LOCK k")
    one.send(words("SET k v"), words("GET k"))
    one.say_no_more()
    assert say(holder, "SET k w") == b"OK"
    assert holder.call(b"COMMIT") == OK
    assert one.replies(2) == [OK, VALUE]
    with pytest.raises(EOFError):
        one.receive()


def test_a_transaction_of_a_client_that_says_no_more_ends(bench: Bench) -> None:
    holder, one, other = bench.connect(), bench.connect(), bench.connect()
    begun(holder)
    say(holder, "LOCK k")
    begun(one)
    say(one, "LOCK mine")
    one.send(words("GET k"), words("COMMIT"))
    one.say_no_more()
    assert say(other, "SET mine 1") == b"OK"
    with pytest.raises(EOFError):
        one.receive()


def test_client_kill_rolls_back(bench: Bench) -> None:
    one, other = bench.connect(), bench.connect()
    client = say(one, "CLIENT ID")
    number = begun(one)
    say(one, "SET k v")
    assert say(other, f"CLIENT KILL ID {client}") == 1
    assert say(other, "SET k w") == b"OK"
    assert say(other, f"TRANSACTION STATUS {number.decode()}") == b"rolledback"


def test_a_transaction_outlives_no_restart(stack: contextlib.ExitStack, tmp_path: Path) -> None:
    with contextlib.ExitStack() as first:
        bench = Bench(first, tmp_path, "always")
        one = bench.connect()
        left, done = begun(one), begun(one)
        say(one, "SET k v")
        seqno = say(one, "COMMIT WITHSEQNO")
        begun(one)
        say(one, "SET k w")
    bench = Bench(stack, tmp_path, "always")
    one = bench.connect()
    assert say(one, "GET k") == b"v"
    assert say(one, f"TRANSACTION STATUS {done.decode()}") == [b"committed", seqno]
    assert say(one, f"TRANSACTION STATUS {left.decode()}") == b"unknown"
