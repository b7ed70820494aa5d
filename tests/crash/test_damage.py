"""Damaged files: what was synced and is gone is refused, with file and offset, and nothing is changed by that.

The journals are those of real servers, stopped cleanly or killed. What a crash may legally leave behind (a torn end,
pages that never came to the disk) is no damage: there the server starts with everything that was confirmed.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from keyhaus.core.disk import OsDisk
from keyhaus.core.errors import Corruption
from keyhaus.core.settings import Settings
from keyhaus.journal import format as layout
from keyhaus.journal import manifest as manifests
from keyhaus.journal.format import COMMITS, END, HEADER_BYTES, PUT, START, Group
from keyhaus.journal.manifest import Line, Manifest
from keyhaus.store.record import value_of
from keyhaus.store.store import Store
from tests.support.load import Link
from tests.support.make_fixture import DIRECTORY, unpack
from tests.support.processes import HOST, SOURCE, keyhaus_server
from tests.support.simulation import SimulatedSpawn

OPTIONS: Final = ("--data-dir", "data", "--journal-segment-bytes", "128kb")
GROUPS: Final = 90
KEYS_PER_GROUP: Final = 3


class Files:
    """A stopped server's directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.journal = directory / "data" / "journal"

    @property
    def manifest(self) -> Manifest:
        found = manifests.read(OsDisk(self.directory / "data"))
        assert found is not None
        return found

    def path(self, line: Line) -> Path:
        return self.directory / "data" / line.name

    def groups(self, line: Line) -> list[Group]:
        return list(layout.groups(self.path(line).read_bytes(), line.epoch))

    def commits(self, line: Line) -> list[Group]:
        return [head for head in self.groups(line) if head.kind == COMMITS]

    def flip(self, path: Path, offset: int, bit: int = 3) -> None:
        data = bytearray(path.read_bytes())
        data[offset] ^= 1 << bit
        path.write_bytes(data)

    def fingerprint(self) -> dict[str, tuple[int, str]]:
        """Every file with its time and content, what each start writes aside: the lock, and RocksDB's own notes."""
        return {
            str(path.relative_to(self.directory)): (
                path.stat().st_mtime_ns,
                hashlib.sha256(path.read_bytes()).hexdigest(),
            )
            for path in sorted((self.directory / "data").rglob("*"))
            if path.is_file() and path.name != "LOCK" and (path.parent.name != "base" or path.suffix == ".sst")
        }


def fill(link: Link, name: bytes) -> None:
    for number in range(GROUPS):
        link.send(*([b"SET", b"%b:%d:%d" % (name, number, at), name * 300] for at in range(KEYS_PER_GROUP)))
        assert [link.reply() for _ in range(KEYS_PER_GROUP)] == [b"OK"] * KEYS_PER_GROUP


def made(directory: Path, durability: str = "always", *, killed: bool = True) -> Files:
    """A journal of two runs, each with several segments."""
    with keyhaus_server(directory, *OPTIONS) as server, Link(server.port) as link:
        fill(link, b"first")
    with keyhaus_server(directory, *OPTIONS, "--durability", durability) as server, Link(server.port) as link:
        fill(link, b"second")
        if killed:
            server.kill()
    return Files(directory)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Files]:
    return {
        "stopped": made(tmp_path_factory.mktemp("stopped"), killed=False),
        "killed": made(tmp_path_factory.mktemp("killed")),
        "everysec": made(tmp_path_factory.mktemp("everysec"), "everysec"),
        "none": made(tmp_path_factory.mktemp("none"), "none"),
    }


@pytest.fixture(params=["stopped", "killed"])
def files(request: pytest.FixtureRequest, originals: dict[str, Files], tmp_path: Path) -> Files:
    return copied(originals[request.param], tmp_path)


@pytest.fixture
def stopped(originals: dict[str, Files], tmp_path: Path) -> Files:
    return copied(originals["stopped"], tmp_path)


@pytest.fixture
def killed(originals: dict[str, Files], tmp_path: Path) -> Files:
    return copied(originals["killed"], tmp_path)


def copied(files: Files, directory: Path) -> Files:
    shutil.copytree(files.directory, directory, dirs_exist_ok=True)
    return Files(directory)


def refused(files: Files, name: str, process: bool = False) -> int:
    """Starts on damaged files, which must be refused; the offset that is named in the file `name`.

    Args:
        files: The damaged files.
        name: The file that must be named.
        process: Whether to start a server as a process of its own, and look at all that it says.
    """
    before = files.fingerprint()
    if process:
        offset = _refused_by_a_server(files, name)
    else:
        with pytest.raises(Corruption) as caught:
            opened(files)
        assert caught.value.file == f"journal/{name}"
        offset = caught.value.offset
    assert files.fingerprint() == before, "the refused start changed something"
    return offset


def _started(files: Files) -> subprocess.CompletedProcess[str]:
    """A server that is expected not to start."""
    command = (sys.executable, "-m", "keyhaus", "serve", "--listen", f"resp://{HOST}:0", *OPTIONS)
    path = os.pathsep.join(filter(None, (str(SOURCE), os.environ.get("PYTHONPATH", ""))))
    return subprocess.run(
        command,
        cwd=files.directory,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def _refused_by_a_server(files: Files, name: str) -> int:
    result = _started(files)
    assert result.returncode == 1, result
    assert result.stdout == ""
    (said,) = result.stderr.splitlines()
    found = re.fullmatch(r"keyhaus: data/journal/(\S+) at offset (\d+): .+; nothing of the data was changed: .+", said)
    assert found is not None, said
    assert found[1] == name, said
    return int(found[2])


def opened(files: Files) -> Store:
    """The store as a start finds it, its workers never run."""
    settings = Settings(journal_segment_bytes=128 << 10)
    return Store.open(OsDisk(files.directory / "data"), SimulatedSpawn(random.Random(0)), settings=settings)


def accepted(files: Files, *, but_for: int = 0) -> None:
    """A start has everything, save the newest writes where some may be missing."""
    expected = [
        b"%b:%d:%d" % (name, number, at)
        for name in (b"first", b"second")
        for number in range(GROUPS)
        for at in range(KEYS_PER_GROUP)
    ]
    expected = expected[: len(expected) - but_for]
    records = opened(files).spaces[0].records
    assert sorted(records) == sorted(expected)
    for key in expected:
        assert value_of(records[key]) == key.partition(b":")[0] * 300


def test_what_is_whole_starts(files: Files) -> None:
    assert len(files.manifest.segments) > 6, "there should be several segments of each run"
    with keyhaus_server(files.directory, *OPTIONS) as server, Link(server.port) as link:
        assert link.ask(b"DBSIZE") == 2 * GROUPS * KEYS_PER_GROUP
        assert link.ask(b"GET", b"second:0:0") == b"second" * 300
        assert link.ask(b"SET", b"more", b"value") == b"OK"
    assert not any("Traceback" in line for line in server.lines)


@pytest.mark.parametrize("damage", ["group", "header", "manifest", "missing"])
def test_a_server_refuses_in_one_line_and_changes_nothing(damage: str, killed: Files) -> None:
    line = killed.manifest.segments[2]
    path = killed.path(line)
    victim = killed.commits(line)[1]
    if damage == "group":
        killed.flip(path, victim.offset + 50)
        assert 0 < refused(killed, path.name, process=True) <= victim.offset
    elif damage == "header":
        killed.flip(path, 10)
        assert refused(killed, path.name, process=True) == 0
    elif damage == "manifest":
        killed.flip(killed.journal / "MANIFEST", 100)
        assert refused(killed, "MANIFEST", process=True) == 0
    else:
        path.unlink()
        assert refused(killed, path.name, process=True) == 0


@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_a_flipped_bit_in_a_group_before_the_last_is_refused(where: str, files: Files, seed: int) -> None:
    lines = [line for line in files.manifest.segments if len(files.commits(line)) > 3]
    line = {"first": lines[0], "middle": lines[len(lines) // 2], "last": lines[-1]}[where]
    commits = files.commits(line)
    at = len(commits) // 2
    victim, before = commits[at], commits[at - 1]
    offset = victim.offset + random.Random(seed).randrange(victim.length)
    files.flip(files.path(line), offset, random.Random(seed).randrange(8))
    told = refused(files, files.path(line).name)
    assert before.offset + before.length <= told <= victim.offset


@pytest.mark.parametrize("damage", ["a bit", "zeros"])
@pytest.mark.parametrize("side", ["before", "behind"])
def test_damage_at_the_boundary_of_two_segments_is_refused(side: str, damage: str, files: Files, seed: int) -> None:
    """The last group of a segment has nothing behind it there that proves it, the first one nothing before it."""
    generator = random.Random(seed)
    lines = [line for line in files.manifest.segments if files.commits(line)]
    at = generator.randrange(len(lines) - 2)
    line = lines[at] if side == "before" else lines[at + 1]
    path = files.path(line)
    victim = files.commits(line)[-1 if side == "before" else 0]
    if damage == "a bit":
        files.flip(path, victim.offset + generator.randrange(victim.length), generator.randrange(8))
    else:
        data = bytearray(path.read_bytes())
        data[victim.offset : victim.offset + victim.length] = bytes(victim.length)
        path.write_bytes(data)
    assert refused(files, path.name) <= victim.offset


def test_a_flipped_bit_in_the_last_group_before_a_clean_stop_is_refused(stopped: Files) -> None:
    line = stopped.manifest.segments[-1]
    victim = stopped.commits(line)[-1]
    stopped.flip(stopped.path(line), victim.offset + victim.length - 1)
    assert refused(stopped, stopped.path(line).name) <= victim.offset


def test_a_flipped_bit_in_the_end_mark_is_refused(stopped: Files) -> None:
    line = stopped.manifest.segments[-1]
    (mark,) = (head for head in stopped.groups(line) if head.kind == END)
    stopped.flip(stopped.path(line), mark.offset + 20)
    assert refused(stopped, stopped.path(line).name) == mark.offset


def test_a_flipped_bit_in_a_start_record_is_refused(files: Files) -> None:
    line = next(line for line in files.manifest.segments[1:] if line.start)
    (record,) = (head for head in files.groups(line) if head.kind == START)
    files.flip(files.path(line), record.offset + record.length - 1)
    assert refused(files, files.path(line).name) <= record.offset


@pytest.mark.parametrize("offset", [0, 8, 12, 16, 24, 2000, HEADER_BYTES - 1])
@pytest.mark.parametrize("which", [0, 3, -1])
def test_a_flipped_bit_in_a_header_is_refused(offset: int, which: int, killed: Files) -> None:
    path = killed.path(killed.manifest.segments[which])
    killed.flip(path, offset)
    assert refused(killed, path.name) == 0


def test_a_flipped_bit_in_the_manifest_is_refused(files: Files) -> None:
    path = files.journal / "MANIFEST"
    files.flip(path, 40)
    assert refused(files, "MANIFEST") == 0


def test_every_bit_of_the_manifest_counts(killed: Files) -> None:
    path = killed.journal / "MANIFEST"
    whole = path.read_bytes()
    disk = OsDisk(killed.directory / "data")
    for at in range(len(whole.rstrip(b"\0")) * 8):  # behind them are zeros, which say nothing
        data = bytearray(whole)
        data[at // 8] ^= 1 << at % 8
        path.write_bytes(data)
        with pytest.raises(Corruption):
            manifests.read(disk)


@pytest.mark.parametrize("which", [0, 3, -1])
def test_a_missing_segment_is_refused(which: int, files: Files) -> None:
    path = files.path(files.manifest.segments[which])
    path.unlink()
    assert refused(files, path.name) == 0


def test_a_missing_manifest_is_refused(files: Files) -> None:
    (files.journal / "MANIFEST").unlink()
    assert refused(files, "MANIFEST") == 0


@pytest.mark.parametrize("content", [b"", b"\0" * 200])
def test_an_emptied_manifest_is_refused(content: bytes, files: Files) -> None:
    (files.journal / "MANIFEST").write_bytes(content)
    assert refused(files, "MANIFEST") == 0


@pytest.mark.parametrize("which", [0, 3])
def test_a_segment_that_is_cut_off_is_refused(which: int, files: Files) -> None:
    line = files.manifest.segments[which]
    victim = files.commits(line)[-2]
    os.truncate(files.path(line), victim.offset + 20)
    assert refused(files, files.path(line).name) <= victim.offset


def test_a_last_segment_that_is_cut_off_after_a_clean_stop_is_refused(stopped: Files) -> None:
    line, ended = stopped.manifest.segments[-1], stopped.manifest.ended
    assert ended is not None
    os.truncate(stopped.path(line), ended)
    assert refused(stopped, stopped.path(line).name) == ended


def test_a_segment_without_a_whole_header_is_refused(files: Files) -> None:
    path = files.path(files.manifest.segments[-1])
    os.truncate(path, 100)
    assert refused(files, path.name) == 0


def test_another_segment_of_the_same_journal_in_its_place_is_refused(files: Files) -> None:
    one, other = files.manifest.segments[1], files.manifest.segments[2]
    shutil.copyfile(files.path(one), files.path(other))
    assert refused(files, files.path(other).name) == 0


def test_a_base_that_is_damaged_where_it_says_what_it_covers_is_refused(tmp_path: Path) -> None:
    unpack(DIRECTORY / "killed.tar.gz", tmp_path / "data")
    files = Files(tmp_path)
    runs = sorted((tmp_path / "data" / "base").glob("*.sst"))
    for path in runs:
        files.flip(path, 20)
    before = files.fingerprint()
    result = _started(files)
    assert (result.returncode, result.stdout) == (1, "")
    (said,) = result.stderr.splitlines()
    found = re.fullmatch(r"keyhaus: (/\S+) at offset \d+: .+; nothing of the data was changed: .+", said)
    assert found is not None, said
    assert Path(found[1]) in runs
    assert files.fingerprint() == before


# What a crash may leave behind.


def _zero_a_page(data: bytearray, group: Group, generator: random.Random) -> None:
    page = generator.randrange(group.offset // 4096, (group.offset + group.length - 1) // 4096 + 1) * 4096
    begin, end = max(page, group.offset), min(page + 4096, group.offset + group.length)
    data[begin:end] = bytes(end - begin)


def _zero_all(data: bytearray, group: Group, generator: random.Random) -> None:
    data[group.offset :] = bytes(len(data) - group.offset)


def _tear(data: bytearray, group: Group, generator: random.Random) -> None:
    at = generator.randrange(group.offset, group.offset + group.length)
    data[at:] = bytes(len(data) - at)


@pytest.mark.parametrize("tear", [_zero_a_page, _zero_all, _tear])
@pytest.mark.parametrize("durability", ["killed", "everysec", "none"])
def test_a_torn_end_is_no_damage(
    durability: str,
    tear: Callable[[bytearray, Group, random.Random], None],
    originals: dict[str, Files],
    tmp_path: Path,
    seed: int,
) -> None:
    """The last group of a crash, with nothing behind it that says that it was synced, is where the history ends."""
    files = copied(originals[durability], tmp_path)
    line = [line for line in files.manifest.segments if files.commits(line)][-1]
    path = files.path(line)
    data = bytearray(path.read_bytes())
    group = files.commits(line)[-1]
    behind = group.offset + group.length
    data[behind:] = bytes(len(data) - behind)  # an idle journal's mark is never synced, so it need not be there
    tear(data, group, random.Random(seed))
    path.write_bytes(data)
    accepted(files, but_for=group.last - group.first + 1)


@pytest.mark.parametrize("durability", ["everysec", "none"])
@pytest.mark.parametrize("depth", [2, 4, 6])
def test_any_pages_of_unsynced_groups_may_be_missing(
    depth: int, durability: str, originals: dict[str, Files], tmp_path: Path, seed: int
) -> None:
    """Several groups deep: what is whole behind the first one that is not counts as little."""
    generator = random.Random(seed + depth)
    files = copied(originals[durability], tmp_path)
    line = [line for line in files.manifest.segments if files.commits(line)][-1]
    commits = files.commits(line)
    proven = max(head.mark for head in files.groups(line))
    torn = [group for group in commits if group.first > proven][-depth:]
    assert len(torn) == depth, f"only {len(torn)} groups are not proven synced"
    path = files.path(line)
    whole = path.read_bytes()
    data = bytearray(whole)
    behind = commits[-1].offset + commits[-1].length
    data[behind:] = bytes(len(data) - behind)
    pages = range(torn[0].offset // 4096, (behind - 1) // 4096 + 1)
    begin = torn[0].offset
    for page in generator.sample(pages, generator.randint(1, len(pages))):
        first = max(page * 4096, begin)
        data[first : (page + 1) * 4096] = bytes((page + 1) * 4096 - first)
    path.write_bytes(data)
    spans = [(group, slice(group.offset, group.offset + group.length)) for group in torn]
    first_lost = next(group for group, span in spans if data[span] != whole[span])
    accepted(files, but_for=commits[-1].last - first_lost.first + 1)


@pytest.mark.parametrize("torn", [False, True])
def test_a_value_that_looks_like_a_group_is_a_value(torn: bool, tmp_path: Path) -> None:
    """Even with the right epoch, which no client knows; and with a former one where the group around it is torn."""
    files = Files(tmp_path)
    with keyhaus_server(tmp_path, *OPTIONS) as server, Link(server.port) as link:
        link.ask(b"SET", b"first", b"v")
    former = files.manifest.segments[-1].epoch
    with keyhaus_server(tmp_path, *OPTIONS) as server, Link(server.port) as link:
        link.ask(b"SET", b"second", b"v")
        line = files.manifest.segments[-1]
        first = files.commits(line)[-1].last + 1
        frame = layout.frame(first, 0, [(PUT, 0, b"evil", b"v", 0, 0)])
        image = layout.group(former if torn else line.epoch, first, first, 0, first + 5, COMMITS, frame)
        # At each distance to the alignment, so that one of them stands where a group may begin.
        value = b"".join((b"x" * at + image).ljust(256, b"x") for at in range(64))
        assert link.ask(b"SET", b"image", value) == b"OK"
        server.kill()
    if torn:
        group = files.commits(line)[-1]
        files.flip(files.path(line), group.offset + 70)
    with keyhaus_server(tmp_path, *OPTIONS) as server, Link(server.port) as link:
        assert link.ask(b"MGET", b"first", b"second", b"evil") == [b"v", b"v", None]
        assert link.ask(b"GET", b"image") == (None if torn else value)
