"""Planted faults: each leaves out one rule of the store, and then some seed must break.

They are patches of the product's own code, switched on by name; what a seed does besides is the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Final
from unittest.mock import patch

from keyhaus.core.spawn import HelperLost
from keyhaus.journal import journal as running
from keyhaus.journal import manifest as manifests
from keyhaus.journal import recovery
from keyhaus.journal.format import FAR
from keyhaus.journal.journal import Journal
from keyhaus.session.hub import Hub
from keyhaus.store import counts, sweeper
from keyhaus.store.counts import Counts
from keyhaus.store.flush import Flusher
from keyhaus.store.gather import Gatherer
from keyhaus.store.ground import Ground
from keyhaus.store.keyspace import Keyspace
from keyhaus.store.record import EXPIRES, TOMBSTONE, expires_of
from keyhaus.store.runs import RunBuilder
from keyhaus.store.store import Store
from keyhaus.store.transaction import Transaction
from keyhaus.store.views import Views


def _write_without_sync(job: Any) -> None:
    if job.seal is not None:
        job.seal_segment()
    if job.data:
        job.segment.file.write(job.data, job.offset)


def _seal_without_sync(job: Any) -> None:
    manifests.replace(job.disk, job.manifest)


_when_synced = Flusher._when_synced


def _release_then_ingest(flusher: Any, name: str) -> None:
    if flusher.synced(flusher.sealed.meta.seqno):
        flusher._store.journal.release(flusher.sealed.meta.seqno)
    _when_synced(flusher, name)


def _fill_under_memtable(gatherer: Any, view: int, space: Any, key: bytes, record: Any) -> None:
    """What a view says that is no longer the newest, as long as no memtable covers the key."""
    if space.in_memory(key) is None:
        gatherer._store.views.cache.put(space.prefix + key, record)


def _retire_at_once(views: Any, space: Any, table: Any) -> None:
    space.retired_into_base(table)
    views.free(table)


def _settle_in_itself(self: Any, space: Any, done: Any) -> None:
    views = self._store.views
    tables = [*reversed(space.sealed), space]
    table = next((table for table in tables if table.blind), None)
    if table is None:
        self._store.spawn.later(1, lambda: done(None))
        return
    view = views.pin()

    def looked(error: BaseException | None) -> None:
        views.unpin(view)
        if error is None and table.blind and table in tables and len(table.blind) > counts.STEP_KEYS:
            self._settle(space, done)
        else:
            done(error)

    self._look(view, space, table, looked)


_counted_into_base = Keyspace.counted_into_base


def _count_late(space: Any, table: Any) -> None:
    if table not in space.sealed:
        _counted_into_base(space, table)


_settle = Keyspace.settle


def _settle_and_forget(space: Any, table: Any, key: bytes, record: Any, *, latest: bool) -> None:
    _settle(space, table, key, record, latest=True)


_clean = Store._clean


def _clean_early(store: Any) -> None:
    before, store.base_seqno = store.base_seqno, FAR
    try:
        _clean(store)
    finally:
        store.base_seqno = before


_add = RunBuilder.add


def _add_without_tombstones(builder: Any, prefix: bytes, records: Any) -> None:
    _add(builder, prefix, [(key, record) for key, record in records if not record[7] & TOMBSTONE])


_resume = Ground._resume


def _resume_forgetting(ground: Any, meta: Any) -> None:
    """The run that was being ingested is taken for lost, and its table for flushed all the same."""
    ingesting = ground._ingesting
    if ingesting is not None and (meta is None or meta.seqno != ingesting[0]):
        ground._ingesting = (0 if meta is None else meta.seqno, ingesting[1])
    _resume(ground, meta)


def _expire_silently(transaction: Any, key: bytes, record: Any) -> Any:
    if record[7] & TOMBSTONE or (record[7] & EXPIRES and expires_of(record) <= transaction.now()):
        return None
    return record


def _forgive(journal: Any, error: BaseException) -> None:
    journal._settle()


def _tables_without_retired(space: Any, view: int) -> Any:
    return [space, *space.sealed]


def _row_of_absent(gatherer: Any, gathered: Any, space: Any, key: bytes, settled: Any) -> None:
    def told(record: Any, error: BaseException | None) -> None:
        gathered.rows[space.prefix + key] = record
        settled(error)

    gatherer.row(gathered.view, space, key, told)


_ask = sweeper.Sweeper._ask
_newest = sweeper._newest


def _judge_early(self: Any, space: Any, key: bytes, expires: int, view: int, answered: Any) -> None:
    """Judges a row as it is answered, not when the last one is."""

    def told(space: Any, key: bytes, expires: int, record: Any, failed: bool = False) -> None:
        found = _newest(space, view, key, record)
        answered(_Judged(space, found), key, expires, None, failed)

    _ask(self, space, key, expires, view, told)


class _Judged:
    """A keyspace of which one record is known, and stays known."""

    def __init__(self, space: Any, record: Any) -> None:
        self._space, self._record = space, record

    def tables(self, view: int) -> list[Any]:
        return []

    def __hash__(self) -> int:
        return hash(self._space)

    def __eq__(self, other: object) -> bool:
        return other is self._space or (isinstance(other, _Judged) and other._space is self._space)


def _newest_of(space: Any, view: int, key: bytes, below: Any) -> Any:
    return space._record if isinstance(space, _Judged) else _newest(space, view, key, below)


_failed = Flusher._failed


def _give_up(flusher: Any, error: BaseException) -> None:
    """A flush whose writer died is taken for done."""
    if isinstance(error, HelperLost) and flusher.sealed is not None:
        flusher._store.ground.meta = flusher.sealed.meta
        flusher._ingested(None, None)
    else:
        _failed(flusher, error)


def _always_off(hub: Any, durability: str) -> None:
    hub.always = False


def _stands_never(*args: Any) -> bool:
    return False


_Patch = tuple[Any, str, Any]
PLANTED: Final[dict[str, tuple[str, tuple[_Patch, ...]]]] = {
    "ack-before-sync": ("C3: a reply leaves before the sync", ((running._Write, "run", _write_without_sync),)),
    "always-as-written": ("C3: `always` is content with what is written", ((Hub, "_set_durability", _always_off),)),
    "no-dependency": ("C2: point reads depend on nothing", ((Transaction, "_note", lambda tx, record: None),)),
    "poison-forgiven": ("C4: a failed sync is passed over", ((Journal, "_poison", _forgive),)),
    "roll-unsynced": (
        "J4: a segment is left before it is synced",
        ((running._Write, "seal_segment", _seal_without_sync),),
    ),
    "dead-alive": ("J7: what a start cut off counts again", ((recovery.Walk, "dead", staticmethod(_stands_never)),)),
    "number-twice": ("J8: a start jumps over no numbers", ((recovery, "JUMP", 0),)),
    "jump-unproven": (
        "J6: a jump is given back before the base lies behind it",
        ((recovery.Walk, "jump_proves", lambda walk: 0),),
    ),
    "flush-unsynced": ("S1: what is not synced is ingested", ((Flusher, "synced", lambda flusher, seqno: True),)),
    "release-early": (
        "S1: segments are given back before the ingest",
        ((Flusher, "_when_synced", _release_then_ingest),),
    ),
    "flush-given-up": ("S1: a run whose writer died is taken for ingested", ((Flusher, "_failed", _give_up),)),
    "tombstones-buried": ("S1: deletions don't reach the base", ((RunBuilder, "add", _add_without_tombstones),)),
    "ingest-forgotten": (
        "S2: a run is taken for ingested when its helper died",
        ((Ground, "_resume", _resume_forgetting),),
    ),
    "retired-early": ("S2: sealed tables go though an older view is read", ((Views, "retire", _retire_at_once),)),
    "retired-unread": (
        "S2: readers of an older view pass over what was flushed",
        ((Keyspace, "tables", _tables_without_retired),),
    ),
    "stale-fill": (
        "S3: a row of an older view may go into the row cache",
        ((Gatherer, "_fill", _fill_under_memtable),),
    ),
    "cache-stays": (
        "S3: the row cache doesn't follow a flush",
        ((Flusher, "_followed", lambda flusher, sealed: iter(())),),
    ),
    "cleaned-early": ("S4: a generation is cleaned before its drop is in the base", ((Store, "_clean", _clean_early),)),
    "counted-in-itself": (
        "S5: a table's blind keys are looked up in itself",
        ((Counts, "_settle", _settle_in_itself),),
    ),
    "counted-twice": ("S5: a run counts only once it is retired", ((Keyspace, "counted_into_base", _count_late),)),
    "expiry-silent": ("S6: an expiry is no commit", ((Transaction, "_alive", _expire_silently),)),
    "versions-dropped": (
        "S8: a snapshot's versions are not kept",
        ((Keyspace, "_keep", lambda space, key, old: None),),
    ),
    "failed-is-absent": (
        "T8: a row that could not be read is taken for absent",
        ((Gatherer, "_row_of", _row_of_absent),),
    ),
    "swept-by-hearsay": (
        "T2: the sweeper deletes what had expired when it was looked up",
        ((sweeper.Sweeper, "_ask", _judge_early), (sweeper, "_newest", _newest_of)),
    ),
    "deadline-forgotten": (
        "S5: a deadline that stands again leaves the index",
        ((Keyspace, "settle", _settle_and_forget), (Keyspace, "_stands_again", _stands_never)),
    ),
}


@contextlib.contextmanager
def planted(name: str | None) -> Iterator[None]:
    """Switches one of them on; None for none."""
    with contextlib.ExitStack() as stack:
        for owner, attribute, replacement in PLANTED[name][1] if name is not None else ():
            stack.enter_context(patch.object(owner, attribute, replacement))
        yield
