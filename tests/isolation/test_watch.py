"""What dirties a watched key, and what does not: as redis-server 7.0 has it, reply for reply.

Each story ends in MULTI, PING, EXEC, and EXEC does nothing where a watched key was changed. The stories stand with
their outcome, and are told to a real redis-server too.
"""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator
from typing import Final

import pytest

from tests.support.processes import HOST, keyhaus_server, redis_server
from tests.support.wire import Wire, parsed

OTHER: Final = "> "  # what another client does
LAPSE: Final = "until 25 ms have passed"

# Begun with k = 1 and l = 2 in database 0; `none` is nowhere.
CHANGED = {
    "another client sets it": ["WATCH k", "> SET k 9"],
    "it is set to what it was": ["WATCH k", "> SET k 1"],
    "one's own change before MULTI": ["WATCH k", "SET k 9"],
    "it is created": ["WATCH none", "> SET none x"],
    "it is deleted": ["WATCH k", "> DEL k"],
    "it is unlinked": ["WATCH k", "> UNLINK k"],
    "it is created and deleted again": ["WATCH none", "> SET none x", "> DEL none"],
    "the second of two": ["WATCH l k", "> INCR k"],
    "watched by two commands": ["WATCH l", "WATCH k", "> INCR l"],
    "within a transaction": ["WATCH k", "> MULTI", "> SET k 9", "> EXEC"],
    "before a transaction's error": ["WATCH k", "> MULTI", "> SET k x", "> INCR k", "> EXEC"],
    "MSET": ["WATCH k", "> MSET l 1 k 1"],
    "MSETNX": ["WATCH none", "> MSETNX other 1 none 1"],
    "APPEND": ["WATCH k", "> APPEND k x"],
    "APPEND of nothing": ["WATCH k", "> APPEND k ''"],
    "SETRANGE": ["WATCH k", "> SETRANGE k 0 1"],
    "GETSET": ["WATCH k", "> GETSET k 1"],
    "GETDEL": ["WATCH k", "> GETDEL k"],
    "INCRBYFLOAT": ["WATCH k", "> INCRBYFLOAT k 0"],
    "INCRBY 0": ["WATCH k", "> INCRBY k 0"],
    "it gets an expiry": ["WATCH k", "> EXPIRE k 100"],
    "its expiry is set anew": ["EXPIRE k 100", "WATCH k", "> EXPIRE k 100"],
    "its expiry is taken": ["EXPIRE k 100", "WATCH k", "> PERSIST k"],
    "GETEX with an expiry": ["WATCH k", "> GETEX k EX 100"],
    "an expiry in the past": ["WATCH k", "> EXPIREAT k 1"],
    "renamed away": ["WATCH k", "> RENAME k m"],
    "renamed onto": ["WATCH k", "> RENAME l k"],
    "copied onto": ["WATCH k", "> COPY l k REPLACE"],
    "moved away": ["WATCH k", "> MOVE k 1"],
    "moved here": ["SELECT 1", "WATCH k", "> MOVE k 1"],
    "restored onto": [
        "WATCH k",
        "> RESTORE k 0 '\\x00\\xc0\\x01\\x0a\\x00\\x26\\x78\\xe7\\xb6\\xd1\\x01\\x11\\xfc' REPLACE",
    ],
    "FLUSHALL": ["WATCH k", "> FLUSHALL"],
    "FLUSHDB": ["WATCH k", "> FLUSHDB"],
    "one key of several is flushed": ["WATCH none k", "> FLUSHDB"],
    "swapped with an empty database": ["WATCH k", "> SWAPDB 0 1"],
    "swapped in from another database": ["SELECT 1", "WATCH k", "SELECT 0", "> SWAPDB 0 1"],
    "swapped with a key of its name": ["> SELECT 1", "> SET k 1", "WATCH k", "> SWAPDB 1 0"],
    "swapped there and back": ["WATCH k", "> SWAPDB 0 1", "> SWAPDB 0 1"],
    "it expires": ["PEXPIRE k 20", "WATCH k", LAPSE],
    "it expires and another client looks": ["PEXPIRE k 20", "WATCH k", LAPSE, "> GET k"],
    "it expires and is set anew": ["PEXPIRE k 20", "WATCH k", LAPSE, "> SET k 1"],
    "it had expired and is set anew": ["PEXPIRE k 1", LAPSE, "WATCH k", "> SET k 1"],
    "its expiry comes after WATCH": ["WATCH k", "> PEXPIRE k 1", LAPSE],
    "in the database where it was watched": ["WATCH k", "SELECT 1", "> SET k 9"],
    "UNWATCH comes within MULTI": ["WATCH k", "> SET k 9", "MULTI", "UNWATCH", "EXEC", "WATCH l", "> SET l 9"],
    "watched again after the change": ["WATCH k", "> SET k 9", "WATCH k"],
    "WATCH within MULTI is refused": ["WATCH k", "> SET k 9", "MULTI", "WATCH l", "EXEC", "WATCH k", "> INCR k"],
}
UNCHANGED = {
    "nobody does anything": ["WATCH k"],
    "it is read": ["WATCH k", "> GET k", "> STRLEN k", "> TTL k", "> EXISTS k", "> DUMP k", "> COPY k m", "> TYPE k"],
    "it is touched": ["WATCH k", "> TOUCH k"],
    "another key changes": ["WATCH k", "> SET l 9", "> DEL l", "> SET none x"],
    "deleting nothing": [
        "WATCH none",
        "> DEL none",
        "> UNLINK none",
        "> GETDEL none",
        "> PERSIST none",
        "> EXPIRE none 5",
    ],
    "conditions that do not hold": [
        "WATCH k none",
        "> SETNX k 9",
        "> SET k 9 NX",
        "> SET none 9 XX",
        "> MSETNX none 1 k 2",
    ],
    "changes that fail": ["SET k x", "WATCH k", "> INCR k", "> INCRBYFLOAT k 1", "> SETRANGE k -1 x", "> SET k 9 EX 0"],
    "expiries that do not change": ["WATCH k", "> PERSIST k", "> EXPIRE k 5 XX", "> EXPIRE k 5 GT", "> GETEX k"],
    "SETRANGE of nothing": ["WATCH k none", "> SETRANGE k 0 ''", "> SETRANGE none 5 ''"],
    "targets that exist": ["WATCH k", "> RENAMENX l k", "> COPY l k"],
    "the same name in another database": ["WATCH k", "> SELECT 1", "> SET k 9", "> FLUSHDB"],
    "FLUSHALL where it was not": ["WATCH none", "> FLUSHALL"],
    "SWAPDB where it was in neither": ["WATCH none", "> SWAPDB 0 1"],
    "SWAPDB of other databases": ["WATCH k", "> SWAPDB 1 2"],
    "SWAPDB with itself": ["WATCH k", "> SWAPDB 0 0"],
    "it had expired already": ["PEXPIRE k 1", LAPSE, "WATCH k"],
    "it had expired already and is looked at": ["PEXPIRE k 1", LAPSE, "WATCH k", "> GET k"],
    "it had expired already and is deleted": ["PEXPIRE k 1", LAPSE, "WATCH k", "> DEL k"],
    "it had expired already and is flushed": ["PEXPIRE k 1", LAPSE, "WATCH k", "> FLUSHALL"],
    "unwatched": ["WATCH k", "> SET k 9", "UNWATCH"],
    "a transaction in between": ["WATCH k", "> SET k 9", "MULTI", "EXEC"],
    "a discarded transaction in between": ["WATCH k", "> SET k 9", "MULTI", "DISCARD"],
    "an aborted transaction in between": ["WATCH k", "> SET k 9", "MULTI", "NOTHING", "EXEC"],
    "RESET": ["WATCH k", "> SET k 9", "RESET"],
    "a transaction that is discarded": ["WATCH k", "> MULTI", "> SET k 9", "> DISCARD"],
    "changed before WATCH": ["> SET k 9", "WATCH k"],
    "one's own change within MULTI": ["WATCH k", "MULTI", "SET k 9", "EXEC"],
}


@pytest.fixture(scope="module", params=["memory", "rocksdb"])
def port(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    directory = tmp_path_factory.mktemp("keyhaus")
    options = ("--engine", request.param, "--data-dir", str(directory / "data"), "--log-level", "warning")
    with keyhaus_server(directory, *options) as server:
        yield server.port


@pytest.fixture(scope="module")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with redis_server(tmp_path_factory.mktemp("redis")) as port:
        yield port


def let_lapse(wire: Wire) -> None:
    """Asks for the server's time until 25 ms of it have passed."""

    def now_us() -> int:
        seconds, microseconds = parsed(wire.call(b"TIME"))[0].plain()
        return int(seconds) * 1_000_000 + int(microseconds)

    end = now_us() + 25_000
    while now_us() < end:
        pass


def speaker(line: str) -> str:
    return line if line == LAPSE else OTHER if line.startswith(OTHER) else ""


def words_of(line: str) -> list[bytes]:
    return [word.encode().decode("unicode_escape").encode("latin-1") for word in shlex.split(line.removeprefix(OTHER))]


def told(port: int, story: list[str]) -> list[bytes]:
    """A server's replies to a story, EXEC's last.

    What one client says without another in between is sent at once, so that no key expires too early.
    """
    replies = []
    with Wire(HOST, port) as own, Wire(HOST, port) as other:
        other.call(b"FLUSHALL")
        other.call(b"MSET", b"k", b"1", b"l", b"2")
        for who, lines in itertools.groupby([*story, "MULTI", "PING", "EXEC"], key=speaker):
            if who == LAPSE:
                let_lapse(other)
                continue
            requests = [*map(words_of, lines)]
            wire = other if who == OTHER else own
            wire.send(*requests)
            replies += [wire.receive() for _ in requests]
    return replies


@pytest.mark.parametrize("name", CHANGED)
def test_a_watched_key_was_changed(name: str, port: int) -> None:
    assert told(port, CHANGED[name])[-1] == b"*-1\r\n"


@pytest.mark.parametrize("name", UNCHANGED)
def test_no_watched_key_was_changed(name: str, port: int) -> None:
    assert told(port, UNCHANGED[name])[-1] == b"*1\r\n+PONG\r\n"


@pytest.mark.parametrize("name", CHANGED | UNCHANGED)
def test_redis_says_the_same(name: str, port: int, redis_port: int) -> None:
    story = (CHANGED | UNCHANGED)[name]
    assert told(port, story) == told(redis_port, story)
