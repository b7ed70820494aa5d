"""Deadlines against a sorted list: the order, what is dropped, and that no step takes long."""

from __future__ import annotations

import random

from keyhaus.store import record as rec
from keyhaus.store.deadlines import ENTRIES_LEAST
from keyhaus.store.keyspace import Keyspace

KEYS = 3000
TIMES = 50  # few, so that keys come back to deadlines that they had before


def _held(space: Keyspace) -> list[tuple[int, bytes]]:
    return sorted((rec.expires_of(record), key) for key, record in space.records.items() if rec.expires_of(record))


def _filled(space: Keyspace, generator: random.Random, writes: int) -> None:
    for seqno in range(writes):
        key = b"%d" % generator.randrange(KEYS)
        if generator.random() < 0.2:
            space.delete(key, None)
            continue
        expires = generator.choice((0, 1 + generator.randrange(TIMES)))
        space.put(key, rec.make(seqno, 0, b"v", expires), expires)


def test_what_holds_comes_in_order_and_once(seed: int) -> None:
    generator = random.Random(seed)
    space = Keyspace((0, 0))
    for writes in (10, 5_000, 60_000):
        _filled(space, generator, writes)
        held = _held(space)
        assert space.volatile == len(held)
        due: list[bytes] = []
        while found := space.due(TIMES // 2, 50) or space.due(TIMES // 2, 10_000):
            due += found
        assert sorted(set(due)) == sorted(key for expires, key in held if expires <= TIMES // 2)
        for key in set(due):
            space.delete(key, None)
        for key in [key for _, key in held]:
            space.delete(key, None)
        assert not _held(space)


def test_the_entries_are_bounded_by_what_has_a_deadline(seed: int) -> None:
    generator = random.Random(seed)
    space = Keyspace((0, 0))
    for _ in range(100):
        _filled(space, generator, 1000)
        # Twice as many, and as many again while they are being sifted.
        assert len(space.deadlines) <= 3.5 * space.volatile + 2 * ENTRIES_LEAST


def test_a_deadline_that_is_taken_and_given_again_does_not_pile_up() -> None:
    space = Keyspace((0, 0))
    for seqno in range(60_000):
        expires = 77 if seqno % 2 else 0
        space.put(b"%d" % (seqno // 2 % 10), rec.make(seqno, 0, b"v", expires), expires)
    assert len(space.deadlines) < 3 * ENTRIES_LEAST


def test_no_write_drops_more_than_a_few_entries() -> None:
    space = Keyspace((0, 0))
    before = 0
    for seqno in range(30_000):
        expires = 1 + seqno
        space.put(b"%d" % (seqno % 100), rec.make(seqno, 0, b"v", expires), expires)
        assert len(space.deadlines) >= before - 10
        before = len(space.deadlines)


def test_bytes_are_what_they_would_be_without_the_history(seed: int) -> None:
    space = Keyspace((0, 0))
    _filled(space, random.Random(seed), 30_000)
    for key in list(space.records):
        space.delete(key, None)
    while space.deadlines:
        space.pop_deadline()
    assert space.bytes == 0
