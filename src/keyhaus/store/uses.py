"""How the keys of one generation are used: when each was used last, or how often. Kept only while a policy needs it.

A record is one bytes object and has no room for a clock, and a dict beside the records would take as much as theirs.
So there is a table of numbers, twice to four times as many as there are keys, and a key's place in it follows from its
hash. What stands there belongs to the key whose mark it carries; a key that finds another one's mark there is unknown:

    entry = word << 24 | mark            ; mark: 24 bits of the key's hash; 0 where nobody stands
    word  = tick                         ; Recency: the time of the last use
          | minute << 8 | count          ; Frequency: Redis' counter, as of that minute

In `Recency` whoever is used takes the place, so that what is unknown was used before what is known. In `Frequency` a
place is taken from a key that is hardly used, and a use by another key may only lower the owner's counter, as likely as
one of its own would raise it (after HeavyKeeper, Gong et al., USENIX ATC 2018).

Keys are sampled from a list, since a dict can't be asked for its n-th key: it is made when the first sample is taken,
gets each new key, and loses dead ones as they are met.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from keyhaus.store.record import TOMBSTONE, Record

USE_BYTES: Final = 33  # what one key takes here, at the mean fill of the table
PLACES_LEAST: Final = 1024
KEYS_LEAST: Final = 1024  # up to so many entries of the list are kept, dead or not
UNKNOWN: Final = -1  # the word of a key of which nothing is known

TICK_BITS: Final = 22  # of nanoseconds: 4.2 ms
FREQUENCY_NEW: Final = 5  # Redis' LFU_INIT_VAL: a new key must not be the first to go
FREQUENCY_MAX: Final = 255
_MINUTE_NS: Final = 60_000_000_000
_MARK_BITS: Final = 24
_MARK: Final = (1 << _MARK_BITS) - 1
_HASH_SHIFT: Final = 40  # the upper bits of a hash, so that a mark says something beside the place


class Recency:
    """A word is the tick of the last use.

    Args:
        clock: In nanoseconds, never running back.
        generator: Not needed here.
    """

    def __init__(self, clock: Callable[[], int], generator: random.Random) -> None:
        self._clock = clock
        self._begin = (clock() >> TICK_BITS) - 1  # so that no tick is 0

    def used(self, entry: int, mark: int) -> int:
        """What stands at a key's place after a use of it."""
        return ((self._clock() >> TICK_BITS) - self._begin) << _MARK_BITS | mark

    created = used

    def rank(self, word: int) -> int:
        """What is compared when one key has to go: the least goes first."""
        return word

    def idle_seconds(self, word: int) -> int:
        return ((self._clock() >> TICK_BITS) - self._begin - word + 1 << TICK_BITS) // 1_000_000_000


class Frequency:
    """A word is a minute (16 bits) and a counter (8 bits) as of that minute.

    A use makes the counter n one higher with the probability 1 / ((n - 5) * log_factor + 1); each `decay_minutes`
    without a use make it one lower.

    Args:
        clock: In nanoseconds, never running back.
        generator: Decides which uses count.

    Attributes:
        log_factor: How slowly the counter grows; 0: with each use.
        decay_minutes: After how long it falls by one; 0: never.
    """

    def __init__(self, clock: Callable[[], int], generator: random.Random) -> None:
        self._clock = clock
        self._random = generator.random
        self.log_factor = 10
        self.decay_minutes = 1

    def _minute(self) -> int:
        return self._clock() // _MINUTE_NS & 0xFFFF

    def _moves(self, count: int) -> bool:
        """Whether this use is one that moves a counter."""
        return count <= FREQUENCY_NEW or self._random() * ((count - FREQUENCY_NEW) * self.log_factor + 1) < 1

    def used(self, entry: int, mark: int) -> int:
        """What stands at a key's place after a use of it."""
        count, owner = self.rank(entry >> _MARK_BITS), entry & _MARK
        if not entry or (owner != mark and count <= FREQUENCY_NEW):
            count, owner = FREQUENCY_NEW + 1, mark
        elif self._moves(count):
            count = min(count + 1, FREQUENCY_MAX) if owner == mark else count - 1
        return (self._minute() << 8 | count) << _MARK_BITS | owner

    def created(self, entry: int, mark: int) -> int:
        """What stands at the place of a key that is new."""
        owner = entry & _MARK
        if entry and owner != mark and self.rank(entry >> _MARK_BITS) > FREQUENCY_NEW:
            return self.used(entry, mark)
        return (self._minute() << 8 | FREQUENCY_NEW) << _MARK_BITS | mark

    def rank(self, word: int) -> int:
        """The counter as it has fallen by now. What is compared when one key has to go: the least goes first."""
        if word == UNKNOWN:
            return FREQUENCY_NEW
        count = word & 0xFF
        if self.decay_minutes:
            count -= ((self._minute() - (word >> 8)) & 0xFFFF) // self.decay_minutes
        return max(0, count)


Measure: TypeAlias = Recency | Frequency


class Uses:
    """The uses of one table of records.

    Args:
        records: The records.
        measure: What is kept of them.
        generator: Where samples come from.
    """

    __slots__ = ("_created", "_entries", "_keys", "_places", "_random", "_records", "_used")

    def __init__(self, records: Mapping[bytes, Record], measure: Measure, generator: random.Random) -> None:
        self._records = records
        self._used = measure.used
        self._created = measure.created
        self._random = generator.random
        self._keys: list[bytes] | None = None
        places = PLACES_LEAST
        while places < 2 * len(records):
            places *= 2
        self._entries = array("Q", bytes(8 * places))
        self._places = places - 1  # a mask

    def add(self, key: bytes) -> None:
        """A key is new."""
        keys = self._keys
        if keys is not None:
            keys.append(key)
            if len(keys) > 2 * len(self._records) + KEYS_LEAST:
                self._keys = None  # too many dead ones, or keys that stand twice
        if 2 * len(self._records) > len(self._entries):
            self._entries *= 2  # one more bit of a hash counts; either of its places holds what the one held
            self._places = len(self._entries) - 1
        number = hash(key)
        place = number & self._places
        self._entries[place] = self._created(self._entries[place], number >> _HASH_SHIFT & _MARK)

    def remove(self, key: bytes) -> None:
        """A key is deleted."""
        number = hash(key)
        place = number & self._places
        if self._entries[place] & _MARK == number >> _HASH_SHIFT & _MARK:
            self._entries[place] = 0

    def use(self, key: bytes) -> None:
        """A key that is there is used."""
        number = hash(key)
        place = number & self._places
        self._entries[place] = self._used(self._entries[place], number >> _HASH_SHIFT & _MARK)

    def word(self, key: bytes) -> int:
        """What is known of a key that is there."""
        number = hash(key)
        entry = self._entries[number & self._places]
        return entry >> _MARK_BITS if entry and entry & _MARK == number >> _HASH_SHIFT & _MARK else UNKNOWN

    def word_at_place(self, key: bytes) -> int:
        """What is known of the key that stands at a key's place, be it itself or not; 0 where none does."""
        return self._entries[hash(key) & self._places] >> _MARK_BITS

    def sample(self, most: int) -> list[bytes]:
        """Up to `most` keys at random, one perhaps twice; all of them where there are no more."""
        records = self._records
        if len(self._entries) > 16 * max(len(records), PLACES_LEAST):
            del self._entries[len(self._entries) // 2 :]
            self._places = len(self._entries) - 1
        if len(records) <= most:
            return [key for key, record in records.items() if not record[7] & TOMBSTONE]
        keys = self._keys
        if keys is None or len(keys) > 2 * len(records) + KEYS_LEAST:
            keys = self._keys = list(records)
        found: list[bytes] = []
        generator = self._random
        for _ in range(4 * most):  # about half of them may be dead
            place = int(generator() * len(keys))
            key = keys[place]
            record = records.get(key)
            if record is not None and not record[7] & TOMBSTONE:
                found.append(key)
                if len(found) == most:
                    break
            else:
                last = keys.pop()
                if place < len(keys):
                    keys[place] = last
                if not keys:
                    self._keys = None
                    break
        return found
