"""Opening a database: its directory is taken, the base opened, the journal recovered, by whatever process has it.

What is in the way is told in one sentence, which names the file or the directory and says what to do about it.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from pathlib import Path
from typing import Any, Final

from keyhaus.core.disk import OsDisk, OsLock
from keyhaus.core.errors import Corruption, OtherFormat, StorageError
from keyhaus.core.settings import Settings
from keyhaus.core.spawn import Spawn
from keyhaus.core.wait import Wait
from keyhaus.journal import manifest as manifests
from keyhaus.journal import recovery
from keyhaus.store.backup.online import Backups
from keyhaus.store.backup.rebuild import refuse_unfinished
from keyhaus.store.backup.writer import make_directory
from keyhaus.store.base import BASE, OPEN_RESERVE, give_up, remove_runs
from keyhaus.store.ground import Ground
from keyhaus.store.store import Store

log = logging.getLogger("keyhaus.store")

LOCK_NAME: Final = "LOCK"
OWN_NAMES: Final = ("LOCK", "UNFINISHED", "RESERVE", "journal", "base", "runs", "checkpoint", "backups", "lost+found")


class UnusableDirectory(StorageError):
    """No database can be in a directory: it is no directory, not writable, or holds other things."""


def take(settings: Settings) -> OsLock | None:
    """The directory of the data, made where it is missing, taken for this process; None in memory mode.

    Raises:
        UnusableDirectory: There can be no database.
        InUse: Another process has it, or this one has it already.
    """
    if settings["engine"] == "memory":
        return None
    directory = Path(settings["dir"])
    try:
        make_directory(directory)
        if not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "it is not writable", str(directory))
        _refuse_strangers(directory, settings)
        return OsDisk(directory).lock(LOCK_NAME)
    except OSError as error:
        raise UnusableDirectory(
            f"the data directory {directory} can't be used: {_reason(error)}; choose another directory"
        ) from error


def _reason(error: OSError) -> str:
    no_directory = isinstance(error, FileExistsError | NotADirectoryError)
    return "it is no directory" if no_directory else error.strerror or str(error)


def _refuse_strangers(directory: Path, settings: Settings) -> None:
    """A directory that holds other things than a database is most likely a slip. Raises UnusableDirectory."""
    if (directory / manifests.NAME).exists() or (directory / BASE / "CURRENT").exists():
        return
    own = {Path(settings[name]).resolve() for name in ("archive-dir", "backup-dir") if settings[name]}
    for path in sorted(directory.iterdir()):
        if path.name not in OWN_NAMES and not path.name.startswith(".") and path.resolve() not in own:
            raise UnusableDirectory(
                f"{directory} is no database, and not empty ({path.name}): choose another directory"
            )


async def open_store(settings: Settings, spawn: Spawn) -> Store:
    """The database that the settings name, recovered; its directory is taken already. Awaits Waits only.

    Raises:
        Corruption: Something that was synced is missing or damaged.
        OtherFormat: Another version wrote it.
        StorageError: It can't be opened.
    """
    if settings["engine"] == "memory":
        return Store(spawn, settings=settings)
    directory = Path(settings["dir"])
    before = time.monotonic()
    archive = _archive(settings)
    try:
        store = await _recovered(directory, settings, spawn, archive)
    except Corruption as error:
        damage = error.message.removeprefix(f"{error.file} at offset {error.offset}: ")
        raise Corruption(
            f"{damage}; nothing of the data was changed: keyhaus check says more; restore a backup, or try keyhaus "
            "salvage",
            str(directory / error.file),
            error.offset,
        ) from error
    except OtherFormat as error:
        raise OtherFormat(str(directory / error.file), error.found, error.expected) from error
    except StorageError as error:
        raise StorageError(f"the database in {directory} can't be opened: {error.message}") from error
    except OSError as error:
        hint = ": make room and start again" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise StorageError(f"the database in {directory} can't be opened: {error.strerror or error}{hint}") from error
    store.backups = Backups(store, settings["dir"], settings["backup-dir"])
    started = store.recovered
    assert started is not None
    log.info(
        "recovered",
        extra={
            "commits": started.commits,
            "rewritten": started.rewritten,
            "keys": sum(space.count for space in store.spaces),
            "seconds": round(time.monotonic() - before, 3),
        },
    )
    return store


async def _recovered(directory: Path, settings: Settings, spawn: Spawn, archive: OsDisk | None) -> Store:
    """Raises Corruption, OtherFormat, StorageError, OSError."""
    refuse_unfinished(OsDisk(directory))
    recovery.check_versions(OsDisk(directory))  # before the base is opened, which writes notes of its own
    remove_runs(directory)
    place = _place(directory, settings)
    ground = await _ground(place, spawn)
    writer = ("keyhaus.store.runs:open_rocksdb", place)

    def recovered() -> Store:
        return Store.open(OsDisk(directory), spawn, settings=settings, ground=ground, writer=writer, archive=archive)

    try:
        try:
            return recovered()
        except OSError as error:
            if not give_up(directory / OPEN_RESERVE, error):
                raise
            return recovered()  # a start that failed may be run again (J6)
    except BaseException:
        ground.close()
        raise


def _place(directory: Path, settings: Settings) -> tuple[str, dict[str, Any], int]:
    """What the helpers of the base have to know."""
    options = {
        name.replace("-", "_"): settings[name]
        for name in ("block-cache-bytes", "bloom-bits", "compression", "bottommost-compression", "direct-reads")
    }
    return str(directory.resolve()), options, settings.integer("memtable-bytes")


async def _ground(place: tuple[str, dict[str, Any], int], spawn: Spawn) -> Ground:
    """Opens the base. Raises Corruption, StorageError, OSError."""
    ground = Ground(spawn, "keyhaus.store.base:open_rocksdb", place)
    opened = Wait()
    failures: list[BaseException] = []

    def done(error: BaseException | None) -> None:
        if error is not None:
            failures.append(error)
        opened.fire()

    ground.open(done)
    await opened
    if failures:
        ground.close()
        raise failures[0]
    return ground


def _archive(settings: Settings) -> OsDisk | None:
    """The directory of the archive, made where it is missing; None if none is wanted. Raises StorageError."""
    if not settings["archive-dir"]:
        return None
    directory = Path(settings["archive-dir"])
    try:
        make_directory(directory)
        if not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "it is not writable", str(directory))
    except OSError as error:
        raise StorageError(f"the archive {directory} (archive-dir) can't be used: {_reason(error)}") from error
    return OsDisk(directory)
