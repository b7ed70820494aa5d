"""No reply leaves before the sync that covers it returned (C2, C3), shown at a gate that every sync has to pass.

While the gate is shut, what a write changed must be told to nobody: not to the writer, and not to whoever reads it, be
it a value, an absence, a count, a failed condition or an error. All others are answered at once. Each check is made to
fail too, by taking out what it is there for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple
from unittest.mock import patch

import pytest

from keyhaus.journal.journal import _Write
from keyhaus.session.hub import Hub
from keyhaus.session.multi import Multi
from keyhaus.session.session import Session
from keyhaus.store.keyspace import Keyspace
from keyhaus.store.transaction import Transaction
from tests.support.gated import GatedDisk, InnerServer, Probe, gated_server

OK: Final = b"+OK\r\n"
NIL: Final = b"$-1\r\n"
QUEUED: Final = b"+QUEUED\r\n"
ONE: Final = b":1\r\n"
ZERO: Final = b":0\r\n"
SYNTAX_ERROR: Final = b"-ERR wrong number of arguments for 'set' command\r\n"
SMALL: Final = {"journal_segment_bytes": 256 << 10}
Script = Sequence[tuple[str, bytes]]  # each command with its reply


class TooEarly(AssertionError):
    """A reply left before the sync that covers it."""


class Scenario(NamedTuple):
    """What a writer and a reader say while no sync returns.

    Attributes:
        writes: The writer's pipeline; all its replies are held but the first `told`.
        reads: The reader's, likewise.
        first: What the reader says before, while syncs pass.
        told: How many replies each of the two gets at once.
        ahead_ms: How far the clock moves on before the reader reads.
    """

    writes: Script
    reads: Script = ()
    first: Script = ()
    told: tuple[int, int] = (0, 0)
    ahead_ms: int = 0


NEW: Final = [("SET new fresh", OK)]
GONE: Final = [("DEL old", ONE)]


def seen(command: str, reply: bytes) -> Scenario:
    """A reader meets a value that is not synced."""
    return Scenario(NEW, [(command, reply)])


def missed(command: str, reply: bytes) -> Scenario:
    """A reader meets a deletion that is not synced."""
    return Scenario(GONE, [(command, reply)])


SCENARIOS: Final[dict[str, Scenario]] = {
    "set": Scenario(NEW),
    "every kind of write": Scenario(
        [
            *[("SET a 1", OK), ("INCR n", b":1\r\n"), ("MSET b 2 c 3", OK), ("APPEND a x", b":2\r\n"), ("DEL b", ONE)],
            *[("EXPIRE c 100", ONE), ("PERSIST c", ONE), ("RENAME c d", OK), ("COPY d e", ONE), ("SETNX f 1", ONE)],
            *[("GETDEL f", b"$1\r\n1\r\n"), ("CAS a 1x y", ONE), ("SWAPDB 3 4", OK), ("FLUSHDB", OK)],
        ]
    ),
    "a pipeline keeps its order": Scenario(
        [
            *[("GET old", b"$4\r\naged\r\n"), ("PING", b"+PONG\r\n"), ("SET new fresh", OK), ("PING", b"+PONG\r\n")],
            *[("GET old", b"$4\r\naged\r\n"), ("GET new", b"$5\r\nfresh\r\n"), ("SET", SYNTAX_ERROR)],
        ],
        told=(2, 0),
    ),
    "value": seen("GET new", b"$5\r\nfresh\r\n"),
    "values": seen("MGET old new", b"*2\r\n$4\r\naged\r\n$5\r\nfresh\r\n"),
    "length": seen("STRLEN new", b":5\r\n"),
    "exists": seen("EXISTS new", ONE),
    "touch": seen("TOUCH new", ONE),
    "type": seen("TYPE new", b"+string\r\n"),
    "ttl": seen("TTL new", b":-1\r\n"),
    "encoding": seen("OBJECT ENCODING new", b"$6\r\nembstr\r\n"),
    "failed nx": seen("SET new other NX", NIL),
    "failed setnx": seen("SETNX new other", ZERO),
    "failed msetnx": seen("MSETNX new other none other", ZERO),
    "failed cas": seen("CAS new stale other", ZERO),
    "failed ifeq": seen("SET new other IFEQ stale", NIL),
    "failed persist": seen("PERSIST new", ZERO),
    "failed renamenx": seen("RENAMENX old new", ZERO),
    "error that a value decided": seen("INCR new", b"-ERR value is not an integer or out of range\r\n"),
    "keys": seen("KEYS new", b"*1\r\n$3\r\nnew\r\n"),
    "no keys": seen("KEYS none", b"*0\r\n"),
    "dbsize": seen("DBSIZE", b":2\r\n"),
    "scan": seen("SCAN 0 MATCH none", b"*2\r\n$1\r\n0\r\n*0\r\n"),
    "range": seen("RANGE x y", b"*2\r\n$-1\r\n*0\r\n"),
    "waitaof": seen("WAITAOF 1 0 0", b"*2\r\n:1\r\n:0\r\n"),
    "absence": missed("GET old", NIL),
    "absence in many": missed("MGET old", b"*1\r\n$-1\r\n"),
    "does not exist": missed("EXISTS old", ZERO),
    "nothing to delete": missed("DEL old", ZERO),
    "nothing to expire": missed("EXPIRE old 100", ZERO),
    "no ttl": missed("TTL old", b":-2\r\n"),
    "failed xx": missed("SET old other XX", NIL),
    "cas of nothing": missed("CAS old aged other", ZERO),
    "error that an absence decided": missed("RENAME old other", b"-ERR no such key\r\n"),
    "randomkey of nothing": missed("RANDOMKEY", NIL),
    "emptied": Scenario([("FLUSHDB", OK)], [("GET old", NIL)]),
    "all emptied": Scenario([("FLUSHALL", OK)], [("EXISTS old never", ZERO)]),
    "swapped": Scenario([("SWAPDB 0 1", OK)], [("GET old", NIL)]),
    "exec": Scenario(NEW, [("MULTI", OK), ("GET new", QUEUED), ("EXEC", b"*1\r\n$5\r\nfresh\r\n")], told=(0, 2)),
    "aborted exec": Scenario(
        NEW, [("EXEC", b"*-1\r\n")], first=[("WATCH new", OK), ("MULTI", OK), ("GET old", QUEUED)]
    ),
    "lazy expiry": Scenario(NEW, [("GET brief", NIL)], first=[("SET brief x PX 60000", OK)], ahead_ms=61_000),
    "expired in a scan": Scenario(
        NEW, [("KEYS brief", b"*0\r\n")], first=[("SET brief x PX 60000", OK)], ahead_ms=61_000
    ),
    "what stands behind it": Scenario(NEW, [("GET new", b"$5\r\nfresh\r\n"), ("PING", b"+PONG\r\n")]),
}


def words(command: str) -> list[bytes]:
    return command.encode().split()


def say(probe: Probe, script: Script) -> None:
    probe.send(*(words(command) for command, _ in script))


def expect(probe: Probe, script: Script) -> None:
    for command, reply in script:
        got = probe.receive()
        assert got == reply, f"{command} was answered {got!r}"


def check(server: InnerServer, disk: GatedDisk, scenario: Scenario) -> None:
    """Runs a scenario. Raises TooEarly where anything is told that is not synced."""
    with Probe(server.port) as writer, Probe(server.port) as reader, Probe(server.port) as other:
        for command in ("FLUSHALL", "SET old aged"):
            other.call(*words(command))
        say(reader, scenario.first)
        expect(reader, scenario.first)
        disk.shut()
        try:
            say(writer, scenario.writes)
            expect(writer, scenario.writes[: scenario.told[0]])
            while "sync begins" not in disk.events and writer.silent():
                other.call(b"PING")
            if disk.events[:2] != ["written", "sync begins"]:
                raise TooEarly(f"the write and its sync: {disk.events}")
            server.clock.ahead_ms += scenario.ahead_ms
            say(reader, scenario.reads)
            expect(reader, scenario.reads[: scenario.told[1]])
            others_are_answered(other)
            if scenario.writes is NEW:
                assert other.call(b"GET", b"old") == b"$4\r\naged\r\n"
            if not writer.silent():
                raise TooEarly(f"the writer was told {writer.receive()!r}")
            if scenario.reads and not reader.silent():
                raise TooEarly(f"the reader was told {reader.receive()!r}")
            assert "synced" not in disk.events, "the gate was not shut"
        finally:
            disk.let_go()
        expect(writer, scenario.writes[scenario.told[0] :])
        expect(reader, scenario.reads[scenario.told[1] :])
        assert "synced" in disk.events


def others_are_answered(other: Probe) -> None:
    """What depends on nothing that is not synced waits for nobody. Twice, so that all that was sent before was read."""
    for _ in range(2):
        assert other.call(b"PING") == b"+PONG\r\n"
        assert other.call(b"ECHO", b"here") == b"$4\r\nhere\r\n"
        assert other.call(b"SET", b"old") == SYNTAX_ERROR
        assert b"# Keyhaus" in other.call(b"INFO")
        assert other.call(b"CLIENT", b"GETNAME") == NIL


@pytest.fixture
def always(tmp_path: Path) -> Iterator[tuple[InnerServer, GatedDisk]]:
    with gated_server(tmp_path, **SMALL) as both:
        yield both


@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_is_told_before_it_is_synced(name: str, always: tuple[InnerServer, GatedDisk]) -> None:
    check(*always, SCENARIOS[name])


# The check itself: each thing that makes replies wait is taken out, and then something is told too early.


def _write_only(job: _Write) -> None:
    if job.data:
        job.segment.file.write(job.data, job.offset)


def _sync_first(job: _Write) -> None:
    job.segment.file.sync()
    _write_only(job)


def _confirm_when_written(hub: Hub, durability: str) -> None:
    hub.always = False


def _depend_on_nothing(owner: Any, name: str) -> Callable[..., Any]:
    """A reading method of a transaction that does not note what it depends on."""
    method = getattr(owner, name)

    def forgetful(transaction: Transaction, *args: Any, **named: Any) -> Any:
        before = transaction.depends
        try:
            return method(transaction, *args, **named)
        finally:
            transaction.depends = before

    return forgetful


def _bury_at_once(space: Keyspace, key: bytes, tombstone: bytes | None) -> bool:
    return _delete(space, key, None)


def _forget_mapping(transaction: Transaction, record: bytes | None) -> None:
    mapped, transaction.store.mapped = transaction.store.mapped, [0] * 16
    try:
        _note(transaction, record)
    finally:
        transaction.store.mapped = mapped


def _fail_freely(session: Session, *args: Any) -> Any:
    reply = _undo(session, *args)
    session.depends = 0
    return reply


def _commit_freely(session: Session, *args: Any) -> Any:
    reply = _commit(session, *args)
    session.depends = 0
    return reply


_delete, _note, _undo, _commit = Keyspace.delete, Transaction._note, Session._undo, Session._commit
FAULTS: Final[dict[str, tuple[Any, str, Any, list[str]]]] = {
    "no sync": (_Write, "run", _write_only, ["set", "value", "absence", "dbsize"]),
    "sync before the write": (_Write, "run", _sync_first, ["set"]),
    "confirmed when written": (Hub, "_set_durability", _confirm_when_written, ["set", "value", "absence", "exec"]),
    "writes depend on nothing": (Session, "_commit", _commit_freely, ["set", "lazy expiry"]),
    "reads depend on nothing": (
        Transaction,
        "_note",
        lambda *_: None,
        ["value", "values", "exists", "failed nx", "failed cas", "absence", "emptied", "swapped"],
    ),
    "no tombstones": (Keyspace, "delete", _bury_at_once, ["absence", "does not exist", "nothing to delete"]),
    "no mapping entry": (Transaction, "_note", _forget_mapping, ["emptied", "swapped"]),
    "counts depend on nothing": (Transaction, "count", _depend_on_nothing(Transaction, "count"), ["dbsize"]),
    "pages depend on nothing": (Transaction, "page", _depend_on_nothing(Transaction, "page"), ["scan", "range"]),
    "errors depend on nothing": (
        Session,
        "_undo",
        _fail_freely,
        ["error that a value decided", "error that an absence decided"],
    ),
    "aborts depend on nothing": (
        Multi,
        "_changed",
        lambda multi, mark: mark.dirty,
        ["aborted exec"],
    ),
}


@pytest.mark.parametrize(("fault", "name"), [(fault, name) for fault in FAULTS for name in FAULTS[fault][3]])
def test_what_is_taken_out_is_noticed(fault: str, name: str, tmp_path: Path) -> None:
    owner, attribute, replacement, _ = FAULTS[fault]
    with (
        patch.object(owner, attribute, replacement),
        gated_server(tmp_path, **SMALL) as (server, disk),
        pytest.raises(TooEarly),
    ):
        check(server, disk, SCENARIOS[name])


# What waits for less.


@pytest.mark.parametrize("durability", ["everysec", "none"])
def test_whoever_asks_for_less_waits_for_less(durability: str, tmp_path: Path) -> None:
    """C3: replies leave at `written`; WAITAOF waits for the sync; the others do not wait for WAITAOF."""
    with (
        gated_server(tmp_path, durability=durability, **SMALL) as (server, disk),
        Probe(server.port) as one,
        Probe(server.port) as two,
    ):
        disk.shut()
        assert one.call(b"SET", b"k", b"v") == OK
        assert disk.events[0] == "written", "the reply came before the write"
        assert two.call(b"GET", b"k") == b"$1\r\nv\r\n"
        one.send(words("WAITAOF 1 0 0"), words("PING"))
        disk.wait_for(lambda: "sync begins" in disk.events)
        # Whoever reads that write waits for nothing; twice, so that all that was sent before was read.
        assert two.call(b"GET", b"k") == two.call(b"GET", b"k") == b"$1\r\nv\r\n"
        assert one.silent(), "WAITAOF was answered before the sync"
        disk.let_go()
        assert one.replies(2) == [b"*2\r\n:1\r\n:0\r\n", b"+PONG\r\n"]
        assert "synced" in disk.events


def test_everysec_syncs_by_itself_and_holds_nobody_up(tmp_path: Path) -> None:
    with gated_server(tmp_path, durability="everysec", **SMALL) as (server, disk), Probe(server.port) as probe:
        disk.shut()
        assert probe.call(b"SET", b"k", b"v") == OK
        disk.wait_for(lambda: "sync begins" in disk.events)
        for number in range(20):
            assert probe.call(b"SET", b"k", b"%d" % number) == OK
        assert "synced" not in disk.events
        disk.let_go()
        disk.wait_for(lambda: disk.events.count("synced") >= 2)  # the first, and one for what came after it


def test_none_syncs_only_when_it_is_asked_to(tmp_path: Path) -> None:
    """A reader with `always` asks for the sync of another's write, and waits for it."""
    with gated_server(tmp_path, durability="none", **SMALL) as (server, disk), Probe(server.port) as probe:
        disk.shut()
        assert probe.call(b"SET", b"k", b"v") == OK
        assert probe.call(b"GET", b"k") == b"$1\r\nv\r\n"
        assert probe.call(b"CONFIG", b"SET", b"durability", b"always") == OK
        assert disk.events == ["written"]
        probe.send(words("GET k"))
        disk.wait_for(lambda: "sync begins" in disk.events)
        assert probe.silent()
        disk.let_go()
        assert probe.receive() == b"$1\r\nv\r\n"
        assert disk.events == ["written", "sync begins", "synced"]


def test_numbers_about_data_are_told_as_of_the_last_sync(tmp_path: Path) -> None:
    """C2: INFO does not wait, so it must not count what is not synced."""
    with (
        gated_server(tmp_path, **SMALL) as (server, disk),
        Probe(server.port) as writer,
        Probe(server.port) as reader,
    ):
        assert writer.call(b"MSET", b"a", b"1", b"b", b"2") == OK
        disk.shut()
        writer.send(words("SET c 3"))
        disk.wait_for(lambda: "sync begins" in disk.events)
        assert b"db0:keys=2," in reader.call(b"INFO", b"keyspace")
        disk.let_go()
        assert writer.receive() == OK
        assert b"db0:keys=3," in reader.call(b"INFO", b"keyspace")


@pytest.mark.parametrize("command", ["COMMIT", "COMMIT {}"])
def test_a_conflict_is_told_as_durably_as_its_transaction_asks(command: str, tmp_path: Path) -> None:
    """C3: what decided it could still be lost, and the server's own durability asks for less."""
    with (
        gated_server(tmp_path, durability="none", **SMALL) as (server, disk),
        Probe(server.port) as one,
        Probe(server.port) as two,
    ):
        number = one.call(*words("BEGIN OPTIMISTIC DURABILITY always")).split()[1].decode()
        assert one.call(b"GET", b"k") == NIL
        disk.shut()
        assert two.call(b"SET", b"k", b"v") == OK
        one.send(words(command.format(number)))
        disk.wait_for(lambda: "sync begins" in disk.events)
        assert two.call(b"PING") == two.call(b"PING") == b"+PONG\r\n"
        assert one.silent(), "the conflict was told before what decided it was synced"
        disk.let_go()
        assert one.receive().startswith(b"-CONFLICT ")


@pytest.mark.parametrize("asked", ["everysec", "none"])
def test_a_transaction_may_ask_for_less_than_the_server(asked: str, tmp_path: Path) -> None:
    """C3: it waits for no sync, and nobody else is let down: who reads it with `always` waits for one."""
    with gated_server(tmp_path, **SMALL) as (server, disk), Probe(server.port) as one, Probe(server.port) as two:
        disk.shut()
        assert one.call(*words(f"BEGIN DURABILITY {asked}")).startswith(b"$29\r\ntx-")
        assert [one.call(*words(command)) for command in ("SET k v", "GET k", "COMMIT")] == [OK, b"$1\r\nv\r\n", OK]
        assert "synced" not in disk.events
        two.send(words("GET k"))
        disk.wait_for(lambda: "sync begins" in disk.events)
        assert one.call(b"PING") == one.call(b"PING") == b"+PONG\r\n"
        assert two.silent(), "the reader was told before it was synced"
        disk.let_go()
        assert two.receive() == b"$1\r\nv\r\n"


@pytest.mark.parametrize("durability", ["everysec", "none"])
def test_a_transaction_may_ask_for_more_than_the_server(durability: str, tmp_path: Path) -> None:
    with (
        gated_server(tmp_path, durability=durability, **SMALL) as (server, disk),
        Probe(server.port) as one,
        Probe(server.port) as two,
    ):
        disk.shut()
        one.call(*words("BEGIN DURABILITY always"))
        assert one.call(*words("SET k v")) == OK, "nothing is committed yet"
        one.send(words("COMMIT"))
        disk.wait_for(lambda: "sync begins" in disk.events)
        assert two.call(b"PING") == two.call(b"PING") == b"+PONG\r\n"
        assert one.silent(), "COMMIT was told before it was synced"
        disk.let_go()
        assert one.receive() == OK
