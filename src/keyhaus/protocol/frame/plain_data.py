"""What a pickle may stand for: the bound on the data that its reader builds.

References double a list with each level, a byte makes a set of two hundred. So everything that costs more than the
bytes that say it is counted (`core/budget.py`), and besides containers that is:

    a reference                                the text, bytes or integer that it refers to
    a value that holds a container twice       all that it holds, as if it were written out, 8 for each item
    a tuple or frozenset that is hashed        all that it holds
    what a function of old protocols is given  the length of a text; 64 for each item of a list or tuple

Keys are put into dicts and sets as `core/collisions.py` allows it.

Invariants: what is counted before it is done bounds memory and time; what passes the bound is never built. After `look`
a value has at most `VALUE_DEPTH_MAX` levels, holds no circle, and can be walked in the time that its bound allows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import chain
from typing import Any, Final

from keyhaus.core.budget import CONTAINER_BYTES, SET_BYTES, Budget, too_deep
from keyhaus.core.collisions import Places, Set, made, may_collide
from keyhaus.core.errors import LimitExceeded, UserError
from keyhaus.core.limits import VALUE_DEPTH_MAX

_SLOT_BYTES: Final = 8
_TEXTS: Final = frozenset((str, bytes))
_HASHED: Final = frozenset((tuple, frozenset))
_CONTAINERS: Final = frozenset((list, tuple, dict, set, frozenset))
_SMALL_KEYS: Final = frozenset((str, bytes, int, float, bool, type(None)))


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


class Room(Budget):
    """The budget of one pickle.

    Attributes:
        odd: Whether something is there that only a look at the whole value can bound.
        placed: The dicts and sets whose keys are given their places, by their ids.
    """

    __slots__ = ("_weights", "odd", "placed")

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.odd = False
        self.placed: dict[int, tuple[Any, Places]] = {}  # each is kept, so that no other one gets its id
        self._weights: dict[int, tuple[Any, int, int]] = {}  # what was looked at, how much it holds, on how many levels

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

    def put(self, target: dict[Any, Any], keys: list[Any], values: list[Any]) -> None:
        """Puts keys and values into a dict.

        Raises:
            BadPayload: One of the keys can't be hashed.
            UnsafePickle: One of them is, or holds, a function.
            LimitExceeded: They hold too much, or collide too often.
        """
        self._check_keys(keys)
        places = self._places(target, keys)
        if places is None:
            target.update(zip(keys, values, strict=True))
        else:
            places.put(keys, values)

    def add(self, target: set[Any], members: list[Any]) -> None:
        """Puts members into a set. Raises as `put`."""
        self._check_keys(members)
        places = self._places(target, members)
        if places is None:
            target.update(members)
        else:
            places.put(members)

    def made(self, kind: type[Set], members: list[Any]) -> Set:
        """A set or frozenset. Raises as `put`."""
        self.spend(SET_BYTES)
        self._check_keys(members)
        return made(kind, members)

    def _places(self, target: dict[Any, Any] | set[Any], keys: Collection[Any]) -> Places | None:
        known = self.placed.get(id(target))
        if known is not None:
            return known[1]
        if not may_collide(keys, len(target) + len(keys)):
            return None
        places = Places(target)
        self.placed[id(target)] = target, places
        return places

    def _check_keys(self, keys: Collection[Any]) -> None:
        """Looks at what is about to be hashed. Raises as `put`."""
        if _SMALL_KEYS.issuperset(map(type, keys)):
            return
        for key in keys:
            kind = type(key)
            if kind in _HASHED:
                weight, _ = self._weigh(key, VALUE_DEPTH_MAX, _HASHED)
                self.spend(weight - CONTAINER_BYTES)  # which was counted when it was made
            elif kind not in _SMALL_KEYS:
                raise _no_key(key)

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
        if (self.odd or self.spent >= VALUE_DEPTH_MAX * CONTAINER_BYTES) and type(value) in _CONTAINERS:
            self._weigh(value, VALUE_DEPTH_MAX, _CONTAINERS)

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
        weight, inner = CONTAINER_BYTES + _SLOT_BYTES * len(container), []
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
            raise LimitExceeded("value-bytes", weight, self.most)


def _no_data(named: Named) -> UnsafePickle:
    return UnsafePickle(f"the pickle holds the function {named.name}, which is no data")


def _no_key(key: Any) -> UserError:
    if type(key) is Named:
        return _no_data(key)
    return BadPayload(f"the pickle is broken: a {type(key).__name__} can be no key of a dict and no member of a set")
