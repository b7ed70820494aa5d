"""`keyhaus salvage` brings back everything that was not hit, and says what was."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any, Final

import pytest
import redis

from keyhaus.core.disk import OsDisk
from keyhaus.journal import format as layout
from keyhaus.journal import manifest as manifests
from keyhaus.journal.format import COMMITS
from keyhaus.store.repair import check as checking
from keyhaus.store.repair.findings import DAMAGE
from keyhaus.store.repair.rows import BaseRows
from tests.support.moments import OPTIONS, State, changes, command, served, state_at, told, work
from tests.support.processes import HOST, keyhaus_server

NO_ARCHIVE: Final = ("--data-dir", "data", "--journal-segment-bytes", "128kb", "--set", "memtable-bytes=1mb")


class Past:
    """A stopped database, and every commit that was made.

    Attributes:
        directory: Where `data` and `archive` are.
        commits: Every commit.
        base_seqno: Up to where the base has them.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        generator = random.Random(13)
        for _ in range(2):
            with keyhaus_server(directory, *OPTIONS) as server, redis.Redis(HOST, server.port) as client:
                while client.info("keyhaus")["flushes"] < 3:
                    work(client, generator, 1000)
                work(client, generator, 300)
                self.commits = changes(client)
                self.base_seqno = client.info("keyhaus")["base_seqno"]
        self.history = manifests.read(OsDisk(directory / "data")).history  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Past:
    return Past(tmp_path_factory.mktemp("past"))


@pytest.fixture
def files(past: Past, tmp_path: Path) -> Path:
    shutil.copytree(past.directory, tmp_path / "files")
    return tmp_path / "files"


def salvaged(files: Path, *words: str) -> tuple[dict[str, Any], State]:
    """The report, and what the new database has; it must be whole."""
    report = told("salvage", "data", "--to", "new", *words, directory=files)
    assert [finding for finding in checking.check(files / "new") if finding.kind == DAMAGE] == []
    return report, served(files, "new")


def readable(files: Path) -> tuple[int, int]:
    """How many records of the base can be read, and how many stretches can't."""
    rows = BaseRows(files / "data" / "base")
    try:
        return len(list(rows.records())), len(rows.gaps)
    finally:
        rows.close()


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << 4
    path.write_bytes(data)


def commits_of(data: Path, which: int) -> tuple[Path, list[layout.Group]]:
    manifest = manifests.read(OsDisk(data))
    assert manifest is not None
    line = manifest.segments[which]
    heads = layout.groups((data / line.name).read_bytes(), line.epoch)
    return data / line.name, [head for head in heads if head.kind == COMMITS]


def test_what_is_whole_comes_back_whole(past: Past, files: Path) -> None:
    report, state = salvaged(files)
    assert report["complete"] and report["base_whole"] and not report["findings"]
    assert report["from_history"] == past.history != report["history"]
    assert state == state_at(past.commits)
    assert report["seqno"] == past.commits[-1].seqno


def test_commits_behind_a_damaged_group_come_back_and_the_gap_is_told(past: Past, files: Path) -> None:
    path, heads = commits_of(files / "data", -1)
    victim = heads[len(heads) // 2]
    assert victim.first > past.base_seqno
    flip(path, victim.offset + 30)
    report, state = salvaged(files)
    assert report["missing"] == [[victim.first, victim.last]]
    assert not report["complete"] and report["base_whole"]
    assert [finding["file"] for finding in report["findings"]] == [str(path.relative_to(files / "data"))]
    expected = state_at([entry for entry in past.commits if not victim.first <= entry.seqno <= victim.last])
    assert state == expected


def test_the_archive_has_what_a_damaged_group_had(past: Past, files: Path) -> None:
    path, heads = commits_of(files / "data", -1)
    flip(path, heads[len(heads) // 2].offset + 30)
    report, state = salvaged(files, "--archive-dir", "archive")
    assert report["missing"] == []
    assert state == state_at(past.commits)


@pytest.mark.parametrize("how", ["flipped", "missing"])
def test_without_a_manifest_the_chain_is_found_again(past: Past, files: Path, how: str) -> None:
    path = files / "data" / manifests.NAME
    if how == "missing":
        path.unlink()
    else:
        flip(path, 50)
    report, state = salvaged(files)
    assert report["missing"] == [] and report["from_history"] == past.history
    assert state == state_at(past.commits)


def test_a_segment_without_a_header_is_read(past: Past, files: Path) -> None:
    path, _ = commits_of(files / "data", -1)
    flip(path, 200)
    report, state = salvaged(files)
    assert report["missing"] == []
    assert state == state_at(past.commits)
    shutil.rmtree(files / "new")
    (files / "data" / manifests.NAME).unlink()
    report, state = salvaged(files)
    assert report["missing"] == []
    assert state == state_at(past.commits)


def test_a_missing_segment_is_a_gap(past: Past, files: Path) -> None:
    path, heads = commits_of(files / "data", -1)
    path.unlink()
    report, state = salvaged(files)
    first, last = heads[0].first, heads[-1].last
    missing = [entry for entry in past.commits if any(a <= entry.seqno <= b for a, b in report["missing"])]
    assert {entry.seqno for entry in missing} >= {
        entry.seqno for entry in past.commits if max(first, past.base_seqno + 1) <= entry.seqno <= last
    }
    assert state == state_at([entry for entry in past.commits if entry not in missing])


def test_a_journal_cut_short_gives_what_is_left(past: Past, files: Path) -> None:
    path, heads = commits_of(files / "data", -1)
    victim = heads[len(heads) // 2]
    with path.open("r+b") as file:
        file.truncate(victim.offset + victim.length // 2)
    report, state = salvaged(files)
    assert report["missing"][0][0] == victim.first
    assert state == state_at(past.commits, victim.first - 1)


@pytest.mark.parametrize("how", ["flipped", "missing"])
def test_a_base_without_its_pointer_is_read_whole(past: Past, files: Path, how: str) -> None:
    path = files / "data" / "base" / "CURRENT"
    if how == "missing":
        path.unlink()
    else:
        flip(path, 11)
    report, state = salvaged(files)
    assert report["uncertain_rows"] == 0 and report["lost_keys"] == [] and report["missing"] == []
    assert state == state_at(past.commits)


@pytest.mark.parametrize("how", ["flipped", "missing"])
def test_a_base_without_its_manifest_is_read_file_by_file(past: Past, files: Path, how: str) -> None:
    """Deletions can't be seen then; the archive has them."""
    (path,) = (files / "data" / "base").glob("MANIFEST-*")
    if how == "missing":
        path.unlink()
    else:
        flip(path, path.stat().st_size // 2)
    report, state = salvaged(files, "--archive-dir", "archive")
    assert report["uncertain_rows"] > 0
    assert report["missing"] == []
    assert state == state_at(past.commits)
    shutil.rmtree(files / "new")
    report, state = salvaged(files)
    expected = state_at(past.commits)
    assert report["uncertain_rows"] > 0 and not report["complete"]
    for database, space in expected.items():
        assert {key: state[database].get(key) for key in space} == space, "only deleted keys may be there beside them"


def test_everything_but_a_damaged_block_comes_back(tmp_path: Path) -> None:
    """Compared with a model; the rows that are gone lie in one block, and the report says where."""
    expected = {b"key:%06d" % number: b"%d" % number * 20 for number in range(30_000)}
    options = (*NO_ARCHIVE, "--set", "journal-retain-bytes=0")
    with keyhaus_server(tmp_path, *options) as server, redis.Redis(HOST, server.port) as client:
        for at in range(0, 30_000, 1000):
            pipe = client.pipeline(transaction=False)
            for key in list(expected)[at : at + 1000]:
                pipe.set(key, expected[key])
            pipe.execute()
    tables = sorted((tmp_path / "data" / "base").glob("*.sst"), key=lambda path: path.stat().st_size)
    size = tables[-1].stat().st_size
    whole, gaps = readable(tmp_path)
    assert whole > 10_000 and gaps == 0
    for place in range(2, 13, 4):  # among the rows, before index and filter
        flip(tables[-1], size * place // 25)
        rows, gaps = readable(tmp_path)
        assert whole - 400 < rows < whole and gaps == 1, "one block, one stretch"
        flip(tables[-1], size * place // 25)
    flip(tables[-1], size // 2)
    report, state = salvaged(tmp_path)
    found = {key: value for key, (value, _) in state[0].items()}
    assert all(expected[key] == value for key, value in found.items())
    lost = sorted(set(expected) - set(found))
    assert 0 < len(lost) < 400, len(lost)
    assert not report["complete"] and not report["from_the_first"]
    ((after, before),) = report["lost_keys"]
    assert all(bytes.fromhex(after)[13:] <= key <= bytes.fromhex(before)[13:] for key in lost)
    assert report["findings"][0]["file"] == f"base/{tables[-1].name}"
    result = command("salvage", "data", "--to", "again", directory=tmp_path)
    assert result.returncode == 0 and "rows may be lost between" in result.stdout


def test_a_missing_or_cut_table_costs_its_rows_only(past: Past, files: Path) -> None:
    """With the archive from the first commit on nothing is lost at all."""
    tables = sorted((files / "data" / "base").glob("*.sst"), key=lambda path: path.stat().st_size)
    with tables[-1].open("r+b") as file:
        file.truncate(tables[-1].stat().st_size // 2)
    if len(tables) > 1:
        tables[0].unlink()
    report, state = salvaged(files, "--archive-dir", "archive")
    assert report["lost_keys"] or report["unreadable"]
    assert report["from_the_first"] and report["complete"]
    assert state == state_at(past.commits)


def test_without_any_base_the_archive_is_enough(past: Past, files: Path) -> None:
    shutil.rmtree(files / "data" / "base")
    report, state = salvaged(files, "--archive-dir", "archive")
    assert report["missing"] == [] and report["commits"] == len(past.commits)
    assert state == state_at(past.commits)


def test_the_damaged_one_stays_as_it_is_and_a_full_directory_is_left_alone(files: Path) -> None:
    path, heads = commits_of(files / "data", -1)
    flip(path, heads[0].offset + 30)
    before = {str(name): name.stat().st_mtime_ns for name in sorted((files / "data").rglob("*"))}
    salvaged(files)
    assert {str(name): name.stat().st_mtime_ns for name in sorted((files / "data").rglob("*"))} == before
    result = command("salvage", "data", "--to", "new", directory=files)
    assert result.returncode == 1 and "it is not empty" in result.stderr
