"""What `larger` measures, behind one face: a server over the network, or RocksDB in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec

from benchmarks import driver
from benchmarks.direct import Direct, Timed
from benchmarks.driver import Driven, Group, Verb
from benchmarks.machine import (
    Cores,
    Strangers,
    allocated_bytes,
    cpu_seconds,
    disk_read_bytes,
    drop_page_cache,
    pinned,
    random_read_us,
)
from benchmarks.rows import Rows
from benchmarks.servers import BenchmarkError, Contender, Running, information

_SETTLE_SECONDS_MAX: Final = 900.0
_SETTLE_QUIET_SECONDS: Final = 3.0
_FIRST_READ_SECONDS_MAX: Final = 600.0


class Rate(msgspec.Struct, frozen=True):
    """One measurement of reads or writes.

    Attributes:
        per_second: Operations a second.
        cpu_us: CPU time of the server's processes for each, in microseconds.
        read_bytes: What was read from the disk for each, whatever the reason: compactions, too.
        client_busy: How much of its core the load generator used; 0 where there is none.
        p99_ms: Of a whole pipeline; 0 where it was not taken.
        strangers: How much of the machine's cores processes took that have nothing to do with it.
    """

    per_second: float
    cpu_us: float
    read_bytes: float
    client_busy: float
    p99_ms: float
    strangers: float


@dataclass
class Bench:
    """What all subjects share.

    Attributes:
        layout: Where servers run, and where the load generator.
        clients: Runs the load generator; its process is on the client's core.
        rows: The rows.
        keys: How many of them there are.
        connections: Of the load generator.
    """

    layout: Cores
    clients: ProcessPoolExecutor
    rows: Rows
    keys: int
    connections: int


class Subject:
    """Something that keeps rows in a directory and can be started on it again and again."""

    name: str

    def __init__(self, bench: Bench, directory: Path) -> None:
        self.bench = bench
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def pid(self) -> int:
        raise NotImplementedError

    def version(self) -> str:
        raise NotImplementedError

    def start(self) -> float:
        """Starts it on what its directory holds; seconds until the first row was read (row 0, if it is there)."""
        raise NotImplementedError

    def stop(self) -> None:
        """Ends it cleanly."""
        raise NotImplementedError

    def kill(self) -> None:
        """Ends it with -9."""
        raise NotImplementedError

    def load(self) -> Iterator[int]:
        """Writes all rows, every one of them confirmed as synced; yields how many are done."""
        raise NotImplementedError

    def rate(self, verb: Verb, keys: int, pipeline: int, seconds: float, seed: int) -> Rate:
        """Reads or writes rows among the first `keys`, chosen at random, for some seconds."""
        raise NotImplementedError

    def mixed(self, hot_keys: int, clients: int, cold_clients: int, seconds: float, seed: int) -> tuple[Driven, Driven]:
        """Clients that read hot rows, one at a time, beside others that read any row."""
        raise NotImplementedError

    def warm(self, keys: int) -> None:
        """Reads the first rows once each."""
        raise NotImplementedError

    def check(self, numbers: list[int]) -> None:
        """Compares rows as they were loaded. Raises BenchmarkError."""
        raise NotImplementedError

    def busy(self) -> bool:
        """Whether it says that it is doing something in the background."""
        return False

    def counters(self) -> dict[str, str]:
        """What it tells about itself."""
        return {}

    def settle(self) -> float:
        """Waits until it is idle: no background work that it tells of, next to no CPU time; seconds that took."""
        began = quiet_since = time.monotonic()
        used = cpu_seconds(self.pid)
        while time.monotonic() - quiet_since < _SETTLE_QUIET_SECONDS:
            if time.monotonic() - began > _SETTLE_SECONDS_MAX:
                raise BenchmarkError(f"{self.name} is still busy after {_SETTLE_SECONDS_MAX:.0f} s")
            time.sleep(0.5)
            now_used = cpu_seconds(self.pid)
            if now_used - used > 0.05 or self.busy():
                quiet_since = time.monotonic()
            used = now_used
        return quiet_since - began

    def disk_bytes(self) -> int:
        return allocated_bytes(self.directory)

    def disk_read_bytes(self) -> int:
        return disk_read_bytes(self.pid)

    def forget_pages(self) -> None:
        """Has the page cache dropped for its files."""
        drop_page_cache(self.directory)

    def disk_us(self) -> float:
        """What the disk itself takes for a random read just now."""
        return random_read_us(self.directory)


class Served(Subject):
    """A server over the network."""

    def __init__(self, bench: Bench, directory: Path, contender: Contender, section: str) -> None:
        super().__init__(bench, directory)
        self.name = contender.name
        self._contender = contender
        self._section = section
        self._running: Running | None = None
        self._version = 0

    @property
    def running(self) -> Running:
        assert self._running is not None
        return self._running

    @property
    def pid(self) -> int:
        return self.running.pid

    @property
    def port(self) -> int:
        return self.running.port

    def version(self) -> str:
        return self._contender.version()

    def start(self) -> float:
        self._running = self._contender.start("durable", self.directory, self.bench.layout.server)
        began = time.monotonic()
        present = self.counters_of("keyspace")
        while present and not driver.read_any(self.port, self.bench.rows, 0):
            if time.monotonic() - began > _FIRST_READ_SECONDS_MAX:
                raise BenchmarkError(f"{self.name}: no row can be read after {_FIRST_READ_SECONDS_MAX:.0f} s")
            time.sleep(0.005)
        return self.running.start_seconds + time.monotonic() - began

    def stop(self) -> None:
        if self._running is not None:
            self._running.stop()
            self._gone()

    def kill(self) -> None:
        self.running.kill()
        self._running = None

    def _gone(self) -> None:
        running, self._running = self.running, None
        if left := running.left_behind():
            raise BenchmarkError(f"{self.name} has ended, its processes {left} have not")

    def load(self) -> Iterator[int]:
        with pinned(self.bench.layout.client):
            yield from driver.load(self.port, self.bench.rows, range(self.bench.keys))

    def rate(self, verb: Verb, keys: int, pipeline: int, seconds: float, seed: int) -> Rate:
        self._version += verb == "SET"
        group = Group(verb=verb, keys=keys, clients=self.bench.connections, pipeline=pipeline, version=self._version)
        strangers, cpu, read = Strangers(), cpu_seconds(self.pid), self.disk_read_bytes()
        (found,) = self._driven([group], seconds, seed)
        cpu, read = cpu_seconds(self.pid) - cpu, self.disk_read_bytes() - read
        count = max(1, found.operations)
        p99_ms = found.latencies.p99_ms
        return Rate(found.per_second, cpu / count * 1e6, read / count, found.client_busy, p99_ms, strangers.share())

    def mixed(self, hot_keys: int, clients: int, cold_clients: int, seconds: float, seed: int) -> tuple[Driven, Driven]:
        hot = Group(verb="GET", keys=hot_keys, clients=clients)
        cold = Group(verb="GET", keys=self.bench.keys, clients=cold_clients)
        hot_found, cold_found = self._driven([hot, cold], seconds, seed)
        return hot_found, cold_found

    def _driven(self, groups: list[Group], seconds: float, seed: int) -> list[Driven]:
        arguments = (self.port, self.bench.rows.value_bytes, groups, seconds, seed)
        return self.bench.clients.submit(driver.closed_loop, *arguments).result()

    def warm(self, keys: int) -> None:
        driver.warm(self.port, self.bench.rows, range(keys))

    def check(self, numbers: list[int]) -> None:
        driver.check(self.port, self.bench.rows, numbers)

    def busy(self) -> bool:
        told = self.counters()
        return any(told.get(name, "0") not in ("", "0") for name in ("flush_running", "compactions_running"))

    def counters(self) -> dict[str, str]:
        return self.counters_of(self._section)

    def counters_of(self, section: str) -> dict[str, str]:
        return information(self.port, section)


class Embedded(Subject):
    """RocksDB, used directly."""

    name = "rocksdict"

    def __init__(self, bench: Bench, directory: Path, cache_bytes: int) -> None:
        super().__init__(bench, directory)
        self._cache_bytes = cache_bytes
        self._direct: Direct | None = None
        self._version = 0

    @property
    def direct(self) -> Direct:
        assert self._direct is not None
        return self._direct

    @property
    def pid(self) -> int:
        return self.direct.pid

    def version(self) -> str:
        return version("rocksdict")

    def start(self) -> float:
        began = time.monotonic()
        with pinned(self.bench.layout.server):
            self._direct = Direct(self.directory / "data", self._cache_bytes, self.bench.rows.value_bytes)
        self.direct.call("readable", 0)
        return time.monotonic() - began

    def stop(self) -> None:
        if self._direct is not None:
            self._direct.stop()
            self._direct = None

    def kill(self) -> None:
        self.direct.kill()
        self._direct = None

    def load(self) -> Iterator[int]:
        batch = driver.LOAD_BATCH * driver.LOAD_IN_FLIGHT
        for first in range(0, self.bench.keys, batch):
            count = min(batch, self.bench.keys - first)
            self.direct.call("load", first, count, batch)
            yield first + count

    def rate(self, verb: Verb, keys: int, pipeline: int, seconds: float, seed: int) -> Rate:
        self._version += verb == "SET"
        # What all clients of a server send at once, one sync can cover there; so it does here.
        at_once = pipeline * self.bench.connections if verb == "SET" else pipeline
        strangers, read = Strangers(), self.disk_read_bytes()
        found: Timed = self.direct.call("rate", verb, keys, at_once, seconds, seed, self._version)
        read = self.disk_read_bytes() - read
        count = max(1, found.operations)
        per_second, cpu_us = found.operations / found.seconds, found.cpu_seconds / count * 1e6
        return Rate(per_second, cpu_us, read / count, 0.0, 0.0, strangers.share())

    def mixed(self, hot_keys: int, clients: int, cold_clients: int, seconds: float, seed: int) -> tuple[Driven, Driven]:
        found: tuple[Driven, Driven] = self.direct.call(
            "mixed", hot_keys, self.bench.keys, clients, cold_clients, seconds, seed
        )
        return found

    def warm(self, keys: int) -> None:
        self.direct.call("warm", keys)

    def check(self, numbers: list[int]) -> None:
        self.direct.call("check", numbers)

    def busy(self) -> bool:
        return bool(self.direct.call("compacting"))
