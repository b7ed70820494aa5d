"""A store's numbers, for INFO and the metrics. Those about data are as of `synced`: nobody is told of what may be lost.

How many keys there are is counted at the end of each group of the journal, and told once that group is synced (C2).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from keyhaus.store.store import Store

GROUPS_KEPT: Final = 64  # not synced yet


class SyncedCounts:
    """How many keys each database has, and how many expired, as of `synced`.

    Attributes:
        keyspace: By database that has any: keys, and those of them that have a deadline.
        expired: How many expired since the start.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._groups: deque[tuple[int, dict[int, tuple[int, int]], int]] = deque()
        self.keyspace: dict[int, tuple[int, int]] = {}
        self.expired = 0

    def executed(self) -> dict[int, tuple[int, int]]:
        """What `keyspace` would be if everything were synced."""
        return {
            number: (space.count, space.count_volatile())
            for number, space in enumerate(self._store.spaces)
            if (space.added or space.below) and space.count
        }

    def begin(self) -> None:
        """After a start: all that was recovered is synced."""
        self.keyspace = self.executed()

    def group_closed(self, last: int) -> None:
        """The next sync has all up to `last`."""
        if len(self._groups) >= GROUPS_KEPT:
            self._groups.pop()
        self._groups.append((last, self.executed(), self._store.expired_keys))

    def progressed(self, synced: int) -> None:
        """All up to `synced` is synced now."""
        groups = self._groups
        while groups and groups[0][0] <= synced:
            _, self.keyspace, self.expired = groups.popleft()


def statistics(store: Store) -> dict[str, Any]:
    """The numbers, by INFO's names where they have the same meaning."""
    journal, counts = store.journal, store.counts_synced
    durable = journal is not None
    expired = (counts.expired if durable else store.expired_keys) - store.expired_before
    return {
        "engine": "rocksdb" if durable else "memory",
        "history": store.history,
        "synced": store.synced if durable else store.last,
        "changes_oldest": store.changes.oldest,
        "archived": 0,
        "archive_error": "",
        "journal_bytes": 0,
        "journal_bytes_retained": 0,
        "journal_bytes_max": store.settings.integer("journal-max-bytes") if durable else 0,
        "journal_segments": 0,
        "groups": 0,
        "syncs": 0,
        "poisoned": "",
        "full": False,
        "expired_keys": max(0, expired),
        "evicted_keys": store.evictor.evicted_keys,
        "keyspace": counts.keyspace if durable else counts.executed(),
        "used_bytes": store.evictor.used() + store.views.cache.size,
        "overhead_bytes": store.evictor.overhead(),
        "keeping": _keeping(store),
        "backups": {} if store.backups is None else store.backups.statistics(),
        **({} if journal is None else journal.statistics()),
    }


def _keeping(store: Store) -> dict[str, Any]:
    """What is kept in memory, and what lies below it."""
    cache, ground, flusher = store.views.cache, store.ground, store.flusher
    facts: dict[str, Any] = {
        "snapshots": len(store.snapshots),
        "snapshots_ended": store.snapshots.ended,
        "snapshot_retained_bytes": store.snapshots.retained(),
    }
    if ground is not None and flusher is not None:
        looked_up = cache.hits + cache.misses
        facts |= {
            "base_seqno": store.base_seqno,
            "row_cache_bytes": cache.size,
            "row_cache_rows": len(cache),
            "row_cache_hits": cache.hits,
            "row_cache_misses": cache.misses,
            "row_cache_hit_rate": round(cache.hits / looked_up, 4) if looked_up else 0.0,
            "cold_reads": store.gatherer.cold_reads,
            "base_restarts": ground.restarts,
            "base_damaged_reads": ground.damaged,
            **flusher.statistics(),
            **{f"base_{name}": value for name, value in ground.stats.items()},
        }
    return facts
