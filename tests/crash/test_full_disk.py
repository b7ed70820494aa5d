"""A full disk: writes are refused, nothing is lost, reads and deletes go on, and once there is room so do writes (J2).

On a small disk of its own (a tmpfs, where one may be mounted) under a real server, and over the simulated disk.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import hiredis
import pytest

from keyhaus.core.errors import DiskFull
from keyhaus.core.settings import Settings
from keyhaus.store.store import Store
from keyhaus.store.transaction import Transaction
from tests.support.load import Link
from tests.support.processes import ServerFailed, keyhaus_server
from tests.support.simulation import SimulatedDisk, SimulatedSpawn

DISK_BYTES: Final = 4 << 20
SEGMENT: Final = ("--journal-segment-bytes", "256kb")
SECONDS: Final = 20
VALUE: Final = b"v" * 3000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory with a few megabytes of room."""
    place = tmp_path / "small"
    place.mkdir()
    command = ("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(place))
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if mounted.returncode:
        reason = f"no disk may be mounted here: {mounted.stderr.strip()}"
        pytest.skip(reason)
    try:
        yield place
    finally:
        subprocess.run(("umount", "--lazy", str(place)), check=True)


def take_all(place: Path) -> Path:
    """Fills the disk with a file of somebody else's."""
    other = place / "other"
    file = os.open(other, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with contextlib.suppress(OSError):
        while True:
            os.write(file, bytes(4096))
    os.close(file)
    return other


def write_until_refused(link: Link, name: bytes, most: int = 5000) -> tuple[list[bytes], str]:
    """Writes keys until one is refused; those that were accepted, and the refusal."""
    accepted: list[bytes] = []
    for number in range(most):
        key = b"%b:%d" % (name, number)
        reply = link.ask(b"SET", key, VALUE)
        if isinstance(reply, hiredis.ReplyError):
            return accepted, str(reply)
        assert reply == b"OK"
        accepted.append(key)
    raise AssertionError("no write was ever refused")


def field(link: Link, name: bytes) -> bytes:
    """A field of INFO."""
    return dict(line.split(b":", 1) for line in link.ask(b"INFO", b"keyhaus").split(b"\r\n") if b":" in line)[name]


def write_as_soon_as_there_is_room(link: Link) -> None:
    deadline = time.monotonic() + SECONDS
    while isinstance(reply := link.ask(b"SET", b"again", VALUE), hiredis.ReplyError):
        assert str(reply).startswith("DISKFULL")
        assert time.monotonic() < deadline, link.ask(b"INFO", b"keyhaus")


def all_there(link: Link, keys: list[bytes]) -> None:
    for key in keys:
        assert link.ask(b"GET", key) == VALUE, f"{key!r} is lost"


def test_a_full_disk_refuses_and_goes_on_once_there_is_room(small_disk: Path, tmp_path: Path) -> None:
    options = ("--data-dir", str(small_disk / "data"), *SEGMENT)
    with keyhaus_server(tmp_path, *options) as server, Link(server.port) as link:
        keys, refusal = write_until_refused(link, b"a")
        assert refusal.startswith("DISKFULL the disk is full")
        assert len(keys) > 100
        all_there(link, keys)
        info = link.ask(b"INFO", b"keyhaus")
        assert b"no_further_segment:1" in info
        assert b"poisoned:\r\n" in info
        # Deletes have a reserve of their own.
        assert link.ask(b"DEL", *keys[-50:]) == 50
        del keys[-50:]
        assert link.ask(b"DEL", keys.pop()) == 1
        all_there(link, keys)
    assert not any("Traceback" in line for line in server.lines)
    # A stop was possible, and a start is.
    with keyhaus_server(tmp_path, *options) as server, Link(server.port) as link:
        all_there(link, keys)
        assert link.ask(b"DBSIZE") == len(keys)


def test_room_made_by_somebody_else_is_found_without_a_restart(small_disk: Path, tmp_path: Path) -> None:
    options = ("--data-dir", str(small_disk / "data"), *SEGMENT)
    with keyhaus_server(tmp_path, *options) as server, Link(server.port) as link:
        assert link.ask(b"SET", b"first", VALUE) == b"OK"
        other = take_all(small_disk)
        keys, refusal = write_until_refused(link, b"a")
        assert refusal.startswith("DISKFULL the disk is full")
        other.unlink()
        write_as_soon_as_there_is_room(link)
        more = [b"more:%d" % number for number in range(200)]
        for key in more:
            assert link.ask(b"SET", key, VALUE) == b"OK"
        assert b"no_further_segment:0" in link.ask(b"INFO", b"keyhaus")
        all_there(link, [b"first", b"again", *keys, *more])
        server.kill()
    with keyhaus_server(tmp_path, *options) as server, Link(server.port) as link:
        all_there(link, [b"first", b"again", *keys, *more])


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "stopped"])
def test_a_full_disk_can_be_started_again_and_again(killed: bool, small_disk: Path, tmp_path: Path) -> None:
    """J2: every start finds a file to build its fresh segment from, whatever the run before has written."""
    options = ("--data-dir", str(small_disk / "data"), *SEGMENT)
    (small_disk / "other").write_bytes(bytes(1 << 20))
    kept: list[bytes] = []
    deleted: list[bytes] = []
    for start in range(6):
        with keyhaus_server(tmp_path, *options) as server, Link(server.port) as link:
            all_there(link, kept)
            for key in deleted:
                assert link.ask(b"EXISTS", key) == 0
            keys, refusal = write_until_refused(link, b"start:%d" % start)
            assert refusal.startswith("DISKFULL the disk is full")
            kept += keys
            take_all(small_disk)
            assert link.ask(b"DEL", kept[0]) == 1, "a full disk must be emptied"
            deleted.append(kept.pop(0))
            if killed:
                server.kill()
    (small_disk / "other").unlink()
    with keyhaus_server(tmp_path, *options) as server, Link(server.port) as link:
        write_as_soon_as_there_is_room(link)
        all_there(link, kept)


def test_a_start_on_a_disk_without_any_room_says_so(small_disk: Path, tmp_path: Path) -> None:
    take_all(small_disk)
    options = ("--data-dir", str(small_disk / "data"), *SEGMENT)
    with (
        pytest.raises(ServerFailed, match="keyhaus: .* No space left on device"),
        keyhaus_server(tmp_path, *options),
    ):
        pass
    (small_disk / "other").unlink()
    with keyhaus_server(tmp_path, *options) as server, Link(server.port) as link:
        assert link.ask(b"SET", b"k", b"v") == b"OK"


def test_a_disk_that_fills_up_beside_flushes_loses_nothing_and_hangs_nobody(
    small_disk: Path, tmp_path: Path, seed: int
) -> None:
    """Reads go on, deletes are taken, room that is made is found, and a kill at any point of it loses nothing."""
    subprocess.run(("mount", "-o", f"remount,size={3 * DISK_BYTES}", str(small_disk)), check=True)
    unpacked = ("--set", "compression=none", "--set", "bottommost-compression=none")
    small = ("--set", "memtable-bytes=1mb", "--set", "cache-bytes=0")
    options = ("--data-dir", str(small_disk / "data"), *SEGMENT, *small, *unpacked)
    choices = random.Random(seed)
    kept: list[bytes] = []
    for life in range(3):
        with keyhaus_server(tmp_path, *options) as server, Link(server.port) as link:
            all_there(link, kept)
            keys, refusal = write_until_refused(link, b"life:%d" % life, 20_000)
            assert refusal.startswith("DISKFULL"), refusal
            kept += keys
            assert len(kept) > 500
            take_all(small_disk)
            all_there(link, choices.sample(kept, 200))
            gone = [kept.pop(choices.randrange(len(kept))) for _ in range(20)]
            assert link.ask(b"DEL", *gone) == 20
            assert link.ask(b"EXISTS", *gone) == 0
            assert link.ask(b"DBSIZE") == len(kept)
            assert b"poisoned:\r\n" in link.ask(b"INFO", b"keyhaus")
            (small_disk / "other").unlink(missing_ok=True)
            if life == 1:
                server.kill()
        assert not any("Traceback" in line for line in server.lines), server.lines
    subprocess.run(("mount", "-o", f"remount,size={8 * DISK_BYTES}", str(small_disk)), check=True)
    with keyhaus_server(tmp_path, *options) as server, Link(server.port) as link:
        write_as_soon_as_there_is_room(link)
        for number in range(500):
            assert link.ask(b"SET", b"more:%d" % number, VALUE) == b"OK"
        all_there(link, [b"more:%d" % number for number in range(500)])
        assert link.ask(b"EXISTS", *kept) == len(kept)
        assert link.ask(b"DBSIZE") == len(kept) + 501


def test_the_journal_has_a_limit_of_its_own(tmp_path: Path) -> None:
    options = ("--data-dir", "data", *SEGMENT, "--journal-max-bytes", "2mb")
    with keyhaus_server(tmp_path, *options) as server, Link(server.port) as link:
        keys = [b"a:%d" % number for number in range(3000)]
        for key in keys:
            assert link.ask(b"SET", key, VALUE) == b"OK"  # flushes give room back, and writers wait for them
            if key.endswith(b"00"):
                assert int(field(link, b"journal_bytes")) <= 2 << 20
        assert int(field(link, b"flushes")) > 2
        all_there(link, keys)
        assert link.ask(b"DEL", keys.pop()) == 1
        server.kill()
    for _ in range(3):
        with keyhaus_server(tmp_path, *options) as server, Link(server.port) as link:
            all_there(link, keys)
            assert link.ask(b"DBSIZE") == len(keys)
            server.kill()
    with keyhaus_server(tmp_path, *options[:-1], "8mb") as server, Link(server.port) as link:
        for number in range(700):
            assert link.ask(b"SET", b"raised:%d" % number, VALUE) == b"OK"


def test_a_commit_that_is_too_large_for_the_room_stands_in_nobody_elses_way(tmp_path: Path) -> None:
    options = ("--data-dir", "data", *SEGMENT, "--journal-max-bytes", "2mb")
    with keyhaus_server(tmp_path, *options) as server, Link(server.port) as link:
        assert link.ask(b"SET", b"small", VALUE) == b"OK"
        refusal = link.ask(b"SET", b"large", bytes(5 << 20))
        assert str(refusal).startswith("DISKFULL the journal has reached its limit")
        for number in range(1500):
            assert link.ask(b"SET", b"a:%d" % number, VALUE) == b"OK"


# The same over the simulated disk.


class Simulated:
    """A store over a disk with little room."""

    def __init__(self, seed: int, room: int) -> None:
        self.random = random.Random(seed)
        self.disk = SimulatedDisk(self.random, room)
        self.settings = Settings(journal_segment_bytes=256 << 10)
        self.open()

    def open(self) -> None:
        self.spawn = SimulatedSpawn(self.random)
        self.store = Store.open(self.disk, self.spawn, settings=self.settings)
        self.spawn.settle()

    def commit(self, operation: str, *args: Any) -> None:
        """Commits, and syncs, as an asker with `always`; waits for room. Raises DiskFull."""
        store = self.store
        while True:
            transaction = Transaction(store)
            getattr(transaction, operation)(*args)
            wait = transaction.commit()
            if wait is None:
                break
            self.spawn.settle()
            assert wait.fired or self.spawn.ring(), "it waits for something that never comes"
        assert store.journal is not None
        store.journal.demand(transaction.depends)
        self.spawn.settle()
        assert store.synced >= transaction.depends

    def fill(self, name: bytes) -> list[bytes]:
        accepted: list[bytes] = []
        for number in range(10_000):
            key = b"%b:%d" % (name, number)
            try:
                self.commit("put", key, VALUE)
            except DiskFull:
                return accepted
            accepted.append(key)
        raise AssertionError("no write was ever refused")

    def check(self, keys: list[bytes]) -> None:
        transaction = Transaction(self.store)
        for key in keys:
            assert transaction.get(key) is not None, f"{key!r} is lost"
        assert transaction.count() == len(keys)


@pytest.mark.parametrize("power", [False, True], ids=["kill", "power cut"])
def test_a_full_simulated_disk_loses_nothing(power: bool, seed: int) -> None:
    world = Simulated(seed, 4 << 20)
    kept: list[bytes] = []
    for start in range(8):
        kept += world.fill(b"%d" % start)
        world.disk.room = 0
        world.commit("delete", kept.pop(0))
        world.check(kept)
        if power:
            world.disk.power_cut()
        else:
            world.disk.kill()
        world.open()
        world.check(kept)
    world.disk.room = 1 << 20
    world.spawn.ring()
    world.spawn.settle()
    world.commit("put", b"again", VALUE)
    world.check([*kept, b"again"])
