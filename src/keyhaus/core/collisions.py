"""How often the keys of a dict or set may collide.

Text and bytes hash by a secret of the process. What anything else hashes to is known to everybody, and so is the place
that CPython gives it: keys can be chosen of which each has to pass all that came before, so that 200,000 of them, which
are 2 MB, take minutes. That all have one hash is only the plainest way; numbers do it whose hashes have nothing in
common, and neither small nor equal ones can be told from honest ones by a look at them.

So a dict or set with more than `KEYS_UNCHECKED` keys, some of them neither text nor bytes, is filled only after its
keys were given their places in a model of its table, and no further than to `KEY_PROBES_MAX` collisions a key. The
model follows CPython 3.11 to 3.14 (Objects/dictobject.c, Objects/setobject.c):

    size   a power of two from 8; a dict's doubles where two thirds are taken, a set's grows where three fifths are
    place  i = hash mod size; while that is taken: perturb = perturb / 32, from the hash on, i = (5 i + perturb + 1) mod
           size. A set looks at the nine places behind each i as well

Once perturb is 0, all keys go along the same circle of places: that is where the chosen ones walk past thousands. The
model does not: it keeps for each place from where the circle was walked which one is the next that is free, as in a
union-find (Tarjan, "Efficiency of a good but not linear set union algorithm", 1975), so that its own time is linear.

A key that looks at random places meets one or two that are taken. Of honest keys the multiples of a power of two
collide most: in a set about 95 times each, in a full dict of 90,000 28 times, in one of a million 130 times.

Invariants: a table is checked before CPython makes it, the one that it grows into too. Whatever place is taken is taken
in the model, so that this never counts too few: a key that is there already takes a second place in it, until these are
an eighth of the table and it is made anew. If a later CPython has other rules, the model bounds less and nothing
breaks: tests/unit/test_collisions.py tells.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable
from typing import Any, Final, TypeVar

from keyhaus.core import limits
from keyhaus.core.errors import LimitExceeded

Set = TypeVar("Set", set[Any], frozenset[Any])

_SALTED: Final = frozenset((str, bytes))
_SIZE_MIN: Final = 8
_SHIFT: Final = 5
_SET_RUN: Final = 10  # places that a set looks at from each one that a key comes to
_SET_DOUBLES: Final = 50_000  # members: with more, a set grows to twice their number, with fewer to four times it
_HASH_BITS: Final = (1 << 64) - 1
_PLACE_WIDTH: Final = 32
_PLACE_BITS: Final = (1 << _PLACE_WIDTH) - 1


def fill(target: dict[Any, Any], keys: list[Any], values: list[Any]) -> None:
    """Puts keys and their values into a dict. Raises LimitExceeded, and TypeError for what can't be hashed."""
    if may_collide(keys, len(target) + len(keys)):
        Places(target).put(keys, values)
    else:
        target.update(zip(keys, values, strict=True))


def made(kind: type[Set], members: list[Any]) -> Set:
    """A set or frozenset. Raises LimitExceeded, and TypeError for what can't be hashed."""
    if len(members) > limits.KEYS_UNCHECKED and may_collide(members, len(members)):
        # A frozenset is made of the same list, so that it grows as this one has; a copy would have another size.
        Places(set()).put(members)
    return kind(members)


def may_collide(keys: Iterable[Any], count: int) -> bool:
    """Whether keys have to be given their places: they make it so many, and are not all text or bytes."""
    return count > limits.KEYS_UNCHECKED and not _SALTED.issuperset(map(type, keys))


class Places:
    """A dict or set with the places that its keys take. From then on all that is put into it is put here."""

    __slots__ = ("_container", "_looked", "_most", "_next", "_now", "_twice")

    def __init__(self, container: dict[Any, Any] | set[Any]) -> None:
        self._container = container
        self._looked = 0  # how many places were taken that keys came to
        self._most = 0
        self._now: Table | None = None
        self._next: Table | None = None  # the table that it grows into with the next key, where that is so
        self._twice = 0  # places that were taken for keys that had one

    def put(self, keys: list[Any], values: list[Any] | None = None) -> None:
        """Puts keys, with their values where it is a dict.

        Raises:
            LimitExceeded: They collide too often. Some of them are in it.
            TypeError: One of them can't be hashed.
        """
        container = self._container
        at = 0
        if self._now is None:
            at = self._begin(keys, values)
        while at < len(keys):
            assert self._now is not None
            count, size = len(container), self._now.size
            room = min(self._room(size) - count, size >> 3)
            if room <= 0:
                room = 1
                if self._next is None:
                    self._next = self._table(self._grown(size))
            part = keys[at : at + room]
            self._place(self._now, part)
            if self._next is not None:
                self._place(self._next, part)
            self._put(part, None if values is None else values[at : at + room])
            if self._next is not None and len(container) > count:
                self._now, self._next = self._next, None
            self._twice += len(part) - (len(container) - count)
            if self._twice > size >> 3:
                self._now, self._next, self._twice = self._table(self._now.size, free=False), None, 0
            at += room

    def _begin(self, keys: list[Any], values: list[Any] | None) -> int:
        """Makes the table of what is there already. Returns how many of the keys it has put itself."""
        container, put, least = self._container, 0, _SIZE_MIN
        if isinstance(container, dict):
            # The first key that is no text makes a dict grow out of turn, to three times what it has.
            texts = _leading_texts(container)
            if texts == len(container):
                put = _leading_texts(keys)
                self._put(keys[:put], None if values is None else values[:put])
                texts = len(container)
            least = max(least, 1 << (3 * texts - 1).bit_length()) if texts else least
        size = _SIZE_MIN
        while self._room(size) < len(container):
            size = self._grown(size)
        self._now = self._table(max(size, least))
        return put

    def _put(self, keys: list[Any], values: list[Any] | None) -> None:
        if isinstance(self._container, dict):
            assert values is not None
            self._container.update(zip(keys, values, strict=True))
        else:
            self._container.update(keys)

    # CPython's rules

    def _room(self, size: int) -> int:
        """How many keys a table of a size takes before it grows."""
        return 2 * size // 3 if isinstance(self._container, dict) else (3 * size + 1) // 5 - 1

    def _grown(self, size: int) -> int:
        """The size that a table of a size grows to."""
        if isinstance(self._container, dict):
            return 2 * size
        members = self._room(size) + 1
        return 1 << ((2 if members > _SET_DOUBLES else 4) * members).bit_length()

    def _table(self, size: int, *, free: bool = True) -> Table:
        """The table of a size with what is there. A dict is put into it in its order, a set in that of its places."""
        table = Table(size, 1 if isinstance(self._container, dict) else _SET_RUN)
        self._place(table, self._container, free=free)
        return table

    def _place(self, table: Table, keys: Collection[Any], *, free: bool = True) -> None:
        """Takes places for keys, `free` to collide as often as so many may. Raises LimitExceeded."""
        self._most += limits.KEY_PROBES_MAX * len(keys) if free else 0
        self._looked += table.place(keys, self._most - self._looked)


class Table:
    """The table of a dict or set: which of its places are taken.

    Args:
        size: A power of two.
        run: How many places next to each other are looked at from each that a key comes to.
    """

    __slots__ = ("_on", "_run", "size", "taken")

    def __init__(self, size: int, run: int) -> None:
        self.size = size
        self.taken = bytearray(size)
        self._run = run
        self._on: array[int] | None = None  # by place: where the circle goes on from it, and after how many steps

    def place(self, keys: Iterable[Any], most: int) -> int:
        """Takes a place for each key. One has to be left.

        Returns:
            How many places were taken that the keys came to.

        Raises:
            LimitExceeded: They were more than `most`.
            TypeError: A key can't be hashed.
        """
        taken, size, run = self.taken, self.size, self._run
        mask, looked = size - 1, 0
        for key in keys:
            number = hash(key)
            at = number & mask
            if taken[at]:
                perturb = number & _HASH_BITS
                while taken[at]:
                    if run > 1 and at + run <= size:
                        free = taken.find(0, at, at + run)
                        if free >= 0:
                            looked += free - at
                            at = free
                            break
                        looked += run
                    else:
                        looked += 1
                    if perturb:
                        perturb >>= _SHIFT
                        at = (5 * at + perturb + 1) & mask
                    else:
                        at, steps = self._walk(at)
                        looked += run * (steps - 1)
                if looked > most:
                    raise _too_many()
            taken[at] = 1
        return looked

    def _walk(self, at: int) -> tuple[int, int]:
        """The next place on the circle from which a key finds a free one, and after how many steps."""
        if self._on is None:
            self._on = array("Q", bytes(8 * self.size))
        taken, run, size, on = self.taken, self._run, self.size, self._on
        walked: list[tuple[int, int]] = []
        steps = 0
        while taken[at] and (run == 1 or at + run > size or taken.find(0, at, at + run) < 0):
            walked.append((at, steps))
            far = on[at]
            if far:
                at = far & _PLACE_BITS
                steps += far >> _PLACE_WIDTH
            else:
                at = (5 * at + 1) & (size - 1)
                steps += 1
        for place, before in walked:
            on[place] = steps - before << _PLACE_WIDTH | at
        return at, steps


def _too_many() -> LimitExceeded:
    return LimitExceeded(
        "key-probes", limits.KEY_PROBES_MAX + 1, limits.KEY_PROBES_MAX, "collisions for each key of a dict or set"
    )


def _leading_texts(keys: Iterable[Any]) -> int:
    """How many texts stand before the first key that is none."""
    count = 0
    for key in keys:
        if type(key) is not str:
            break
        count += 1
    return count
