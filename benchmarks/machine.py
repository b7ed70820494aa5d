"""The machine that a benchmark runs on: its cores, its file system, and what a process has used of it."""

from __future__ import annotations

import contextlib
import mmap
import os
import platform
import random
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_BLOCK_BYTES = 4096
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cores:
    """Where the server (its threads and helpers included) runs, and where the load generator."""

    server: frozenset[int]
    client: frozenset[int]

    @property
    def apart(self) -> bool:
        return not self.server & self.client


def cores() -> Cores:
    """One core for the server, another for the client; the same one where there is no other."""
    allowed = sorted(os.sched_getaffinity(0))
    return Cores(frozenset(allowed[:1]), frozenset(allowed[1:2] or allowed))


@contextlib.contextmanager
def pinned(to: frozenset[int]) -> Iterator[None]:
    """Processes that are started meanwhile run on these cores, and so do their threads and children."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, to)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for member in found:
        found.extend(parents.get(member, ()))
    return found


def cpu_seconds(pid: int) -> float:
    """What a process, all its threads and all its descendants have used so far, in user and kernel mode.

    The kernel counts in ticks of 10 ms on most machines, so a measurement should take a second or more.
    """
    ticks = 0
    for member in family(pid):
        if fields := _stat(member):
            # Fields 14 to 17 of proc(5): its own user and system time, then those of the children that it has reaped.
            ticks += sum(int(field) for field in fields[11:15])
    return ticks / _TICKS_PER_SECOND


def busy_seconds() -> float:
    """What all processes of the machine have used so far, and what the host took away, in user and kernel mode."""
    user, nice, system, _, _, _, _, steal = map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9])
    return (user + nice + system + steal) / _TICKS_PER_SECOND


class Strangers:
    """How much of the machine others took since this was made: those that do not descend from this process."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._busy = busy_seconds() - cpu_seconds(os.getpid())

    def share(self) -> float:
        """Of all cores, from 0 to 1; that of a second or more says something."""
        busy = busy_seconds() - cpu_seconds(os.getpid()) - self._busy
        cores_seconds = (time.monotonic() - self._began) * (os.cpu_count() or 1)
        return min(1.0, max(0.0, busy / max(1e-9, cores_seconds)))


def proportional_bytes(pid: int) -> int:
    """What a process and its descendants hold in RAM, pages that several share divided among them (PSS).

    The kernel walks their page tables for it: some 10 ms for a gigabyte, which a measurement of latencies would see.
    """
    total = 0
    seen: set[bytes] = set()
    for member in family(pid):
        try:
            command = Path(f"/proc/{member}/cmdline").read_bytes()
            lines = Path(f"/proc/{member}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        if command in seen:
            continue  # between its vfork and its exec: this is its parent's memory, not another one
        seen.add(command)
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def disk_read_bytes(pid: int) -> int:
    """What a process and its descendants have caused to be read from the disk so far; the page cache's hits are not."""
    total = 0
    for member in family(pid):
        try:
            lines = Path(f"/proc/{member}/io").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("read_bytes:"))
    return total


def files(directory: Path) -> Iterator[Path]:
    """Every file under a directory, as far as it does not vanish meanwhile."""
    for parent, _, names in os.walk(directory):
        yield from (Path(parent) / name for name in names)


def allocated_bytes(directory: Path) -> int:
    """What the files of a directory take on the disk; one with several names counts once."""
    sizes: dict[int, int] = {}
    for file in files(directory):
        with contextlib.suppress(OSError):
            found = file.lstat()
            sizes[found.st_ino] = found.st_blocks * 512
    return sum(sizes.values())


def drop_page_cache(directory: Path) -> None:
    """Has the kernel forget what it has cached of the files of a directory; what is not yet written is written first.

    A server that has a file mapped into its memory keeps those pages.
    """
    for file in files(directory):
        with contextlib.suppress(OSError):
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fdatasync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def random_read_us(directory: Path, seconds: float = 0.5) -> float:
    """How long the disk takes for 4 KiB at a random place of the largest file there, one read at a time: the median.

    Past the page cache (O_DIRECT). What lies below, such as the host's cache of a virtual disk, is measured with it;
    so are limits of a virtual disk that set in after a burst. 0 where nothing could be read.
    """
    largest = max(files(directory), key=lambda file: file.lstat().st_size, default=None)
    blocks = largest.lstat().st_size // _BLOCK_BYTES if largest else 0
    if largest is None or not blocks:
        return 0.0
    descriptor = os.open(largest, os.O_RDONLY | os.O_DIRECT)
    spans: list[int] = []
    try:
        with mmap.mmap(-1, _BLOCK_BYTES) as buffer:  # aligned, as O_DIRECT wants it
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                place = random.randrange(blocks) * _BLOCK_BYTES
                began = time.monotonic_ns()
                os.preadv(descriptor, [buffer], place)
                spans.append(time.monotonic_ns() - began)
    finally:
        os.close(descriptor)
    return statistics.median(spans) / 1000


@contextlib.contextmanager
def memory_watched(pid: int, every_seconds: float = 1.0) -> Iterator[list[int]]:
    """Samples the proportional bytes of a process and its descendants, the last time at the end, into a list."""
    samples: list[int] = []
    ended = threading.Event()

    def sample() -> None:
        while not ended.is_set():
            samples.append(proportional_bytes(pid))
            ended.wait(every_seconds)

    thread = threading.Thread(target=sample, name="memory-watch", daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()
        samples.append(proportional_bytes(pid))


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third (the state) on; empty for a process that is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    # The second field, the name, may hold blanks and brackets: what follows the last bracket is regular.
    return text.rpartition(")")[2].split()


def file_system(directory: Path) -> str:
    """The type of the file system that holds a directory."""
    best, kind = "", "unknown"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount, this_kind, *_ = line.split()
        if directory.resolve().is_relative_to(mount) and len(mount) >= len(best):
            best, kind = mount, this_kind
    return kind


def description() -> dict[str, str | int]:
    """What a reader of the figures should know of the machine."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
