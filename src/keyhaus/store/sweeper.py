"""The sweeper: deletes what has expired and nobody reads any more, in small commits of its own.

Reads filter expired keys and delete them as they meet them (lazy expiry); this is for the rest. It runs ten times a
second while there is anything with a deadline, and goes on at once where one commit was not enough.
"""

from __future__ import annotations

from heapq import heappush
from typing import TYPE_CHECKING, Final

from keyhaus.core.errors import Error
from keyhaus.core.limits import SWEEP_KEYS_MAX
from keyhaus.core.spawn import Spawn
from keyhaus.journal.format import LAPSE
from keyhaus.store import record as rec
from keyhaus.store.transaction import Transaction

if TYPE_CHECKING:
    from keyhaus.store.store import Store

SWEEP_MS: Final = 100


class Sweeper:
    """Turns the expiry index into deletions."""

    def __init__(self, store: Store, spawn: Spawn) -> None:
        self._store, self._spawn = store, spawn
        self._armed = self._closed = False

    def deadline(self, expires: int) -> None:
        """There is a key with a deadline."""
        if not self._armed and not self._closed:
            self._armed = True
            self._spawn.later(SWEEP_MS, self._sweep)

    def close(self) -> None:
        self._closed = True

    def _sweep(self) -> None:
        self._armed = False
        if self._closed:
            return
        more = sum(self._sweep_one(number) for number in range(len(self._store.spaces)))
        if any(space.deadlines for space in self._store.spaces):
            self._armed = True
            if more:
                self._spawn.soon(self._sweep)
            else:
                self._spawn.later(SWEEP_MS, self._sweep)

    def _sweep_one(self, number: int) -> bool:
        """One commit for one database; whether there is more to do."""
        space = self._store.spaces[number]
        now = self._store.now()
        keys = space.due(now, SWEEP_KEYS_MAX)
        more = bool(space.deadlines) and space.deadlines[0][0] <= now
        if not keys:
            return more
        transaction = Transaction(self._store, number)
        transaction.operations = [(LAPSE, number, key) for key in keys]
        try:
            done = transaction.commit() is None
        except Error:
            done = False  # full or poisoned: tried again later
        if not done:
            for key in keys:
                heappush(space.deadlines, (rec.expires_of(space.records[key]), key))
        return done and more
