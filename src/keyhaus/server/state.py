"""The state file: all data of a memory engine as one JSON document, loaded at the start and replaced as it changes.

It is no journal. What was written within the last second or so is lost with the process, as are the expiries that
followed. But the file is always whole (`whole_file`). It is written in slices between the commands of clients, of one
snapshot, and in a quarter of the time at most.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final

from keyhaus.core.errors import Error, StorageError, UserError
from keyhaus.core.keys import check_key
from keyhaus.core.limits import MIB
from keyhaus.protocol.files import document
from keyhaus.protocol.files.row import Row
from keyhaus.server.spawn import driven
from keyhaus.server.whole_file import WholeFile
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


class StateFile:
    """The state file of a store."""

    def __init__(self, store: Store, path: Path, loop: asyncio.AbstractEventLoop) -> None:
        """Takes the file for this process. Raises StorageError."""
        self._file = WholeFile(path)
        self.path = self._file.path
        self._store, self._loop = store, loop
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
                check_key(row.key)
                batch.put(row.key, row.value, row.expires, rec.FLAGS_OF_KIND[row.kind.encode()], typed=True)
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
        snapshot = self._store.snapshot(aging=False)
        try:
            async with self._file.replaced() as write:
                await self._write(snapshot, write)
        finally:
            snapshot.close()
        self._saved_seqno, self._saved_ms = snapshot.seqno, self._store.now()

    async def _write(self, snapshot: Snapshot, write: Callable[[bytes], Awaitable[object]]) -> None:
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
                            await write(b"".join(pieces))
                            pieces, size = [], 0
                    await asyncio.sleep(0)
            await write(b"".join(pieces))
            for piece in writer.end():
                await write(piece)

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
            self._file.release()
        if self._error:
            raise StorageError(f"the state file {self.path} could not be written: {self._error}")


def _row(database: int, key: bytes, record: rec.Record) -> Row:
    return Row(database, key, rec.kind_of(record).decode(), rec.value_of(record), rec.expires_of(record))
