"""Engines whose process ends, or whose disk fails, at any moment: what was taken in is there, whole or not at all.

The model is stopped at each step that it takes on the simulated disk; RocksDB is killed, its order of syncs is read
from its system calls, and its syncs are made to fail.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from keyhaus.core.spawn import HelperLost
from keyhaus.engines.base import Row
from keyhaus.engines.model import ModelEngine, ModelRunWriter
from keyhaus.engines.rocksdb import RocksEngine, RocksRunWriter
from tests.support.engines import SMALL, HelperEngine, HelperVariant
from tests.support.programs import require_program
from tests.support.simulation import Crash, SimulatedDisk

OLD: list[tuple[bytes, bytes]] = [(b"%03d" % n, b"old") for n in range(50)]
NEW: list[tuple[bytes, bytes | None]] = [(b"%03d" % n, None if n % 3 else b"new") for n in range(80)]
AFTER = [(b"%03d" % n, b"new") for n in range(0, 80, 3)]


def rows_of(engine: ModelEngine | RocksEngine | HelperEngine) -> list[Row]:
    return engine.scan(engine.newest, b"", None, rows=1 << 30, size=1 << 30)[0]


def write(disk: SimulatedDisk, name: str, changes: list[tuple[bytes, bytes | None]]) -> str:
    writer = ModelRunWriter(disk, name)
    writer.add(changes)
    writer.finish()
    return name


def begun(generator: random.Random) -> tuple[SimulatedDisk, ModelEngine, str]:
    disk = SimulatedDisk(generator)
    engine = ModelEngine(disk)
    engine.ingest(write(disk, "first", [*OLD]))
    return disk, engine, write(disk, "second", NEW)


@pytest.mark.parametrize("end", [SimulatedDisk.kill, SimulatedDisk.power_cut], ids=["kill", "power cut"])
def test_the_model_has_a_run_whole_or_not_at_all(end: Callable[[SimulatedDisk], None], seed: int) -> None:
    generator = random.Random(seed)
    outcomes = set()
    for step in range(200):
        disk, engine, run = begun(generator)
        disk.crash_in = step % 20
        try:
            engine.ingest(run)
            done = True
        except Crash:
            done = False
        end(disk)
        engine = ModelEngine(disk)
        assert rows_of(engine) == AFTER if done else rows_of(engine) in (OLD, AFTER)
        outcomes.add((done, rows_of(engine) == AFTER))
        if rows_of(engine) == OLD and disk.exists("second"):
            engine.ingest("second")
            assert rows_of(engine) == AFTER
    assert len(outcomes) == 3


def test_the_model_survives_failing_syncs_crashes_and_starts_that_crash(seed: int) -> None:
    generator = random.Random(seed)
    for _ in range(300):
        disk, engine, run = begun(generator)
        disk.sync_failures = 0.3
        told = False
        for _ in range(4):
            try:
                engine.ingest(run)
                told = True
                break
            except OSError:
                assert rows_of(engine) == OLD
        disk.power_cut() if generator.random() < 0.7 else disk.kill()
        for _ in range(10):
            disk.crash_in = generator.randint(0, 30)
            try:
                engine = ModelEngine(disk)
                assert rows_of(engine) == AFTER if told else rows_of(engine) in (OLD, AFTER)
                told = told or rows_of(engine) == AFTER
            except (OSError, Crash):
                pass
            disk.power_cut()
        disk.sync_failures = 0.0
        engine = ModelEngine(disk)
        assert rows_of(engine) == AFTER if told else rows_of(engine) in (OLD, AFTER)


def test_the_model_on_a_full_disk_changes_nothing_and_goes_on_later(seed: int) -> None:
    disk, engine, run = begun(random.Random(seed))
    for room in (0, 10, 200, 400):
        disk.room = room
        with pytest.raises(OSError, match="no space"):
            engine.ingest(run)
        assert rows_of(engine) == OLD
    disk.room = 1 << 20
    engine.ingest(run)
    assert rows_of(engine) == AFTER


def test_rocksdb_killed_during_an_ingest_has_the_run_or_not(tmp_path: Path, seed: int) -> None:
    choices = random.Random(seed)
    variant = HelperVariant(tmp_path)
    engine = variant.open()
    whole, outcomes = 0, []
    for cycle in range(12):
        run = variant.run("run", [(b"%05d" % n, b"%d" % cycle) for n in range(2000)])
        answer = engine.begin("ingest", run)
        variant.loop.run_until_complete(asyncio.sleep(choices.random() * 0.006))
        engine.kill()
        try:
            variant.loop.run_until_complete(answer)
            told = True
        except HelperLost:
            told = False
        engine = variant.open()
        values = {value for _, value in rows_of(engine)}
        rows = len(rows_of(engine))
        new = values == {b"%d" % cycle} and rows == 2000
        assert new or (not told and values == ({b"%d" % (whole - 1)} if whole else set())), (cycle, told, values)
        whole = cycle + 1 if new else whole
        outcomes.append((told, new))
    variant.close()
    print("told, there:", outcomes)


CHILD = """
import os, sys
from keyhaus.engines.rocksdb import RocksEngine, RocksRunWriter
root = sys.argv[1]
def mark(text):
    os.write(2, f"== {text}\\n".encode())
engine = RocksEngine(root + "/engine")
mark("write")
writer = RocksRunWriter(root + "/run")
writer.add([(b"%05d" % n, b"x" * 100) for n in range(1000)])
writer.finish()
mark("ingest")
engine.ingest(root + "/run")
mark("drop")
engine.drop(b"00100", b"00200")
mark("checkpoint")
engine.checkpoint(root + "/copy")
mark("end")
os._exit(0)
"""


def test_rocksdb_has_synced_what_it_says_it_has(tmp_path: Path) -> None:
    traced = tmp_path / "trace"
    calls = "trace=fsync,fdatasync,rename,renameat,renameat2,link,linkat,write"
    command = (require_program("strace"), "-f", "-y", "-e", calls, "-o", str(traced))
    subprocess.run(
        [*command, sys.executable, "-c", CHILD, str(tmp_path)], check=True, timeout=60, stderr=subprocess.DEVNULL
    )
    stages: dict[str, list[str]] = {}
    stage = "open"
    for line in traced.read_text().splitlines():
        if marked := re.search(r'"== (\w+)', line):
            stage = marked[1]
        elif synced := re.search(r"(?:fsync|fdatasync)\(\d+<([^>]+)>", line):
            stages.setdefault(stage, []).append(str(Path(synced[1]).relative_to(tmp_path)))
    engine = [re.sub(r"\d{6}", "N", name) for name in stages["ingest"]]
    # The file, then its name in the directory, then the manifest that counts it: and only then the call returned.
    assert engine[-3:] == ["engine/N.sst", "engine", "engine/MANIFEST-N"]
    assert stages["write"] == ["run", "."]
    assert [re.sub(r"\d{6}", "N", name) for name in stages["drop"]] == ["engine/N.sst", "engine", "engine/MANIFEST-N"]
    assert {"copy", "."} <= set(stages["checkpoint"])
    assert any("MANIFEST" in name for name in stages["checkpoint"])


FAILING = """
import json, os, sys
from keyhaus.engines.rocksdb import RocksEngine
root = sys.argv[1]
engine = RocksEngine(root + "/engine")
told = []
os.close(os.open(root + "/begin", os.O_CREAT))
for _ in range(2):
    try:
        engine.ingest(root + "/run")
        told.append("done")
        break
    except Exception as error:
        told.append(f"{type(error).__name__}: {error}")
        told.append(engine.get(engine.newest, [b"00000"])[0].decode())
print(json.dumps(told), flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("call", ["fdatasync", "fsync", "link"])
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
def test_rocksdb_with_failing_calls_has_the_run_or_not(tmp_path: Path, call: str, error: str, lasting: bool) -> None:
    strace = require_program("strace")
    for when in range(1, 9):
        root = tmp_path / str(when)
        root.mkdir()
        engine = RocksEngine(str(root / "engine"), SMALL)
        for value in (b"old", b"new"):
            writer = RocksRunWriter(str(root / "run"), SMALL)
            writer.add([(b"%05d" % n, value) for n in range(100)])
            writer.finish()
            if value == b"old":
                engine.ingest(str(root / "run"))
        engine.close()
        inject = f"inject={call}:error={error}:when={when}{'+' if lasting else ''}"
        command = (strace, "-f", "-qq", "-e", f"trace={call}", "-e", inject, "-o", str(root / "trace"))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        ended = subprocess.run(
            [*command, sys.executable, "-c", FAILING, str(root)],
            timeout=60,
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        told = json.loads(ended.stdout) if ended.stdout else ["it did not open"]
        assert "old" in told[1:2] or told in (["done"], ["it did not open"]), told
        engine = RocksEngine(str(root / "engine"), SMALL)
        values = {value for _, value in rows_of(engine)}
        assert len(rows_of(engine)) == 100 and values in ({b"old"}, {b"new"}), (when, told)
        assert values == {b"new"} or told[-1] != "done", (when, told)
        assert not list((root / "engine").glob("*.ingesting"))
        engine.close()
        if told == ["done"]:
            return
    raise AssertionError("it still fails after that many calls")
