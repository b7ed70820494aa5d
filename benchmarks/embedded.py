"""keyhaus within a process beside what else Python programs keep keys and values in, in one run, by turns.

Run it with `python -m benchmarks.embedded --help` in the environment that `make test` makes. diskcache and lmdb are
left out where they are not installed.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import random
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table
from rocksdict import Options, Rdict, WriteBatch, WriteOptions

import keyhaus

_DESCRIPTION = """\
Each store holds the same rows (16 byte keys, 64 byte values) and does, for a few seconds at a time and by turns: get
(one thread, keys at random), put (one thread, each put a write of its own), put with 8 threads, scan (rows in order).
durable: a put has returned once it is on the disk, in every store that can; others are left out. Otherwise nothing
waits for the disk: keyhaus in memory and with durability none, sqlite3 and lmdb without syncs, dbm and diskcache as
they come.
"""
PHASES: Final = ("get", "put", "put 8 threads", "scan")
_VALUE: Final = b"y" * 64
_THREADS: Final = 8
_CHECK: Final = 32  # operations between two looks at the clock
_CHOSEN: Final = 1024 * _CHECK  # keys of a slice


def _key(number: int) -> bytes:
    return b"key:%012d" % number


class Store:
    """A store: opened with `open`, closed with `close`; `of_thread` gives a thread what it puts with."""

    threads = True

    def __init__(self, directory: Path, durable: bool) -> None:
        raise NotImplementedError

    def get(self, key: bytes) -> bytes | None:
        raise NotImplementedError

    def put(self, key: bytes, value: bytes) -> None:
        raise NotImplementedError

    def load(self, rows: Iterator[tuple[bytes, bytes]]) -> None:
        """Puts many rows, in whatever way is fast."""
        for key, value in rows:
            self.put(key, value)

    def scan(self) -> Iterator[Any]:
        """All rows, in order."""
        raise NotImplementedError

    def of_thread(self) -> Callable[[bytes, bytes], None]:
        return self.put

    def close(self) -> None:
        raise NotImplementedError


class Keyhaus(Store):
    """keyhaus on disk."""

    def __init__(self, directory: Path, durable: bool) -> None:
        self._database = keyhaus.open(directory, durability="always" if durable else "none")
        self.get = self._database.get  # type: ignore[method-assign]

    def put(self, key: bytes, value: bytes) -> None:
        self._database.put(key, value)

    def load(self, rows: Iterator[tuple[bytes, bytes]]) -> None:
        batch = list(rows)
        for at in range(0, len(batch), 5000):
            self._database.put_many(batch[at : at + 5000])

    def scan(self) -> Iterator[Any]:
        return iter(self._database.range())

    def close(self) -> None:
        self._database.close()


class KeyhausMemory(Keyhaus):
    """keyhaus in memory."""

    def __init__(self, directory: Path, durable: bool) -> None:
        self._database = keyhaus.open(engine="memory")
        self.get = self._database.get  # type: ignore[method-assign]


class Sqlite(Store):
    """A table with the key as its primary key, without row numbers; write-ahead log."""

    def __init__(self, directory: Path, durable: bool) -> None:
        self._path, self._durable = directory / "data.sqlite", durable
        self._opened: list[sqlite3.Connection] = []
        self._own = self._connect()
        self._own.execute("create table if not exists rows (k blob primary key, v blob) without rowid")

    def _connect(self) -> sqlite3.Connection:
        made = sqlite3.connect(self._path, isolation_level=None, timeout=60, check_same_thread=False)
        made.execute("pragma journal_mode=wal")
        made.execute(f"pragma synchronous={'full' if self._durable else 'off'}")
        self._opened.append(made)
        return made

    def get(self, key: bytes) -> bytes | None:
        row = self._own.execute("select v from rows where k = ?", (key,)).fetchone()
        return None if row is None else row[0]

    def put(self, key: bytes, value: bytes) -> None:
        self._own.execute("insert or replace into rows values (?, ?)", (key, value))

    def load(self, rows: Iterator[tuple[bytes, bytes]]) -> None:
        self._own.execute("begin")
        self._own.executemany("insert or replace into rows values (?, ?)", rows)
        self._own.execute("commit")

    def scan(self) -> Iterator[Any]:
        return iter(self._own.execute("select k, v from rows order by k"))

    def of_thread(self) -> Callable[[bytes, bytes], None]:
        own = self._connect()

        def put(key: bytes, value: bytes) -> None:
            own.execute("insert or replace into rows values (?, ?)", (key, value))

        return put

    def close(self) -> None:
        for opened in self._opened:
            opened.close()


class Dbm(Store):
    """The standard library's dbm; it knows neither order nor threads."""

    threads = False

    def __init__(self, directory: Path, durable: bool) -> None:
        self._closing = contextlib.ExitStack()
        self._database = self._closing.enter_context(import_module("dbm").open(str(directory / "data.dbm"), "c"))

    def get(self, key: bytes) -> bytes | None:
        value: bytes | None = self._database.get(key)
        return value

    def put(self, key: bytes, value: bytes) -> None:
        self._database[key] = value

    def close(self) -> None:
        self._closing.close()


class DiskCache(Store):
    """diskcache's Cache: pickles in sqlite3."""

    def __init__(self, directory: Path, durable: bool) -> None:
        made = import_module("diskcache").Cache
        self._cache = made(str(directory), eviction_policy="none", sqlite_synchronous=2 if durable else 1)

    def get(self, key: bytes) -> bytes | None:
        value: bytes | None = self._cache.get(key)
        return value

    def put(self, key: bytes, value: bytes) -> None:
        self._cache.set(key, value)

    def load(self, rows: Iterator[tuple[bytes, bytes]]) -> None:
        with self._cache.transact():
            super().load(rows)

    def scan(self) -> Iterator[Any]:
        return ((key, self._cache[key]) for key in self._cache.iterkeys())

    def close(self) -> None:
        self._cache.close()


class Lmdb(Store):
    """lmdb, each put a transaction."""

    def __init__(self, directory: Path, durable: bool) -> None:
        self._environment = import_module("lmdb").open(str(directory), map_size=8 << 30, sync=durable)

    def get(self, key: bytes) -> bytes | None:
        with self._environment.begin() as transaction:
            value: bytes | None = transaction.get(key)
            return value

    def put(self, key: bytes, value: bytes) -> None:
        with self._environment.begin(write=True) as transaction:
            transaction.put(key, value)

    def load(self, rows: Iterator[tuple[bytes, bytes]]) -> None:
        with self._environment.begin(write=True) as transaction:
            for key, value in rows:
                transaction.put(key, value)

    def scan(self) -> Iterator[Any]:
        with self._environment.begin() as transaction:
            yield from transaction.cursor()

    def close(self) -> None:
        self._environment.close()


class Rocks(Store):
    """RocksDB through rocksdict."""

    def __init__(self, directory: Path, durable: bool) -> None:
        self._database = Rdict(str(directory), Options(raw_mode=True))
        self._how = WriteOptions()
        self._how.sync = durable

    def get(self, key: bytes) -> bytes | None:
        value: bytes | None = self._database.get(key)
        return value

    def put(self, key: bytes, value: bytes) -> None:
        batch = WriteBatch(raw_mode=True)
        batch.put(key, value)
        self._database.write(batch, self._how)

    def scan(self) -> Iterator[Any]:
        rows = self._database.iter()
        rows.seek_to_first()
        while rows.valid():
            yield rows.key(), rows.value()
            rows.next()

    def close(self) -> None:
        self._database.close()


STORES: Final[dict[str, type[Store]]] = {
    "keyhaus": Keyhaus,
    "keyhaus memory": KeyhausMemory,
    "sqlite3": Sqlite,
    "dbm": Dbm,
    "diskcache": DiskCache,
    "lmdb": Lmdb,
    "rocksdict": Rocks,
}
_NEVER_DURABLE: Final = frozenset(("keyhaus memory", "dbm"))
_UNORDERED: Final = frozenset(("dbm", "diskcache"))


def _many(action: Callable[[bytes], object], keys: list[bytes], seconds: float) -> float:
    """How often an action is done a second, over and over with these keys."""
    done = 0
    began = time.perf_counter()
    until = began + seconds
    for first in itertools.cycle(range(0, len(keys), _CHECK)):
        for key in keys[first : first + _CHECK]:
            action(key)
        done += _CHECK
        if time.perf_counter() >= until:
            break
    return done / (time.perf_counter() - began)


def _put_threads(store: Store, keys: int, seconds: float, seed: int) -> float:
    rates: list[float] = []
    start = threading.Barrier(_THREADS)

    def run(number: int) -> None:
        put, choice = store.of_thread(), random.Random(seed + number)
        start.wait()
        done = 0
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            put(_key(choice.randrange(keys)), _VALUE)
            done += 1
        rates.append(done / (time.perf_counter() - began))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(rates)


def _scan(store: Store, seconds: float) -> float:
    rows = 0
    began = time.perf_counter()
    until = began + seconds
    while time.perf_counter() < until:
        for _ in store.scan():
            rows += 1
    return rows / (time.perf_counter() - began)


def _slice(store: Store, phase: str, options: argparse.Namespace, turn: int) -> float:
    choice = random.Random(turn)
    keys, seconds = options.keys, options.seconds
    chosen = [_key(choice.randrange(keys)) for _ in range(_CHOSEN)]  # beforehand: to choose one takes as long as a get
    gc.collect()
    if phase == "get":
        return _many(store.get, chosen, seconds)
    if phase == "put":
        put = store.put
        return _many(lambda key: put(key, _VALUE), chosen, seconds)
    return _scan(store, seconds) if phase == "scan" else _put_threads(store, keys, seconds, turn)


def measure(options: argparse.Namespace, console: Console) -> dict[str, list[float]]:
    """Operations a second, by mode, store and phase, all in one name."""
    found: dict[str, list[float]] = {}
    for mode in options.modes.split(","):
        durable = mode == "durable"
        with contextlib.ExitStack() as stack:
            opened: dict[str, Store] = {}
            for name in options.stores.split(","):
                if durable and name in _NEVER_DURABLE:
                    continue
                directory = Path(
                    stack.enter_context(tempfile.TemporaryDirectory(prefix="keyhaus-bench-", dir=options.directory))
                )
                try:
                    store = opened[name] = STORES[name](directory, durable)
                except ModuleNotFoundError as error:
                    console.print(f"{name} is left out: {error}", style="yellow", markup=False)
                    continue
                stack.callback(store.close)
                store.load((_key(number), _VALUE) for number in range(options.keys))
                console.print(f"{mode}: {name} has its {options.keys:,} rows", highlight=False)
            for turn in range(options.rounds):
                for phase in PHASES:
                    for name, store in list(opened.items())[:: 1 if turn % 2 == 0 else -1]:
                        if (phase == "scan" and name in _UNORDERED) or (phase == "put 8 threads" and not store.threads):
                            continue
                        found.setdefault(f"{mode}/{name}/{phase}", []).append(_slice(store, phase, options, turn))
                console.print(f"{mode}: round {turn + 1} of {options.rounds} is done", highlight=False)
    return found


def table(found: dict[str, list[float]]) -> Table:
    made = Table(title="within a process: operations a second, medians [min–max]")
    for heading in ("mode", "store", *PHASES):
        made.add_column(heading)
    for mode, name in dict.fromkeys(tuple(line.split("/")[:2]) for line in found):
        cells = []
        for phase in PHASES:
            rates = found.get(f"{mode}/{name}/{phase}")
            cells.append("–" if not rates else f"{statistics.median(rates):,.0f} [{min(rates):,.0f}–{max(rates):,.0f}]")
        made.add_row(mode, name, *cells)
    return made


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.embedded",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--modes", default="durable,not", help="durable, not, or both (%(default)s)")
    add("--stores", default=",".join(STORES), help="which of them (%(default)s)")
    add("--rounds", type=int, default=5, help="slices of each line (%(default)s)")
    add("--seconds", type=float, default=2.0, help="length of a slice (%(default)s)")
    add("--keys", type=int, default=100_000, help="rows, all of them loaded beforehand (%(default)s)")
    add("--directory", help=f"where the data goes ({tempfile.gettempdir()})")
    add("--json", metavar="FILE", help="every single figure goes there; - is the standard output")
    options = parser.parse_args()
    found = measure(options, Console(stderr=True))
    Console(width=160).print(table(found))
    if options.json:
        text = msgspec.json.format(msgspec.json.encode(found)).decode() + "\n"
        if options.json == "-":
            sys.stdout.write(text)
        else:
            Path(options.json).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
