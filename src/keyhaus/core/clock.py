"""The seam to time."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where the time comes from."""

    def unix_ms(self) -> int:
        """The wall clock, in milliseconds since 1970."""
        ...

    def monotonic_ns(self) -> int:
        """A clock that never runs back, in nanoseconds since some moment."""
        ...


class SystemClock:
    """The operating system's clocks."""

    def unix_ms(self) -> int:
        return time.time_ns() // 1_000_000

    # Read at every command: the function itself, without another call around it.
    monotonic_ns = staticmethod(time.monotonic_ns)
