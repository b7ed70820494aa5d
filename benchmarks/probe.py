"""How long the disk itself takes to make a write durable, measured beside whatever else it is doing.

A process of its own overwrites blocks of 4 KiB in a preallocated file, at random places and at a low rate, and syncs
each with fdatasync.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import msgspec

_FILE_BYTES: Final = 4 << 20
_BLOCK_BYTES: Final = 4096


class Sync(msgspec.Struct, frozen=True):
    """One write with its sync, in monotonic nanoseconds."""

    start_ns: int
    end_ns: int


def _probe(pipe: Connection, path: str, per_second: float) -> None:
    rng = random.Random(1)
    block = rng.randbytes(_BLOCK_BYTES)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.pwrite(descriptor, bytes(_FILE_BYTES), 0)
    os.fsync(descriptor)
    found: list[tuple[int, int]] = []
    while not pipe.poll(rng.uniform(0.5, 1.5) / per_second):
        place = rng.randrange(_FILE_BYTES // _BLOCK_BYTES) * _BLOCK_BYTES
        start = time.monotonic_ns()
        os.pwrite(descriptor, block, place)
        os.fdatasync(descriptor)
        found.append((start, time.monotonic_ns()))
    os.close(descriptor)
    pipe.send(found)


class Probe:
    """The process; it probes from when it is made until it is asked for what it has found."""

    def __init__(self, path: Path, per_second: float) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_probe, args=(theirs, str(path), per_second), daemon=True)
        self._process.start()
        theirs.close()

    def finish(self) -> list[Sync]:
        """Ends it."""
        self._pipe.send("enough")
        found = [Sync(start, end) for start, end in self._pipe.recv()]
        self._process.join()
        self._pipe.close()
        return found
