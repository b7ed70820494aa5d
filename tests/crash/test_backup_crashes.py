"""A backup that is cut off at any point is none, and those before it stay whole."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import redis

from keyhaus.core.disk import OsDisk, OsFile
from keyhaus.core.errors import Corruption
from keyhaus.store.backup import form, offline, writer
from keyhaus.store.backup.restore import Point, restore
from keyhaus.store.repair import backups as checking
from tests.support.moments import OPTIONS, changes, command, served, state_at, told, work
from tests.support.processes import HOST, SOURCE, keyhaus_server

KEPT = 7  # the default of backup-keep


class Cut(BaseException):
    """The process ends here."""


class CuttingDisk(OsDisk):
    """Ends the process at its n-th change."""

    left = 1 << 30

    def _step(self) -> None:
        CuttingDisk.left -= 1
        if CuttingDisk.left < 0:
            raise Cut

    def open(self, name: str, *, create: bool = False) -> OsFile:
        if create:
            self._step()
        return _CuttingFile(self.root / name, create)

    def rename(self, old: str, new: str) -> None:
        self._step()
        super().rename(old, new)

    def remove(self, name: str) -> None:
        self._step()
        super().remove(name)

    def sync_directory(self, name: str) -> None:
        self._step()
        super().sync_directory(name)


class _CuttingFile(OsFile):
    def write(self, data: bytes, offset: int) -> None:
        CuttingDisk.left -= 1
        if CuttingDisk.left < 0:
            super().write(data[: len(data) // 2], offset)
            raise Cut
        super().write(data, offset)

    def sync(self) -> None:
        CuttingDisk.left -= 1
        if CuttingDisk.left < 0:
            raise Cut
        super().sync()


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stopped database, a backup of it, and some more commits."""
    directory = tmp_path_factory.mktemp("past")
    generator = random.Random(3)
    for _ in range(2):
        with keyhaus_server(directory, *OPTIONS) as server, redis.Redis(HOST, server.port) as client:
            work(client, generator, 1500)
        if not (directory / "backups").exists():
            told("backup", "create", "--data-dir", "data", "backups", directory=directory)
    return directory


def test_a_cut_at_each_step_leaves_the_earlier_backup_and_no_half_one(
    past: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "OsDisk", CuttingDisk)
    first = form.read(OsDisk(past / "backups"), 1)
    steps = 0
    while True:
        target = tmp_path / f"at-{steps}"
        shutil.copytree(past / "backups", target)
        CuttingDisk.left = steps
        try:
            offline.create(past / "data", target, keep=1)
            break
        except Cut:
            pass
        finally:
            CuttingDisk.left = 1 << 30
        disk = OsDisk(target)
        found, damaged = form.readable(disk)
        assert not damaged
        assert all(backup.number == 2 for backup in found if backup != first)
        assert found, "every backup is gone"
        assert [finding for finding in checking.check(disk) if finding.kind == "damage"] == []
        if steps % 5 == 0:
            offline.create(past / "data", target, keep=2)
            assert list(checking.check(disk)) == [], "the next one cleans up"
        steps += 1
        shutil.rmtree(target)
    assert steps > 20
    assert form.numbers(OsDisk(target)) == [2]


def test_a_backup_that_is_whole_but_for_a_missing_file_is_refused(past: Path, tmp_path: Path) -> None:
    shutil.copytree(past / "backups", tmp_path / "backups")
    disk = OsDisk(tmp_path / "backups")
    stored = form.read(disk, 1).base[0].file
    disk.remove(form.stored_name(stored))
    with pytest.raises(Corruption, match="missing"):
        restore(disk, tmp_path / "new", Point())
    assert not (tmp_path / "new" / "journal").exists()


def test_the_server_is_killed_while_it_makes_a_backup(tmp_path: Path) -> None:
    generator = random.Random(5)
    made: list[dict[str, Any]] = []
    commits = []
    for cycle in range(int(os.environ.get("KEYHAUS_CRASH_CYCLES", "2"))):
        with keyhaus_server(tmp_path, *OPTIONS) as server, redis.Redis(HOST, server.port) as client:
            work(client, generator, 1000)
            url = f"redis://{HOST}:{server.port}"
            if cycle % 2 == 0:
                told("backup", "create", "--url", url, directory=tmp_path)
            client.bgsave()
            busy = threading.Thread(target=_write_until_the_end, args=(server.port,))
            busy.start()
            time.sleep(generator.random() * 0.8)
            server.kill()
            busy.join()
        with keyhaus_server(tmp_path, *OPTIONS) as server, redis.Redis(HOST, server.port) as client:
            commits = changes(client)
        assert command("backup", "verify", "data/backups", directory=tmp_path).returncode == 0
        listed = told("backup", "list", "data/backups", directory=tmp_path)
        new = [entry for entry in listed if not made or entry["number"] > made[-1]["number"]]
        assert len(new) >= 1 - cycle % 2, "the one that had ended is gone"
        assert listed[-KEPT:] == (made + new)[-KEPT:]
        assert len(listed) <= KEPT + 1, "it may have been killed before it took away the oldest"
        made = listed
    assert made
    shutil.rmtree(tmp_path / "new", ignore_errors=True)
    told("backup", "restore", "data/backups", "--to", "new", directory=tmp_path)
    assert served(tmp_path, "new") == state_at(commits, made[-1]["to_seqno"])


def _write_until_the_end(port: int) -> None:
    try:
        with redis.Redis(HOST, port) as client:
            for number in range(1_000_000):
                client.set(b"busy:%d" % (number % 100), b"%d" % number)
    except redis.ConnectionError:
        pass


def test_the_command_is_killed_while_it_makes_or_restores_a_backup(past: Path, tmp_path: Path) -> None:
    shutil.copytree(past / "backups", tmp_path / "backups")
    shutil.copytree(past / "data", tmp_path / "data")
    path = os.pathsep.join(filter(None, (str(SOURCE), os.environ.get("PYTHONPATH", ""))))
    generator = random.Random(9)
    for attempt in range(6):
        create = ("create", "--data-dir", "data", "backups")
        words = create if attempt % 2 == 0 else ("restore", "backups", "--to", f"new{attempt}")
        process = subprocess.Popen(
            (sys.executable, "-m", "keyhaus", "backup", *words),
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(0.3 + generator.random() * 0.5)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert command("backup", "verify", "backups", directory=tmp_path).returncode == 0
        base = tmp_path / f"new{attempt}" / "base"
        if base.exists() and (tmp_path / f"new{attempt}/UNFINISHED").exists():
            result = command("serve", "--data-dir", f"new{attempt}", "--port", "0", directory=tmp_path)
            assert result.returncode == 1, "half a restore was taken for a database"
    told("backup", "create", "--data-dir", "data", "backups", directory=tmp_path)
    assert command("backup", "verify", "backups", directory=tmp_path).stdout == "nothing is damaged\n"
