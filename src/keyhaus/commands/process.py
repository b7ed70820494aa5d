"""What the operating system says of this process: its memory and its processor time."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path
from typing import Final, NamedTuple

_KIB: Final = 1024
_STATUS: Final = Path("/proc/self/status")


class ProcessMemory(NamedTuple):
    """Bytes of memory: the process' now, at its peak and swapped out, and what the machine has (0: unknown)."""

    resident: int
    peak: int
    swapped: int
    total: int


def process_memory() -> ProcessMemory:
    # Where there is no /proc (macOS) only the peak is known; there it is told in bytes, on Linux in KiB.
    unit = 1 if sys.platform == "darwin" else _KIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return ProcessMemory(peak, peak, 0, _machine_bytes())
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    resident = _kib(fields.get("VmRSS"), peak)
    return ProcessMemory(resident, max(peak, resident), _kib(fields.get("VmSwap"), 0), _machine_bytes())


def _kib(field: str | None, default: int) -> int:
    return int(field.split()[0]) * _KIB if field else default


def _machine_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0
