"""The model engine: every row in RAM, every change through the seam to files.

It stands in for RocksDB where a disk is simulated, and says in a page what an engine is: a view is a dictionary that is
never changed again. On the disk it is what it took in, in order:

    directory = LIST, "0000000001.run", …
    LIST      = crc:4, MessagePack of [entry, …]
    entry     = number of a run | [start, end] of a drop
    run       = crc:4, row…             at least one; keys ascend strictly
    row       = key length:4, value length:4 (0xFFFFFFFF: the key is deleted), key, value

Integers are little-endian, a checksum is CRC32C over the rest of the file. LIST alone says what counts: a run is
copied and synced before LIST names it, and LIST is replaced atomically (temporary file, sync, rename, sync of the
directory). So a call that fails changes nothing that counts and may simply be made again. A file that was read proves
nothing about the disk, so each open writes LIST anew before it takes away what LIST doesn't name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import struct
from bisect import bisect_left
from collections.abc import Iterable
from typing import Any, Final, TypeAlias

import msgspec
from google_crc32c import value as crc32c

from keyhaus.core.disk import Disk
from keyhaus.core.errors import Corruption
from keyhaus.engines.base import Change, Row

LIST: Final = "LIST"
_CRC: Final = struct.Struct("<I")
_ROW: Final = struct.Struct("<II")
_RUN: Final = re.compile(r"[0-9]{10}\.run")
_DELETED: Final = 0xFFFF_FFFF
_Entry: TypeAlias = int | tuple[bytes, bytes]


class _View:
    def __init__(self, rows: dict[bytes, bytes]) -> None:
        self.rows, self.keys = rows, sorted(rows)


class ModelEngine:
    """`Engine` in RAM over a `Disk`; `directory` is made where it is missing."""

    def __init__(self, disk: Disk, directory: str = "engine") -> None:
        self._disk, self._directory = disk, directory
        self.newest = 0
        disk.make_directory(directory)
        disk.sync_directory(directory.rpartition("/")[0] or ".")
        self._entries = self._read_list()
        self._number = max((entry for entry in self._entries if isinstance(entry, int)), default=0)
        rows: dict[bytes, bytes] = {}
        for entry in self._entries:
            _apply(rows, self._read_named(entry) if isinstance(entry, int) else entry)
        self._views = {0: _View(rows)}
        self._write_list(self._entries)
        self._remove_unnamed()

    def get(self, view: int, keys: list[bytes]) -> list[bytes | None]:
        rows = self._views[view].rows
        return [rows.get(key) for key in keys]

    def scan(
        self, view: int, start: bytes, end: bytes | None, rows: int, size: int, reverse: bool = False
    ) -> tuple[list[Row], bool]:
        shown = self._views[view]
        low = bisect_left(shown.keys, start)
        high = len(shown.keys) if end is None else bisect_left(shown.keys, end)
        page: list[Row] = []
        for at in range(high - 1, low - 1, -1) if reverse else range(low, high):
            if page and (len(page) >= rows or size <= 0):
                return page, True
            key = shown.keys[at]
            page.append((key, shown.rows[key]))
            size -= len(key) + len(shown.rows[key])
        return page, False

    def ingest(self, run: str) -> int:
        changes = _read_run(self._disk, run)
        self._number += 1  # never one again: after a failed sync the LIST on the disk may name it already
        _write(self._disk, self._path(self._number), _whole(self._disk, run))
        self._disk.sync_directory(self._directory)
        self._write_list([*self._entries, self._number])
        self._entries.append(self._number)
        rows = dict(self._views[self.newest].rows)
        _apply(rows, changes)
        self.newest += 1
        self._views[self.newest] = _View(rows)
        with contextlib.suppress(OSError):  # it is ingested all the same
            self._disk.remove(run)
        return self.newest

    def drop(self, start: bytes, end: bytes) -> None:
        self._write_list([*self._entries, (start, end)])
        self._entries.append((start, end))
        rows = dict(self._views[self.newest].rows)
        _apply(rows, (start, end))
        self._views[self.newest] = _View(rows)

    def release(self, view: int) -> None:
        if view == self.newest:
            raise ValueError("the newest view stays")
        del self._views[view]

    def checkpoint(self, directory: str) -> None:
        if self._disk.exists(f"{directory}/{LIST}"):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), directory)
        copy = ModelEngine(self._disk, directory)
        if rows := sorted(self._views[self.newest].rows.items()):
            writer = ModelRunWriter(self._disk, f"{directory}/rows")
            writer.add(rows)
            writer.finish()
            copy.ingest(f"{directory}/rows")

    def stats(self) -> dict[str, Any]:
        newest = self._views[self.newest]
        memory = sum(len(key) + len(value) for key, value in newest.rows.items())
        return {
            "bytes": memory,
            "rows": len(newest.rows),
            "level0_files": 0,
            "compaction_pending_bytes": 0,
            "compactions_running": 0,
            "block_cache_bytes": 0,
            "block_cache_hits": 0,
            "block_cache_misses": 0,
            "memory_bytes": memory,
        }

    def close(self) -> None:
        self._views.clear()

    def _path(self, number: int) -> str:
        return f"{self._directory}/{number:010}.run"

    def _read_list(self) -> list[_Entry]:
        name = f"{self._directory}/{LIST}"
        if not self._disk.exists(name):
            if self._runs():
                raise Corruption("missing, and there are runs", name, 0)
            return []
        try:
            return msgspec.msgpack.decode(_checked(self._disk, name), type=list[_Entry])
        except msgspec.DecodeError:
            raise Corruption("the list of runs can't be read", name, _CRC.size) from None

    def _write_list(self, entries: list[_Entry]) -> None:
        name = f"{self._directory}/{LIST}"
        body = msgspec.msgpack.encode(entries)
        _write(self._disk, f"{name}.next", _CRC.pack(crc32c(body)) + body)
        self._disk.rename(f"{name}.next", name)
        self._disk.sync_directory(self._directory)

    def _read_named(self, number: int) -> list[Change]:
        if not self._disk.exists(self._path(number)):
            raise Corruption("missing", self._path(number), 0)
        return _read_run(self._disk, self._path(number))

    def _runs(self) -> list[str]:
        names = self._disk.names(self._directory)
        return [f"{self._directory}/{name}" for name in names if _RUN.fullmatch(name)]

    def _remove_unnamed(self) -> None:
        named = {self._path(entry) for entry in self._entries if isinstance(entry, int)}
        for name in self._runs():
            if name not in named:
                self._disk.remove(name)


class ModelRunWriter:
    """`RunWriter` of the model: gathers the rows and writes them at the end."""

    def __init__(self, disk: Disk, name: str) -> None:
        self._disk, self._name = disk, name
        self._rows = bytearray()
        self._last: bytes | None = None

    def add(self, changes: Iterable[Change]) -> None:
        for key, value in changes:
            if self._last is not None and key <= self._last:
                raise ValueError("the keys of a run must ascend strictly")
            self._rows += _ROW.pack(len(key), _DELETED if value is None else len(value)) + key + (value or b"")
            self._last = key

    def finish(self) -> None:
        if self._last is None:
            raise ValueError("a run has at least one change")
        _write(self._disk, self._name, _CRC.pack(crc32c(bytes(self._rows))) + self._rows)
        self._disk.sync_directory(self._name.rpartition("/")[0] or ".")


def _apply(rows: dict[bytes, bytes], entry: list[Change] | tuple[bytes, bytes]) -> None:
    if isinstance(entry, tuple):
        start, end = entry
        for key in [key for key in rows if start <= key < end]:
            del rows[key]
        return
    for key, value in entry:
        if value is None:
            rows.pop(key, None)
        else:
            rows[key] = value


def _write(disk: Disk, name: str, data: bytes) -> None:
    if disk.exists(name):  # what a failed attempt left: pages whose sync failed prove nothing
        disk.remove(name)
    file = disk.open(name, create=True)
    try:
        file.write(data, 0)
        file.sync()
    finally:
        file.close()


def _whole(disk: Disk, name: str) -> bytes:
    file = disk.open(name)
    try:
        return file.read(file.size(), 0)
    finally:
        file.close()


def _checked(disk: Disk, name: str) -> bytes:
    data = _whole(disk, name)
    if len(data) < _CRC.size or _CRC.unpack_from(data)[0] != crc32c(data[_CRC.size :]):
        raise Corruption("the checksum is wrong", name, 0)
    return data[_CRC.size :]


def _read_run(disk: Disk, name: str) -> list[Change]:
    data = _checked(disk, name)
    changes: list[Change] = []
    at = 0
    while at < len(data):
        key_bytes, value_bytes = _ROW.unpack_from(data, at)
        at += _ROW.size
        key = data[at : at + key_bytes]
        at += key_bytes
        changes.append((key, None if value_bytes == _DELETED else data[at : at + value_bytes]))
        at += 0 if value_bytes == _DELETED else value_bytes
    return changes
