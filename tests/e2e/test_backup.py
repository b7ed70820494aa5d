"""Backups, as their users make them and bring them back: under load, shared, to any moment, and by Redis' commands."""

from __future__ import annotations

import json
import random
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from keyhaus.core.limits import UNSYNCED_COMMITS_MAX
from tests.e2e.conftest import Serve
from tests.support.moments import OPTIONS, Commit, changes, command, served, state_at, told, transfer, work
from tests.support.processes import HOST, keyhaus_server


class Past:
    """A stopped database with backups in `backups`, an archive, and every commit that was made.

    Attributes:
        directory: Where all of it is.
        commits: Every commit.
        made: The backups, as they were listed when they were made.
        history: The database's.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        generator = random.Random(7)
        with keyhaus_server(directory, *OPTIONS, "--set", "backup-dir=backups") as server:
            client = redis.Redis(HOST, server.port)
            while not client.info("keyhaus")["base_seqno"]:
                work(client, generator, 1000)
            for _ in range(3):
                work(client, generator, 1500)
                transfer(client, 50, generator)
                client.save()
            work(client, generator, 2000)
            self.commits = changes(client)
            self.history = client.info("keyhaus")["history"]
            client.close()
        self.made = told("backup", "list", "backups", directory=directory)


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Past:
    return Past(tmp_path_factory.mktemp("past"))


@pytest.fixture
def restored(past: Past) -> Iterator[Any]:
    """Restores, and gives what the report says and what is there."""
    made: list[Path] = []

    def restore(*words: str) -> tuple[dict[str, Any], Any]:
        name = f"restored-{len(made)}"
        made.append(past.directory / name)
        report = told("backup", "restore", "backups", "--to", name, *words, directory=past.directory)
        return report, served(past.directory, name)

    yield restore
    for path in made:
        shutil.rmtree(path, ignore_errors=True)


def test_each_backup_is_the_database_at_exactly_its_last_commit(past: Past, restored: Any) -> None:
    assert len(past.made) == 3
    for backup in past.made:
        report, state = restored("--number", str(backup["number"]))
        assert report["seqno"] == max(commit.seqno for commit in past.commits if commit.seqno <= backup["to_seqno"])
        assert state == state_at(past.commits, backup["to_seqno"])


def test_any_commit_behind_the_oldest_base_can_be_gone_back_to(past: Past, restored: Any) -> None:
    generator = random.Random(1)
    oldest = past.made[0]["base_seqno"]
    later = [commit.seqno for commit in past.commits if commit.seqno >= oldest]
    for seqno in (later[0], *generator.sample(later, 3), later[-1]):
        report, state = restored("--to-seqno", str(seqno), "--archive-dir", "archive")
        assert report["seqno"] == seqno
        assert state == state_at(past.commits, seqno)


def test_a_time_is_all_commits_up_to_it(past: Past, restored: Any) -> None:
    generator = random.Random(2)
    times = [commit.unix_ms for commit in past.commits if commit.unix_ms >= past.made[0]["base_ms"]]
    for unix_ms in (times[0], *generator.sample(times, 2), times[-1] - 1):
        moment = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(unix_ms // 1000))}.{unix_ms % 1000:03}Z"
        report, state = restored("--to-time", moment, "--archive-dir", "archive")
        assert state == state_at(past.commits, unix_ms=unix_ms), moment
        assert report["unix_ms"] <= unix_ms


def test_a_moment_that_is_not_at_hand_is_refused_with_what_is(past: Past) -> None:
    first, last = past.made[0]["base_seqno"], past.made[-1]["to_seqno"]
    for words in (("--to-seqno", str(first - 1)), ("--to-seqno", str(last + 10_000))):
        result = command("backup", "restore", "backups", "--to", "nowhere", *words, directory=past.directory)
        assert result.returncode == 1
        assert f"commit {words[1]} is not at hand: what can be restored is " in result.stderr
        assert str(last) in result.stderr and past.history in result.stderr
    for moment in ("2001-01-01T00:00:00Z", "2101-01-01T00:00:00Z"):
        words = ("--to-time", moment)
        result = command("backup", "restore", "backups", "--to", "nowhere", *words, directory=past.directory)
        assert result.returncode == 1
        assert "is not at hand: what can be restored is 20" in result.stderr
    assert not (past.directory / "nowhere").exists()
    result = command("backup", "restore", "backups", "--to", "nowhere", "--number", "9", directory=past.directory)
    assert (result.returncode, result.stderr) == (1, "keyhaus: there is no backup 9: there is 1, 2, 3\n")


def test_what_is_newer_than_backup_and_archive_is_in_the_database_and_the_refusal_says_so(past: Past) -> None:
    words = ("--to-time", "2101-01-01T00:00:00Z")
    result = command("backup", "restore", "backups", "--to", "nowhere", *words, directory=past.directory)
    assert "; what is newer is in the database's own journal: make a backup of it, or stop its server" in result.stderr


def test_a_time_before_the_first_commit_is_not_at_hand(tmp_path: Path) -> None:
    with keyhaus_server(tmp_path, *OPTIONS) as server, redis.Redis(HOST, server.port) as client:
        client.set("first", "1")
        assert client.info("keyhaus")["base_seqno"] == 0
        client.save()
    words = ("--to-time", "2020-01-01T00:00:00Z")
    result = command("backup", "restore", "data/backups", "--to", "empty", *words, directory=tmp_path)
    assert result.returncode == 1
    assert "2020-01-01T00:00:00.000Z is not at hand: what can be restored is 20" in result.stderr
    assert not (tmp_path / "empty").exists()


def test_a_directory_that_is_none_of_backups_or_of_an_archive_is_told(past: Past) -> None:
    (past.directory / "other").mkdir()
    listed = command("backup", "list", "other", directory=past.directory)
    assert (listed.returncode, listed.stderr) == (1, "keyhaus: there is no backup in other\n")
    for words in (("backup", "restore", "backups", "--to", "r"), ("salvage", "data", "--to", "s")):
        result = command(*words, "--archive-dir", "missing", directory=past.directory)
        assert (result.returncode, result.stderr) == (1, "keyhaus: missing: there is no such archive\n")
        assert not (past.directory / words[-1]).exists()
        result = command(*words, "--archive-dir", "other", directory=past.directory)
        assert result.returncode == 0
        assert result.stderr == f"keyhaus: the archive other has nothing of history {past.history}\n"
        shutil.rmtree(past.directory / words[-1])


def test_a_server_makes_backups_below_its_own_directory_by_their_name_from_there(tmp_path: Path) -> None:
    with keyhaus_server(tmp_path, *OPTIONS) as server:
        command("backup", "create", "--url", f"redis://{HOST}:{server.port}", "weekly", directory=tmp_path)
    assert len(told("backup", "list", "data/backups/weekly", directory=tmp_path)) == 1


def test_a_directory_that_is_not_empty_is_left_alone(past: Past) -> None:
    (past.directory / "full").mkdir(exist_ok=True)
    (past.directory / "full" / "file").write_text("mine")
    result = command("backup", "restore", "backups", "--to", "full", directory=past.directory)
    assert result.returncode == 1 and "it is not empty" in result.stderr
    assert [path.name for path in (past.directory / "full").iterdir()] == ["file"]


def test_a_restored_database_goes_on_under_a_history_of_its_own(past: Past) -> None:
    """J8: whoever followed the old one is told; no number is given twice."""
    report = told("backup", "restore", "backups", "--to", "anew", "--number", "1", directory=past.directory)
    with keyhaus_server(past.directory, "--data-dir", "anew") as server, redis.Redis(HOST, server.port) as client:
        facts = client.info("keyhaus")
        assert facts["history"] == report["history"] != past.history
        assert facts["synced_seqno"] > past.made[-1]["to_seqno"] + UNSYNCED_COMMITS_MAX
        with pytest.raises(redis.ResponseError, match="LOST"):
            client.execute_command("CHANGES", "AFTER", past.made[0]["to_seqno"], "HISTORY", past.history)
        with pytest.raises(redis.ResponseError, match="LOST"):
            client.execute_command("CHANGES", "AFTER", past.commits[-1].seqno)
        client.set("written", "later")
        assert client.get("written") == b"later"
    with keyhaus_server(past.directory, "--data-dir", "anew") as server, redis.Redis(HOST, server.port) as client:
        assert client.get("written") == b"later"
    shutil.rmtree(past.directory / "anew")


def test_a_stopped_database_is_backed_up_without_a_trace_in_it(past: Past) -> None:
    before = _tree(past.directory / "data")
    made = told("backup", "create", "--data-dir", "data", "offline", directory=past.directory)
    assert _tree(past.directory / "data") == before
    told("backup", "restore", "offline", "--to", "from-offline", directory=past.directory)
    assert served(past.directory, "from-offline") == state_at(past.commits)
    again = told("backup", "create", "--data-dir", "data", "offline", directory=past.directory)
    assert again["added_bytes"] == 0 and again["bytes"] == made["bytes"]
    assert command("backup", "verify", "offline", directory=past.directory).stdout == "nothing is damaged\n"


def test_while_backups_are_damaged_none_is_taken_away_and_each_is_named(past: Past) -> None:
    shutil.copytree(past.directory / "backups", past.directory / "worn")
    names = sorted(path.name for path in (past.directory / "worn").glob("*.backup"))
    for name in names[:2]:
        whole = (past.directory / "worn" / name).read_bytes()
        (past.directory / "worn" / name).write_bytes(whole[:-20] + b"x" + whole[-19:])
    files = sorted(path.name for path in (past.directory / "worn" / "files").iterdir())
    words = ("--data-dir", "data", "--keep", "1", "worn")
    result = command("backup", "create", *words, directory=past.directory)
    listed = command("backup", "list", "worn", directory=past.directory)
    assert (result.returncode, listed.returncode) == (0, 1)
    for name in names[:2]:
        assert f"no earlier backup is taken away while one is damaged: {name}" in result.stderr
        assert name in listed.stderr
    assert {*names} <= {path.name for path in (past.directory / "worn").glob("*.backup")}
    assert {*files} <= {path.name for path in (past.directory / "worn" / "files").iterdir()}
    for name in names[:2]:
        (past.directory / "worn" / name).unlink()
    command("backup", "create", *words, directory=past.directory)
    assert len([*(past.directory / "worn").glob("*.backup")]) == 1
    shutil.rmtree(past.directory / "worn")


def _tree(directory: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(directory)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in sorted(directory.rglob("*"))
    }


def test_a_backup_under_load_is_a_prefix_of_the_commits(serve: Serve, tmp_path: Path) -> None:
    server = serve(*OPTIONS)
    over = threading.Event()

    def write(seed: int) -> None:
        with redis.Redis(HOST, server.port) as client:
            generator = random.Random(seed)
            while not over.is_set():
                work(client, generator, 200)
                transfer(client, 5, generator)

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    url = f"redis://{HOST}:{server.port}"
    try:
        with redis.Redis(HOST, server.port) as client:
            while client.info("keyhaus")["synced_seqno"] < 1000:
                time.sleep(0.01)
        made = [told("backup", "create", "--url", url, directory=tmp_path) for _ in range(3)]
    finally:
        over.set()
        for thread in threads:
            thread.join()
    with redis.Redis(HOST, server.port) as client:
        commits = changes(client)
    listed = told("backup", "list", "data/backups", directory=tmp_path)
    assert [entry["number"] for entry in listed] == [entry["number"] for entry in made] == [1, 2, 3]
    for entry in listed:
        told("backup", "restore", "data/backups", "--to", f"new{entry['number']}", directory=tmp_path)
        if entry is not listed[-1]:
            shutil.rmtree(tmp_path / f"new{entry['number']}")
            number = str(entry["number"])
            told("backup", "restore", "data/backups", "--to", f"new{number}", "--number", number, directory=tmp_path)
        assert served(tmp_path, f"new{entry['number']}") == state_at(commits, entry["to_seqno"])
    assert _commits_between(commits, listed) > 0, "nothing was written between the backups"
    assert command("backup", "verify", "data/backups", directory=tmp_path).returncode == 0


def _commits_between(commits: list[Commit], listed: list[dict[str, Any]]) -> int:
    return sum(listed[0]["to_seqno"] < commit.seqno <= listed[-1]["to_seqno"] for commit in commits)


def test_what_an_earlier_backup_has_is_not_copied_again(serve: Serve, tmp_path: Path) -> None:
    server = serve("--data-dir", "data", "--set", "memtable-bytes=1mb", "--set", "backup-keep=2")
    with redis.Redis(HOST, server.port) as client:
        for number in range(6000):
            client.set(b"key:%d" % number, random.Random(number).randbytes(400))
        client.save()
        first = client.execute_command("BACKUP", "STATUS")
        client.set("one", "more")
        client.save()
        second = client.execute_command("BACKUP", "STATUS")
    assert first[b"last-bytes"] > 2_000_000
    assert second[b"last-added-bytes"] < first[b"last-bytes"] / 2
    names = {path.name for path in (tmp_path / "data" / "backups" / "files").iterdir()}
    with redis.Redis(HOST, server.port) as client:
        client.save()
    assert [entry["number"] for entry in told("backup", "list", "data/backups", directory=tmp_path)] == [2, 3]
    assert names - {path.name for path in (tmp_path / "data" / "backups" / "files").iterdir()}, "nothing was removed"
    assert command("backup", "verify", "data/backups", directory=tmp_path).stdout == "nothing is damaged\n"


def test_saving_is_what_users_of_redis_expect(serve: Serve, tmp_path: Path) -> None:
    server = serve("--data-dir", "data")
    with redis.Redis(HOST, server.port) as client:
        began = client.lastsave()
        client.set("key", "value")
        assert client.execute_command("BGSAVE", "SCHEDULE")
        with pytest.raises(redis.ResponseError, match="^Background save already in progress$"):
            client.bgsave()
        with pytest.raises(redis.ResponseError, match="^Background save already in progress$"):
            client.save()
        assert client.info("persistence")["rdb_bgsave_in_progress"] == 1
        _until_saved(client, 1)
        facts = client.info("persistence")
        assert facts["rdb_last_bgsave_status"] == "ok" and facts["rdb_last_bgsave_time_sec"] >= 0
        assert facts["rdb_changes_since_last_save"] == 0
        assert client.lastsave() >= began
        assert facts["rdb_last_save_time"] == int(client.lastsave().timestamp())
        with pytest.raises(redis.ResponseError, match="^syntax error$"):
            client.execute_command("BGSAVE", "SOON")
        assert client.save()
        with pytest.raises(redis.ResponseError, match="is not below .*backup-dir"):
            client.execute_command("BACKUP", "CREATE", "/tmp/elsewhere")
        assert client.execute_command("BACKUP", "CREATE", str(tmp_path / "data" / "backups" / "mine"))
        _until_saved(client, 3)
    assert sorted(path.name for path in (tmp_path / "data" / "backups").glob("**/*.backup")) == [
        "000001.backup",
        "000001.backup",
        "000002.backup",
    ]
    server.stop()
    again = serve("--data-dir", "data")
    with redis.Redis(HOST, again.port) as client:
        assert client.lastsave() >= began, "the newest backup's time is known after a restart"
        client.set("more", "later")


def _until_saved(client: redis.Redis, times: int) -> None:
    for _ in range(300):
        if client.info("persistence")["rdb_saves"] == times:
            return
        time.sleep(0.05)
    raise AssertionError(client.info("persistence"))


def test_without_a_disk_there_is_nothing_to_save(serve: Serve) -> None:
    server = serve("--engine", "memory")
    with redis.Redis(HOST, server.port) as client:
        for words in (("BGSAVE",), ("SAVE",), ("LASTSAVE",), ("BACKUP", "CREATE"), ("BACKUP", "STATUS")):
            with pytest.raises(redis.ResponseError, match="runs with --engine memory"):
                client.execute_command(*words)
        assert client.info("persistence")["rdb_bgsave_in_progress"] == 0


def test_a_backup_that_fails_says_why_and_the_server_goes_on(serve: Serve, tmp_path: Path) -> None:
    server = serve("--data-dir", "data", "--set", "backup-dir=taken")
    (tmp_path / "taken").write_text("a file")
    with redis.Redis(HOST, server.port) as client:
        client.set("key", "value")
        with pytest.raises(redis.ResponseError, match="the backup has failed"):
            client.save()
        facts = client.info("persistence")
        assert facts["rdb_last_bgsave_status"] == "err" and facts["rdb_bgsave_in_progress"] == 0
        assert client.info("keyhaus")["backup_error"]
        (tmp_path / "taken").unlink()
        assert client.save()
        assert client.info("persistence")["rdb_last_bgsave_status"] == "ok"
    result = command("backup", "create", "--data-dir", "data", "mine", directory=tmp_path)
    assert result.returncode == 1 and "say where it answers, with --url" in result.stderr


def test_the_lists_are_for_people_too(past: Past) -> None:
    result = command("backup", "list", "backups", directory=past.directory)
    lines = result.stdout.splitlines()
    assert len(lines) == 4 and lines[0].split()[0] == "number"
    assert json.loads(command("backup", "verify", "backups", "--json", directory=past.directory).stdout) == {
        "ok": True,
        "findings": [],
    }
