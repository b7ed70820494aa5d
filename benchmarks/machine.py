"""The machine that a benchmark runs on: its cores, its file system, and what a process has used of it."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


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


def resident_bytes(pid: int) -> int:
    """What a process and its descendants hold in RAM; pages that they share count more than once."""
    pages = 0
    for member in family(pid):
        try:
            pages += int(Path(f"/proc/{member}/statm").read_text().split()[1])
        except OSError:
            continue
    return pages * _PAGE_BYTES


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
