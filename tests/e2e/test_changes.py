"""CHANGES over RESP: followed, resumed over restarts and crashes, too old, lost, inside MULTI."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from keyhaus.core import limits
from keyhaus.core.disk import OsDisk
from tests.e2e.conftest import Serve
from tests.support.gated import GatedDisk, InnerServer, Probe, gated_server
from tests.support.processes import HOST, RunningKeyhaus
from tests.support.wire import Wire, encoded, parsed

SMALL = ("--journal-segment-bytes", "64kb")


def client_of(server: RunningKeyhaus | InnerServer) -> redis.Redis:
    return redis.Redis(port=server.port, socket_timeout=20)


def follow(client: redis.Redis, after: int, *words: Any) -> list[Any]:
    """Everything after a number, page by page."""
    found: list[Any] = []
    while page := client.execute_command("CHANGES", "AFTER", after, *words):
        found += page
        after = page[-1][0]
    return found


def keys(entries: list[Any]) -> list[bytes]:
    return [operation[2] for _, _, operations in entries for operation in operations]


def test_every_commit_is_told_once_in_order_over_restarts_and_kills(serve: Serve) -> None:
    written: list[bytes] = []
    found: list[Any] = []
    for run in range(4):
        server = serve("--durability", "everysec", *SMALL)
        with client_of(server) as client:
            for number in range(100):
                written.append(b"%d:%d" % (run, number))
                client.set(written[-1], bytes(900))
            after = found[-1][0] if found else 0
            client.execute_command("WAITAOF", 1, 0, 0)
            found += follow(client, after, "COUNT", 7)
        if run % 2:
            server.stop()
        else:
            server.kill()
    assert keys(found) == written
    assert [entry[0] for entry in found] == sorted({entry[0] for entry in found})


def test_the_whole_history_is_told_from_the_archive(serve: Serve, tmp_path: Path) -> None:
    options = (*SMALL, "--set", f"archive-dir={tmp_path / 'archive' / 'of keyhaus'}")
    server = serve(*options)
    written = [b"%d" % number for number in range(300)]
    with client_of(server) as client:
        for key in written:
            client.set(key, bytes(1000))
        history = client.info("keyhaus")["history"]
    server.stop()
    archive = tmp_path / "archive" / "of keyhaus" / history
    assert len(list(archive.iterdir())) > 3
    server = serve(*options)
    with client_of(server) as client:
        assert keys(follow(client, 0)) == written
        told = client.info("keyhaus")
        assert told["changes_oldest_seqno"] == 0
        assert told["archive_error"] == ""
        assert told["archived_seqno"] > 300


@pytest.mark.parametrize("engine", ["memory", "rocksdb"])
def test_who_blocks_hears_of_a_commit(serve: Serve, engine: str) -> None:
    server = serve("--engine", engine)
    with client_of(server) as client, Wire(HOST, server.port) as follower:
        after = client.info("keyhaus")["synced_seqno"]
        follower.send([b"CHANGES", b"AFTER", b"%d" % after, b"BLOCK", b"0"])
        client.set("a", "1")
        (entry,) = parsed(follower.receive())[0].plain()
        assert entry[0] == after + 1
        assert entry[2] == [[b"put", 0, b"a", b"1"]]
        assert follower.call(b"CHANGES", b"AFTER", b"%d" % entry[0], b"BLOCK", b"10") == b"*0\r\n"


@pytest.mark.parametrize("first", ["reader", "writer"])
@pytest.mark.parametrize("durability", ["everysec", "none"])
def test_who_blocks_makes_what_nobody_waits_for_synced(serve: Serve, durability: str, first: str) -> None:
    server = serve("--durability", durability)
    with client_of(server) as client, Wire(HOST, server.port) as follower:
        after = client.info("keyhaus")["synced_seqno"]
        if first == "writer":
            client.set("k", "1")
        follower.send([b"CHANGES", b"AFTER", b"%d" % after, b"BLOCK", b"0"])
        if first == "reader":
            while client.info("clients")["blocked_clients"] < 1:
                pass
            client.set("k", "1")
        for number in range(3):
            (entry,) = parsed(follower.receive())[0].plain()
            assert entry[0] == after + 1
            after = entry[0]
            follower.send([b"CHANGES", b"AFTER", b"%d" % after, b"BLOCK", b"0"])
            client.set(f"k{number}", "1")


def test_what_a_crash_took_back_is_lost_and_its_neighbours_are_not(serve: Serve) -> None:
    server = serve("--durability", "everysec")
    with client_of(server) as client:
        client.set("a", "1")
        client.execute_command("WAITAOF", 1, 0, 0)
        last = follow(client, 0)[-1][0]
    server.kill()
    server = serve("--durability", "everysec")
    with client_of(server) as client:
        client.set("b", "2")
        client.execute_command("WAITAOF", 1, 0, 0)
        (entry,) = follow(client, last)
        assert entry[2][0][2] == b"b"
        for seqno in (last + 1, entry[0] - 2):
            with pytest.raises(redis.ResponseError, match=f"^LOST {seqno} is no commit"):
                client.execute_command("CHANGES", "AFTER", seqno)
        assert follow(client, entry[0] - 1) == [entry]


def test_numbers_of_another_history_are_lost(serve: Serve) -> None:
    with client_of(serve("--engine", "memory")) as client, client_of(serve("--engine", "memory")) as other:
        history = client.info("keyhaus")["history"]
        assert client.execute_command("CHANGES", "AFTER", 0, "HISTORY", history) == []
        with pytest.raises(redis.ResponseError, match="^LOST this is history"):
            other.execute_command("CHANGES", "AFTER", 0, "HISTORY", history)


def test_a_number_above_the_newest_is_an_error(serve: Serve) -> None:
    with client_of(serve()) as client:
        newest = client.info("keyhaus")["synced_seqno"]
        assert client.execute_command("CHANGES", "AFTER", newest) == []
        with pytest.raises(redis.ResponseError, match=f"{newest + 1} is above the newest commit, {newest}"):
            client.execute_command("CHANGES", "AFTER", newest + 1)


def test_inside_multi_it_tells_what_was_committed_before_and_never_blocks(serve: Serve) -> None:
    with client_of(serve()) as client:
        after = client.info("keyhaus")["synced_seqno"]
        client.set("a", "1")
        pipeline = client.pipeline()
        pipeline.set("b", "2")
        pipeline.execute_command("CHANGES", "AFTER", after, "BLOCK", 0)
        pipeline.execute_command("CHANGES", "AFTER", after + 1, "BLOCK", 0)
        _, found, nothing = pipeline.execute()
        assert keys(found) == [b"a"]
        assert nothing == []


def test_inside_multi_the_disk_is_not_read(serve: Serve) -> None:
    server = serve()
    with client_of(server) as client:
        client.set("a", "1")
    server.stop()
    with client_of(serve()) as client:
        pipeline = client.pipeline()
        pipeline.execute_command("CHANGES", "AFTER", 0)
        with pytest.raises(redis.ResponseError, match="not in memory any more"):
            pipeline.execute()
        assert keys(follow(client, 0)) == [b"a"]


def test_a_follower_that_hangs_up_is_not_waited_for(serve: Serve) -> None:
    server = serve()
    with client_of(server) as client:
        follower = socket.create_connection((HOST, server.port), 20)
        newest = client.info("keyhaus")["synced_seqno"]
        follower.sendall(encoded([b"CHANGES", b"AFTER", b"%d" % newest, b"BLOCK", b"0"]))
        follower.shutdown(socket.SHUT_WR)
        assert follower.recv(100) == b""
        follower.close()


def test_who_has_said_all_still_gets_what_is_read_from_the_disk(serve: Serve) -> None:
    server = serve()
    with client_of(server) as client:
        client.set("a", "1")
    server.stop()
    server = serve()
    with socket.create_connection((HOST, server.port), 20) as follower:
        follower.sendall(encoded([b"CHANGES", b"AFTER", b"0"]))
        follower.shutdown(socket.SHUT_WR)
        reply = b""
        while data := follower.recv(1000):
            reply += data
    assert parsed(reply)[0].plain()[0][2] == [[b"put", 0, b"a", b"1"]]


@pytest.fixture
def inner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InnerServer]:
    """A server in this process, whose journal may be told what a base covers, and with little in RAM."""
    monkeypatch.setattr(limits, "FEED_TAIL_BYTES", 10_000)
    server = InnerServer(OsDisk(tmp_path), journal_segment_bytes=64 << 10, journal_retain_bytes=128 << 10)
    yield server
    server.stop()


def test_what_is_no_longer_kept_is_too_old(inner: InnerServer) -> None:
    with client_of(inner) as client:
        for number in range(300):
            client.set(str(number), bytes(1000))

        async def cover() -> None:
            inner.store.journal.release(inner.store.journal.synced)

        inner.within(cover)
        client.set("last", "1")
        oldest = client.info("keyhaus")["changes_oldest_seqno"]
        for seqno in (0, oldest - 1):
            with pytest.raises(redis.ResponseError, match=f"^TOOOLD .* the oldest number to go on from is {oldest}"):
                client.execute_command("CHANGES", "AFTER", seqno)
        found = keys(follow(client, oldest))
        assert found == [b"%d" % number for number in range(301 - len(found), 300)] + [b"last"]
        assert 0 < client.info("keyhaus")["journal_bytes_retained"] <= 128 << 10


@pytest.fixture
def gated(tmp_path: Path) -> Iterator[tuple[InnerServer, GatedDisk]]:
    with gated_server(tmp_path) as running:
        yield running


def test_what_is_not_synced_is_told_to_nobody(gated: tuple[InnerServer, GatedDisk]) -> None:
    server, disk = gated
    with (
        Probe(server.port) as writer,
        Probe(server.port) as follower,
        Probe(server.port) as other,
        Probe(server.port) as above,
        Probe(server.port) as late,
    ):
        writer.call(b"SET", b"a", b"1")
        after = b"%d" % server.store.synced
        disk.shut()
        follower.send([b"CHANGES", b"AFTER", after, b"BLOCK", b"0"])
        writer.send([b"SET", b"b", b"2"])
        disk.wait_for(lambda: "sync begins" in disk.events)
        assert other.call(b"CHANGES", b"AFTER", after) == b"*0\r\n"
        (entry,) = parsed(other.call(b"CHANGES", b"AFTER", b"%d" % (int(after) - 1)))[0].plain()
        assert entry[2][0][2] == b"a"
        # Whether the number is that of a commit is known once the commit is.
        other.send([b"CHANGES", b"AFTER", b"%d" % (int(after) + 1)])
        above.send([b"CHANGES", b"AFTER", b"%d" % (int(after) + 2)])
        assert late.call(b"PING") == b"+PONG\r\n"  # by now all of them have been executed
        assert follower.silent() and other.silent() and above.silent()
        disk.let_go()
        assert b"$1\r\nb\r\n" in follower.receive()
        assert other.receive() == b"*0\r\n"
        assert b"above the newest" in above.receive()


def test_who_blocks_on_a_poisoned_store_is_told_so(gated: tuple[InnerServer, GatedDisk]) -> None:
    server, disk = gated
    with Probe(server.port) as writer, Probe(server.port) as follower:
        writer.call(b"SET", b"a", b"1")
        after = b"%d" % server.store.synced
        follower.send([b"CHANGES", b"AFTER", after, b"BLOCK", b"0"])
        disk.fail_next("sync", OSError(5, "Input/output error"))
        assert writer.call(b"SET", b"b", b"2").startswith(b"-POISONED")
        assert follower.receive().startswith(b"-POISONED")
        assert b"$1\r\na\r\n" in follower.call(b"CHANGES", b"AFTER", b"0")
        assert follower.call(b"CHANGES", b"AFTER", after) == b"*0\r\n"
