"""A server process from start to end: lock, recovery, listeners, `ready`, signals, drain."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import resource
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import uvloop

from keyhaus import __version__
from keyhaus.core.clock import SystemClock
from keyhaus.core.disk import OsLock
from keyhaus.core.errors import OtherFormat, StorageError
from keyhaus.core.settings import Settings
from keyhaus.server.server import Address, Server
from keyhaus.server.spawn import LoopSpawn, driven
from keyhaus.server.state import StateFile
from keyhaus.session.hub import Hub
from keyhaus.store import opening
from keyhaus.store.opening import UnusableDirectory
from keyhaus.store.store import Store

log = logging.getLogger("keyhaus.server")

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
    lock = _take(settings)
    try:
        # The ports first: who can't have them need not wait for a recovery to hear of it.
        bound = [(address, await _bind(address)) for address in addresses]
        store = await _open(settings, loop)
        hub = Hub(store, settings, SystemClock(), secrets.token_hex(20))
        server = Server(hub, loop)
        state = server.state = _state(store, settings, loop)
        for address, sockets in bound:
            await server.listen(address, sockets)
        # What lives now lives as long as the process: the collector need not walk it again and again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(100_000, 20, 50)
        server.watch_idle()
        if state is not None:
            state.begin()
        ready(server.addresses)
        await stop.wait()
        log.info("stopping", extra={"clients": len(server.connections)})
        try:
            await server.stop()
            if state is not None:
                await state.close()
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


def _take(settings: Settings) -> OsLock | None:
    try:
        return opening.take(settings)
    except UnusableDirectory as error:
        raise StartFailed(f"{error.message} with --data-dir") from error
    except StorageError as error:
        raise StartFailed(error.message) from error


async def _open(settings: Settings, loop: asyncio.AbstractEventLoop) -> Store:
    try:
        return await driven(opening.open_store(settings, LoopSpawn(loop)), loop)
    except OtherFormat as error:
        raise StartFailed(_refusal(settings["dir"], error)) from error
    except StorageError as error:
        raise StartFailed(error.message) from error


def _state(store: Store, settings: Settings, loop: asyncio.AbstractEventLoop) -> StateFile | None:
    """The state file, loaded; None where there is none."""
    if not settings["state-file"]:
        return None
    before = loop.time()
    try:
        state = StateFile(store, Path(settings["state-file"]), loop)
        rows = state.load()
    except StorageError as error:
        raise StartFailed(error.message) from error
    log.info("loaded", extra={"file": str(state.path), "rows": rows, "seconds": round(loop.time() - before, 3)})
    return state


def _refusal(directory: str, error: OtherFormat) -> str:
    """What to do about files of another version."""
    if error.newer:
        advice = f"run a release that reads it: keyhaus serve --data-dir {directory}"
    else:
        advice = f"run the version that wrote it, or begin anew: keyhaus serve --data-dir {directory}.new"
    return f"{error.message}; nothing of the data was changed. This is keyhaus {__version__}: {advice}"


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
