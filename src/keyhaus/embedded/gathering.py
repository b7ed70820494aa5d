"""Lets a group of the journal wait for those who were told last, since they are about to write again.

Threads that write and wait in a loop would else fall into two halves: while the disk syncs the commits of one, those of
the other gather, and each commit waits for two syncs. So who is told is expected back, and the next group goes out once
all have come, or after the time that the last one took. Where they don't come, the next groups wait for nobody; the
more often that was so, the more of them.

Only a thread that keeps the time holds a group back: one that waits for it itself, or the journal's writer. What it is
worth: docs/adr/0012.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic_ns
from typing import Final

HELD_NS_MAX: Final = 5_000_000
SKIPS_MAX: Final = 1024  # groups that wait for nobody, after many that waited in vain


class Gathering:
    """What one database expects; to be called in the turn, but for `patience_seconds`.

    Attributes:
        keeps_time: Whether the thread that has the turn will call `over` in time.
        go_on: Has the journal look at its open group again.
    """

    def __init__(self) -> None:
        self.keeps_time = False
        self.go_on: Callable[[], None] = lambda: None
        self._round = 0  # counts the groups that came back
        self._expected = 0
        self._held = False
        self._until_ns = 0
        self._skips, self._skips_next = 0, 1

    def begin(self, took_ns: int) -> None:
        """A group has come back after so long; those who are told of it are expected."""
        self._round += 1
        self._expected = 0
        self._until_ns = monotonic_ns() + min(took_ns, HELD_NS_MAX)

    def told(self) -> int:
        """Somebody is told; a number for `came`."""
        self._expected += 1
        return self._round

    def came(self, number: int) -> None:
        """Somebody who was told is back; what he does now is in the group."""
        if number == self._round and self._expected:
            self._expected -= 1
            if not self._expected and self._held:
                self._skips_next = max(1, self._skips_next // 2)
                self.let_go()

    def holds_back(self) -> bool:
        """The journal asks whether its open group is to wait."""
        self._held = False
        if not self._expected or not self.keeps_time:
            return False
        if self._skips:
            self._skips -= 1
            return False
        if monotonic_ns() >= self._until_ns:
            self._miss()
            return False
        self._held = True
        return True

    def patience_seconds(self) -> float:
        """For how long the group that is held back still waits; -1 where none is."""
        return max(0, self._until_ns - monotonic_ns()) / 1e9 if self._held else -1

    def over(self) -> None:
        """Whoever keeps the time has waited long enough, perhaps."""
        if self._held and monotonic_ns() >= self._until_ns:
            self._miss()
            self.let_go()

    def let_go(self) -> None:
        """Holds nothing back any more."""
        if self._held:
            self._held = False
            self.go_on()

    def _miss(self) -> None:
        self._expected = 0
        self._skips = self._skips_next
        self._skips_next = min(2 * self._skips_next, SKIPS_MAX)
