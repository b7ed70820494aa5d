"""Eviction: what is given up once the data takes more than `max-memory`, as Redis does it.

Before each command room is made, in a step of bounded size; what one step does not free is freed in the background, a
step a turn. Each eviction is a commit of its own (T2), so that WATCH, the change feed and the counts see a deletion.
Where nothing can be given up, commands that need memory are refused; where it is a matter of time, they wait as long
as more comes in than goes out. So the data never takes more than `max-memory` (or, once that was lowered, than it took
at its least since), `EVICTION_SLACK_BYTES` and what one command adds.

Who goes, is chosen as in Redis: a few keys of each database are sampled, the best candidates of all samples so far
stay in a small pool, and the best of those goes. For volatile-ttl the order of the deadlines is known, so the key that
expires next goes, without sampling.

While there is no limit nothing of this runs, and nothing is noted of any key.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from keyhaus.core.errors import Error, OutOfMemory
from keyhaus.core.limits import EVICTION_SLACK_BYTES, EVICTION_STEP_KEYS
from keyhaus.core.settings import Policy
from keyhaus.core.wait import Wait
from keyhaus.journal.format import DELETE
from keyhaus.store.keyspace import CHURN_BYTES, DEADLINE_BYTES, DEADLINE_CHURN_BYTES, ENTRY_BYTES, Keyspace
from keyhaus.store.record import HEAD_BYTES, TOMBSTONE
from keyhaus.store.transaction import Transaction
from keyhaus.store.uses import USE_BYTES, Frequency, Measure, Recency, Uses

if TYPE_CHECKING:
    from keyhaus.store.store import Store

POOL_KEYS: Final = 16  # Redis' EVPOOL_SIZE
_NEVER: Final = 1 << 63
_MEASURES: Final[dict[str, type[Measure]]] = {Policy.ALLKEYS_LRU: Recency, Policy.ALLKEYS_LFU: Frequency}


class Evictor:
    """Keeps the data of a store in memory within `max-memory`.

    Whoever runs commands calls `make_room` before each one while there is a `limit`, and `note` for the keys that it
    names. To be made when the store is complete.

    Attributes:
        limit: `max-memory`; 0 for none.
        full: Whether the last step found too much, and nothing that may be given up.
        evicted_keys: How many keys were evicted.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.limit = 0
        self.full = False
        self.evicted_keys = 0
        self._policy: str = Policy.NOEVICTION
        self._samples = 0
        self._measure: Measure | None = None
        self._entry_bytes = ENTRY_BYTES
        self._transaction = Transaction(store)
        self._pool: list[tuple[int, int, int, Keyspace, bytes]] = []  # rank, number, word, and whose they are
        self._pooled = 0
        self._checked = -1  # the newest commit that a step has seen; -1 where there is something to do in any case
        self._used = 0
        self._low = _NEVER  # the least that the data took since it is too much
        self._going_on = False
        self._passed_over = False  # whether locked keys were in the way of the last step
        self._put_aside: list[tuple[Keyspace, bytes]] = []  # locked keys, without their deadline, until one is freed
        self._freed = 0  # how many had let go of their locks then
        self._wait = Wait()
        store.views.dress = self._dress
        settings = store.settings
        settings.observe("max-memory", self._set_limit)
        settings.observe("max-memory-policy", self._set_policy)
        settings.observe("max-memory-samples", self._set_samples)
        settings.observe("lfu-log-factor", self._set_frequency)
        settings.observe("lfu-decay-time", self._set_frequency)

    # settings

    def _set_limit(self, limit: int) -> None:
        self.limit = limit
        self._choose_measure()
        self._begin()

    def _set_policy(self, policy: str) -> None:
        self._policy = policy
        self._choose_measure()
        self._begin()

    def _set_samples(self, samples: int) -> None:
        self._samples = samples

    def _set_frequency(self, _: int) -> None:
        if isinstance(self._measure, Frequency):
            settings = self._store.settings
            self._measure.log_factor = settings.integer("lfu-log-factor")
            self._measure.decay_minutes = settings.integer("lfu-decay-time")

    def _choose_measure(self) -> None:
        """Begins to keep what the policy needs, and forgets what it doesn't."""
        store = self._store
        wanted = _MEASURES.get(self._policy) if self.limit else None
        if wanted is not (None if self._measure is None else self._measure.__class__):
            self._measure = None if wanted is None else wanted(store.monotonic_ns, store.random)
            self._set_frequency(0)
            self._pool = []
            for space in store.spaces:
                space.uses = None
        evicts = self.limit and self._policy != Policy.NOEVICTION
        self._entry_bytes = ENTRY_BYTES + (CHURN_BYTES if evicts else 0) + (USE_BYTES if self._measure else 0)
        for space in store.spaces:
            self._dress(space)

    def _dress(self, space: Keyspace) -> None:
        """Has a generation keep what the policy needs, and count what an entry takes under it."""
        if self._measure is not None and space.uses is None:
            space.uses = Uses(space.records, self._measure, self._store.random)
        space.weigh(self._entry_bytes)

    # room

    def used(self) -> int:
        """What the data takes in memory, in bytes, about. What was deleted while a snapshot looks at it is no data."""
        store = self._store
        used = DEADLINE_BYTES * len(self._put_aside)
        unburied = store.unburied()
        for space in store.spaces:
            used += space.bytes
            if unburied:
                used -= (self._entry_bytes + HEAD_BYTES) * (len(space.records) - space.added)
            if space.volatile and self._measure is not None:
                used += DEADLINE_CHURN_BYTES * space.volatile
        return used

    def overhead(self) -> int:
        """How much of `used` there is only because keys come and go."""
        most = DEADLINE_CHURN_BYTES if self._measure is not None else 0
        more = self._entry_bytes - ENTRY_BYTES
        return sum(more * len(space.records) + most * space.volatile for space in self._store.spaces)

    def make_room(self, *, needs_memory: bool) -> Wait | None:
        """Makes room before a command, in one step.

        Args:
            needs_memory: Whether the command is one that is not to run without room.

        Returns:
            None where the command may run; a Wait where it may be asked again once that fires.

        Raises:
            OutOfMemory: It needs memory, and there is none to be had.
        """
        if not self.limit:
            return None
        if self._store.last != self._checked or (self.full and self._freed != self._store.locks.freed):
            self._step()  # locks are freed without a commit, too
        if not needs_memory or self._used <= self.limit:
            return None
        if self.full:
            raise OutOfMemory
        return None if self._used <= self._low + EVICTION_SLACK_BYTES else self._wait

    def _step(self) -> None:
        if self._put_aside and self._freed != self._store.locks.freed:
            self._take_back()
        self._freed = self._store.locks.freed
        limit = self.limit
        used = self.used()
        full = self._passed_over = False
        for _ in range(EVICTION_STEP_KEYS):
            if used <= limit:
                break
            if not self._give_up_one():
                full = True
                break
            used = self.used()
        going_on = used > limit and not full
        self._used, self.full = used, full
        self._low = max(limit, min(self._low, used))
        self._checked = -1 if going_on or (full and self._passed_over) else self._store.last
        if going_on and not self._going_on:
            self._going_on = True
            self._store.spawn.soon(self._go_on)

    def _begin(self) -> None:
        """After a change of the settings: looks at everything anew, without waiting for a command."""
        self._checked, self._low, self.full = -1, _NEVER, False
        self._take_back()
        if not self.limit:
            self._let_in()
        elif not self._going_on:
            self._going_on = True
            self._store.spawn.soon(self._go_on)

    def _go_on(self) -> None:
        self._going_on = False
        if self.limit:
            self._step()
            if not self._going_on or self._used <= self._low + EVICTION_SLACK_BYTES:
                self._let_in()

    def _let_in(self) -> None:
        """Those who wait may ask again."""
        wait, self._wait = self._wait, Wait()
        wait.fire()

    # giving up

    def _give_up_one(self) -> bool:
        """Comes nearer to the limit by a key, or gets past one that can't be evicted. False where there are no more."""
        if self._policy == Policy.VOLATILE_TTL:
            return self._give_up_next()
        victim = None if self._measure is None else self._least_used(self._measure)
        return victim is not None and self._evict(*victim)

    def _evict(self, space: Keyspace, key: bytes) -> bool:
        transaction = self._transaction
        transaction.begin()
        transaction.operations.append((DELETE, self._store.spaces.index(space), key))
        try:
            done = transaction.commit() is None
        except Error:
            done = False  # closing
        if done:
            self.evicted_keys += 1
        else:
            transaction.rollback()
            self._passed_over = True
        return done

    def _give_up_next(self) -> bool:
        """Gives up the key that expires next, drops a deadline that stands no more, or passes over a locked key."""
        first: tuple[int, bytes] | None = None
        where: Keyspace | None = None
        for space in self._store.spaces:
            deadline = space.deadlines.first()
            if deadline is not None and (first is None or deadline < first):
                first, where = deadline, space
        if first is None or where is None:
            return False
        if where.deadlines.holds(first):
            if self._store.locked(where, first[1]):
                self._put_aside.append((where, first[1]))
            elif not self._evict(where, first[1]):
                return False
        where.pop_deadline()
        return True

    def _take_back(self) -> None:
        """Locked keys that were passed over have their deadlines again."""
        put_aside, self._put_aside = self._put_aside, []
        for where, key in put_aside:
            where.still_due([key])

    def _least_used(self, measure: Measure) -> tuple[Keyspace, bytes] | None:
        """The best candidate of these samples and the ones before, as it stands now."""
        spaces, pool = self._store.spaces, self._pool
        locked = 0
        while locked < EVICTION_STEP_KEYS:
            there = False
            for space in spaces:
                if space.added:
                    there = True
                    self._sample(space, measure)
            while pool:
                _, _, word, space, key = pool.pop(0)
                record = space.records.get(key)
                if space.uses is None or record is None or record[7] & TOMBSTONE:
                    continue  # its generation is gone, or it is
                if self._store.locked(space, key):
                    locked += 1
                elif space.uses.word(key) == word:  # it was not used meanwhile
                    return space, key
            if not there:
                return None
        self._passed_over = True
        return None

    def _sample(self, space: Keyspace, measure: Measure) -> None:
        uses, pool = space.uses, self._pool
        assert uses is not None
        rank_of = measure.rank
        for key in uses.sample(self._samples):
            word = uses.word(key)
            rank = rank_of(word)
            if len(pool) == POOL_KEYS:
                if rank >= pool[-1][0]:
                    continue
                pool.pop()
            self._pooled += 1
            insort(pool, (rank, self._pooled, word, space, key))

    # uses

    def note(self, database: int, keys: Sequence[bytes]) -> None:
        """A command uses keys; those that are there are remembered for it, if the policy asks for that."""
        if self._measure is not None:
            space = self._store.spaces[database]
            uses = space.uses
            for key in keys:
                if uses is not None and key in space.records:
                    uses.use(key)

    def idle_seconds(self, database: int, key: bytes) -> int:
        """For how long a key that is there was not used; 0 where that is not kept.

        Where it is unknown it is longer than that of the key at its place; or than anything is kept at all.
        """
        uses = self._store.spaces[database].uses
        if uses is None or not isinstance(self._measure, Recency):
            return 0
        return self._measure.idle_seconds(uses.word_at_place(key))

    def frequency(self, database: int, key: bytes) -> int | None:
        """How often a key that is there is used, as a counter from 0 to 255; None where that is not kept."""
        uses = self._store.spaces[database].uses
        if uses is None or not isinstance(self._measure, Frequency):
            return None
        return self._measure.rank(uses.word(key))
