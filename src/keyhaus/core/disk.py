"""The seam to files.

Journal and store touch the disk only through `Disk` and `File`, so that a simulation can stand in for both and lose
what was not synced, fail a call, or stop the process at any of them. Names are relative to one directory.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path
from typing import IO, Protocol

from keyhaus.core.errors import InUse

ZERO_STEP = 1 << 20
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)  # a file can't have a second name here
NOTE_BYTES = 32  # of the lock's file


class File(Protocol):
    """One open file. Every method raises OSError."""

    def read(self, count: int, offset: int) -> bytes:
        """Up to `count` bytes; fewer only at the end of the file."""
        ...

    def write(self, data: bytes, offset: int) -> None:
        """Writes all of `data`; a short write goes on where it stopped."""
        ...

    def sync(self) -> None:
        """Returns once everything written before is on the disk. A file whose sync failed proves nothing ever after."""
        ...

    def size(self) -> int: ...

    def zero(self, start: int, end: int) -> None:
        """Writes zeros, so that later writes there allocate nothing."""
        ...

    def truncate(self, size: int) -> None: ...

    def close(self) -> None: ...


class Disk(Protocol):
    """A directory of files."""

    def open(self, name: str, *, create: bool = False) -> File: ...

    def names(self, directory: str) -> list[str]: ...

    def exists(self, name: str) -> bool: ...

    def rename(self, old: str, new: str) -> None: ...

    def link(self, name: str, other: str) -> None:
        """Gives a file a second name, which must be free."""
        ...

    def remove(self, name: str) -> None: ...

    def make_directory(self, name: str) -> None: ...

    def sync_directory(self, name: str) -> None:
        """Makes the names in a directory durable: what was created, renamed or removed."""
        ...

    def block_bytes(self) -> int:
        """The device's physical block, in bytes, as far as it is known; at least 4096."""
        ...

    def lock(self, name: str) -> Lock:
        """Takes the directory for this process; raises InUse naming the holder."""
        ...


class Lock(Protocol):
    def release(self) -> None: ...


class OsFile:
    """A file of the operating system."""

    def __init__(self, path: Path, create: bool, read_only: bool = False) -> None:
        access = os.O_RDONLY if read_only else os.O_RDWR
        self._fd = os.open(path, access | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o640)

    def read(self, count: int, offset: int) -> bytes:
        parts: list[bytes] = []
        while count:
            part = os.pread(self._fd, count, offset)
            if not part:
                break
            parts.append(part)
            count -= len(part)
            offset += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, data: bytes, offset: int) -> None:
        written = os.pwrite(self._fd, data, offset)
        if written == len(data):
            return
        view = memoryview(data)
        while written < len(data):
            written += os.pwrite(self._fd, view[written:], offset + written)

    def sync(self) -> None:
        os.fdatasync(self._fd)

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def zero(self, start: int, end: int) -> None:
        if end <= start:
            return
        # A disk without room says so here, before anything is written.
        os.posix_fallocate(self._fd, start, end - start)
        zeros = bytes(min(ZERO_STEP, end - start))
        while start < end:
            step = min(len(zeros), end - start)
            self.write(zeros[:step], start)
            # In small portions: one large sync would hold up the syncs of commits that share the device.
            os.fdatasync(self._fd)
            start += step

    def truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)

    def close(self) -> None:
        os.close(self._fd)


class OsLock:
    """An advisory lock on a directory, and beside it a file that holds the owner's process id.

    The file alone would not do: whoever removes it as a leftover would let a second process in.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self._file = os.open(directory / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._file, 32, 0).decode("ascii", "replace").strip()
            os.close(self._file)
            os.close(self._directory)
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            if holder == str(os.getpid()):
                text = "is open in this process already: close it first"
            else:
                text = f"is in use by process {holder or 'unknown'}: stop it first"
            raise InUse(directory.resolve(), f"{text}, or use another directory") from None
        self._note(f"{os.getpid()}\n")

    def _note(self, holder: str) -> None:
        # Always as long: the file keeps its block, so that a full disk does not stand in the way of the next holder.
        os.pwrite(self._file, holder.rjust(NOTE_BYTES).encode(), 0)

    def release(self) -> None:
        self._note("\n")
        fcntl.flock(self._directory, fcntl.LOCK_UN)  # a forked child may have the descriptor too
        self.forget()

    def forget(self) -> None:
        """In a forked child: the directory stays taken for the parent, and only for as long as that lives."""
        os.close(self._file)
        os.close(self._directory)


class OsReadLock:
    """A shared advisory lock on a directory, which leaves no trace there: others may read too, nobody may write."""

    def __init__(self, directory: Path) -> None:
        self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._directory, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._directory)
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            raise InUse(directory.resolve(), "is being written by another process") from None

    def release(self) -> None:
        os.close(self._directory)


class OsDisk:
    """A directory of the operating system; one that is only read needs no right to write."""

    def __init__(self, root: str | os.PathLike[str], *, read_only: bool = False) -> None:
        self.root = Path(root)
        self._read_only = read_only

    def open(self, name: str, *, create: bool = False) -> OsFile:
        return OsFile(self.root / name, create, self._read_only)

    def names(self, directory: str) -> list[str]:
        return sorted(os.listdir(self.root / directory))

    def exists(self, name: str) -> bool:
        return (self.root / name).exists()

    def rename(self, old: str, new: str) -> None:
        os.rename(self.root / old, self.root / new)

    def link(self, name: str, other: str) -> None:
        os.link(self.root / name, self.root / other)

    def remove(self, name: str) -> None:
        os.unlink(self.root / name)

    def make_directory(self, name: str) -> None:
        (self.root / name).mkdir(mode=0o750, parents=True, exist_ok=True)

    def sync_directory(self, name: str) -> None:
        _sync_directory(self.root / name)

    def block_bytes(self) -> int:
        device = os.stat(self.root).st_dev
        queue = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/queue/physical_block_size")
        with contextlib.suppress(OSError, ValueError):
            return max(4096, int(queue.read_text()))
        # A partition has no queue of its own: its disk's stands one directory up.
        with contextlib.suppress(OSError, ValueError):
            parent = queue.parent.parent.resolve().parent / "queue" / queue.name
            return max(4096, int(parent.read_text()))
        return 4096

    def lock(self, name: str) -> OsLock:
        return OsLock(self.root, name)

    def lock_to_read(self) -> OsReadLock:
        """Keeps writers out for as long as it is read; raises InUse where there is one."""
        return OsReadLock(self.root)


def replace_file(partial: IO[bytes], path: Path) -> None:
    """Gives a file that is written its final name, for good: a crash leaves it, or what had the name before.

    Args:
        partial: The file, open, in the directory of `path`, under another name.
        path: Its final name.

    Raises:
        OSError: It has its old name still, or its new one, and may be lost by a crash.
    """
    partial.flush()
    os.fsync(partial.fileno())
    os.replace(partial.name, path)
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
