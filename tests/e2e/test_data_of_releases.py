"""Data directories that releases have written, kept in `tests/fixtures`: each is opened, read, written, opened again.

A format that was released is one that every later release opens, or says what to do. `tests/support/make_fixture.py`
made them; what has to be in them stands beside each as JSON.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Final

import pytest

from keyhaus.core.disk import OsDisk
from keyhaus.journal import manifest as manifests
from keyhaus.journal.manifest import VERSION
from tests.support.load import Link
from tests.support.make_fixture import ENDS, FAR_MS, OPTIONS, Found, Story, alive, content, make, unpack
from tests.support.processes import keyhaus_server

FIXTURES: Final = Path(__file__).parents[1] / "fixtures"
KEPT: Final = sorted(FIXTURES.glob("format-*/*.tar.gz"))


def _expected(archive: Path) -> Found:
    found: Found = json.loads(archive.with_name(f"{archive.name.removesuffix('.tar.gz')}.json").read_text())
    return found


def _named(archive: Path) -> str:
    return f"{archive.parent.name}-{archive.name.removesuffix('.tar.gz')}"


def test_this_releases_format_is_kept() -> None:
    assert [path.name for path in KEPT if path.parent.name == f"format-{VERSION}"] == [
        "killed.tar.gz",
        "stopped.tar.gz",
    ]
    assert all(path.stat().st_size < 100_000 for path in KEPT)


@pytest.mark.parametrize("archive", KEPT, ids=_named)
def test_a_kept_directory_has_all_its_data_and_can_be_written_and_opened_again(archive: Path, tmp_path: Path) -> None:
    unpack(archive, tmp_path / "data")
    expected = _expected(archive)
    with keyhaus_server(tmp_path, *OPTIONS) as server, Link(server.port) as link:
        expected = alive(expected)
        assert content(server.port, expected) == expected
        story = Story(link, expected)
        _write(story)
        assert content(server.port, expected) == expected
    with keyhaus_server(tmp_path, *OPTIONS) as server, Link(server.port) as link:
        assert content(server.port, expected) == expected
        Story(link, expected).flush_memtable()
        assert content(server.port, expected) == expected
        server.kill()
    with keyhaus_server(tmp_path, *OPTIONS) as server:
        assert content(server.port, expected) == expected
    assert not any("Traceback" in line or "error" in line for line in server.lines)


@pytest.mark.parametrize("end", ENDS)
def test_what_may_be_left_out_of_a_copy_is_not_missed(end: str, tmp_path: Path) -> None:
    """The page on the data directory says what; a start makes it anew."""
    archive = FIXTURES / f"format-{VERSION}" / f"{end}.tar.gz"
    data = tmp_path / "data"
    unpack(archive, data)
    manifest = manifests.read(OsDisk(data))
    assert manifest is not None
    named = {line.name for line in manifest.segments}
    unneeded = [path for path in data.glob("journal/*.segment") if f"journal/{path.name}" not in named]
    assert unneeded
    names = (data / "LOCK", data / "RESERVE", data / manifests.NEXT, *data.glob("base/LO[CG]*"), *unneeded)
    for path in names:
        path.unlink()
    shutil.rmtree(data / "runs")
    expected = alive(_expected(archive))
    with keyhaus_server(tmp_path, *OPTIONS) as server:
        assert content(server.port, expected) == expected
        assert {path.name for path in data.iterdir()} == {"LOCK", "RESERVE", "base", "journal", "runs"}


def _write(story: Story) -> None:
    """Overwrites, deletes and adds, above what the base has and above what came from the journal."""
    story.select(0)
    story.set("user:0005", "written by another release")
    story.set("both", "written by another release")
    story.set("new", "value", FAR_MS)
    story.delete("user:0006", "user:0002")
    story.expire("later", -1)
    story.swap(0, 9)
    story.select(6)
    story.flush_database()
    story.set("after", "the flush")


@pytest.mark.parametrize("end", ENDS)
def test_the_story_that_makes_them_still_ends_so(end: str, tmp_path: Path) -> None:
    """What the files should hold is the same however they are made; else the script has changed, or the server."""
    found = make(tmp_path, end)
    kept = _expected(FIXTURES / f"format-{VERSION}" / f"{end}.tar.gz")
    kept["0"]["soon"] = found["0"]["soon"]
    assert found == kept
