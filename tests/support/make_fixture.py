"""Makes the data directories that later releases have to open: `python -m tests.support.make_fixture`.

A server of this release is told a fixed story: rows that are flushed in two runs, with tombstones, expiries, dropped
generations and exchanged databases among them, and commits of every kind that stay in the journal. Its directory is
packed once as a clean stop leaves it, and once as kill -9 does; beside both lies what must be found in them. To be run
once for each format, by the release that writes it, and never again for one that was released. What it makes differs
each time in what is random, in times, and in nothing else.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from keyhaus.journal.manifest import VERSION
from tests.support.load import Link
from tests.support.processes import RunningKeyhaus, keyhaus_server

DIRECTORY: Final = Path(__file__).parents[1] / "fixtures" / f"format-{VERSION}"
ENDS: Final = ("stopped", "killed")
OPTIONS: Final = ("--data-dir", "data", "--journal-segment-bytes", "64kb", "--memtable-bytes", "1mb")
FAR_MS: Final = 4_102_444_800_000  # 2100
FARTHEST_MS: Final = 9_000_000_000_000_000
SOON_MS: Final = 60_000  # a key's time that is over when anybody else opens the files
HASHED_FROM: Final = 1000  # values from this length on are told by their hash
WAIT_SECONDS: Final = 20.0

Found = dict[str, dict[str, list[Any]]]  # database → key → [value, when it expires or -1], bytes as Latin-1


def told(value: bytes) -> str:
    """A value as the expected content has it."""
    return f"sha256:{hashlib.sha256(value).hexdigest()}" if len(value) >= HASHED_FROM else value.decode("latin-1")


class Story:
    """Commands for a server, and a model of what they leave behind."""

    def __init__(self, link: Link, found: Found) -> None:
        self.link, self.found = link, found
        self._database = 0

    def ask(self, *words: bytes | str | int) -> Any:
        return self.link.ask(*(word if isinstance(word, bytes) else str(word).encode() for word in words))

    def select(self, database: int) -> None:
        assert self.ask("SELECT", database) == b"OK"
        self._database = database

    @property
    def rows(self) -> dict[str, list[Any]]:
        return self.found.setdefault(str(self._database), {})

    def set(self, key: bytes | str, value: bytes | str, expires: int = -1) -> None:
        words = ("SET", key, value, *(("PXAT", expires) if expires > 0 else ()))
        assert self.ask(*words) == b"OK"
        self.note(key, value, expires)

    def note(self, key: bytes | str, value: bytes | str, expires: int = -1) -> None:
        value = value if isinstance(value, bytes) else value.encode()
        self.rows[key if isinstance(key, str) else key.decode("latin-1")] = [told(value), expires]

    def delete(self, *keys: str) -> None:
        assert self.ask("DEL", *keys) == len(keys)
        for key in keys:
            del self.rows[key]

    def expire(self, key: str, expires: int) -> None:
        words = ("PEXPIREAT", key, expires) if expires > 0 else ("PERSIST", key)
        assert self.ask(*words) == 1
        self.rows[key][1] = expires

    def flush_database(self) -> None:
        assert self.ask("FLUSHDB") == b"OK"
        self.rows.clear()

    def swap(self, one: int, other: int) -> None:
        assert self.ask("SWAPDB", one, other) == b"OK"
        found = self.found
        found[str(one)], found[str(other)] = found.get(str(other), {}), found.get(str(one), {})

    def information(self, field: str) -> str:
        """A field of INFO."""
        text: str = self.ask("INFO", "keyhaus").decode()
        return dict(line.split(":", 1) for line in text.split("\r\n") if ":" in line)[field]

    def flush_memtable(self) -> None:
        """Everything that is there now goes into the base."""
        flushes = int(self.information("flushes"))
        self.ask("CONFIG", "SET", "memtable-size", 1)
        self.set("flushed", str(flushes))
        until = time.monotonic() + WAIT_SECONDS
        while int(self.information("flushes")) == flushes or self.information("flush_running") == "1":
            assert time.monotonic() < until, self.ask("INFO", "keyhaus")
            time.sleep(0.02)
        self.ask("CONFIG", "SET", "memtable-size", 0)


def tell_first(story: Story) -> None:
    """Two runs, of which the second overwrites, deletes, exchanges and drops what the first has.

    No more than these, or RocksDB would merge them, and nothing would be left of their tombstones.
    """
    story.select(0)
    for number in range(60):
        story.set(f"user:{number:04}", f"first {number}")
    story.set(b"\x00\xff\r\n binary", bytes(range(256)))
    story.set("empty", "")
    story.set("number", "41")
    story.set("far", "away", FAR_MS)
    story.set("farthest", "away", FARTHEST_MS)
    story.set("stays after all", "value", FAR_MS)
    story.set("later", "value", FAR_MS)
    story.set("soon", "gone by now", int(time.time() * 1000) + SOON_MS)
    for database in range(1, 8):
        story.select(database)
        for number in range(10):
            story.set(f"row:{number}", f"database {database}", FAR_MS if number == 9 else -1)
    story.select(0)
    story.flush_memtable()
    for number in range(10, 20):
        story.set(f"user:{number:04}", f"second {number}")
    story.delete(*(f"user:{number:04}" for number in range(30, 40)))
    story.expire("stays after all", -1)
    story.expire("later", FAR_MS + 1)
    story.select(2)
    story.flush_database()
    story.set("fresh", "in a generation of its own")
    story.swap(3, 4)
    story.select(3)
    story.set("exchanged", "3 was 4")
    story.select(0)
    story.flush_memtable()


def tell_second(story: Story) -> None:
    """What stays in the journal: every kind of operation."""
    story.select(0)
    story.set("user:0030", "there again")
    story.delete("user:0001")
    story.set("user:0002", "newer than the base", FAR_MS)
    story.set(b"\xfe\x00journal", b"\x00\x01\x02")
    story.set("large", b"0123456789abcdef" * 6250)
    story.delete("user:0003", "far")
    assert story.ask("INCR", "number") == 42
    story.note("number", "42")
    assert story.ask("MULTI") == b"OK"
    for words in (("SET", "both", "1"), ("SELECT", "1"), ("SET", "both", "2"), ("DEL", "row:0"), ("SELECT", "0")):
        assert story.ask(*words) == b"QUEUED"
    assert story.ask("EXEC") == [b"OK", b"OK", b"OK", 1, b"OK"]
    story.note("both", "1")
    story.found["1"]["both"] = ["2", -1]
    del story.found["1"]["row:0"]
    assert story.ask("SET", "lapses", "value", "PX", 1) == b"OK"
    time.sleep(0.01)
    assert story.ask("GET", "lapses") is None
    story.select(6)
    story.flush_database()
    story.set("behind", "a flush")
    story.swap(1, 7)
    story.select(7)
    story.set("exchanged", "7 was 1")


def make(directory: Path, end: str) -> Found:
    """A server's directory `data` below `directory`, ended in one of two ways; what is in it."""
    found: Found = {}
    for tell in (tell_first, tell_second):
        with keyhaus_server(directory, *OPTIONS) as server, Link(server.port) as link:
            tell(Story(link, found))
            _end(server, end)
    return {database: rows for database, rows in sorted(found.items()) if rows}


def _end(server: RunningKeyhaus, end: str) -> None:
    if end == "killed":
        server.kill()
    else:
        assert server.stop() == 0


def pack(directory: Path) -> bytes:
    """A directory as a compressed archive, without times, owners and other chance."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as archive:
        for path in sorted(directory.rglob("*")):
            entry = tarfile.TarInfo(str(path.relative_to(directory)))
            if path.is_dir():
                entry.type, entry.mode = tarfile.DIRTYPE, 0o750
                archive.addfile(entry)
            else:
                entry.size, entry.mode = path.stat().st_size, 0o640
                archive.addfile(entry, io.BytesIO(path.read_bytes()))
    return buffer.getvalue()


def unpack(archive: Path, directory: Path) -> None:
    """What `pack` packed, as a directory."""
    directory.mkdir()
    with tarfile.open(archive) as entries:
        for entry in entries:
            if entry.isdir():
                (directory / entry.name).mkdir()
            elif (content := entries.extractfile(entry)) is not None:
                (directory / entry.name).write_bytes(content.read())


def content(port: int, wanted: Found) -> Found:
    """What a server has, database by database, as far as its time is not over in `wanted`; DBSIZE is checked, too."""
    found: Found = {}
    with Link(port) as link:
        story = Story(link, {})
        for database in range(16):
            story.select(database)
            keys = list(_keys(story))
            _wait_for_size(story, len(keys))
            rows = {key.decode("latin-1"): [told(story.ask("GET", key)), story.ask("PEXPIRETIME", key)] for key in keys}
            if rows or str(database) in wanted:
                found[str(database)] = rows
    return found


def _keys(story: Story) -> Iterator[bytes]:
    """All keys in their order, page by page."""
    start: bytes | None = b""
    while start is not None:
        start, rows = story.ask("RANGE", start, b"\xff" * 9, "LIMIT", 7)
        yield from rows[::2]


def _wait_for_size(story: Story, size: int) -> None:
    """DBSIZE counts what has expired until it is swept."""
    until = time.monotonic() + WAIT_SECONDS
    while (told := story.ask("DBSIZE")) != size:
        assert time.monotonic() < until, f"DBSIZE says {told}, there are {size} keys"
        time.sleep(0.05)


def alive(expected: Found) -> Found:
    """What is still to be found now."""
    now = int(time.time() * 1000)
    return {
        database: {key: row for key, row in rows.items() if row[1] < 0 or row[1] > now}
        for database, rows in expected.items()
    }


def main(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for end in ENDS:
        with tempfile.TemporaryDirectory() as place:
            found = make(Path(place), end)
            (directory / f"{end}.tar.gz").write_bytes(pack(Path(place) / "data"))
        text = json.dumps(found, indent=1, sort_keys=True) + "\n"
        (directory / f"{end}.json").write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DIRECTORY)
