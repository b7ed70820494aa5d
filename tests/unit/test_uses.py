"""What is kept of the uses of keys: recency, Redis' frequency counter, and samples."""

from __future__ import annotations

import random

import pytest

from keyhaus.store.record import Record, make, tombstone
from keyhaus.store.uses import FREQUENCY_NEW, PLACES_LEAST, UNKNOWN, Frequency, Recency, Uses

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
RECORD = make(1, 0, b"v")


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.ns = 12_345_678_901

    def __call__(self) -> int:
        return self.ns


@pytest.fixture
def clock() -> Clock:
    return Clock()


def _frequency(clock: Clock, log_factor: int = 10, decay_minutes: int = 1) -> Frequency:
    made = Frequency(clock, random.Random(1))
    made.log_factor, made.decay_minutes = log_factor, decay_minutes
    return made


def _filled(records: dict[bytes, Record], uses: Uses, keys: int) -> None:
    for number in range(keys):
        key = b"key:%d" % number
        records[key] = RECORD
        uses.add(key)


def test_idle_time_is_that_since_the_last_use(clock: Clock) -> None:
    records: dict[bytes, Record] = {}
    recency = Recency(clock, random.Random(1))
    uses = Uses(records, recency, random.Random(1))
    _filled(records, uses, 1)
    clock.ns += 90 * SECOND
    assert recency.idle_seconds(uses.word(b"key:0")) == 90
    uses.use(b"key:0")
    clock.ns += 5 * SECOND
    assert recency.idle_seconds(uses.word(b"key:0")) == 5


def test_what_was_used_later_ranks_higher_and_what_is_unknown_lowest(clock: Clock) -> None:
    records: dict[bytes, Record] = {b"old": RECORD}
    recency = Recency(clock, random.Random(1))
    uses = Uses(records, recency, random.Random(1))
    _filled(records, uses, 3)
    clock.ns += SECOND
    uses.use(b"key:1")
    ranks = [recency.rank(uses.word(key)) for key in (b"old", b"key:0", b"key:1")]
    assert ranks == sorted(set(ranks))
    assert uses.word(b"old") == UNKNOWN


def test_a_counter_grows_as_in_redis_documentation(clock: Clock) -> None:
    # redis.conf: after 1,000 hits with factor 10 the counter stands at 18, after 100,000 at 142; factor 0: at 255.
    for log_factor, hits, about in ((10, 1000, 18), (10, 100_000, 142), (0, 1000, 255), (100, 100_000, 49)):
        frequency = _frequency(clock, log_factor, 0)
        entry = frequency.created(0, 7)
        for _ in range(hits):
            entry = frequency.used(entry, 7)
        assert frequency.rank(entry >> 24) == pytest.approx(about, rel=0.3)


def test_a_counter_falls_with_time_and_never_below_zero(clock: Clock) -> None:
    frequency = _frequency(clock, 0)
    entry = frequency.created(0, 7)
    for _ in range(4):
        entry = frequency.used(entry, 7)
    assert frequency.rank(entry >> 24) == FREQUENCY_NEW + 4
    clock.ns += 3 * MINUTE
    assert frequency.rank(entry >> 24) == FREQUENCY_NEW + 1
    frequency.decay_minutes = 0
    assert frequency.rank(entry >> 24) == FREQUENCY_NEW + 4
    frequency.decay_minutes = 1
    clock.ns += 100 * MINUTE
    assert frequency.rank(entry >> 24) == 0


def test_a_place_is_taken_from_who_is_hardly_used_and_hard_to_take_from_who_is(clock: Clock) -> None:
    frequency = _frequency(clock, 10, 0)
    rare = frequency.created(0, 1)
    assert frequency.used(rare, 2) & 0xFFFFFF == 2
    often = frequency.created(0, 1)
    for _ in range(10_000):
        often = frequency.used(often, 1)
    count = frequency.rank(often >> 24)
    entry = frequency.created(often, 2)
    for _ in range(30):
        entry = frequency.used(entry, 2)
    assert entry & 0xFFFFFF == 1
    assert count - 5 < frequency.rank(entry >> 24) <= count
    for _ in range(100_000):
        entry = frequency.used(entry, 2)
    assert entry & 0xFFFFFF == 2


def test_what_is_known_stays_known_as_the_table_grows(clock: Clock) -> None:
    records: dict[bytes, Record] = {}
    uses = Uses(records, Recency(clock, random.Random(1)), random.Random(1))
    _filled(records, uses, PLACES_LEAST // 4)
    known = {key for key in records if uses.word(key) != UNKNOWN}
    assert len(known) > 0.8 * len(records)
    first = {key: uses.word(key) for key in known}
    clock.ns += SECOND
    _filled_more = [b"more:%d" % number for number in range(PLACES_LEAST)]
    for key in _filled_more:
        records[key] = RECORD
        uses.add(key)
    still = [key for key in known if uses.word(key) == first[key]]
    assert len(still) > 0.35 * len(known)


def test_a_deleted_key_leaves_nothing_to_its_successor(clock: Clock) -> None:
    frequency = _frequency(clock, 0)
    records: dict[bytes, Record] = {}
    uses = Uses(records, frequency, random.Random(1))
    _filled(records, uses, 1)
    for _ in range(50):
        uses.use(b"key:0")
    uses.remove(b"key:0")
    assert uses.word_at_place(b"key:0") == 0
    uses.add(b"key:0")
    assert frequency.rank(uses.word(b"key:0")) == FREQUENCY_NEW


def test_samples_are_living_keys_and_all_of_them_where_they_are_few(clock: Clock, seed: int) -> None:
    records: dict[bytes, Record] = {}
    uses = Uses(records, Recency(clock, random.Random(seed)), random.Random(seed))
    _filled(records, uses, 4000)
    seen: set[bytes] = set()
    for number in range(4000):
        found = uses.sample(5)
        assert all(key in records for key in found)
        seen.update(found)
        if number % 2:
            del records[b"key:%d" % number]
    assert len(seen) > 3000
    for key in list(records)[4:]:
        del records[key]
    records[b"gone"] = tombstone(9)
    assert sorted(uses.sample(5)) == sorted(key for key in records if key != b"gone")
