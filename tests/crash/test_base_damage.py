"""Damaged files of the base: a start and a read of everything either refuse, naming the file, or give what is right.

The database was stopped with data in several runs, some compacted, and some in the journal only. One bit is flipped in
one file at a time, sampled by the seed; `KEYHAUS_FLIPS` is how many times for each kind of file.
"""

from __future__ import annotations

import os
import random
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Final

import hiredis
import pytest

from tests.support.load import Link, State, everything
from tests.support.processes import RunningKeyhaus, ServerFailed, keyhaus_server

FLIPS: Final = int(os.environ.get("KEYHAUS_FLIPS", "1"))
OPTIONS: Final = (
    *("--data-dir", "data", "--journal-segment-bytes", "256kb"),
    *("--set", "memtable-bytes=1mb", "--set", "memtable-size=400", "--set", "cache-bytes=0"),
)
KINDS: Final = {
    "run": "base/*.sst",
    "run's end": "base/*.sst",
    "manifest": "base/MANIFEST-*",
    "CURRENT": "base/CURRENT",
    "OPTIONS": "base/OPTIONS-*",
    "IDENTITY": "base/IDENTITY",
    "log": "base/LOG",
    "journal": "journal/*.segment",
    "journal's manifest": "journal/MANIFEST",
}


def fill(link: Link, name: bytes, count: int) -> None:
    for at in range(0, count, 100):
        link.send(*([b"SET", b"%b:%d" % (name, number), name * 40] for number in range(at, at + 100)))
        assert [link.reply() for _ in range(100)] == [b"OK"] * 100


def number_of(link: Link, field: str) -> int:
    found = re.search(rb"\b%b:(\d+)" % field.encode(), link.ask(b"INFO", b"keyhaus"))
    assert found is not None
    return int(found[1])


def flushed(link: Link, flushes: int) -> None:
    """Waits until there were that many flushes, and none is running."""
    while True:
        facts = link.ask(b"INFO", b"keyhaus")
        if int(re.search(rb"flushes:(\d+)", facts)[1]) >= flushes and b"flush_running:0" in facts:
            return


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, State]:
    directory = tmp_path_factory.mktemp("base-damage")
    with keyhaus_server(directory, *OPTIONS) as server, Link(server.port) as link:
        for life in range(6):
            fill(link, b"%d" % (life % 4), 500)
            assert link.ask(b"DEL", *(b"%d:%d" % (life % 4, number) for number in range(0, 500, 5))) == 100
            flushed(link, life + 1)
        fill(link, b"last", 100)
        model = everything(server.port, 0)
    return directory, model


def outcome(directory: Path, model: State) -> str:
    """Starts and reads everything; how that ended. Fails where anything that was read is wrong."""
    try:
        with keyhaus_server(directory, *OPTIONS) as server:
            return read_everything(server, model)
    except ServerFailed as error:
        said = [line for line in str(error).splitlines() if line.startswith("keyhaus: ")]
        assert len(said) == 1, f"a start is refused in one line: {error}"
        assert re.search(r"base|journal", said[0]), f"the file is not named: {said[0]}"
        assert "Traceback" not in str(error)
        return "refused at the start"


def read_everything(server: RunningKeyhaus, model: State) -> str:
    refusals: list[str] = []
    with Link(server.port) as link:
        keys = [*model, b"0:0", b"never"]
        for at in range(0, len(keys), 20):
            part = keys[at : at + 20]
            link.send(*([b"GET", key] for key in part))
            for key in part:
                value = link.reply()
                if isinstance(value, hiredis.ReplyError):
                    refusals.append(str(value))
                else:
                    assert value == (model[key][0] if key in model else None), f"{key!r} is {value!r:.50}"
        for words in ([b"KEYS", b"*"], [b"DBSIZE"]):
            value = link.ask(*words)
            if isinstance(value, hiredis.ReplyError):
                refusals.append(str(value))
            else:
                assert (sorted(value) == sorted(model)) if isinstance(value, list) else value == len(model)
        assert link.ask(b"PING") == b"PONG"
        if any(refusal.startswith("CORRUPTION") for refusal in refusals):
            assert number_of(link, "base_damaged_reads") > 0
    for refusal in refusals:
        assert re.match(r"(CORRUPTION|STORAGE|ERR) ?.*\.sst", refusal), f"the file is not named: {refusal}"
    return "refused when read" if refusals else "right"


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_flipped_bit_is_refused_or_harmless(
    kind: str, original: tuple[Path, State], tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    source, model = original
    choices = random.Random(seed)
    outcomes: Counter[str] = Counter()
    for number in range(FLIPS):
        directory = tmp_path / str(number)
        shutil.copytree(source, directory)
        path = choices.choice(sorted((directory / "data").glob(KINDS[kind])))
        data = bytearray(path.read_bytes())
        begin = max(0, len(data) - 1500) if kind == "run's end" else 0
        written = len(bytes(data).rstrip(b"\0"))
        at = choices.randrange(begin, max(written, begin + 1))
        data[at] ^= 1 << choices.randrange(8)
        path.write_bytes(data)
        where = f"{path.name} at {at} of {len(data)}, flip {number} of seed {seed}"
        try:
            outcomes[outcome(directory, model)] += 1
        except AssertionError as error:
            raise AssertionError(f"{where}: {error}") from error
        shutil.rmtree(directory)
    with capsys.disabled():
        print(f" {kind}: {dict(outcomes)} (seed {seed})")


@pytest.mark.parametrize("pattern", ["*.sst", "MANIFEST-*", "CURRENT"])
def test_a_file_of_the_base_that_is_gone_is_refused(pattern: str, original: tuple[Path, State], tmp_path: Path) -> None:
    source, model = original
    shutil.copytree(source, tmp_path, dirs_exist_ok=True)
    max((tmp_path / "data" / "base").glob(pattern)).unlink()
    before = sorted(path.name for path in (tmp_path / "data" / "base").glob("*.sst"))
    assert outcome(tmp_path, model) == "refused at the start"
    assert sorted(path.name for path in (tmp_path / "data" / "base").glob("*.sst")) == before, "nothing was removed"


def test_a_base_that_is_gone_is_refused(original: tuple[Path, State], tmp_path: Path) -> None:
    source, model = original
    shutil.copytree(source, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "data" / "base")
    assert outcome(tmp_path, model) == "refused at the start"


def test_an_older_base_under_a_newer_journal_is_refused(original: tuple[Path, State], tmp_path: Path) -> None:
    """Somebody restored one of the two directories only."""
    source, model = original
    shutil.copytree(source, tmp_path, dirs_exist_ok=True)
    with keyhaus_server(tmp_path, *OPTIONS) as server, Link(server.port) as link:
        before = number_of(link, "base_seqno")
        while number_of(link, "changes_oldest_seqno") <= before:  # until the journal has given back what it would need
            fill(link, b"more", 500)
    shutil.rmtree(tmp_path / "data" / "base")
    shutil.copytree(source / "data" / "base", tmp_path / "data" / "base")
    assert outcome(tmp_path, model) == "refused at the start"


def test_a_newer_base_under_an_older_journal_is_refused(original: tuple[Path, State], tmp_path: Path) -> None:
    source, model = original
    shutil.copytree(source, tmp_path, dirs_exist_ok=True)
    with keyhaus_server(tmp_path, *OPTIONS) as server, Link(server.port) as link:
        fill(link, b"more", 1000)
        flushed(link, 2)
    shutil.rmtree(tmp_path / "data" / "journal")
    shutil.copytree(source / "data" / "journal", tmp_path / "data" / "journal")
    assert outcome(tmp_path, model) == "refused at the start"
