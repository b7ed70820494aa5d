"""What restore and salvage are made of: records by their numbers, and the commits that count."""

from __future__ import annotations

from pathlib import Path

import pytest

from keyhaus.core.disk import OsDisk
from keyhaus.core.spawn import random_bytes
from keyhaus.engines import rocksdb
from keyhaus.journal import format as layout
from keyhaus.journal import manifest as manifests
from keyhaus.journal.format import COMMITS, HEADER_BYTES, PUT, START, Frame
from keyhaus.store import layout as rows
from keyhaus.store import record as rec
from keyhaus.store.backup.rebuild import Rebuild
from keyhaus.store.repair.commits import Commits

GENERATION = (0, 0)


@pytest.mark.parametrize("settled", [True, False], ids=["at rest", "in memory"])
def test_an_older_commit_changes_no_newer_record(tmp_path: Path, settled: bool) -> None:
    rebuild = Rebuild(tmp_path, None, random_bytes)
    for key in (b"newer", b"deleted"):
        rebuild.put(GENERATION, key, rec.make(90, 0, b"at 90"))
    if settled:
        rebuild.settle()
    rebuild.apply(Frame(50, 1, None, [(PUT, 0, b"newer", b"at 50", 0, 0), (PUT, 0, b"other", b"at 50", 0, 0)]))
    rebuild.apply(Frame(51, 1, None, [(layout.DELETE, 0, b"deleted")]))
    rebuild.apply(Frame(91, 1, None, [(PUT, 0, b"other", b"at 91", 0, 0)]))
    rebuild.finish(91)
    assert (rebuild.meta().spaces[0].count, rebuild.meta().spaces[0].exact) == (3, True)
    engine = rocksdb.open_engine(str(tmp_path / "base"), {})
    prefix = rows.prefix(GENERATION)
    found = engine.get(engine.newest, [prefix + key for key in (b"newer", b"deleted", b"other")])
    engine.close()
    assert [rec.value_of(record) for record in found if record is not None] == [b"at 90", b"at 90", b"at 91"]


def segment(disk: OsDisk, number: int, groups: list[tuple[int, int, int, bytes]]) -> None:
    epoch, offset = 1000 + number, HEADER_BYTES
    file = disk.open(manifests.segment_name(number), create=True)
    file.write(layout.segment_header(number, epoch, 1 << 16), 0)
    for first, last, kind, payload in groups:
        data = layout.group(epoch, first, last, 0, 0, kind, payload)
        file.write(data, offset)
        offset += -(-len(data) // 4096) * 4096
    file.close()


def commit(seqno: int) -> tuple[int, int, int, bytes]:
    return seqno, seqno, COMMITS, layout.frame(seqno, 0, [(PUT, 0, b"key", b"%d" % seqno, 0, 0)])


def test_without_a_manifest_a_start_record_says_what_is_dead(tmp_path: Path) -> None:
    """J7: what a start went on without is no commit, and the numbers that it jumped over are not missing."""
    disk = OsDisk(tmp_path)
    disk.make_directory(manifests.DIRECTORY)
    segment(disk, 1, [commit(seqno) for seqno in (1, 2, 3, 4, 5)])
    segment(disk, 2, [(100, 99, START, layout.start_payload(3, 100)), commit(100), commit(101), commit(104)])
    commits = Commits(disk, None, None)
    assert [frame.seqno for frame in commits.frames(0)] == [1, 2, 3, 100, 101, 104]
    assert commits.missing == [(102, 103)]
    assert commits.top == 104
