"""RocksDB through rocksdict, with nothing in between: a process that is told what to do with its rows.

It answers one call after another over a pipe. Rates are of one thread; only the calls to RocksDB are timed, not the
making of keys. Its `get` holds the interpreter's lock while it reads the disk, so more threads would not read more.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import random
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import msgspec
from rocksdict import (
    BlockBasedIndexType,
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    Options,
    Rdict,
    WriteBatch,
    WriteOptions,
)

from benchmarks.driver import Driven, Verb
from benchmarks.latencies import summary
from benchmarks.rows import Rows, key
from benchmarks.servers import BenchmarkError

_BLOCK: Final = 1000  # keys that are made before the clock runs
_WRITE_BUFFER_BYTES: Final = 64 << 20
_STOP_SECONDS_MAX: Final = 60.0


class Timed(msgspec.Struct, frozen=True):
    """Operations of one thread: how many, the time within RocksDB, and the CPU time of the whole process meanwhile."""

    operations: int
    seconds: float
    cpu_seconds: float


def options(cache_bytes: int) -> Options:
    """Bloom filters of 10 bits, LZ4, ZSTD at the bottom, one cache for blocks, indexes and filters, direct reads.

    Indexes and filters are partitioned: a whole filter of a fresh file does not fit into one shard of a small cache and
    is read again for every get (470 KB each with 16 MB of cache, 220 KB with 64 MB, for a million rows).
    """
    table = BlockBasedOptions()
    table.set_bloom_filter(10, False)
    table.set_block_cache(Cache(cache_bytes))
    table.set_cache_index_and_filter_blocks(True)
    table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    table.set_index_type(BlockBasedIndexType.two_level_index_search())
    table.set_partition_filters(True)
    table.set_pin_top_level_index_and_filter(True)
    made = Options(raw_mode=True)
    made.set_block_based_table_factory(table)
    made.set_compression_type(DBCompressionType.lz4())
    made.set_bottommost_compression_type(DBCompressionType.zstd())
    made.set_write_buffer_size(_WRITE_BUFFER_BYTES)
    made.set_level_compaction_dynamic_level_bytes(True)
    made.set_max_background_jobs(2)
    made.set_use_direct_reads(True)
    return made


class _Served:
    """What runs in the process."""

    def __init__(self, directory: str, cache_bytes: int, value_bytes: int) -> None:
        # Options that are given for the database alone are ignored for one that exists.
        families = {"default": options(cache_bytes)}
        self._database = Rdict(directory, families["default"], column_families=families)
        self._rows = Rows(value_bytes)
        self._synced = WriteOptions()
        self._synced.sync = True

    def load(self, first: int, count: int, batch: int) -> Timed:
        """Writes rows, `batch` of them with one sync; here the making of rows counts, as it does for a server."""
        cpu, began = time.process_time(), time.perf_counter()
        for start in range(first, first + count, batch):
            numbers = range(start, min(start + batch, first + count))
            self._database.write(self._batch(list(numbers), 0), self._synced)
        return Timed(count, time.perf_counter() - began, time.process_time() - cpu)

    def _batch(self, numbers: list[int], version: int) -> WriteBatch:
        made = WriteBatch(raw_mode=True)
        for number in numbers:
            made.put(key(number), self._rows.value(number, version))
        return made

    def rate(self, verb: Verb, keys: int, at_once: int, seconds: float, seed: int, version: int) -> Timed:
        """Reads or writes random rows for some seconds, `at_once` of them with one call."""
        rng = random.Random(seed)
        done, spent, cpu_spent = 0, 0.0, 0.0
        while spent < seconds:
            numbers = [int(rng.random() * keys) for _ in range(-(-_BLOCK // at_once) * at_once)]
            groups = [numbers[start : start + at_once] for start in range(0, len(numbers), at_once)]
            work = self._reads(groups) if verb == "GET" else self._writes(groups, version)
            cpu, began = time.process_time(), time.perf_counter()
            work()
            spent += time.perf_counter() - began
            cpu_spent += time.process_time() - cpu
            done += len(numbers)
        return Timed(done, spent, cpu_spent)

    def _reads(self, groups: list[list[int]]) -> Callable[[], None]:
        get = self._database.get
        if len(groups[0]) == 1:
            keys = [key(group[0]) for group in groups]

            def one_by_one() -> None:
                for each in keys:
                    if get(each) is None:
                        raise BenchmarkError(f"{each!r} is gone")

            return one_by_one
        # The type of a list of keys is that of any keys.
        lists: list[list[Any]] = [[key(number) for number in group] for group in groups]

        def together() -> None:
            for each in lists:
                if None in (get(each) or [None]):
                    raise BenchmarkError("a row is gone")

        return together

    def _writes(self, groups: list[list[int]], version: int) -> Callable[[], None]:
        batches = [self._batch(group, version) for group in groups]

        def write() -> None:
            for batch in batches:
                self._database.write(batch, self._synced)

        return write

    def mixed(
        self, hot_keys: int, keys: int, hot_clients: int, cold_clients: int, seconds: float, seed: int
    ) -> tuple[Driven, Driven]:
        """Clients that read hot rows, and others that read any row, for some seconds; one thread serves all in turn.

        A client asks again as soon as it has its answer, so its latency is that of a whole turn of all clients.
        """
        rng, get, clock = random.Random(seed), self._database.get, time.monotonic_ns
        kinds = ((hot_clients, hot_keys), (cold_clients, keys))
        served_last = [[clock()] * clients for clients, _ in kinds]
        spans: tuple[list[int], list[int]] = ([], [])
        deadline = clock() + int(seconds * 1e9)
        gc.disable()
        while clock() < deadline:
            for (clients, among), last, into in zip(kinds, served_last, spans, strict=True):
                for client in range(clients):
                    if get(key(int(rng.random() * among))) is None:
                        raise BenchmarkError("a row is gone")
                    now = clock()
                    into.append(now - last[client])
                    last[client] = now
        gc.enable()
        hot, cold = (Driven(len(kind), len(kind) / seconds, summary(kind), 0.0) for kind in spans)
        return hot, cold

    def warm(self, keys: int) -> None:
        for number in range(keys):
            self._database.get(key(number))

    def check(self, numbers: list[int]) -> None:
        for number in numbers:
            if (there := self._database.get(key(number))) != self._rows.value(number):
                raise BenchmarkError(f"row {number} is not what was written: {there!r:.100}")

    def readable(self, number: int) -> bool:
        return self._database.get(key(number)) is not None

    def compacting(self) -> int:
        names = ("rocksdb.num-running-compactions", "rocksdb.num-running-flushes", "rocksdb.compaction-pending")
        return sum(self._database.property_int_value(name) or 0 for name in names)

    def close(self) -> None:
        self._database.close()


def _serve(pipe: Connection, directory: str, cache_bytes: int, value_bytes: int) -> None:
    try:
        served = _Served(directory, cache_bytes, value_bytes)
        pipe.send((True, None))
        while True:
            name, arguments = pipe.recv()
            pipe.send((True, getattr(served, name)(*arguments)))
            if name == "close":
                return
    except EOFError:
        return
    except Exception as error:
        pipe.send((False, f"{type(error).__name__}: {error}"))


class Direct:
    """The process, from outside. Every call raises BenchmarkError where it fails there."""

    def __init__(self, directory: Path, cache_bytes: int, value_bytes: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        arguments = (theirs, str(directory), cache_bytes, value_bytes)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        assert self._process.pid is not None
        self.pid = self._process.pid
        self._answer()

    def call(self, name: str, *arguments: Any) -> Any:
        """Calls a method over there."""
        self._pipe.send((name, arguments))
        return self._answer()

    def _answer(self) -> Any:
        try:
            well, result = self._pipe.recv()
        except EOFError:
            raise BenchmarkError("the process with rocksdict ended") from None
        if not well:
            raise BenchmarkError(f"rocksdict: {result}")
        return result

    def stop(self) -> None:
        """Closes the database and ends the process."""
        with contextlib.suppress(BenchmarkError, OSError):
            self.call("close")
        self._process.join(_STOP_SECONDS_MAX)
        self.kill()

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self._process.join()
        self._pipe.close()
