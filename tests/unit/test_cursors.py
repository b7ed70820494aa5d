"""SCAN's cursors: unguessable handles in a bounded table."""

from __future__ import annotations

import random

import pytest

from keyhaus.core import limits
from keyhaus.store.cursors import Cursors


def test_a_handle_leads_to_its_key_as_often_as_it_is_asked() -> None:
    cursors = Cursors()
    handles = {cursors.put(b"%d" % number): b"%d" % number for number in range(100)}
    assert len(handles) == 100
    for handle, key in [*handles.items(), *handles.items()]:
        assert cursors.get(handle) == key


def test_the_empty_key_is_a_key() -> None:
    cursors = Cursors()
    assert cursors.get(cursors.put(b"")) == b""


def test_handles_are_positive_and_fit_a_signed_integer() -> None:
    cursors = Cursors(random.Random(1))
    for _ in range(1000):
        assert 0 < cursors.put(b"k") < 1 << 63


def test_no_handle_is_given_twice_while_it_is_known() -> None:
    class Stuttering(random.Random):
        def __init__(self) -> None:
            super().__init__()
            self.numbers = iter([0, 7, 7, 0, 8])

        def getrandbits(self, bits: int, /) -> int:
            return next(self.numbers)

    cursors = Cursors(Stuttering())
    assert [cursors.put(b"a"), cursors.put(b"b")] == [7, 8]


def test_an_unknown_handle_leads_nowhere() -> None:
    assert Cursors().get(1) is None


def test_the_handle_unused_for_longest_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CURSORS_MAX", 3)
    cursors = Cursors()
    one, two, three = (cursors.put(key) for key in (b"1", b"2", b"3"))
    cursors.get(one)
    four = cursors.put(b"4")
    assert [cursors.get(handle) for handle in (one, two, three, four)] == [b"1", None, b"3", b"4"]


def test_the_bytes_of_all_keys_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CURSOR_BYTES_MAX", 100)
    cursors = Cursors()
    handles = [cursors.put(b"k" * 30) for _ in range(4)]
    assert (len(cursors), cursors.bytes_held) == (3, 90)
    assert cursors.get(handles[0]) is None
    large = cursors.put(b"k" * 200)
    assert (len(cursors), cursors.bytes_held, cursors.get(large)) == (1, 200, b"k" * 200)
    assert cursors.put(b"") != large
    assert cursors.bytes_held == 0


@pytest.mark.parametrize("rounds", [1000])
def test_the_count_of_bytes_follows_the_table(rounds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CURSORS_MAX", 20)
    monkeypatch.setattr(limits, "CURSOR_BYTES_MAX", 300)
    generator = random.Random(3)
    cursors = Cursors(generator)
    kept: dict[int, bytes] = {}
    for _ in range(rounds):
        key = generator.randbytes(generator.randrange(40))
        kept[cursors.put(key)] = key
        kept = {handle: key for handle, key in kept.items() if cursors.get(handle) == key}
        assert len(cursors) == len(kept) <= 20
        assert cursors.bytes_held == sum(map(len, kept.values())) <= 300
