"""The state file: all data of a memory engine as one JSON document, loaded at the start and replaced as it changes.

It is no journal. What was written within the last second or so is lost with the process, as are the expiries that
followed. But the file is always whole: each time it is written anew beside the old one, synced, and then takes its
name. That is done in slices between the commands of clients, of one snapshot, and in a quarter of the time at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

from keyhaus.core.errors import Error, StorageError, UserError
from keyhaus.core.keys import PLAIN_END, unpack_key
from keyhaus.core.limits import MIB
from keyhaus.core.objects import BYTES, OBJECT, TEXT
from keyhaus.protocol.files import document
from keyhaus.protocol.files.row import Row
from keyhaus.server.spawn import driven
from keyhaus.store import record as rec
from keyhaus.store.snapshot import Snapshot
from keyhaus.store.store import Store
from keyhaus.store.transaction import Transaction

log = logging.getLogger("keyhaus.server")

PAUSE_SECONDS: Final = 1.0
SHARE: Final = 3  # it pauses for so many times as long as writing took
PAGE_ROWS: Final = 200
SLICE_BYTES: Final = 64 * 1024  # what is written before others have their turn; a larger value goes alone
BATCH_BYTES: Final = MIB  # of what is loaded with one commit
_FLAGS: Final = {TEXT: 0, BYTES: rec.BYTES, OBJECT: rec.OBJECT}


class StateFile:
    """The state file of a store."""

    def __init__(self, store: Store, path: Path, loop: asyncio.AbstractEventLoop) -> None:
        """Takes the file for this process. Raises StorageError."""
        self.path = path.resolve()
        self._store, self._loop = store, loop
        self._partial = self.path.with_name(f".{self.path.name}.new")
        self._lock = _taken(self.path)
        self._saved_seqno = store.last
        self._saved_ms = 0
        self._error = ""
        self._not_before = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._saving: asyncio.Task[None] | None = None

    def facts(self) -> dict[str, Any]:
        """What INFO tells of it."""
        return {
            "state_file": str(self.path),
            "state_saved_unix_ms": self._saved_ms,
            "state_error": " ".join(self._error.split()),
        }

    # loading

    def load(self) -> int:
        """Puts what the file holds into the store, which is new; how many rows. Without a file there are none.

        Raises:
            StorageError: It can't be read, or holds what the settings don't allow. It is left as it is.
        """
        if not self.path.exists():
            return 0
        rows = 0
        try:
            with self.path.open("rb") as file:
                for batch in self._batches(file):
                    rows += len(batch.operations)
                    batch.commit()
        except OSError as error:
            raise self._unreadable(error.strerror or str(error)) from error
        except UserError as error:
            raise self._unreadable(error.message) from error
        self._saved_seqno = self._store.last
        return rows

    def _unreadable(self, reason: str) -> StorageError:
        return StorageError(
            f"the state file {self.path} can't be loaded: {reason}. It was left as it is: repair it, or name another "
            "with --state-file; keyhaus import --keep-going takes what is whole out of a broken one"
        )

    def _batches(self, file: IO[bytes]) -> Iterator[Transaction]:
        """Transactions with what the file holds, to be committed. Raises UserError, OSError."""
        store = self._store
        most = min(BATCH_BYTES, store.max_bytes)
        batch, room = Transaction(store), most
        for read in document.read(file.read):
            if read.row is None:
                raise UserError(read.problem)
            row = read.row
            if row.database >= len(store.spaces):
                raise UserError(f"line {read.line}: there is no database {row.database}: set databases higher")
            size = len(row.key) + len(row.value)
            if size > room and batch.operations:
                yield batch
                batch, room = Transaction(store), most
            if size > store.max_bytes:
                raise UserError(f"line {read.line}: the row has {size} bytes: set max-transaction-bytes higher")
            room -= size
            batch.database = row.database
            if not 0 < row.expires <= store.now():
                if row.key >= PLAIN_END:
                    unpack_key(row.key)  # what nobody could read is refused
                batch.put(row.key, row.value, row.expires, _FLAGS[row.kind], typed=True)
        if batch.operations:
            yield batch

    # saving

    def begin(self) -> None:
        """From now on it is written as the store changes."""
        self._timer = self._loop.call_later(PAUSE_SECONDS, self._look)

    def _look(self) -> None:
        if self._saving is None and self._store.last != self._saved_seqno and self._loop.time() >= self._not_before:
            self._saving = self._loop.create_task(self._save_and_tell())
        self.begin()

    async def _save_and_tell(self) -> None:
        """Writes it; what goes wrong is told, and tried again."""
        began = self._loop.time()
        try:
            await self._save()
        except Exception as error:
            reason = error.message if isinstance(error, Error) else str(error)
            if reason != self._error:
                expected = isinstance(error, Error | OSError)
                facts = {"file": str(self.path), "reason": reason}
                log.warning("the state file can't be written", extra=facts, exc_info=not expected)
            self._error = reason
        else:
            self._error = ""
        finally:
            self._saving = None
            now = self._loop.time()
            self._not_before = now + SHARE * (now - began)

    async def _save(self) -> None:
        """Raises OSError, SnapshotTooOld."""
        snapshot = self._store.snapshot()
        if snapshot.timer is not None:
            snapshot.timer.cancel()  # its bytes are bounded, and its own time
        try:
            await self._write(snapshot)
        except BaseException:
            with contextlib.suppress(OSError):
                self._partial.unlink(missing_ok=True)
            raise
        finally:
            snapshot.close()
        self._saved_seqno, self._saved_ms = snapshot.seqno, self._store.now()

    async def _write(self, snapshot: Snapshot) -> None:
        file = await asyncio.to_thread(_created, self._partial, self.path)
        try:
            with tempfile.SpooledTemporaryFile(MIB) as aside:
                writer = document.DocumentWriter(aside)
                pieces: list[bytes] = []
                size = 0
                for database in range(len(snapshot.spaces)):
                    start: bytes | None = b""
                    while start is not None:
                        page = snapshot.page(database, start, None, PAGE_ROWS)
                        records, start = await driven(page, self._loop)
                        for key, record in records:
                            pieces.append(writer.add(_row(database, key, record)))
                            size += len(record)
                            if size > SLICE_BYTES:
                                await asyncio.to_thread(file.write, b"".join(pieces))
                                pieces, size = [], 0
                        await asyncio.sleep(0)
                await asyncio.to_thread(file.write, b"".join(pieces))
                for piece in writer.end():
                    await asyncio.to_thread(file.write, piece)
            await asyncio.to_thread(_complete, file, self._partial, self.path)
        finally:
            file.close()

    async def close(self) -> None:
        """Writes what is not written yet, once nothing changes any more.

        Raises:
            StorageError: It could not be written.
        """
        if self._timer is not None:
            self._timer.cancel()
        if self._saving is not None:
            await self._saving
        try:
            if self._store.last != self._saved_seqno:
                await self._save_and_tell()
        finally:
            os.close(self._lock)
        if self._error:
            raise StorageError(f"the state file {self.path} could not be written: {self._error}")


def _row(database: int, key: bytes, record: rec.Record) -> Row:
    flags = rec.flags_of(record)
    kind = OBJECT if flags & rec.OBJECT else BYTES if flags & rec.BYTES else TEXT
    return Row(database, key, kind, rec.value_of(record), rec.expires_of(record))


# the file


def _taken(path: Path) -> int:
    """A lock on a state file, which another process may not have too. Raises StorageError."""
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is no file")
        lock = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise StorageError(f"the state file {path} can't be used: {error.strerror or error}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise StorageError(
            f"the state file {path} is in use by another server: stop it first, or name another with --state-file"
        ) from None
    return lock


def _created(partial: Path, path: Path) -> IO[bytes]:
    """An empty file beside one, with its rights. Raises OSError."""
    file = partial.open("wb")
    with contextlib.suppress(FileNotFoundError):
        os.fchmod(file.fileno(), path.stat().st_mode & 0o777)
    return file


def _complete(file: IO[bytes], partial: Path, path: Path) -> None:
    """Gives a file its name once it is on the disk. Raises OSError."""
    file.flush()
    os.fsync(file.fileno())
    partial.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
