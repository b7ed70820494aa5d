"""A write or a sync of the journal that fails poisons the database until a restart (C4).

Nothing that was not confirmed is told, no second sync is tried (the kernel may have dropped the pages and would say
that all is well), reads of what is synced go on, and a restart finds everything that was confirmed.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Final
from unittest.mock import patch

import pytest

from keyhaus.core.errors import StorageError
from keyhaus.journal.journal import Journal
from tests.support.gated import GatedDisk, InnerServer, Probe, gated_server

OK: Final = b"+OK\r\n"
NIL: Final = b"$-1\r\n"
OLD: Final = b"$3\r\nold\r\n"
POISONED: Final = b"-POISONED the journal could not be written ("
SMALL: Final = {"journal_segment_bytes": 256 << 10}
DEPENDENT: Final = (
    *(b"GET new", b"SET k v", b"INCR n", b"DEL old", b"DBSIZE", b"KEYS *", b"SCAN 0", b"EXISTS new", b"SET new v NX"),
    *(b"WAITAOF 1 0 0", b"FLUSHALL", b"SETNX new v", b"CAS new v w", b"RANDOMKEY", b"MGET old new"),
)


def poisoned(server: InnerServer, disk: GatedDisk, what: str) -> None:
    """What everybody is told while, and after, the journal fails to write or to sync `new`."""
    with Probe(server.port) as writer, Probe(server.port) as reader, Probe(server.port) as late:
        for command in (b"SET old old", b"SET gone gone", b"DEL gone"):
            writer.call(*command.split())
        disk.shut()
        disk.fail_next(what, OSError(errno.EIO, "Input/output error"))
        writer.send([b"SET", b"new", b"v"], [b"GET", b"old"], [b"PING"])
        if what == "sync":
            disk.wait_for(lambda: "sync begins" in disk.events)
            reader.send([b"GET", b"new"], [b"GET", b"old"])
            late.send([b"SET", b"later", b"v"])  # it is executed, and stands in the group that never goes out
            assert reader.silent() and writer.silent()
            disk.let_go()
            for probe in (writer, reader):
                assert probe.receive().startswith(POISONED)
                assert probe.receive() == OLD
            assert late.receive().startswith(POISONED)
        else:
            assert writer.receive().startswith(POISONED)
            assert writer.receive() == OLD
            disk.let_go()
        assert writer.receive() == b"+PONG\r\n"
        for command in DEPENDENT:
            assert (reply := late.call(*command.split())).startswith(POISONED), (command, reply)
        assert late.call(b"MULTI") == OK
        late.send([b"SET", b"a", b"b"], [b"GET", b"old"], [b"EXEC"])
        assert late.replies(2) == [b"+QUEUED\r\n"] * 2
        assert late.receive().startswith(POISONED)
        for command, reply in ((b"GET old", OLD), (b"GET gone", NIL), (b"STRLEN old", b":3\r\n"), (b"GET never", NIL)):
            assert late.call(*command.split()) == reply, command
        assert b"aof_last_write_status:err" in late.call(b"INFO", b"persistence")
        assert b"poisoned:the journal could not be written" in late.call(b"INFO", b"keyhaus")


@pytest.mark.parametrize("what", ["write", "sync"])
def test_a_failure_poisons_until_a_restart(what: str, tmp_path: Path) -> None:
    with gated_server(tmp_path, **SMALL) as (server, disk):
        poisoned(server, disk, what)
        with pytest.raises(StorageError, match="could not be written"):
            server.stop()
        # What was tried is all that was ever tried: not by those who asked later, not by the stop.
        assert disk.events == (["written", "sync begins", "sync failed"] if what == "sync" else ["write failed"])
    with gated_server(tmp_path, **SMALL) as (server, _), Probe(server.port) as probe:
        assert probe.call(b"GET", b"old") == OLD
        assert probe.call(b"GET", b"gone") == NIL
        assert probe.call(b"GET", b"later") == NIL
        # Its write returned and only the sync failed, so the kernel still has it: it may be there, and here it is.
        assert probe.call(b"GET", b"new") == (b"$1\r\nv\r\n" if what == "sync" else NIL)
        assert probe.call(b"SET", b"new", b"w") == OK
        assert b"aof_last_write_status:ok" in probe.call(b"INFO", b"persistence")


@pytest.mark.parametrize("durability", ["everysec", "none"])
def test_a_failed_sync_poisons_those_who_do_not_wait_for_it_too(durability: str, tmp_path: Path) -> None:
    with gated_server(tmp_path, durability=durability, **SMALL) as (server, disk), Probe(server.port) as probe:
        assert probe.call(b"SET", b"old", b"old") == OK
        assert probe.call(b"WAITAOF", b"1", b"0", b"0") == b"*2\r\n:1\r\n:0\r\n"
        disk.shut()
        disk.fail_next("sync", OSError(errno.EIO, "Input/output error"))
        assert probe.call(b"SET", b"new", b"v") == OK
        assert probe.call(b"GET", b"new") == b"$1\r\nv\r\n"
        if durability == "everysec":
            disk.wait_for(lambda: "sync begins" in disk.events)
            disk.let_go()
            disk.wait_for(lambda: "sync failed" in disk.events)
        else:
            disk.let_go()
            assert probe.call(b"WAITAOF", b"1", b"0", b"0").startswith(POISONED)
        # Once it is known, what was told before is not told again: it may be gone after a restart.
        while not (reply := probe.call(b"GET", b"new")).startswith(POISONED):
            assert reply == b"$1\r\nv\r\n"
        assert probe.call(b"GET", b"old") == OLD
        assert probe.call(b"SET", b"k", b"v").startswith(POISONED)


@pytest.mark.parametrize("mode", [b"PESSIMISTIC", b"OPTIMISTIC"])
def test_a_failure_ends_the_transactions_that_write(mode: bytes, tmp_path: Path) -> None:
    with gated_server(tmp_path, **SMALL) as (server, disk), Probe(server.port) as one, Probe(server.port) as other:
        assert one.call(b"SET", b"old", b"old") == OK
        number = one.call(b"BEGIN", mode).split(b"\r\n")[1]
        assert one.call(b"SET", b"k", b"v") == OK
        other.call(b"BEGIN", b"READONLY")
        assert other.call(b"GET", b"old") == OLD
        with Probe(server.port) as writer:
            disk.shut()
            disk.fail_next("sync", OSError(errno.EIO, "Input/output error"))
            writer.send([b"SET", b"new", b"v"])
            disk.wait_for(lambda: "sync begins" in disk.events)
            disk.let_go()
            assert writer.receive().startswith(POISONED)
        assert other.call(b"GET", b"old") == OLD, "what it reads is synced"
        assert one.call(b"GET", b"old").startswith(POISONED)
        assert one.call(b"GET", b"old").startswith(b"-NOTX")
        assert one.call(b"ROLLBACK").startswith(b"-NOTX")
        assert one.call(b"TRANSACTION", b"STATUS", number) == b"$10\r\nrolledback\r\n"
        assert one.call(b"GET", b"old") == OLD


def test_a_journal_that_forgives_is_noticed(tmp_path: Path) -> None:
    """Without the rule the same checks fail."""
    with (
        patch.object(Journal, "_poison", lambda journal, error: journal._settle()),
        gated_server(tmp_path, **SMALL) as (server, disk),
        pytest.raises(AssertionError),
    ):
        poisoned(server, disk, "sync")
