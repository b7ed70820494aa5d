"""Keys of dicts and sets collide only so often: the model of their tables is CPython's, honest keys are let in."""

from __future__ import annotations

import random
import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyhaus.core.collisions import Places, Table, fill, made
from keyhaus.core.errors import LimitExceeded
from tests.support.colliding import of_one_hash, walking

_MANY = 10_000
_RANDOM = random.Random(1)
HONEST: dict[str, list[Any]] = {
    "numbers in order": list(range(_MANY)),
    "numbers backwards": list(range(_MANY, 0, -1)),
    "negative numbers": list(range(-_MANY, 0)),
    **{
        f"multiples of 2**{bits}": [number << bits for number in range(_MANY)]
        for bits in (1, 5, 13, 22, 30, 39, 44, 50, 61, 75)
    },
    **{f"odd multiples of 2**{bits}": [2 * number + 1 << bits for number in range(_MANY)] for bits in (10, 30, 43)},
    "multiples of a million": [number * 1_000_000 for number in range(_MANY)],
    "times in nanoseconds": [1_700_000_000_000_000_000 + number * 1_000_000_000 for number in range(_MANY)],
    "numbers of 64 bits": [_RANDOM.getrandbits(64) for _ in range(_MANY)],
    "numbers of 17 bits": [_RANDOM.getrandbits(17) for _ in range(_MANY)],
    "whole floats": [float(number) for number in range(_MANY)],
    "tenths": [number / 10 for number in range(_MANY)],
    **{f"fractions of 2**{bits}": [number / (1 << bits) for number in range(_MANY)] for bits in (4, 12, 30)},
    "points": [(x, y) for x in range(-80, 80) for y in range(-80, 80)],
    "points in space": [(x, y, z) for x in range(-12, 12) for y in range(-12, 12) for z in range(-12, 12)],
    "points of floats": [(x / 4, y / 4) for x in range(-80, 80) for y in range(-80, 80)],
    "pairs": [frozenset((x, y)) for x in range(150) for y in range(x)],
    "texts and numbers": [key for number in range(_MANY // 2) for key in (str(number), number)],
    "texts, then numbers": [*map(str, range(_MANY // 2)), *range(_MANY // 2)],
    "random floats and numbers in order": [key for number in range(_MANY // 2) for key in (_RANDOM.random(), number)],
    "subsets": [frozenset(bit for bit in range(13) if number >> bit & 1) for number in range(1 << 13)],
}


def test_many_honest_keys_are_let_in() -> None:
    for step in (1 << 13, 10**9):
        keys = [number * step for number in range(87_381)]  # as many as a table holds
        fill({}, keys, keys)


@pytest.mark.parametrize("name", HONEST)
def test_honest_keys_are_let_in(name: str) -> None:
    keys = HONEST[name]
    whole: dict[Any, Any] = {}
    fill(whole, keys, keys)
    assert list(whole) == list(dict.fromkeys(keys))
    assert made(set, keys) == set(keys)
    assert made(frozenset, keys) == frozenset(keys)
    assert list(made(frozenset, keys)) == list(frozenset(keys)), "it has grown as any other"


def _grows(sizes: list[int]) -> list[int]:
    """With which key it has grown; what a table of a few does is left out, as the model leaves it out."""
    return [number for number in range(256, len(sizes)) if sizes[number] != sizes[number - 1]]


@pytest.mark.parametrize("texts", [0, 1, 2, 5, 6, 85, 86, 170, 171, 700])
def test_a_dict_grows_when_the_model_does(texts: int) -> None:
    whole: dict[Any, Any] = {str(number): None for number in range(texts)}
    places = Places(whole)
    sizes, modelled = [], []
    for number in range(3000):
        places.put([number], [None])
        sizes.append(sys.getsizeof(whole))
        assert places._now is not None
        modelled.append(places._now.size)
    grows = _grows(sizes)
    assert _grows(modelled) == grows
    assert grows


def _modelled_order(members: list[Any]) -> list[Any]:
    """A set's members in the order of the places that the model gives them."""
    rules = Places(set())
    table, places = Table(8, 10), dict[int, Any]()

    def place(member: Any) -> None:
        table.place([member], 1 << 60)
        at = table.taken.find(1)
        table.taken[at] = 2
        places[at] = member

    for member in members:
        place(member)
        if len(places) > rules._room(table.size):
            inside = [places[at] for at in sorted(places)]
            table = Table(rules._grown(table.size), 10)
            places.clear()
            for other in inside:
                place(other)
    return [places[at] for at in sorted(places)]


@pytest.mark.parametrize(
    "name",
    [
        "numbers of 64 bits",
        "multiples of 2**44",
        "multiples of 2**22",
        "points in space",
        "tenths",
        "texts and numbers",
    ],
)
def test_a_set_has_its_members_where_the_model_has_them(name: str) -> None:
    for count in (5, 60, 76, 77, 78, 300, 1500):
        members = list(dict.fromkeys(HONEST[name]))[:count]
        whole = set()
        for member in members:
            whole.add(member)
        assert _modelled_order(members) == list(whole)


def test_what_is_refused_would_have_taken_long() -> None:
    """The model is that of this CPython: keys that it sees collide do so."""
    run, walkers = walking()
    honest = random.Random(2).sample(range(1 << 15, 1 << 31), len(walkers))
    seconds = []
    for keys in (honest, walkers):
        whole = dict.fromkeys(run)
        began = time.process_time()
        whole.update(dict.fromkeys(keys))
        seconds.append(time.process_time() - began)
    print(f"{seconds[1] / max(seconds[0], 1e-6):.0f} times as long")
    assert seconds[1] > 20 * seconds[0]
    with pytest.raises(LimitExceeded, match="key-probes"):
        fill({}, run + walkers, run + walkers)
    fill({}, run + honest, run + honest)


@pytest.mark.parametrize("name", of_one_hash(2))
def test_keys_of_one_hash_are_refused_soon(name: str) -> None:
    keys = of_one_hash(5000)[name]
    assert len({hash(key) for key in keys}) == 1
    for build in (lambda: fill({}, keys, keys), lambda: made(set, keys), lambda: made(frozenset, keys)):
        began = time.process_time()
        with pytest.raises(LimitExceeded, match="key-probes"):
            build()
        assert time.process_time() - began < 0.1


def test_few_keys_may_collide_as_they_like() -> None:
    for keys in of_one_hash(256).values():
        assert len(made(set, keys)) == len(keys)


def _put_one_by_one(places: Places, keys: list[Any]) -> None:
    for key in keys:
        places.put([key], [None])


def test_keys_that_come_one_by_one_are_counted_together() -> None:
    for whole in ({}, set()):
        places = Places(whole)
        with pytest.raises(LimitExceeded, match="key-probes"):
            _put_one_by_one(places, of_one_hash(5000)["integers"])
        assert len(whole) < 1000


def test_asking_for_one_far_key_again_and_again_is_counted() -> None:
    """Also where the next new key would make the table grow, into one in which it is near."""
    run, walkers = walking(20)
    places = Places({})
    places.put(run, run)
    places.put(walkers[:1], [None])
    while len(places._container) < 2 * (1 << 15) // 3:
        new = len(places._container) * 7 + (1 << 40)
        places.put([new], [None])
    with pytest.raises(LimitExceeded, match="key-probes"):
        _put_one_by_one(places, walkers[:1] * 1000)


def test_a_key_may_come_again_and_again() -> None:
    for keys in ([7] * 3000, [*range(500)] * 20, [number % 3 for number in range(5000)], [1, 1.0, True] * 100):
        whole: dict[Any, Any] = {}
        fill(whole, keys, keys)
        assert list(whole.items()) == list(dict(zip(keys, keys, strict=True)).items())
        assert made(set, keys) == set(keys)
        places = Places(set())
        _put_one_by_one(places, keys)


_KEYS = st.integers(-3, 200) | st.integers(-3, 200).map(float) | st.integers(0, 200).map(str) | st.binary(max_size=1)


@given(st.lists(st.lists(_KEYS | st.tuples(_KEYS), max_size=120), max_size=6), st.booleans())
def test_what_is_put_is_there(batches: list[list[Any]], is_set: bool) -> None:
    whole: Any = set() if is_set else {}
    other: Any = set() if is_set else {}
    places = Places(whole)
    for batch in batches:
        places.put(batch, list(map(repr, batch)))
        other.update(batch if is_set else zip(batch, map(repr, batch), strict=True))
        assert list(whole) == list(other)
        assert whole == other
