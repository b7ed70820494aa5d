"""Engines for the suite that every engine passes: how one is opened, closed, and given a run."""

from __future__ import annotations

import asyncio
import os
import random
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from keyhaus.core.disk import Disk, OsDisk
from keyhaus.core.helper_process import HelperProcess
from keyhaus.engines.base import Change, Engine, Row, RunWriter
from keyhaus.engines.model import ModelEngine, ModelRunWriter
from keyhaus.engines.rocksdb import RocksEngine, RocksRunWriter
from keyhaus.engines.rocksdb_options import RocksOptions
from tests.support.simulation import SimulatedDisk

# Small files and an early compaction, so that a test's few rows meet what years of use meet.
SMALL = RocksOptions(block_cache_bytes=4 << 20, target_file_bytes=16 << 10, level_base_bytes=64 << 10, level0_trigger=2)


class Variant(ABC):
    """One engine in one directory; its runs lie beside it."""

    @abstractmethod
    def open(self) -> Engine: ...

    @abstractmethod
    def writer(self, name: str) -> RunWriter: ...

    @abstractmethod
    def path(self, name: str) -> str:
        """What a run or a checkpoint of that name is called in the engine's calls."""

    @abstractmethod
    def exists(self, name: str) -> bool: ...

    @abstractmethod
    def damage(self, name: str) -> None:
        """Cuts a run short."""

    @abstractmethod
    def open_checkpoint(self, name: str) -> Engine: ...

    def crash(self, engine: Engine) -> None:
        """The process ends as a kill ends it, as far as this variant can."""
        engine.close()

    def close(self) -> None:
        """Ends what is left of it after the test."""
        return

    def run(self, name: str, changes: Iterable[Change]) -> str:
        """Writes a run; the path to ingest."""
        writer = self.writer(name)
        writer.add(changes)
        writer.finish()
        return self.path(name)


class ModelVariant(Variant):
    def __init__(self, disk: Disk) -> None:
        self.disk = disk

    def open(self) -> Engine:
        return ModelEngine(self.disk)

    def writer(self, name: str) -> RunWriter:
        return ModelRunWriter(self.disk, name)

    def path(self, name: str) -> str:
        return name

    def exists(self, name: str) -> bool:
        return self.disk.exists(name)

    def damage(self, name: str) -> None:
        file = self.disk.open(name)
        file.truncate(file.size() - 1)
        file.close()

    def open_checkpoint(self, name: str) -> Engine:
        return ModelEngine(self.disk, name)


class RocksVariant(Variant):
    def __init__(self, root: Path) -> None:
        self.root = root

    def open(self) -> Engine:
        return RocksEngine(str(self.root / "engine"), SMALL)

    def writer(self, name: str) -> RunWriter:
        return RocksRunWriter(self.path(name), SMALL)

    def path(self, name: str) -> str:
        return str(self.root / name)

    def exists(self, name: str) -> bool:
        return (self.root / name).exists()

    def damage(self, name: str) -> None:
        os.truncate(self.root / name, (self.root / name).stat().st_size - 1)

    def open_checkpoint(self, name: str) -> Engine:
        return RocksEngine(self.path(name), SMALL)


class HelperVariant(RocksVariant):
    """RocksDB in a process of its own; a crash is a kill -9 of that process."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.loop = uvloop.new_event_loop()
        self._helpers: list[HelperProcess] = []

    def open(self) -> HelperEngine:
        return self._start(self.root / "engine")

    def open_checkpoint(self, name: str) -> HelperEngine:
        return self._start(self.root / name)

    def crash(self, engine: Engine) -> None:
        assert isinstance(engine, HelperEngine)
        engine.kill()

    def close(self) -> None:
        for helper in self._helpers:
            helper.close()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()

    def _start(self, directory: Path) -> HelperEngine:
        options = msgspec.to_builtins(SMALL)
        factory = "keyhaus.engines.rocksdb:open_engine"
        helper = HelperProcess(self.loop, "engine", factory, (str(directory), options))
        self._helpers.append(helper)
        engine = HelperEngine(self.loop, helper)
        engine.stats()  # it is open, or says why not
        return engine


class HelperEngine:
    """An engine's methods, each a call of a helper that is waited for."""

    def __init__(self, loop: asyncio.AbstractEventLoop, helper: HelperProcess) -> None:
        self.helper, self.newest = helper, 0
        self._loop = loop

    def begin(self, method: str, *args: Any) -> asyncio.Future[Any]:
        """Calls without waiting."""
        future = self._loop.create_future()

        def done(result: Any, error: BaseException | None) -> None:
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        self.helper.call(method, args, done)
        return future

    def _call(self, method: str, *args: Any) -> Any:
        return self._loop.run_until_complete(self.begin(method, *args))

    def get(self, view: int, keys: list[bytes]) -> list[bytes | None]:
        found: list[bytes | None] = self._call("get", view, keys)
        return found

    def scan(
        self, view: int, start: bytes, end: bytes | None, *, rows: int, size: int, reverse: bool = False
    ) -> tuple[list[Row], bool]:
        page, more = self._call("scan", view, start, end, rows, size, reverse)
        return [(key, value) for key, value in page], more

    def ingest(self, run: str) -> int:
        self.newest = self._call("ingest", run)
        return self.newest

    def drop(self, start: bytes, end: bytes) -> None:
        self._call("drop", start, end)

    def release(self, view: int) -> None:
        self._call("release", view)

    def checkpoint(self, directory: str) -> None:
        self._call("checkpoint", directory)

    def stats(self) -> dict[str, Any]:
        numbers: dict[str, Any] = self._call("stats")
        return numbers

    def close(self) -> None:
        self._call("close")
        self.helper.close()

    def kill(self) -> None:
        self.helper.kill()


VARIANTS = ("model", "model-simulated", "rocksdb", "rocksdb-helper")


def make_variant(name: str, root: Path) -> Variant:
    match name:
        case "model":
            return ModelVariant(OsDisk(root))
        case "model-simulated":
            return ModelVariant(SimulatedDisk(random.Random(0)))
        case "rocksdb":
            return RocksVariant(root)
        case _:
            return HelperVariant(root)
