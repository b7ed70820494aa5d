"""Lazily sorted keys against a sorted list: adding, deleting, coming back, walking both ways, buckets that split."""

from __future__ import annotations

import random
from collections.abc import Iterator
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from keyhaus.store import ordered
from keyhaus.store.ordered import OrderedKeys

_KEYS = st.binary(max_size=2) | st.sampled_from([b"a", b"a\0", b"b", b"\xff\xff\xff"])


class _Walked:
    """The keys of a mapping that tells its ordered view of new ones, as a keyspace does."""

    def __init__(self) -> None:
        self.source: dict[bytes, None] = {}
        self.view = OrderedKeys(self.source)

    def put(self, key: bytes) -> None:
        new = key not in self.source
        self.source[key] = None
        if new and self.view.built:
            self.view.add(key)

    def delete(self, key: bytes) -> None:
        self.source.pop(key, None)

    def deal(self, keys: int = ordered.DEAL_STEP) -> None:
        while not self.view.deal(keys):
            pass

    def ascending(self, start: bytes) -> list[bytes]:
        self.deal()
        return self._living(self.view.ascending(start))

    def descending(self, end: bytes | None) -> list[bytes]:
        self.deal()
        return self._living(self.view.descending(end))

    def _living(self, keys: Iterator[bytes]) -> list[bytes]:
        return [key for key in keys if key in self.source]


class OrderedModel(RuleBasedStateMachine):
    """Small buckets, so that they split all the time."""

    @initialize(bucket_keys=st.integers(1, 4), step=st.integers(1, 9))
    def begin(self, bucket_keys: int, step: int) -> None:
        self.small = patch.object(ordered, "BUCKET_KEYS", bucket_keys)
        self.small.start()
        self.step = step
        self.walked = _Walked()

    def teardown(self) -> None:
        if hasattr(self, "small"):
            self.small.stop()

    @rule(keys=st.lists(_KEYS, max_size=40))
    def put(self, keys: list[bytes]) -> None:
        for key in keys:
            self.walked.put(key)

    @rule(keys=st.lists(_KEYS, max_size=20))
    def delete(self, keys: list[bytes]) -> None:
        for key in keys:
            self.walked.delete(key)

    @rule(data=st.data())
    def delete_and_bring_back(self, data: st.DataObject) -> None:
        if self.walked.source:
            key = data.draw(st.sampled_from(sorted(self.walked.source)))
            self.walked.delete(key)
            self.walked.put(key)

    @rule()
    def deal_some(self) -> None:
        self.walked.view.deal(self.step)

    @rule(start=_KEYS)
    def walk_upwards(self, start: bytes) -> None:
        assert self.walked.ascending(start) == sorted(key for key in self.walked.source if key >= start)

    @rule(end=st.none() | _KEYS)
    def walk_downwards(self, end: bytes | None) -> None:
        expected = sorted((key for key in self.walked.source if end is None or key < end), reverse=True)
        assert self.walked.descending(end) == expected

    @rule(start=_KEYS)
    def walk_a_little(self, start: bytes) -> None:
        self.walked.deal()
        for _, key in zip(range(3), self.walked.view.ascending(start), strict=False):
            assert key >= start

    @rule(seed=st.integers(0, 9))
    def sample(self, seed: int) -> None:
        self.walked.deal()
        found = self.walked.view.sample(random.Random(seed))
        assert found is not None or not self.walked.source


TestOrderedModel = OrderedModel.TestCase


@given(st.lists(_KEYS, unique=True), st.lists(_KEYS, unique=True))
def test_a_sample_is_one_of_the_keys_or_one_beside_them(keys: list[bytes], beside: list[bytes]) -> None:
    walked = _Walked()
    for key in keys:
        walked.put(key)
    walked.deal()
    found = {walked.view.sample(random.Random(seed), beside) for seed in range(50)}
    assert found <= {*keys, *beside} if keys or beside else found == {None}


def test_nothing_is_kept_before_the_first_walk() -> None:
    walked = _Walked()
    for number in range(100):
        walked.put(b"%d" % number)
    assert not walked.view.built
    assert not walked.view.fresh


def test_keys_that_nobody_walks_any_more_are_let_go() -> None:
    walked = _Walked()
    walked.put(b"a")
    walked.deal()
    for number in range(100_000):
        key = b"%d" % number
        walked.put(key)
        walked.delete(key)
    assert len(walked.view.fresh) < 100_000
    assert walked.ascending(b"") == [b"a"]


@pytest.mark.parametrize("count", [0, 1, 4096, 40_000])
def test_many_keys_come_in_order_whatever_order_they_came_in(count: int) -> None:
    walked = _Walked()
    numbers = list(range(count))
    random.Random(count).shuffle(numbers)
    for number in numbers[: count // 2]:
        walked.put(b"%08d" % number)
    walked.deal()
    for number in numbers[count // 2 :]:
        walked.put(b"%08d" % number)
    expected = [b"%08d" % number for number in range(count)]
    assert walked.ascending(b"") == expected
    assert walked.descending(None) == expected[::-1]
    middle = b"%08d" % (count // 2)
    assert walked.ascending(middle) == expected[count // 2 :]
    assert walked.descending(middle) == expected[: count // 2][::-1]
