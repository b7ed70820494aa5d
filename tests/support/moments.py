"""A database with a past: what every commit did, as CHANGES tells it, and what was there at any moment of it."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

import redis

from tests.support.processes import HOST, SOURCE, keyhaus_server

State = dict[int, dict[bytes, tuple[bytes, int]]]  # database to key to value and expiry (0 for none)
FAR_MS: Final = 4_000_000_000_000

OPTIONS: Final = (
    "--data-dir",
    "data",
    "--journal-segment-bytes",
    "128kb",
    "--set",
    "archive-dir=archive",
    "--set",
    "memtable-bytes=1mb",
    "--set",
    "memtable-size=700",
    "--set",
    "journal-retain-bytes=256kb",
)


class Commit(NamedTuple):
    """One commit, as CHANGES tells it."""

    seqno: int
    unix_ms: int
    operations: list[list[Any]]


def command(*words: str | Path, directory: Path) -> subprocess.CompletedProcess[str]:
    """Runs `keyhaus …`."""
    path = os.pathsep.join(filter(None, (str(SOURCE), os.environ.get("PYTHONPATH", ""))))
    return subprocess.run(
        (sys.executable, "-m", "keyhaus", *map(str, words)),
        cwd=directory,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def told(*words: str | Path, directory: Path) -> Any:
    """What `keyhaus … --json` prints; it must succeed."""
    result = command(*words, "--json", directory=directory)
    assert result.returncode == 0, result.stderr + result.stdout
    return json.loads(result.stdout)


def changes(client: redis.Redis, after: int = 0) -> list[Commit]:
    """Every commit after a number."""
    found: list[Commit] = []
    while page := client.execute_command("CHANGES", "AFTER", after, "COUNT", 5000):
        found += [Commit(*entry) for entry in page]
        after = found[-1].seqno
    return found


def apply(state: State, commit: Commit) -> None:
    for kind, database, *rest in commit.operations:
        space = state.setdefault(database, {})
        if kind == b"put":
            space[rest[0]] = (rest[1], rest[2] if len(rest) > 2 else 0)
        elif kind == b"del":
            space.pop(rest[0], None)
        elif kind == b"flush":
            space.clear()
        else:
            state[database], state[rest[0]] = state.setdefault(rest[0], {}), space


def state_at(commits: list[Commit], seqno: int | None = None, unix_ms: int | None = None) -> State:
    """What was there at a moment."""
    state: State = {}
    for commit in commits:
        if (seqno is None or commit.seqno <= seqno) and (unix_ms is None or commit.unix_ms <= unix_ms):
            apply(state, commit)
    return {database: space for database, space in state.items() if space}


def dump(port: int) -> State:
    """What a server has."""
    state: State = {}
    for database in range(16):
        with redis.Redis(HOST, port, db=database) as client:
            keys = list(client.scan_iter(count=5000))
            assert client.dbsize() == len(keys)
            for at in range(0, len(keys), 1000):
                part = keys[at : at + 1000]
                pipe = client.pipeline(transaction=False)
                for key in part:
                    pipe.get(key)
                    pipe.pexpiretime(key)
                replies = pipe.execute()
                for key, value, expires in zip(part, replies[::2], replies[1::2], strict=True):
                    state.setdefault(database, {})[key] = (value, max(expires, 0))
    return state


def served(directory: Path, data: str) -> State:
    """What a server that is started on a directory has."""
    with keyhaus_server(directory, "--data-dir", data) as server:
        return dump(server.port)


def work(client: redis.Redis, generator: random.Random, commits: int) -> None:
    """Commits of every kind: values of several sizes, deletions, expiries, groups, emptied and exchanged databases."""
    number = 0
    for _ in range(commits // 50):
        pipe = client.pipeline(transaction=False)
        for _ in range(50):
            number += 1
            key = b"key:%04d" % generator.randrange(1500)
            kind = generator.random()
            if kind < 0.7:
                pipe.set(key, b"%d:" % number + generator.randbytes(generator.choice((10, 100, 400))).hex().encode())
            elif kind < 0.8:
                pipe.set(key, b"%d" % number, pxat=FAR_MS + number)
            elif kind < 0.97:
                pipe.delete(key)
            elif kind < 0.995:
                pipe.execute_command("SWAPDB", 0, generator.randrange(1, 4))
            else:
                pipe.execute_command("SELECT", 0)
                pipe.execute_command("FLUSHDB")
        pipe.execute()


def transfer(client: redis.Redis, commits: int, generator: random.Random) -> None:
    """A few commits of several keys each."""
    for number in range(commits):
        pipe = client.pipeline(transaction=True)
        for member in range(4):
            pipe.set(b"group:%d" % member, b"%d" % number)
        if generator.random() < 0.3:
            pipe.delete(b"group:3")
        pipe.execute()
