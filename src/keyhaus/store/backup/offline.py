"""A backup of a database that no server has open; nothing in its directory is changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from keyhaus.core.clock import SystemClock
from keyhaus.core.disk import OsDisk
from keyhaus.core.errors import Corruption
from keyhaus.engines import rocksdb_files
from keyhaus.journal import manifest as manifests
from keyhaus.journal import reading
from keyhaus.store import layout
from keyhaus.store.backup import writer
from keyhaus.store.backup.writer import Facts
from keyhaus.store.base import BASE

Progress = Callable[[str, int, int], None]


def create(data: Path, target: Path, keep: int = 0, progress: Progress = lambda *_: None) -> dict[str, Any]:
    """Makes a backup of everything that the next start would accept; what it amounts to.

    Args:
        data: The database's directory.
        target: The directory of backups.
        keep: How many backups are to stay there; 0 for all.
        progress: Called with what is done, how much of it, and how much there is.

    Raises:
        InUse: A server has the database open, or another process writes to the directory of backups.
        Corruption: The database is damaged: it needs a look before it may replace an older backup.
        OSError: Reading or writing failed.
    """
    disk = OsDisk(data, read_only=True)
    lock = disk.lock_to_read()
    try:
        manifest = manifests.read(disk)
        if manifest is None:
            raise Corruption("there is no journal here", manifests.NAME, 0)
        base = data / BASE
        names = rocksdb_files.live(str(base))
        meta = layout.decode_meta(rocksdb_files.read_row(str(base), layout.META), BASE)
        kept = reading.stopped(disk)
        seqno, clock = (0, 0) if meta is None else (meta.seqno, meta.clock)
        if meta is not None and meta.history != manifest.history:
            raise Corruption(f"the base belongs to history {meta.history}, the journal to {manifest.history}", BASE, 0)
        if not kept.oldest <= seqno <= kept.newest:
            raise Corruption(f"the base ends at {seqno}, the journal has {kept.oldest} to {kept.newest}", BASE, 0)
        making = writer.open_writer(str(target), str(data), str(base), keep)
        try:
            plan = making.prepare(manifest.history, names)
            making.commits(kept, seqno, manifest.history)
            _copy(making, plan["bytes"], progress)
            facts = Facts(manifest.history, seqno, clock, kept.newest)
            return making.finish(msgspec.to_builtins(facts), kept.newest, SystemClock().unix_ms() - 1)
        finally:
            making.close()
    finally:
        lock.release()


def _copy(making: writer.BackupWriter, total: int, progress: Progress) -> None:
    done, left = 0, 1
    while left:
        progress("files", done, total)
        size, left = making.copy()
        done += size
    progress("files", done, total)
