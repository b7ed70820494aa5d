"""A server process from start to end: lock, recovery, listeners, `ready`, signals, drain."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import resource
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from keyhaus import __version__
from keyhaus.core.clock import SystemClock
from keyhaus.core.disk import OsDisk, OsLock
from keyhaus.core.errors import Corruption, OtherFormat, StorageError
from keyhaus.core.settings import Settings
from keyhaus.journal import manifest as manifests
from keyhaus.journal import recovery
from keyhaus.server.server import Address, Server
from keyhaus.server.spawn import LoopSpawn
from keyhaus.session.hub import Hub
from keyhaus.store.backup.online import Backups
from keyhaus.store.backup.rebuild import refuse_unfinished
from keyhaus.store.backup.writer import make_directory
from keyhaus.store.base import BASE, OPEN_RESERVE, give_up, remove_runs
from keyhaus.store.ground import Ground
from keyhaus.store.store import Store

log = logging.getLogger("keyhaus.server")

LOCK_NAME = "LOCK"
OWN_NAMES = ("LOCK", "UNFINISHED", "RESERVE", "journal", "base", "runs", "checkpoint", "backups", "lost+found")
FILES_OF_ITS_OWN = 64  # the journal's, the listeners', the standard streams


class StartFailed(Exception):
    """The server can't start; the message is the one line that says why and what to do."""


def run(settings: Settings, addresses: Sequence[Address], ready: Callable[[list[Address]], None]) -> None:
    """Serves until SIGTERM or SIGINT.

    Args:
        settings: The settings in force.
        addresses: Where to listen.
        ready: Called once connections are accepted, with every address as it really is.

    Raises:
        StartFailed: It could not start, or not close cleanly.
    """
    uvloop.run(_serve(settings, addresses, ready))


async def _serve(settings: Settings, addresses: Sequence[Address], ready: Callable[[list[Address]], None]) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    _allow_files(settings)
    lock = None
    if settings["engine"] != "memory":
        lock = _take(Path(settings["dir"]), settings)
    try:
        # The ports first: who can't have them need not wait for a recovery to hear of it.
        bound = [(address, await _bind(address)) for address in addresses]
        store = await _open(settings, loop)
        hub = Hub(store, settings, SystemClock(), secrets.token_hex(20))
        server = Server(hub, loop)
        for address, sockets in bound:
            await server.listen(address, sockets)
        # What lives now lives as long as the process: the collector need not walk it again and again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(100_000, 20, 50)
        server.watch_idle()
        ready(server.addresses)
        await stop.wait()
        log.info("stopping", extra={"clients": len(server.connections)})
        try:
            await server.stop()
        except StorageError as error:
            raise StartFailed(f"the database was not closed cleanly: {error.message}") from error
        log.info("stopped")
    finally:
        if lock is not None:
            lock.release()


def _allow_files(settings: Settings) -> None:
    """Raises the process's limit on open files to what `maxclients` needs, or lowers `maxclients` to what it allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.integer("maxclients") + FILES_OF_ITS_OWN
    if soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        settings.put("maxclients", max(1, allowed - FILES_OF_ITS_OWN))
        log.warning(
            "fewer clients than maxclients: raise the limit of open files", extra={"clients": settings["maxclients"]}
        )


def _take(directory: Path, settings: Settings) -> OsLock:
    """The data directory, made where it is missing, taken for this process."""
    try:
        make_directory(directory)
        if not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "it is not writable", str(directory))
        _refuse_strangers(directory, settings)
        return OsDisk(directory).lock(LOCK_NAME)
    except StorageError as error:
        raise StartFailed(error.message) from error
    except OSError as error:
        reason = "it is no directory" if isinstance(error, FileExistsError | NotADirectoryError) else error.strerror
        raise StartFailed(
            f"the data directory {directory} can't be used: {reason}; choose another with --data-dir"
        ) from error


def _refuse_strangers(directory: Path, settings: Settings) -> None:
    """A directory that holds other things than a database is most likely a slip. Raises StartFailed."""
    if (directory / manifests.NAME).exists() or (directory / BASE / "CURRENT").exists():
        return
    own = {Path(settings[name]).resolve() for name in ("archive-dir", "backup-dir") if settings[name]}
    for path in sorted(directory.iterdir()):
        if path.name not in OWN_NAMES and not path.name.startswith(".") and path.resolve() not in own:
            raise StartFailed(
                f"{directory} is no database, and not empty ({path.name}): choose another directory with --data-dir"
            )


async def _open(settings: Settings, loop: asyncio.AbstractEventLoop) -> Store:
    spawn = LoopSpawn(loop)
    if settings["engine"] == "memory":
        return Store(spawn, settings=settings)
    directory = Path(settings["dir"])
    before = time.monotonic()
    archive = _archive(settings)
    try:
        refuse_unfinished(OsDisk(directory))
        recovery.check_versions(OsDisk(directory))  # before the base is opened, which writes notes of its own
        remove_runs(directory)
        ground = await _ground(directory, settings, spawn, loop)
        writer = ("keyhaus.store.runs:open_rocksdb", _place(directory, settings))

        def recovered() -> Store:
            return Store.open(
                OsDisk(directory), spawn, settings=settings, ground=ground, writer=writer, archive=archive
            )

        try:
            try:
                store = recovered()
            except OSError as error:
                if not give_up(directory / OPEN_RESERVE, error):
                    raise
                store = recovered()  # a start that failed may be run again (J6)
        except BaseException:
            ground.close()
            raise
    except Corruption as error:
        damage = error.message.removeprefix(error.file)
        raise StartFailed(
            f"{directory / error.file}{damage}; nothing of the data was changed: keyhaus check says more; restore a "
            "backup, or try keyhaus salvage"
        ) from error
    except OtherFormat as error:
        raise StartFailed(_refusal(directory, error)) from error
    except StorageError as error:
        raise StartFailed(f"the database in {directory} can't be opened: {error.message}") from error
    except OSError as error:
        hint = ": make room and start again" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise StartFailed(f"the database in {directory} can't be opened: {error.strerror or error}{hint}") from error
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


def _refusal(directory: Path, error: OtherFormat) -> str:
    """What to do about files of another version."""
    if error.newer:
        advice = f"run a release that reads it: keyhaus serve --data-dir {directory}"
    else:
        advice = f"run the version that wrote it, or begin anew: keyhaus serve --data-dir {directory}.new"
    return f"{directory}/{error.message}; nothing of the data was changed. This is keyhaus {__version__}: {advice}"


def _place(directory: Path, settings: Settings) -> tuple[str, dict[str, Any], int]:
    """What the helpers of the base have to know."""
    options = {
        name.replace("-", "_"): settings[name]
        for name in ("block-cache-bytes", "bloom-bits", "compression", "bottommost-compression", "direct-reads")
    }
    return str(directory.resolve()), options, settings.integer("memtable-bytes")


async def _ground(directory: Path, settings: Settings, spawn: LoopSpawn, loop: asyncio.AbstractEventLoop) -> Ground:
    """Opens the base. Raises Corruption, StorageError, OSError."""
    ground = Ground(spawn, "keyhaus.store.base:open_rocksdb", _place(directory, settings))
    opened: asyncio.Future[BaseException | None] = loop.create_future()
    ground.open(opened.set_result)
    error = await opened
    if error is not None:
        ground.close()
        raise error
    return ground


def _archive(settings: Settings) -> OsDisk | None:
    """The directory of the archive, made where it is missing; None if none is wanted. Raises StartFailed."""
    if not settings["archive-dir"]:
        return None
    directory = Path(settings["archive-dir"])
    try:
        make_directory(directory)
        if not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "it is not writable", str(directory))
    except OSError as error:
        reason = "it is no directory" if isinstance(error, FileExistsError | NotADirectoryError) else error.strerror
        raise StartFailed(f"the archive {directory} (archive-dir) can't be used: {reason}") from error
    return OsDisk(directory)


async def _bind(address: Address) -> list[socket.socket]:
    """Sockets that hold an address, not yet listening."""
    sockets: list[socket.socket] = []
    try:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, place in dict.fromkeys(found):
            sockets.append(own := socket.socket(family, kind, protocol))
            own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                own.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            own.bind(place)
    except OSError as error:
        for own in sockets:
            own.close()
        if error.errno == errno.EADDRINUSE:
            reason = "the port is taken: stop what uses it, or choose another with --port or --listen"
        else:
            reason = error.strerror or str(error)
        raise StartFailed(f"{address} can't be opened: {reason}") from error
    except UnicodeError as error:
        raise StartFailed(f"{address} can't be opened: {error}") from error
    return sockets


def say_ready(addresses: list[Address], as_json: bool) -> None:
    """The one line on standard output that says that connections are accepted, and where."""
    if as_json:
        text = msgspec.json.encode({"event": "ready", "addresses": [str(address) for address in addresses]}).decode()
    else:
        text = " ".join(("ready", *map(str, addresses)))
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
