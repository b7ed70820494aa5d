"""`keyhaus check` finds damage in each kind of file, names the file, and leaves everything as it is."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from keyhaus.core.disk import OsDisk
from keyhaus.engines import rocksdb
from keyhaus.journal import archive as archives
from keyhaus.journal import format as layout
from keyhaus.journal import manifest as manifests
from keyhaus.journal.format import COMMITS
from keyhaus.store.repair import check as checking
from keyhaus.store.repair.findings import DAMAGE, Finding
from tests.support.moments import OPTIONS, command, told, work
from tests.support.processes import HOST, keyhaus_server


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stopped database in `data` with an archive and backups beside it."""
    directory = tmp_path_factory.mktemp("original")
    generator = random.Random(11)
    for _ in range(2):
        with keyhaus_server(directory, *OPTIONS) as server, redis.Redis(HOST, server.port) as client:
            while client.info("keyhaus")["flushes"] < 3:
                work(client, generator, 1000)
        told("backup", "create", "--data-dir", "data", "backups", directory=directory)
    return directory


@pytest.fixture
def files(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path / "files")
    return tmp_path / "files"


def fingerprint(directory: Path) -> dict[str, tuple[int, str]]:
    return {
        str(path.relative_to(directory)): (
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        )
        for path in (directory, *sorted(directory.rglob("*")))
    }


def damage(directory: Path) -> list[Finding]:
    """What a check finds, which must change nothing."""
    before = fingerprint(directory)
    found = [finding for finding in checking.check(directory) if finding.kind == DAMAGE]
    assert fingerprint(directory) == before
    return found


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << 4
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["data", "archive", "backups"])
def test_what_is_whole_is_found_whole_and_stays_untouched(original: Path, name: str) -> None:
    assert damage(original / name) == []


def test_a_killed_servers_files_are_whole(tmp_path: Path) -> None:
    for seed in range(3):
        with keyhaus_server(tmp_path, *OPTIONS) as server, redis.Redis(HOST, server.port) as client:
            work(client, random.Random(seed), 1500)
            server.kill()
        assert damage(tmp_path / "data") == []
        assert damage(tmp_path / "archive") == []


def commits_of(data: Path, which: int) -> tuple[str, list[layout.Group]]:
    manifest = manifests.read(OsDisk(data))
    assert manifest is not None
    line = manifest.lines[which]
    heads = layout.groups((data / line.name).read_bytes(), line.epoch)
    return line.name, [head for head in heads if head.kind == COMMITS]


@pytest.mark.parametrize("which", [0, -1], ids=["retained", "current"])
def test_a_flipped_bit_in_any_group_is_found_where_it_is(files: Path, which: int) -> None:
    generator = random.Random(which)
    name, heads = commits_of(files / "data", which)
    for victim in (heads[0], generator.choice(heads), heads[-1]):
        path = files / "data" / name
        whole = path.read_bytes()
        flip(path, victim.offset + generator.randrange(victim.length))
        (finding,) = damage(files / "data")
        assert finding.file == name
        assert finding.offset is not None and finding.offset <= victim.offset
        assert re.findall(r"\d+", finding.problem) == [str(n) for n in sorted({victim.first, victim.last})]
        assert finding.problem.endswith("missing or damaged here")
        path.write_bytes(whole)


def test_two_damaged_segments_are_both_found(files: Path) -> None:
    hit = []
    for which in (0, -1):
        name, heads = commits_of(files / "data", which)
        flip(files / "data" / name, heads[0].offset + 60)
        hit.append(name)
    assert [finding.file for finding in damage(files / "data")] == hit


def _header(files: Path) -> str:
    name, _ = commits_of(files / "data", -1)
    flip(files / "data" / name, 100)
    return name


def _manifest(files: Path) -> str:
    flip(files / "data" / manifests.NAME, 40)
    return manifests.NAME


def _end_mark(files: Path) -> str:
    manifest = manifests.read(OsDisk(files / "data"))
    assert manifest is not None and manifest.ended is not None
    flip(files / "data" / manifest.segments[-1].name, manifest.ended + 20)
    return manifest.segments[-1].name


def _missing_segment(files: Path) -> str:
    name, _ = commits_of(files / "data", -1)
    (files / "data" / name).unlink()
    return name


def _short_segment(files: Path) -> str:
    name, heads = commits_of(files / "data", -1)
    with (files / "data" / name).open("r+b") as file:
        file.truncate(heads[-1].offset + 10)
    return name


def _table(files: Path) -> str:
    path = max((files / "data" / "base").glob("*.sst"), key=lambda path: path.stat().st_size)
    flip(path, path.stat().st_size // 3)
    return f"base/{path.name}"


def _short_table(files: Path) -> str:
    path = max((files / "data" / "base").glob("*.sst"), key=lambda path: path.stat().st_size)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    return f"base/{path.name}"


def _missing_table(files: Path) -> str:
    path = next((files / "data" / "base").glob("*.sst"))
    path.unlink()
    return f"base/{path.name}"


def _current(files: Path) -> str:
    flip(files / "data" / "base" / "CURRENT", 12)
    return "base/CURRENT"


def _missing_current(files: Path) -> str:
    (files / "data" / "base" / "CURRENT").unlink()
    return "base/CURRENT"


def _rocksdb_manifest(files: Path) -> str:
    (path,) = (files / "data" / "base").glob("MANIFEST-*")
    flip(path, path.stat().st_size // 2)
    return f"base/{path.name}"


def _missing_base(files: Path) -> str:
    shutil.rmtree(files / "data" / "base")
    return "base"


@pytest.mark.parametrize(
    "hit",
    [
        _header,
        _manifest,
        _end_mark,
        _missing_segment,
        _short_segment,
        _table,
        _short_table,
        _missing_table,
        _current,
        _missing_current,
        _rocksdb_manifest,
        _missing_base,
    ],
)
def test_each_kind_of_file_is_named(files: Path, hit: Callable[[Path], str]) -> None:
    name = hit(files)
    assert [finding.file for finding in damage(files / "data")] == [name]
    result = command("check", "data", "--json", directory=files)
    assert result.returncode == 1
    assert [finding["file"] for finding in json.loads(result.stdout)["findings"] if finding["kind"] == "damage"] == [
        name
    ]
    result = command("check", "data", directory=files)
    assert result.returncode == 1 and f"damage: {name}" in result.stdout


def test_a_base_of_another_moment_than_the_journal_is_found(files: Path, original: Path) -> None:
    """S1: a base that lies ahead of the journal's end, or behind its begin."""
    with keyhaus_server(files, *OPTIONS) as server, redis.Redis(HOST, server.port) as client:
        before = client.info("keyhaus")["base_seqno"]
        while client.info("keyhaus")["base_seqno"] <= before:
            work(client, random.Random(1), 1000)
    newer = files / "data" / "base"
    assert damage(files / "data") == []
    shutil.rmtree(files / "data" / "journal")
    shutil.copytree(original / "data" / "journal", files / "data" / "journal")
    (finding,) = damage(files / "data")
    assert finding.file.startswith("journal/") and "lies ahead" in finding.problem
    rocksdb.open_engine(str(newer), {}).close()


def test_a_flipped_bit_in_an_archive_is_found(files: Path) -> None:
    generator = random.Random(4)
    paths = sorted((files / "archive").glob("*/*.archive"))
    for path in generator.sample(paths, 3):
        whole = path.read_bytes()
        header = 100
        epoch = archives.read_header(whole[: layout.HEADER_BYTES], path.name).epoch
        groups = list(layout.groups(whole, epoch))  # what lies between two is nobody's
        victims = [generator.choice(groups), groups[-1]]
        for offset in (header, *(group.offset + generator.randrange(group.length) for group in victims)):
            flip(path, offset)
            (finding,) = damage(files / "archive")
            assert finding.file == f"{path.parent.name}/{path.name}", offset
            path.write_bytes(whole)


def test_a_flipped_bit_in_any_file_of_a_backup_is_found_by_verify(files: Path) -> None:
    generator = random.Random(6)
    for path in sorted((files / "backups").rglob("*")):
        if not path.is_file() or path.name == "LOCK" or not path.stat().st_size:
            continue
        whole = path.read_bytes()
        flip(path, generator.randrange(len(whole) - 1))
        found = damage(files / "backups")
        name = str(path.relative_to(files / "backups"))
        assert [finding.file for finding in found] == [name]
        path.write_bytes(whole)
    path = next((files / "backups" / "files").iterdir())
    path.unlink()
    result = command("backup", "verify", "backups", directory=files)
    assert result.returncode == 1 and f"files/{path.name}" in result.stdout and "missing" in result.stdout


def test_what_is_none_of_ours_or_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    result = command("check", "other", directory=tmp_path)
    assert result.returncode == 1 and "is no database" in result.stderr
    assert command("check", "nowhere", directory=tmp_path).returncode == 1
    with keyhaus_server(tmp_path, "--data-dir", "data"):
        result = command("check", "data", directory=tmp_path)
        assert result.returncode == 1 and "is being written by another process" in result.stderr
