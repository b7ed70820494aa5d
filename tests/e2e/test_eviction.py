"""max-memory through the doors, beside redis-server: what is refused and how, and what a policy makes of a limit."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

import keyhaus.commands  # noqa: F401  (fills the table)
from keyhaus.commands.spec import TABLE, Flag
from tests.e2e.conftest import Serve
from tests.support.processes import HOST, SOURCE, keyhaus_server, redis_server
from tests.support.wire import Node, Wire, parsed

OTHER: Final = "> "  # what another client does
FULL: Final = ("> CONFIG SET maxmemory 1",)  # there is a key, so either server has too much
ROOM: Final = ("> CONFIG SET maxmemory 0",)

STORIES: Final = {
    "what needs memory and what does not": [
        *FULL,
        *(
            "SET k x",
            "SETNX n x",
            "SETEX n 10 x",
            "PSETEX n 10 x",
            "GETSET k x",
            "MSET a 1",
            "MSETNX a 1",
            "APPEND k x",
        ),
        *("SETRANGE k 0 x", "INCR n", "DECR n", "INCRBY n 1", "DECRBY n 1", "INCRBYFLOAT n 1", "COPY k n"),
        *("RESTORE n 0 x", "SET k", "SET k x y z", "GET k", "MGET k l", "STRLEN k", "EXISTS k", "EXPIRE k 100"),
        *(
            "PERSIST k",
            "GETEX k EX 100",
            "GETEX k PERSIST",
            "RENAME k r",
            "RENAMENX r k",
            "MOVE k 1",
            "TTL k",
            "TYPE k",
        ),
        *("GETDEL l", "DEL l", "UNLINK l", "KEYS k", "DBSIZE", "PING", "ECHO x", "TIME x", "SELECT 1", "GET k"),
        *("FLUSHALL", "SELECT 0"),
    ],
    "a queue before it is full": ["MULTI", "SET k x", "GET k", *FULL, "EXEC", "GET k", "EXEC"],
    "a queue without what needs memory": ["MULTI", "GET k", "DEL l", *FULL, "EXEC", "GET l"],
    "all is refused while queueing": [*FULL, "MULTI", "GET k", "PING", "SET k x", "EXEC", "GET k"],
    "refused while queueing, then there is room": [*FULL, "MULTI", "GET k", *ROOM, "SET k x", "EXEC", "GET k"],
    "queued, refused, then there is room": ["MULTI", "SET k x", *FULL, "GET k", *ROOM, "EXEC", "GET k"],
    "queued, refused, still full": ["MULTI", "SET k x", *FULL, "GET k", "EXEC", "EXEC"],
    "refused, nothing queued that needs memory": ["MULTI", "GET k", *FULL, "GET k", "EXEC"],
    "discarded": [*FULL, "MULTI", "GET k", "DISCARD", "GET k", "EXEC"],
    "reset": [*FULL, "MULTI", "GET k", "RESET", "EXEC"],
    "what is wrong in itself": [*FULL, "MULTI", "NOSUCH", "GET", "EXEC"],
    "watched and queued": ["WATCH k", "MULTI", "SET k x", *FULL, "EXEC", "> SET k y", *ROOM, "MULTI", "GET k", "EXEC"],
    "watched and changed before it is queued": ["WATCH k", "MULTI", "> SET k y", "SET k x", *FULL, "EXEC", "GET k"],
    "watched and changed after it is queued": ["WATCH k", "MULTI", "SET k x", "> SET k y", *FULL, "EXEC", "GET k"],
    "MULTI and WATCH inside": [*FULL, "MULTI", "MULTI", "WATCH k", "UNWATCH", "EXEC"],
    "EXEC and DISCARD alone": [*FULL, "EXEC", "DISCARD", "MULTI x", "MULTI", "DISCARD"],
    "volatile-ttl with nothing volatile": [
        *("> CONFIG SET maxmemory-policy volatile-ttl", *FULL, "SET k x", "GET k", "INCR n"),
        *("MULTI", "SET k x", "EXEC", *ROOM, "> CONFIG SET maxmemory-policy noeviction", "SET k x"),
    ],
    "volatile-ttl gives up what is volatile": [
        *("> CONFIG SET maxmemory-policy volatile-ttl", "SET v x EX 1000", "WATCH v", *FULL, "SET k x"),
        *("EXISTS v", "MULTI", "EXEC", *ROOM, "> CONFIG SET maxmemory-policy noeviction"),
    ],
    "settings": [
        *("CONFIG SET maxmemory -1", "CONFIG SET maxmemory 1x", "CONFIG SET maxmemory 1gb", "CONFIG GET maxmemory"),
        *("CONFIG SET maxmemory-samples x", "CONFIG SET maxmemory-samples 10"),
        *("CONFIG GET maxmemory-samples", "CONFIG SET maxmemory-samples 5", "CONFIG SET lfu-log-factor -1"),
        *("CONFIG GET lfu-log-factor", "CONFIG GET lfu-decay-time", "CONFIG SET maxmemory-policy Allkeys-LRU"),
        *(
            "CONFIG GET maxmemory-policy",
            "OBJECT FREQ k",
            "OBJECT FREQ none",
            "CONFIG SET maxmemory-policy allkeys-lfu",
        ),
        *(
            "OBJECT IDLETIME k",
            "OBJECT IDLETIME none",
            "CONFIG SET maxmemory-policy noeviction",
            "CONFIG SET maxmemory 0",
        ),
    ],
}

# What is run under allkeys-lfu between SET k abcd, SET l abcd, SET n 12345 and OBJECT FREQ k (or n). Without GETSET and
# SET … GET, which count twice in Redis, since it looks twice.
USES: Final = (
    *("GET k", "SET k x", "SETNX k x", "EXISTS k", "TOUCH k", "TYPE k", "TTL k", "PTTL k", "EXPIRETIME k"),
    *("PEXPIRETIME k", "OBJECT ENCODING k", "OBJECT FREQ k", "MEMORY USAGE k", "DUMP k", "STRLEN k", "GETRANGE k 0 1"),
    *("SUBSTR k 0 1", "EXPIRE k 100", "PEXPIREAT k 9999999999999", "PERSIST k", "INCR n", "INCRBYFLOAT n 1"),
    *("APPEND k x", "SETRANGE k 0 x", "MGET k l", "MSET l 1 k 1", "MSETNX k 1", "GETEX k"),
    *("COPY k l REPLACE", "COPY l k", "RENAMENX l k", "LCS k l", "WATCH k", "SETEX k 10 x", "SCAN 0", "KEYS *"),
    *("RANDOMKEY", "EXPIRE k 100 NX", "SET k x NX", "GETDEL l", "DBSIZE"),
)


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int]]:
    """A redis-server's port and a keyhaus server's."""
    with (
        redis_server(tmp_path_factory.mktemp("redis")) as redis,
        keyhaus_server(tmp_path_factory.mktemp("keyhaus"), "--engine", "memory", "--log-level", "warning") as ours,
    ):
        yield redis, ours.port


def _words(line: str) -> list[bytes]:
    return [word.encode() for word in shlex.split(line)]


@pytest.mark.parametrize("story", STORIES)
def test_a_limit_answers_as_in_redis(story: str, ports: tuple[int, int]) -> None:
    told: list[list[bytes]] = []
    for port in ports:
        with Wire(HOST, port) as mine, Wire(HOST, port) as other:
            try:
                for line in ("CONFIG SET maxmemory 0", "FLUSHALL", "SET k abcd", "SET l abcd"):
                    assert other.call(*_words(line)) == b"+OK\r\n"
                told.append(
                    [
                        (other if line.startswith(OTHER) else mine).call(*_words(line.removeprefix(OTHER)))
                        for line in STORIES[story]
                    ]
                )
            finally:
                other.call(*_words("CONFIG SET maxmemory 0 maxmemory-policy noeviction maxmemory-samples 5"))
    for line, redis, ours in zip(STORIES[story], *told, strict=True):
        assert ours == redis, line


def test_a_key_is_used_by_the_commands_that_use_it_in_redis(ports: tuple[int, int]) -> None:
    counted: list[dict[str, Node]] = []
    for port in ports:
        counted.append({})
        with Wire(HOST, port) as wire:
            wire.call(*_words("CONFIG SET maxmemory 1gb maxmemory-policy allkeys-lfu lfu-log-factor 0"))
            for line in USES:
                for before in ("FLUSHALL", "SET k abcd", "SET l abcd", "SET n 123456"):
                    wire.call(*_words(before))
                wire.call(*_words(line))
                key = b"n" if " n" in line else b"k"
                counted[-1][line] = parsed(wire.call(b"OBJECT", b"FREQ", key))[0]
            wire.call(*_words("CONFIG SET maxmemory 0 maxmemory-policy noeviction lfu-log-factor 10"))
    assert counted[0] == counted[1]
    assert {node.plain() for node in counted[0].values()} == {5, 6}


def test_what_needs_memory_is_flagged_as_in_redis(ports: tuple[int, int]) -> None:
    with Wire(HOST, ports[0]) as redis:
        commands = parsed(redis.call(b"COMMAND"))[0].plain()
    compared = 0
    for command in commands:
        spec = TABLE.get(command[0].decode().upper())
        if spec is not None:
            compared += 1
            assert spec.needs_memory == (b"denyoom" in command[2]) == bool(spec.flags & Flag.DENY_OOM), spec.name
    assert compared > 60


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu", "volatile-ttl"])
@pytest.mark.parametrize("listen", ["resp", "auto"])
def test_a_cache_keeps_its_limit(policy: str, listen: str, serve: Serve) -> None:
    server = serve(
        *("--engine", "memory", "--max-memory", "1mb", "--max-memory-policy", policy, "--log-level", "warning"),
        listen=listen,
    )
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(HOST, server.port)) for _ in range(3)]
        for number in range(3000):
            wire = wires[number % 3]
            assert wire.call(b"SET", b"key:%d" % number, b"x" * 1000, b"EX", b"%d" % (1000 + number)) == b"+OK\r\n"
        memory = _fields(wires[0], b"memory")
        assert 900_000 < int(memory["used_memory"]) < 1_050_000
        assert memory["maxmemory"] == str(1 << 20)
        assert memory["maxmemory_policy"] == policy
        there = parsed(wires[0].call(b"DBSIZE"))[0].plain()
        assert int(_fields(wires[0], b"stats")["evicted_keys"]) == 3000 - there
        assert there > 500
        if policy == "volatile-ttl":
            left = parsed(wires[0].call(b"KEYS", b"*"))[0].plain()
            assert min(int(key[4:]) for key in left) >= 3000 - there - 1


def _fields(wire: Wire, section: bytes) -> dict[str, str]:
    text = parsed(wire.call(b"INFO", section))[0].plain().decode()
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def test_a_limit_that_is_lowered_is_kept_without_another_command(serve: Serve) -> None:
    server = serve("--engine", "memory", "--log-level", "warning")
    with Wire(HOST, server.port) as wire:
        for _ in range(20):
            wire.send(*([b"SET", b"key:%d" % number, b"x" * 100] for number in range(5000)))
            for _ in range(5000):
                wire.receive()
        assert wire.call(b"CONFIG", b"SET", b"maxmemory", b"500kb", b"maxmemory-policy", b"allkeys-lru") == b"+OK\r\n"
        until = time.monotonic() + 20
        while int(_fields(wire, b"memory")["used_memory"]) > 500 * 1024:
            assert time.monotonic() < until, "what is above a lowered limit is to be evicted without a write"


def test_many_writers_of_large_values_stay_within_the_limit(serve: Serve) -> None:
    server = serve("--engine", "memory", "--max-memory", "4mb", "--max-memory-policy", "allkeys-lru")
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(HOST, server.port)) for _ in range(8)]
        watcher = stack.enter_context(Wire(HOST, server.port))
        for number in range(20_000):
            wires[0].send([b"SET", b"small:%d" % number, b"x"])
        for _ in range(20_000):
            assert wires[0].receive() == b"+OK\r\n"
        for number in range(30):
            for which, wire in enumerate(wires):
                wire.send([b"SET", b"large:%d" % ((number * 8 + which) % 50), b"x" * 400_000])
            used = int(_fields(watcher, b"memory")["used_memory"])
            assert used <= (4 << 20) + 64 * 1024 + 401_000
            for wire in wires:
                assert wire.receive() == b"+OK\r\n"


def test_a_limit_is_refused_with_rocksdb(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "keyhaus", "serve", "--listen", f"resp://{HOST}:0", "--max-memory", "1gb"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(SOURCE), "PATH": "", "COLUMNS": "500"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 2
    assert "cache-bytes" in ended.stderr
    assert not (tmp_path / "data").exists()


def test_config_set_refuses_it_with_rocksdb(serve: Serve) -> None:
    with Wire(HOST, serve().port) as wire:
        refused = wire.call(b"CONFIG", b"SET", b"maxmemory", b"1gb")
        assert refused.startswith(b"-ERR CONFIG SET failed (possibly related to argument 'maxmemory') - max-memory is ")
        assert b"memtable-bytes" in refused
        assert wire.call(b"CONFIG", b"SET", b"maxmemory", b"0") == b"+OK\r\n"
