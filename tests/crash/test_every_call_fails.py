"""Every single call that ever touches the disk fails once with EIO: the answer is right or an error, nothing is lost.

A counting run of a long story (starts, rolls, flushes, a drop, a clean stop, a kill) lists the calls, so none is
forgotten; then the story is told again for each of them. `KEYHAUS_CALLS` says how many of them are tried; 0 for all.
"""

from __future__ import annotations

import errno
import os
import random
from collections import Counter
from typing import Final

import pytest

from keyhaus.core.errors import Corruption, StorageError
from tests.support.based import BasedStore
from tests.support.simulation import Inode, SimulatedDisk, SimulatedFile

CALLS: Final = int(os.environ.get("KEYHAUS_CALLS", "70"))
SETTINGS: Final = {"journal_segment_bytes": 64 << 10, "cache_bytes": 0}


class CountedFile(SimulatedFile):
    _disk: CountedDisk

    def read(self, count: int, offset: int) -> bytes:
        self._disk.step("read", self.name)
        return super().read(count, offset)


class CountedDisk(SimulatedDisk):
    """Attributes:
    calls: Each call that there was: what it did, and to which file.
    fails_at: The number of the call that fails; None for none.
    """

    def __init__(self, generator: random.Random, fails_at: int | None = None) -> None:
        super().__init__(generator)
        self.calls: list[tuple[str, str]] = []
        self.fails_at = fails_at
        self._sync_fails = False

    def step(self, what: str, name: str) -> None:
        self.calls.append((what, name))
        if self.fails_at == len(self.calls) - 1:
            if what != "sync":
                raise OSError(errno.EIO, f"the {what} failed", name)
            self._sync_fails = True  # its pages are clean from here on, and not on the disk

    def sync_fails(self) -> bool:
        fails, self._sync_fails = self._sync_fails, False
        return fails

    def names(self, directory: str) -> list[str]:
        self.step("list", directory)
        return super().names(directory)

    def open(self, name: str, *, create: bool = False) -> CountedFile:
        if name in self.inodes:
            self.step("open", name)
        elif create:
            self.step("create", name)
            inode = Inode()
            self._change(lambda names: names.__setitem__(name, inode))
        else:
            raise FileNotFoundError(errno.ENOENT, "no such simulated file", name)
        return CountedFile(self, self.inodes[name], name)


class Story:
    """What a database goes through, and what somebody was told of it.

    Attributes:
        told: What was confirmed: key to value, None for deleted.
        sent: Every value that a key may have besides, since its commit was not confirmed.
        errors: What went wrong.
    """

    def __init__(self, disk: CountedDisk) -> None:
        self.disk = disk
        self.told: dict[bytes, bytes | None] = {}
        self.sent: dict[bytes, set[bytes | None]] = {}
        self.errors: list[BaseException] = []

    def tell(self) -> None:
        it = BasedStore(0, self.disk, **SETTINGS)
        for number in range(40):
            self.put(it, b"%d" % number, b"first")
        self.flush(it)
        for number in range(0, 40, 2):
            self.put(it, b"%d" % number, b"second")
        for number in range(0, 40, 5):
            self.put(it, b"%d" % number, None)
        self.read(it)
        self.flush(it)
        self.empty(it, 1)
        self.flush(it)
        if (error := it.stop()) is not None:
            raise error
        it.start()
        self.read(it)
        for number in range(20):
            self.put(it, b"%d" % number, b"third")
        it.kill()
        self.read(it)
        self.flush(it)
        self.put(it, b"last", b"fourth")

    def put(self, it: BasedStore, key: bytes, value: bytes | None) -> None:
        whole = None if value is None else value * 500
        self.sent.setdefault(key, {self.told.get(key)}).add(whole)
        if whole is None:
            it.until(it.ask(lambda tx: tx.delete(key)))
        else:
            it.until(it.ask(lambda tx: tx.put(key, whole)))
        self.confirm(it)
        self.told[key] = whole
        self.sent[key] = {whole}

    def empty(self, it: BasedStore, database: int) -> None:
        it.until(it.put(b"there", b"v", database=database))
        it.until(it.ask(lambda tx: tx.flush(database)))
        self.confirm(it)

    @staticmethod
    def confirm(it: BasedStore) -> None:
        """As an asker with `always`."""
        journal = it.store.journal
        assert journal is not None
        last = it.store.last
        journal.demand(last)
        it.turns()
        while it.store.synced < last and journal.poisoned is None:
            assert it.spawn.ring()
            it.turns()
        if journal.poisoned is not None:
            raise journal.poisoned

    def read(self, it: BasedStore) -> None:
        """An error, or what is there: never anything else, and never for good."""
        for key in (b"1", b"2", b"5", b"39"):
            for _ in range(2):
                try:
                    assert it.until(it.get(key)) == self.told[key]
                    break
                except (OSError, StorageError) as error:
                    self.errors.append(error)
            else:
                raise AssertionError("it failed twice")

    @staticmethod
    def flush(it: BasedStore) -> None:
        """It ends, whatever fails once meanwhile, unless the journal is poisoned."""
        over = it.begin_flush()
        it.settle()
        while not over.fired:
            if it.store.poisoned is not None:
                raise it.store.poisoned
            assert it.spawn.ring(), "the flush never ends"
            it.settle()

    def check(self, it: BasedStore) -> None:
        rows = it.rows()
        for key in {*self.told, *rows}:
            assert rows.get(key) in self.sent[key], (
                f"{key!r} is {rows.get(key)!r:.30}, told was {self.told.get(key)!r:.30}"
            )
        assert it.until(it.count()) == len(rows)


def broken_at(call: int, power: bool) -> str:
    """Tells the story with one failing call, ends it, starts again; what came of it."""
    disk = CountedDisk(random.Random(call), call)
    story = Story(disk)
    outcome = "went on"
    try:
        story.tell()
    except Corruption as error:
        raise AssertionError(f"a false alarm: {error}") from error
    except (OSError, StorageError) as error:
        outcome = type(error).__name__
    if story.errors and outcome == "went on":
        outcome = "a read failed"
    disk.power_cut() if power else disk.kill()
    story.check(BasedStore(1, disk, **SETTINGS))
    return outcome


def test_whatever_call_fails_nothing_is_lost(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    counted = CountedDisk(random.Random(0))
    Story(counted).tell()
    choices = random.Random(seed)
    calls = range(len(counted.calls))
    if CALLS:
        # Every kind of call to every kind of file, then any.
        kinds = {
            (what, "".join(letter for letter in name if not letter.isdigit())): number
            for number, (what, name) in enumerate(counted.calls)
        }
        calls = sorted({*kinds.values(), *choices.sample(calls, min(CALLS, len(calls)))})
    outcomes: Counter[str] = Counter()
    for call in calls:
        for power in (False, True):
            try:
                outcomes[broken_at(call, power)] += 1
            except AssertionError as error:
                what, name = counted.calls[call]
                raise AssertionError(
                    f"call {call}, {what} of {name}, {'power cut' if power else 'kill'}: {error}"
                ) from error
    with capsys.disabled():
        print(f" {len(calls)} of {len(counted.calls)} calls failed: {dict(outcomes)}")
