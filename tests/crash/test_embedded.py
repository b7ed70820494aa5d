"""The embedded database's promise: what a call has returned is on the disk, and nobody is told of what may be lost."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from unittest.mock import patch

import pytest

from keyhaus.core.disk import OsFile
from keyhaus.core.errors import Closed, Poisoned, StorageError
from keyhaus.embedded import gathering
from keyhaus.embedded.caller import NOT_OURS, Caller, CallerSession
from keyhaus.embedded.database import Database, open_database
from keyhaus.embedded.turns import Turns
from tests.support.embedded import SECONDS, SMALL, Running, fields, gated_database, until, waiting

THREADS: Final = 8
CYCLES: Final = int(os.environ.get("KEYHAUS_CRASH_CYCLES", "4"))

WRITERS: Final = """
import os, sys, threading
import keyhaus
database = keyhaus.open(sys.argv[1], journal_segment_bytes="1mb", memtable_size=300)
first = int(sys.argv[2])
lock = threading.Lock()

def write(thread):
    number = first
    while True:
        if number % 5:
            database.put(f"put:{thread}:{number}", number)
        else:
            with database.transaction() as transaction:
                transaction.put(f"put:{thread}:{number}", number)
                transaction.put(f"twin:{thread}:{number}", number)
        with lock:
            os.write(1, b"%d %d\\n" % (thread, number))
        number += 1

for thread in range(4):
    threading.Thread(target=write, args=(thread,), daemon=True).start()
threading.Event().wait()
"""


@contextlib.contextmanager
def child(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = (sys.executable, "-c", code, *arguments)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


def executed(database: Database) -> int:
    """How many SETs have run, whoever has been told of them."""
    line = fields(database, "commandstats").get("cmdstat_set", "calls=0,")
    return int(line.split(",", maxsplit=1)[0].removeprefix("calls="))


def test_what_was_acknowledged_survives_kills(tmp_path: Path, seed: int) -> None:
    generator = random.Random(seed)
    told: dict[int, list[int]] = {thread: [] for thread in range(4)}
    first = 0
    for _ in range(CYCLES):
        aim = generator.randrange(50, 1500)
        with child(WRITERS, str(tmp_path), str(first)) as process:
            assert process.stdout is not None
            for _ in range(aim):
                thread, number = map(int, process.stdout.readline().split())
                told[thread].append(number)
            process.kill()
            # What it said before it died it had been told, too.
            for line in process.stdout:
                if line.endswith("\n"):
                    thread, number = map(int, line.split())
                    told[thread].append(number)
        first = 1 + max(number for numbers in told.values() for number in numbers)
        with open_database(tmp_path) as database:
            for thread, numbers in told.items():
                for number in numbers:
                    assert database.get(f"put:{thread}:{number}") == b"%d" % number
            twins = {key.removeprefix(b"twin:") for key, _ in database.scan(prefix="twin:")}
            puts = {
                key.removeprefix(b"put:") for key, _ in database.scan(prefix="put:") if not int(key.split(b":")[2]) % 5
            }
            assert twins == puts, "a transaction is there in part"
    assert all(told.values())


def test_data_survives_the_end_and_flushes_beside_working_threads(tmp_path: Path) -> None:
    settings = {**SMALL, "memtable_size": 200, "cache_bytes": 0}

    def work(thread: int) -> None:
        for number in range(150):
            values = [word for part in range(4) for word in (f"{thread}:{number}:{part}", f"{number}" * 20)]
            database.execute("MSET", *values)
            assert database.get(f"{thread}:{number // 2}:1") == f"{number // 2}".encode() * 20
            if number % 50 == 0:
                assert len(list(database.scan(prefix=f"{thread}:"))) == 4 * (number + 1)

    with open_database(tmp_path, durability="everysec", **settings) as database:
        threads = [Running(work, thread) for thread in range(4)]
        for thread in threads:
            thread.result()
        until(lambda: int(fields(database, "keyhaus")["flushes"]) > 1)
        readers = [Running(database.get, f"{thread}:0:3") for thread in range(4)]
        assert [reader.result() for reader in readers] == [b"0" * 20] * 4
        assert int(fields(database, "keyhaus")["cold_reads"]) > 0
    with open_database(tmp_path, **settings) as database:
        assert database.execute("DBSIZE") == 2400
        for thread in range(4):
            assert database.get(f"{thread}:149:3") == b"149" * 20


def test_a_base_that_dies_is_started_again(tmp_path: Path) -> None:
    with open_database(tmp_path, **SMALL, memtable_size=10, cache_bytes=0) as database:
        for number in range(100):
            database.put(f"k{number}", number)
        until(lambda: int(fields(database, "keyhaus")["flushes"]) > 0)
        helper = next(one for one in database._spawn._helpers if one._name == "base")
        os.kill(helper.pid, signal.SIGKILL)
        assert [database.get(f"k{number}") for number in range(100)] == [b"%d" % number for number in range(100)]


# groups


def refused(database: Database) -> bool:
    try:
        database.get("never")
    except Closed:
        return True
    return False


def put_all(database: Database) -> list[Running]:
    return [Running(database.put, f"k{thread}", thread) for thread in range(THREADS)]


def test_threads_share_the_journals_groups(tmp_path: Path) -> None:
    with gated_database(tmp_path) as (database, disk):
        database.put("before", "v")
        before = int(fields(database, "keyhaus")["journal_groups"])
        disk.shut()
        writers = put_all(database)
        until(lambda: executed(database) == 1 + THREADS)
        assert all(writer.is_alive() for writer in writers)
        disk.let_go()
        for writer in writers:
            writer.result()
        assert int(fields(database, "keyhaus")["journal_groups"]) - before <= 2
        assert disk.events.count("synced") <= 2
    with open_database(tmp_path) as database:
        assert database.execute("DBSIZE") == 1 + THREADS


def test_threads_share_groups_on_a_disk_as_it_is(tmp_path: Path) -> None:
    def work(thread: int) -> None:
        for number in range(40):
            database.put(f"{thread}:{number}", number)

    with open_database(tmp_path, **SMALL) as database:
        for writer in [Running(work, thread) for thread in range(THREADS)]:
            writer.result()
        assert executed(database) == 40 * THREADS
        assert int(fields(database, "keyhaus")["journal_groups"]) < 40 * THREADS


def groups_of_a_slow_disk(directory: Path, stay_away: bool = False) -> float:
    """How many groups it takes for each time that all threads write once, where a sync takes long."""
    rounds, threads = 10, 6
    away = threading.Event()

    def work(thread: int) -> None:
        for number in range(rounds):
            database.put(f"{thread}:{number}", number)
            if stay_away and thread == 0:
                away.wait(SECONDS)
        if thread == 1:
            away.set()

    with (
        patch.object(OsFile, "sync", lambda file: time.sleep(0.05)),
        patch.object(gathering, "HELD_NS_MAX", 1_000_000_000),
        open_database(directory, **SMALL) as database,
    ):
        for writer in [Running(work, thread) for thread in range(threads)]:
            writer.result()
        assert database.execute("DBSIZE") == threads * rounds
        return int(fields(database, "keyhaus")["journal_groups"]) / rounds


def test_threads_that_write_in_a_loop_do_not_fall_into_halves(tmp_path: Path) -> None:
    assert groups_of_a_slow_disk(tmp_path / "gathered") < 1.7
    with patch.object(gathering.Gathering, "holds_back", lambda _: False):
        assert groups_of_a_slow_disk(tmp_path / "halves") > 1.7


def test_a_thread_that_stays_away_holds_up_nobody(tmp_path: Path) -> None:
    assert groups_of_a_slow_disk(tmp_path, stay_away=True) < 4


def test_a_group_that_gathered_meanwhile_goes_out_though_nobody_comes_back(tmp_path: Path) -> None:
    with (
        patch.object(OsFile, "sync", lambda file: time.sleep(0.2)),
        patch.object(gathering, "HELD_NS_MAX", 1_000_000_000),
        open_database(tmp_path, **SMALL) as database,
    ):
        first = Running(database.put, "a", 1)
        until(lambda: executed(database) == 1)
        others = [Running(database.put, key, 1) for key in "bc"]
        first.result()
        last = Running(database.put, "d", 1)  # while the journal's own thread syncs the others' group
        for running in (*others, last):
            running.result()


def test_a_lone_thread_writes_its_group_itself(tmp_path: Path) -> None:
    wrote: list[str] = []
    with gated_database(tmp_path) as (database, disk):
        fail = disk.fail

        def noted(what: str) -> None:
            wrote.append(threading.current_thread().name)
            fail(what)

        with patch.object(disk, "fail", noted):
            for number in range(10):
                database.put("k", number)
                assert wrote[-2:] == [threading.current_thread().name] * 2


def test_a_reply_waits_for_its_sync_and_holds_up_no_other(tmp_path: Path) -> None:
    with gated_database(tmp_path) as (database, disk):
        database.put("old", "v")
        disk.shut()
        waits_for_gate(database)
        disk.let_go()


def test_the_end_lets_those_return_who_wait_for_the_disk(tmp_path: Path) -> None:
    with gated_database(tmp_path) as (database, disk):
        disk.shut()
        writers = put_all(database)
        until(lambda: executed(database) == THREADS)
        end = Running(database.close)
        until(lambda: refused(database))
        assert all(running.is_alive() for running in (*writers, end))
        disk.let_go()
        for running in (*writers, end):
            running.result()
    with open_database(tmp_path) as database:
        assert database.execute("DBSIZE") == THREADS
        assert database._store.recovered is not None and database._store.recovered.rewritten == 0


def waits_for_gate(database: Database) -> None:
    writer = Running(database.put, "new", "v")
    until(lambda: executed(database) == 2)
    readers = [Running(database.get, "new"), Running(database.exists, "new"), Running(database.execute, "DBSIZE")]
    for command in (("GET", "old"), ("GET", "never"), ("PING",)):
        Running(database.execute, *command).result()
    until(lambda: fields(database, "commandstats").get("cmdstat_dbsize") is not None)
    for running in (writer, *readers):
        running.join(0.02)
        assert running.is_alive(), "it was told too early"


def test_a_driver_that_holds_nothing_back_is_noticed(tmp_path: Path) -> None:
    def told(caller: Caller, session: CallerSession, reply: object) -> object:
        return reply

    with patch.object(Caller, "_held", told), gated_database(tmp_path) as (database, disk):
        database.put("old", "v")
        disk.shut()
        with pytest.raises(AssertionError, match="too early"):
            waits_for_gate(database)


@pytest.mark.parametrize(("database_asks", "transaction_asks"), [("everysec", "always"), ("always", "none")])
def test_durability_is_the_askers(database_asks: str, transaction_asks: str, tmp_path: Path) -> None:
    def write(durability: str | None) -> None:
        with database.transaction(durability=durability) as transaction:
            transaction.put("k", durability or "")

    with gated_database(tmp_path, durability=database_asks) as (database, disk):
        disk.shut()
        patient = Running(write, "always" if transaction_asks == "always" else None)
        until(lambda: "sync begins" in disk.events)
        patient.join(0.02)
        assert patient.is_alive()
        disk.let_go()
        patient.result()
        disk.wait_for(lambda: "synced" in disk.events)
        disk.shut()
        write("none")
        assert "synced" not in disk.events


def test_everysec_returns_at_once_and_is_synced_within_a_second(tmp_path: Path) -> None:
    with gated_database(tmp_path, durability="everysec") as (database, disk):
        disk.shut()
        database.put("k", "v")
        assert database.get("k") == b"v"
        assert disk.events == ["written"]
        waiter = Running(database.execute, "WAITAOF", 1, 0, 0)
        disk.wait_for(lambda: "sync begins" in disk.events)
        assert waiter.is_alive()
        disk.let_go()
        assert waiter.result() == [1, 0]
        disk.events.clear()
        database.put("k", "w")
        disk.wait_for(lambda: "synced" in disk.events)


# poison


@pytest.mark.parametrize("what", ["write", "sync"])
def test_a_failing_disk_poisons_waiting_and_later_writers(what: str, tmp_path: Path) -> None:
    with gated_database(tmp_path) as (database, disk):
        database.put("old", "v")
        disk.shut()
        disk.fail_next(what, OSError(errno.EIO, "Input/output error"))
        writers = put_all(database)
        if what == "sync":
            until(lambda: executed(database) == 1 + THREADS)
        disk.let_go()
        for writer in writers:
            with pytest.raises(Poisoned, match="Input/output error"):
                writer.result()
        for _ in range(2):
            with pytest.raises(Poisoned):
                database.put("later", "v")
            with pytest.raises(Poisoned):
                database.get("k0")
        with pytest.raises(Poisoned), database.transaction() as transaction:
            transaction.put("later", "v")
        assert database.get("old") == b"v"
        assert database.get("never") is None
        assert f"{what} failed" in disk.events
        assert disk.events.count("sync begins") <= 1
        with pytest.raises(StorageError, match="could not be written"):
            database.close()
    with open_database(tmp_path) as database:
        assert database.get("old") == b"v"
        assert database.get("later") is None
        database.put("later", "v")


# signals and forks

INTERRUPTED: Final = """
import signal, sys
import keyhaus
signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests run in the background it is ignored
with keyhaus.open(sys.argv[1], durability=sys.argv[2], journal_segment_bytes="1mb") as database:
    tried = interrupts = 0
    while interrupts < 60:
        try:
            print("ready", flush=True)
            while True:
                tried += 1
                database.incr("n")
        except KeyboardInterrupt:
            interrupts += 1
    done = int(database.get("n") or 0)
    assert tried - interrupts <= done <= tried, (tried, interrupts, done)
    with database.transaction() as transaction:
        transaction.put("end", done)
with keyhaus.open(sys.argv[1]) as database:
    print(database.get("n") == database.get("end") == b"%d" % done)
"""


@pytest.mark.parametrize("durability", ["always", "none"])
def test_an_interrupt_strikes_between_steps(durability: str, tmp_path: Path, seed: int) -> None:
    generator = random.Random(seed)
    with child(INTERRUPTED, str(tmp_path), durability) as process:
        assert process.stdout is not None
        for _ in range(60):
            assert process.stdout.readline() == "ready\n"
            time.sleep(generator.random() * 0.003)  # anywhere in what it does
            process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "True\n"
        assert process.wait(20) == 0


def test_what_breaks_into_a_step_ends_the_database(tmp_path: Path) -> None:
    with open_database(tmp_path, **SMALL) as database:
        database.put("old", "v")
        with patch.object(database._store, "commit", side_effect=SystemExit), pytest.raises(SystemExit):
            database.put("new", "v")
        for _ in range(2):
            with pytest.raises(StorageError, match="SystemExit broke into a step"):
                database.put("new", "v")
        with pytest.raises(StorageError, match="SystemExit broke into a step"):
            database.close()
    with open_database(tmp_path) as database:
        assert database.get("old") == b"v"


FORKED: Final = """
import os, sys
import keyhaus
database = keyhaus.open(sys.argv[1], journal_segment_bytes="1mb")
database.put("k", "parent")
child = os.fork()
if not child:
    for _ in range(2):
        try:
            database.put("k", "child")
        except keyhaus.core.errors.Closed as error:
            print(error)
    database.close()
    sys.stdout.flush()
    sys.stdin.readline()
    sys.exit(0)  # with what is done at an exit
database.put("k", "still the parent")
database.close()
with keyhaus.open(sys.argv[1]) as database:
    print(database.get("k"))
print("again", flush=True)
os.wait()
"""


def test_a_forked_child_touches_nothing_of_its_parents(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = (sys.executable, "-W", "ignore", "-c", FORKED, str(tmp_path))
    run = subprocess.run(command, input="\n", capture_output=True, text=True, timeout=60, env=environment, check=False)
    lines = run.stdout.splitlines()
    assert lines.count(NOT_OURS) == 2, run
    assert "b'still the parent'" in lines
    assert run.returncode == 0
    with open_database(tmp_path) as database:
        assert database.get("k") == b"still the parent"


def test_an_unclosed_database_is_closed_at_the_end_of_the_process(tmp_path: Path) -> None:
    code = "import sys, keyhaus; keyhaus.open(sys.argv[1]).put('k', 'v')"
    with child(code, str(tmp_path)) as process:
        assert process.wait(30) == 0
    with open_database(tmp_path) as database:
        assert database._store.recovered is not None and database._store.recovered.rewritten == 0
        assert database.get("k") == b"v"


def test_nobody_has_to_lend_itself(tmp_path: Path) -> None:
    """The journal's own thread does as well, with the same replies."""
    with patch.object(Turns, "lend", lambda turns, job: False), open_database(tmp_path, **SMALL) as database:
        for number in range(5):
            database.put("k", number)
            assert database.get("k") == b"%d" % number
        assert waiting(database) == 0
