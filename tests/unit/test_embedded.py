"""The database within a process: its methods, its sessions, and who may open it."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

import keyhaus
from keyhaus.core.disk import OsDisk
from keyhaus.core.errors import (
    Closed,
    Corruption,
    DiskFull,
    Error,
    LimitExceeded,
    OtherFormat,
    StorageError,
    TransactionTooLarge,
    UnknownTransaction,
    UserError,
)
from keyhaus.core.transactional import TransactionEnded
from keyhaus.embedded.caller import Caller
from keyhaus.embedded.database import Database, open_database
from keyhaus.embedded.transactions import Transaction
from keyhaus.store.opening import UnusableDirectory
from tests.support.embedded import SMALL, Running, fields, until, waiting


@pytest.fixture
def database() -> Iterator[Database]:
    with open_database(engine="memory", lock_timeout=0) as database:
        yield database


def script(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = (sys.executable, "-c", code, *arguments)
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)


# its methods


def test_what_was_put_is_got_as_bytes(database: Database) -> None:
    database.put("greeting", "grüß dich")
    assert database.get(b"greeting") == "grüß dich".encode()
    database.set(bytearray(b"n"), 4)
    assert database.incr("n") == 5
    assert database.incr("n", -7) == -2
    assert database.exists("n", "m", "n") == 2
    assert database.delete("n", "m", "greeting") == 2
    assert database.get("n") is None


def test_a_value_may_have_a_time(database: Database) -> None:
    database.put("k", "v", ttl_ms=60_000)
    assert 0 < database.execute("PTTL", "k") <= 60_000
    database.put("k", "v")
    assert database.execute("PTTL", "k") == -1


def test_ranges_are_walked_page_by_page_in_both_directions(database: Database) -> None:
    for number in range(25):
        database.put(f"k{number:02}", number)
    database.put("l", "behind")
    expected = [(b"k%02d" % number, b"%d" % number) for number in range(25)]
    assert list(database.scan(prefix="k")) == expected
    assert list(database.scan("k", "l", reverse=True)) == expected[::-1]
    assert list(database.scan("k03", "k05")) == expected[3:5]
    assert list(database.scan(prefix="k", limit=7)) == expected[:7]
    assert list(database.scan(limit=0)) == []
    assert [key for key, _ in database.scan(match="*5")] == [b"k05", b"k15"]
    assert database.page("k", "l", limit=2) == (expected[:2], b"k02")
    assert database.page("k", "l", limit=2, reverse=True) == (expected[:-3:-1], b"k22\0")
    assert database.page("k24") == ([expected[24], (b"l", b"behind")], None)


def test_a_prefix_ends_where_the_next_one_begins(database: Database) -> None:
    for key in (b"a", b"a\xff", b"a\xff\xff", b"b", b"\xff", b"\xff\xff"):
        database.put(key, "")
    assert [key for key, _ in database.scan(prefix=b"a\xff")] == [b"a\xff", b"a\xff\xff"]
    assert [key for key, _ in database.scan(prefix=b"\xff")] == [b"\xff", b"\xff\xff"]
    assert len(list(database.scan(prefix=b""))) == 6


def test_any_command_of_the_table_can_be_run(database: Database) -> None:
    assert database.execute("SET", "k", 1.5) == b"OK"
    assert database.execute("APPEND", "k", b"!") == 4
    assert database.execute("MGET", "k", "none") == [b"1.5!", None]
    assert database.execute("MULTI") == b"OK"
    assert database.execute("INCR", "k") == b"QUEUED"
    assert database.execute("GET", "k") == b"QUEUED"
    failed, value = database.execute("EXEC")
    assert isinstance(failed, Error) and value == b"1.5!"
    database.execute("WATCH", "k")
    Running(database.put, "k", "2").result()
    database.execute("MULTI")
    database.execute("GET", "k")
    assert database.execute("EXEC") is None
    assert database.execute("CLIENT", "REPLY", "OFF") == b"OK"
    assert database.execute("PING") == b"PONG"


def test_errors_are_raised_and_the_database_goes_on(database: Database) -> None:
    database.put("k", "text")
    with pytest.raises(UserError, match="not an integer"):
        database.incr("k")
    with pytest.raises(UserError, match="unknown command 'NONSENSE'"):
        database.execute("NONSENSE")
    with pytest.raises(LimitExceeded, match="max-key-bytes"):
        database.put(b"k" * 70_000, "")
    for word in (True, None, [1]):
        with pytest.raises(TypeError, match="are bytes, str, int or float, not"):
            database.put("k", word)  # type: ignore[arg-type]
    assert database.get("k") == b"text"


def test_the_package_exports_it_without_waiting_for_it() -> None:
    run = script(
        "import sys, keyhaus\n"
        "assert not [name for name in sys.modules if name.startswith('keyhaus.')]\n"
        "assert {'open', 'transactional'} <= {*dir(keyhaus)}\n"
        "with keyhaus.open(engine='memory') as database: print(database.incr('n'))\n"
        "keyhaus.nonsense"
    )
    assert run.stdout == "1\n"
    assert "module 'keyhaus' has no attribute 'nonsense'" in run.stderr
    assert keyhaus.Database is Database


# opening


def test_settings_are_the_servers(tmp_path: Path) -> None:
    with open_database(tmp_path / "data", durability="everysec", memtable_bytes="2mb", direct_reads=True) as database:
        assert database.execute("CONFIG", "GET", "memtable-bytes") == {b"memtable-bytes": b"2097152"}
        assert database.execute("CONFIG", "GET", "direct-reads") == {b"direct-reads": b"yes"}
        assert fields(database, "keyhaus")["durability"] == "everysec"
        assert fields(database, "keyhaus")["engine"] == "rocksdb"


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"engine": "tape"}, UserError, "engine='tape': argument\\(s\\) must be one of"),
        ({"durability": "perhaps"}, UserError, "durability='perhaps'"),
        ({"memtable_bytes": 1}, UserError, "memtable_bytes=1: argument must be between"),
        ({"max_memory": "1mb"}, UserError, "max-memory is for the memory engine"),
        ({"no_such_setting": 1}, TypeError, "there is no setting no_such_setting"),
        ({"dir": "elsewhere"}, TypeError, "there is no setting dir"),
    ],
)
def test_a_wrong_setting_is_told_and_nothing_is_made(
    settings: dict[str, Any], kind: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=message):
        open_database(tmp_path / "data", **settings)
    assert not (tmp_path / "data").exists()


def test_only_memory_needs_no_path() -> None:
    with pytest.raises(TypeError, match="needs a path"):
        open_database()


def test_a_directory_is_open_once(tmp_path: Path) -> None:
    opener = "import sys, keyhaus; keyhaus.open(sys.argv[1])"
    with open_database(tmp_path, **SMALL) as database:
        with pytest.raises(StorageError, match="is open in this process already: close it first"):
            open_database(tmp_path)
        refused = script(opener, str(tmp_path))
        assert f"is in use by process {os.getpid()}: stop it first" in refused.stderr, refused.stderr
        database.put("k", "v")
    with open_database(tmp_path) as database:
        assert database.get("k") == b"v"


def test_a_directory_that_is_let_go_is_free_whoever_inherited_it(tmp_path: Path) -> None:
    lock = OsDisk(tmp_path).lock("LOCK")
    inherited = os.dup(lock._directory)
    lock.release()
    OsDisk(tmp_path).lock("LOCK").release()
    os.close(inherited)


def test_a_directory_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UnusableDirectory, match="is no database, and not empty"):
        open_database(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_database_that_can_not_be_opened_keeps_nothing(tmp_path: Path) -> None:
    with open_database(tmp_path, **SMALL) as database:
        for number in range(100):
            database.put(f"k{number}", "v" * 100)
    threads = threading.active_count()
    manifest = tmp_path / "journal" / "MANIFEST"
    text = manifest.read_text()
    manifest.write_text(text.replace('"version":1', '"version":2').replace('"version": 1', '"version": 2'))
    with pytest.raises(StorageError) as caught:
        open_database(tmp_path)
    assert isinstance(caught.value, OtherFormat | Corruption)
    assert str(manifest) in caught.value.message
    manifest.write_text(text)
    assert threading.active_count() == threads
    with open_database(tmp_path) as database:
        assert database.execute("DBSIZE") == 100


def test_the_process_may_go_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with open_database("data", **SMALL, memtable_size=50, archive_dir="archive") as database:
        monkeypatch.chdir("/")
        for number in range(500):
            database.execute("MSET", *(word for key in range(20) for word in (f"k{number}-{key}", "v" * 100)))
        until(lambda: int(fields(database, "keyhaus")["flushes"]) > 0)
    with open_database(tmp_path / "data") as database:
        assert database.execute("DBSIZE") == 10_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "data"]


# sessions


def test_each_thread_has_a_session_that_ends_with_it(database: Database) -> None:
    database.execute("CLIENT", "SETNAME", "main")
    database.execute("SELECT", 3)
    assert Running(database.execute, "CLIENT", "GETNAME").result() is None
    database.put("k", "in three")
    assert Running(database.get, "k").result() is None
    gc.collect()
    assert database.execute("CLIENT", "LIST").count(b"\n") == 1


def test_an_error_that_is_kept_keeps_no_session(database: Database) -> None:
    kept: list[BaseException] = []

    def fail() -> None:
        try:
            database.execute("NONSENSE")
        except Error as error:
            kept.append(error)

    Running(fail).result()
    assert database.execute("CLIENT", "LIST").count(b"\n") == 1
    assert len(kept) == 1


def test_a_thread_that_ends_leaves_no_transaction_behind(database: Database) -> None:
    def begin() -> None:
        database.transaction().__enter__().put("k", "never")

    Running(begin).result()
    database.put("k", "free")
    assert database.execute("TRANSACTION", "LIST") == []


def test_threads_are_bounded() -> None:
    with open_database(engine="memory", maxclients=2) as database:
        database.put("k", "v")
        done = threading.Event()

        def stay() -> None:
            database.get("k")
            done.wait()

        other = Running(stay)
        until(lambda: len(database.execute("CLIENT", "LIST").splitlines()) == 2)
        with pytest.raises(LimitExceeded, match="maxclients exceeded: 3 threads, at most 2"):
            Running(database.get, "k").result()
        done.set()
        other.result()
        assert Running(database.get, "k").result() == b"v"


def test_quit_ends_a_session_and_the_next_call_begins_another(database: Database) -> None:
    number = database.execute("CLIENT", "ID")
    database.execute("BEGIN")
    assert database.execute("QUIT") == b"OK"
    assert database.execute("CLIENT", "ID") > number
    assert database.execute("TRANSACTION", "LIST") == []


def test_a_session_that_waits_can_be_killed(database: Database) -> None:
    with database.transaction() as transaction:
        transaction.put("k", "mine")
        other = Running(database.put, "k", "theirs")
        until(lambda: waiting(database) == 1)
        assert database.execute("CLIENT", "KILL", "TYPE", "normal") == 1
        with pytest.raises(Closed, match="CLIENT KILL"):
            other.result()
    assert database.get("k") == b"mine"


def test_the_end_ends_what_waits(database: Database) -> None:
    transaction = database.transaction().__enter__()
    transaction.put("k", "mine")
    other = Running(database.put, "k", "theirs")
    until(lambda: waiting(database) == 1)
    database.close()
    with pytest.raises(Closed, match="the database is closed"):
        other.result()
    with pytest.raises(Closed):
        transaction.commit()
    for _ in range(2):
        with pytest.raises(Closed, match="the database is closed"):
            database.get("k")
        with pytest.raises(Closed):
            Running(database.get, "k").result()
        database.close()
    assert "closed" in repr(database)


def test_nothing_is_left_of_a_closed_database(tmp_path: Path) -> None:
    threads = threading.active_count()
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    with open_database(tmp_path, **SMALL, memtable_size=10) as database:
        for number in range(100):
            database.put(f"k{number}", "v")
    assert threading.active_count() == threads
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors


# transactions


def test_a_transaction_commits_at_its_end_or_not_at_all(database: Database) -> None:
    with database.transaction() as transaction:
        transaction.put("a", 1)
        assert transaction.get("a") == b"1"
        assert database.get("a") is None
        assert list(transaction.scan()) == [(b"a", b"1")]
    assert transaction.seqno and database.execute("TRANSACTION", "STATUS", transaction.id)[0] == b"committed"
    with pytest.raises(UserError), database.transaction() as transaction:
        transaction.execute("SET", "a", "2", "NONSENSE")
    assert database.execute("TRANSACTION", "STATUS", transaction.id) == b"rolledback"
    with database.transaction() as transaction:
        transaction.delete("a")
        transaction.rollback()
    assert database.get("a") == b"1"
    with database.transaction() as transaction:
        transaction.put("b", 2)
        assert transaction.commit() == transaction.seqno
        assert database.get("b") == b"2"
    with pytest.raises(UnknownTransaction):
        transaction.get("b")


def test_one_thread_may_have_several_transactions(database: Database) -> None:
    with database.transaction() as one, database.transaction("readonly") as snapshot, database.transaction() as other:
        one.put("a", 1)
        other.put("b", 2)
        database.put("c", 3)
        assert (one.get("c"), snapshot.get("c")) == (b"3", None)
    assert database.execute("MGET", "a", "b", "c") == [b"1", b"2", b"3"]


def test_another_threads_transaction_is_none(database: Database) -> None:
    with database.transaction() as transaction:
        with pytest.raises(UnknownTransaction):
            Running(transaction.get, "k").result()
        for end in (transaction.commit, transaction.rollback):
            with pytest.raises(UnknownTransaction):
                Running(end).result()
        transaction.put("k", 1)
    assert database.get("k") == b"1"
    for call in (transaction.commit, transaction.rollback, lambda: transaction.get("k")):
        with pytest.raises(UnknownTransaction) as raised:
            call()
        assert not raised.value.retryable


def test_what_its_own_thread_has_locked_is_not_tried_again(database: Database) -> None:
    attempts: list[int] = []

    def change(transaction: Transaction) -> None:
        attempts.append(1)
        transaction.put("k", 1)
        database.put("k", 2)

    with pytest.raises(keyhaus.Deadlock, match="can't wait for itself"):
        database.run(change)
    assert len(attempts) == 1


def test_a_commit_that_finds_no_room_is_rolled_back(database: Database) -> None:
    transaction = database.transaction().__enter__()
    transaction.put("k", 1)
    with patch.object(database._store, "commit", side_effect=DiskFull("there is no room")), pytest.raises(DiskFull):
        transaction.commit()
    assert database.execute("TRANSACTION", "LIST") == []
    database.put("k", 2)  # nobody holds its lock
    assert database.execute("TRANSACTION", "STATUS", transaction.id) == b"rolledback"


def test_what_ended_a_transaction_is_told_again_and_again(database: Database) -> None:
    database.execute("CONFIG", "SET", "max-transaction-bytes", 1024)
    transaction = database.transaction().__enter__()
    for call in (lambda: transaction.put("k", "x" * 2000), lambda: transaction.get("k"), transaction.commit):
        with pytest.raises(TransactionTooLarge):
            call()


def test_a_transaction_that_was_ended_meanwhile_is_run_again(database: Database) -> None:
    attempts: list[str] = []

    def change(transaction: Transaction) -> None:
        transaction.put("k", len(attempts))
        attempts.append(transaction.id)
        if len(attempts) == 1:
            assert database.execute("TRANSACTION", "KILL", transaction.id) == b"rolledback"
            with pytest.raises(TransactionEnded) as raised:
                transaction.get("k")
            assert raised.value.retryable
        elif len(attempts) == 2:
            assert database.execute("TRANSACTION", "KILL", transaction.id) == b"rolledback"

    database.run(change)
    assert len(attempts) == 3
    assert database.get("k") == b"2"


def test_a_transactions_arguments_are_checked(database: Database) -> None:
    with pytest.raises(UserError, match="mode is pessimistic, optimistic or readonly"):
        database.transaction("hopeful")
    with pytest.raises(UserError, match="DURABILITY is"), database.transaction(durability="perhaps"):
        pass
    with pytest.raises(UserError, match="TIMEOUT is in milliseconds"), database.transaction(timeout_ms=0):
        pass
    with pytest.raises(Error, match="READONLY"), database.transaction("readonly") as transaction:
        transaction.put("k", "v")
    with pytest.raises(UserError, match="TX takes commands"), database.transaction() as transaction:
        transaction.execute("PING")
    assert database.execute("TRANSACTION", "LIST") == []


def test_a_fault_within_a_turn_costs_nobody_else_anything(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    database._turns.post(fail)
    with caplog.at_level(logging.ERROR):
        assert database.execute("PING") == b"PONG"
    assert "ZeroDivisionError" in caplog.text


def test_an_interrupted_begin_leaves_no_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    execute = Caller.execute

    def interrupted(caller: Caller, args: list[bytes]) -> Any:
        reply = execute(caller, args)
        if args[0] == b"BEGIN":
            raise KeyboardInterrupt
        return reply

    with open_database(engine="memory") as database:
        with monkeypatch.context() as patched:
            patched.setattr(Caller, "execute", interrupted)
            with pytest.raises(KeyboardInterrupt):
                database.transaction().__enter__()
        assert database.execute("TRANSACTION", "LIST") == []
        database.put("k", "v")
        seen: list[bytes | None] = []
        thread = threading.Thread(target=lambda: seen.append(database.get("k")))
        thread.start()
        thread.join()
        assert seen == [b"v"]
