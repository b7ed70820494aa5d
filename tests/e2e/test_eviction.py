"""Memory mode with a limit: what is refused, and what goes (max-memory, max-memory-policy)."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, Final

import hiredis
import pytest

from tests.support.load import Link
from tests.support.processes import ServerFailed, keyhaus_server

LIMIT: Final = 4 << 20
SLACK: Final = 128 << 10
VALUE: Final = b"v" * 100
OOM: Final = "OOM command not allowed when used memory > 'maxmemory'."


def options(policy: str) -> tuple[str, ...]:
    return ("--engine", "memory", "--max-memory", str(LIMIT), "--max-memory-policy", policy)


def field(link: Link, name: str) -> int:
    lines = link.ask(b"INFO").decode().split("\r\n")
    return int(dict(line.split(":", 1) for line in lines if ":" in line)[name])


def filled(link: Link, keys: int, *extra: bytes) -> Any:
    """Sets keys until one is refused; what refused it, or None."""
    for number in range(keys):
        reply = link.ask(b"SET", b"key:%06d" % number, VALUE, *extra)
        if isinstance(reply, hiredis.ReplyError):
            return reply
    return None


def test_without_a_policy_writes_are_refused_and_reads_and_deletes_go_on(tmp_path: Path) -> None:
    with keyhaus_server(tmp_path, *options("noeviction")) as server, Link(server.port) as link:
        assert str(filled(link, 40_000)) == OOM
        assert LIMIT - SLACK < field(link, "used_memory") < LIMIT + SLACK
        assert link.ask(b"GET", b"key:000000") == VALUE
        assert link.ask(b"MULTI") == b"OK"
        assert str(link.ask(b"SET", b"k", b"v")) == OOM
        assert str(link.ask(b"EXEC")).startswith("EXECABORT")
        count = link.ask(b"DBSIZE")
        for number in range(count // 2):
            assert link.ask(b"DEL", b"key:%06d" % number) == 1
        assert link.ask(b"SET", b"k", b"v") == b"OK"
        assert field(link, "evicted_keys") == 0


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu"])
def test_what_is_used_stays_and_what_is_not_goes(tmp_path: Path, policy: str) -> None:
    with keyhaus_server(tmp_path, *options(policy)) as server, Link(server.port) as link:
        wanted = [b"wanted:%d" % number for number in range(100)]
        for key in wanted:
            assert link.ask(b"SET", key, VALUE) == b"OK"
        for number in range(40_000):
            assert link.ask(b"SET", b"key:%06d" % number, VALUE) == b"OK"
            if number % 4 == 0:
                link.ask(b"GET", wanted[number // 4 % len(wanted)])
            if number % 5_000 == 0:
                assert field(link, "used_memory") < LIMIT + SLACK
        assert field(link, "evicted_keys") > 10_000
        assert sum(link.ask(b"EXISTS", key) for key in wanted) > 90


def test_what_expires_next_goes_first_and_what_stays_is_not_touched(tmp_path: Path) -> None:
    with keyhaus_server(tmp_path, *options("volatile-ttl")) as server, Link(server.port) as link:
        for number in range(100):
            assert link.ask(b"SET", b"forever:%d" % number, VALUE) == b"OK"
        order = list(range(20_000))
        random.Random(1).shuffle(order)
        for number in order:
            assert link.ask(b"SET", b"key:%06d" % number, VALUE, b"EX", b"%d" % (10_000 + number)) == b"OK"
        left = [number for number in order if link.ask(b"EXISTS", b"key:%06d" % number)]
        assert 0 < len(left) < 20_000
        assert sorted(left) == list(range(20_000 - len(left), 20_000)) or min(left) > 20_000 - len(left) * 1.05
        assert all(link.ask(b"EXISTS", b"forever:%d" % number) for number in range(100))


def test_an_eviction_is_a_change_for_who_watches_and_who_follows(tmp_path: Path) -> None:
    with (
        keyhaus_server(tmp_path, *options("allkeys-lru")) as server,
        Link(server.port) as link,
        Link(server.port) as other,
    ):
        assert link.ask(b"SET", b"watched", VALUE) == b"OK"
        assert link.ask(b"WATCH", b"watched") == b"OK"
        filled(other, 40_000)
        assert other.ask(b"EXISTS", b"watched") == 0
        assert link.ask(b"MULTI") == b"OK"
        assert link.ask(b"PING") == b"QUEUED"
        assert link.ask(b"EXEC") is None
        changes = other.ask(b"CHANGES", b"AFTER", b"%d" % (field(other, "synced_seqno") - 200))
        assert any(operation[0] == b"del" for _, _, operations in changes for operation in operations)


def test_a_lower_limit_takes_effect_at_once_and_without_commands(tmp_path: Path) -> None:
    with keyhaus_server(tmp_path, *options("allkeys-lru")) as server, Link(server.port) as link:
        filled(link, 20_000)
        assert link.ask(b"CONFIG", b"SET", b"maxmemory", b"2mb") == b"OK"
        while (used := field(link, "used_memory")) > (2 << 20) + SLACK:
            assert used <= LIMIT + SLACK
        assert link.ask(b"CONFIG", b"GET", b"max-memory") == [b"max-memory", b"%d" % (2 << 20)]


def test_data_on_disk_has_no_such_limit(tmp_path: Path) -> None:
    with (
        pytest.raises(ServerFailed, match="max-memory is for the memory engine"),
        keyhaus_server(tmp_path, "--max-memory", "1gb"),
    ):
        pass
    with keyhaus_server(tmp_path) as server, Link(server.port) as link:
        assert "max-memory is for the memory engine" in str(link.ask(b"CONFIG", b"SET", b"maxmemory", b"1gb"))
