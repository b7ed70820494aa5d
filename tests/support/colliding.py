"""Keys that were chosen to collide in a dict or set of CPython."""

from __future__ import annotations

import random
from typing import Any, Final

_PRIME: Final = (1 << 61) - 1  # what a number's hash is the remainder by
_SIZE: Final = 1 << 15  # of the table
_RUN: Final = 20_000  # of the 21,845 keys that it may hold


def of_one_hash(count: int = 6000) -> dict[str, list[Any]]:
    """Keys that all have one hash, by what they are."""
    return {
        "integers": [number * _PRIME << 64 for number in range(1, count)],
        "tuples": [tuple(-1 - (number >> bit & 1) for bit in range(13)) for number in range(count)],
        "frozensets of tuples": [
            frozenset([tuple(-1 - (number >> bit & 1) for bit in range(13))]) for number in range(count)
        ],
    }


def walking(count: int = 1500) -> tuple[list[int], list[int]]:
    """Numbers of four bytes with hashes of their own, each of which has to pass thousands in a dict.

    What a dict looks at once a hash has no more bits to give is always the same sequence of places. So the first keys
    are those that take a long run of it, and each of the others is one that meets no free place before it comes to
    where the run begins.

    Returns:
        The keys of the run, and those that walk along it.
    """
    places = [0]
    while len(places) < _RUN:
        places.append((5 * places[-1] + 1) % _SIZE)
    taken = {place: number for number, place in enumerate(places)}
    chosen = random.Random(1)
    walkers: set[int] = set()
    while len(walkers) < count:
        number = chosen.randrange(_SIZE, 1 << 31)
        place, perturb = number % _SIZE, number
        while perturb and place in taken:
            perturb >>= 5
            place = (5 * place + perturb + 1) % _SIZE
        if taken.get(place, _RUN) < _RUN // 4:
            walkers.add(number)
    return places, sorted(walkers)
