"""The state file on the disk: it is one server's, and always whole.

Each time it is written anew beside the old one, synced, and then takes its name. All of that is done in threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import IO

from keyhaus.core.disk import replace_file
from keyhaus.core.errors import StorageError


class WholeFile:
    """A file that this process alone replaces, until it is released.

    Attributes:
        path: Where it is, links resolved.
    """

    def __init__(self, path: Path) -> None:
        """Takes it. Raises StorageError where another server has it, or where there can't be a file."""
        self.path = path.resolve()
        self._partial = self.path.with_name(f".{self.path.name}.new")
        self._lock = _taken(self.path)

    @contextlib.asynccontextmanager
    async def replaced(self) -> AsyncIterator[Callable[[bytes], Awaitable[object]]]:
        """Takes what it is to hold from now on, piece by piece; where anything goes wrong, the old one stays.

        Raises:
            OSError: It could not be written.
        """
        try:
            file = await asyncio.to_thread(self._created)
            try:

                def write(piece: bytes) -> Awaitable[object]:
                    return asyncio.to_thread(file.write, piece)

                yield write
                await asyncio.to_thread(replace_file, file, self.path)
            finally:
                file.close()
        except BaseException:
            with contextlib.suppress(OSError):
                self._partial.unlink(missing_ok=True)
            raise

    def _created(self) -> IO[bytes]:
        """The new one, empty, with the rights of the old one. Raises OSError."""
        file = self._partial.open("wb")
        with contextlib.suppress(FileNotFoundError):
            os.fchmod(file.fileno(), self.path.stat().st_mode & 0o777)
        return file

    def release(self) -> None:
        """Lets others have it."""
        os.close(self._lock)


def _taken(path: Path) -> int:
    """A lock on a file, which another process may not have too. Raises StorageError."""
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
