"""What a pickle may stand for: the bound on the data that its reader builds.

A few bytes of a pickle can stand for very much: references double a list with each level, a byte makes a set of two
hundred, keys can be chosen so that each is compared with all before it. So everything that costs more than the bytes
that say it is counted, in bytes, up to `PICKLE_BYTES_FREE` and `PICKLE_BYTES_FACTOR` more for each byte of the pickle:

    a list, dict or tuple                      64, a set or frozenset 256
    a reference                                the text, bytes or integer that it refers to
    a value that holds a container twice       all that it holds, as if it were written out
    a tuple or frozenset that is hashed        all that it holds; and again for each key with the same hash beside it
    what a function of old protocols is given  all that it is given

Invariants: what is counted before it is done bounds memory and time; what passes the bound is never built. After `look`
a value has at most `objects.DEPTH_MAX` levels, holds no circle, and can be walked in the time that its bound allows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import chain
from typing import Any, Final

from keyhaus.core import limits
from keyhaus.core.errors import LimitExceeded, UserError
from keyhaus.core.objects import DEPTH_MAX

CONTAINER: Final = 64
SET: Final = 256
SLOT: Final = 8
_FEW: Final = 8  # keys that may have one hash all together: nothing is counted below
_TEXTS: Final = frozenset((str, bytes))
_HASHED: Final = frozenset((tuple, frozenset))
_CONTAINERS: Final = frozenset((list, tuple, dict, set, frozenset))
_SMALL_KEYS: Final = frozenset((str, bytes, float, bool, type(None)))
_INT_MIN, _INT_END = -(1 << 63), 1 << 64


class BadPayload(UserError):
    """It is no whole pickle or MessagePack, or one of what no value can be."""

    code = "BADPAYLOAD"


class UnsafePickle(UserError):
    """It asks for more than to build plain data."""

    code = "UNSAFEPICKLE"


class Named:
    """A function that old protocols name: it may be called, at once, with plain data, and be part of no value."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class Room:
    """The room of one pickle.

    Attributes:
        spent, most: Bytes.
        odd: Whether something is there that only a look at the whole value can bound.
    """

    __slots__ = ("_tallies", "_weights", "most", "odd", "spent")

    def __init__(self, size: int) -> None:
        self.spent = 0
        self.most = limits.PICKLE_BYTES_FREE + limits.PICKLE_BYTES_FACTOR * size
        self.odd = False
        self._tallies: dict[int, tuple[Any, dict[int, int]]] | None = None  # of the keys' hashes, by dict or set
        self._weights: dict[int, tuple[Any, int, int]] = {}  # what was looked at, how much it holds, on how many levels

    def spend(self, count: int) -> None:
        """Counts bytes before they are taken. Raises LimitExceeded."""
        self.spent += count
        if self.spent > self.most:
            raise LimitExceeded("pickle-bytes", self.spent, self.most)

    def again(self, value: Any) -> None:
        """A value is referred to once more."""
        kind = type(value)
        if kind in _TEXTS:
            self.spend(len(value))
        elif kind in _CONTAINERS:
            self.odd = True
        elif kind is int:
            self.spend(value.bit_length() >> 3)

    # keys

    def take_keys(self, keys: Collection[Any], target: Collection[Any]) -> None:
        """Keys are about to be hashed, and put beside those of a dict or set.

        Raises:
            BadPayload: One of them can't be hashed.
            UnsafePickle: One of them is, or holds, a function.
            LimitExceeded: They hold too much, or too many of them have the same hash.
        """
        if _SMALL_KEYS.issuperset(map(type, keys)):
            return
        many = len(keys) + len(target) > _FEW
        for key in keys:
            kind = type(key)
            if kind is int:
                if many and not _INT_MIN <= key < _INT_END:
                    self._compare(key, SLOT, target)
            elif kind not in _SMALL_KEYS:
                if kind not in _HASHED:
                    raise _no_key(key)
                weight, _ = self._weigh(key, DEPTH_MAX, _HASHED)
                self.spend(weight - CONTAINER)  # which was counted when it was made
                if many:
                    self._compare(key, weight, target)

    def _compare(self, key: Any, weight: int, target: Collection[Any]) -> None:
        """Counts a key once more for each one beside it that has the same hash."""
        if self._tallies is None:
            self._tallies = {}
        # The target is kept, so that no other one gets its number.
        _, tally = self._tallies.setdefault(id(target), (target, {}))
        if not tally:
            for other in target:
                number = hash(other)
                tally[number] = tally.get(number, 0) + 1
        number = hash(key)
        before = tally.get(number, 0)
        tally[number] = before + 1
        if before > _FEW:
            self.spend(before * weight)

    # the whole value

    def look(self, value: Any) -> None:
        """Looks at a value as a whole, where anything in it has to be looked at.

        Raises:
            BadPayload: A container holds itself.
            UnsafePickle: It is, or holds, a function.
            LimitExceeded: It is nested too deeply, or is too much when what is in it several times is written out.
        """
        if type(value) is Named:
            raise _no_data(value)
        # Fewer containers than there may be levels, none of them twice, are neither too deep nor too much.
        if (self.odd or self.spent >= DEPTH_MAX * CONTAINER) and type(value) in _CONTAINERS:
            self._weigh(value, DEPTH_MAX, _CONTAINERS)

    def _weigh(self, container: Any, levels: int, kinds: frozenset[type]) -> tuple[int, int]:
        """How much a container holds, and on how many levels; those within it have to be of some kinds.

        What is there several times is looked at once, and counts each time, so that the sum of what doubles sixty times
        is found in sixty steps.
        """
        known = self._weights.get(id(container))
        if known is not None:
            if known[2] == 0:
                raise BadPayload(f"the pickle is broken: a {type(container).__name__} in it holds itself")
            if known[2] > levels:
                raise too_deep()
            return known[1:]
        if not levels:
            raise too_deep()
        weight, inner = self._weigh_parts(container, kinds)
        if not inner:
            self._check(weight)
            return weight, 1
        if self.odd:
            self._weights[id(container)] = (container, 0, 0)
        deepest = 0
        for part in inner:
            more, depth = self._weigh(part, levels - 1, kinds)
            weight += more
            deepest = max(deepest, depth)
            self._check(weight)
        if self.odd:
            self._weights[id(container)] = (container, weight, deepest + 1)
        return weight, deepest + 1

    def _weigh_parts(self, container: Any, kinds: frozenset[type]) -> tuple[int, list[Any]]:
        """How much a container holds, but for the containers within it; and these."""
        items: Iterable[Any] = container
        if type(container) is dict:
            items = chain(container, container.values())
        weight, inner = CONTAINER + SLOT * len(container), []
        for item in items:
            kind = type(item)
            if kind in _TEXTS:
                weight += len(item)
            elif kind is int:
                weight += item.bit_length() >> 3
            elif kind in kinds:
                inner.append(item)
            elif kind not in _SMALL_KEYS:
                raise _no_key(item)
        return weight, inner

    def _check(self, weight: int) -> None:
        if weight > self.most:
            raise LimitExceeded("pickle-bytes", weight, self.most)


def too_deep() -> LimitExceeded:
    """The error of what is nested too deeply."""
    return LimitExceeded("value-depth", DEPTH_MAX + 1, DEPTH_MAX, "levels of nesting")


def _no_data(named: Named) -> UnsafePickle:
    return UnsafePickle(f"the pickle holds the function {named.name}, which is no data")


def _no_key(key: Any) -> UserError:
    if type(key) is Named:
        return _no_data(key)
    return BadPayload(f"the pickle is broken: a {type(key).__name__} can be no key of a dict and no member of a set")
