"""Pickles that stand for far more than their bytes: refused before anything is built of it.

The bounds are the real ones where that takes no time; where a bomb has to be built up to its bound, that is lowered.
"""

from __future__ import annotations

import pickle
import tracemalloc
from collections.abc import Callable
from typing import Any, Final

import pytest

from keyhaus.core import limits
from keyhaus.core.errors import LimitExceeded, UserError
from keyhaus.core.objects import DEPTH_MAX, INTEGER_BYTES_MAX, check_depth, pack
from keyhaus.protocol.frame.pickles import BadPayload, read_pickle

_MEMORY_FACTOR: Final = 20  # bytes of memory for a byte of a pickle that is scalars
_MEMORY_SLACK: Final = 1 << 20


def _measured(data: bytes) -> tuple[Any, int]:
    """What is read, or the error; and how much memory it took at most."""
    tracemalloc.start()
    try:
        try:
            outcome = read_pickle(data)
        except UserError as error:
            outcome = error
        return outcome, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _doubling(empty: bytes, pair: Callable[[int], bytes], levels: int = DEPTH_MAX - 4) -> bytes:
    """Each level holds the one below twice; the memo has one after the other."""
    return empty + b"q\x00" + b"".join(b"0" + pair(level) for level in range(1, levels)) + b"."


def _twice(before: bytes, after: bytes) -> Callable[[int], bytes]:
    return lambda n: before + b"h%ch%c" % (n - 1, n - 1) + after + b"q%c" % n


_TUPLES: Final = _doubling(b")", _twice(b"", b"\x86"))[:-1]
_LISTS: Final = _doubling(b"]", _twice(b"](", b"e"))
_LONG_TEXT: Final = b"X\x00\x00\x10\x00" + b"x" * (1 << 20)
_LONG_LIST: Final = b"](" + b"".join(b"M" + n.to_bytes(2, "little") for n in range(60_000)) + b"e"

# Refused by the real bound, without more memory than so few bytes should take.
MULTIPLIED: Final = {
    "lists": _LISTS,
    "lists of doubled ones": b"]" + b"2\x86\x85" * 30 + b".",
    "tuples": _TUPLES + b".",
    "a tuple as a key": b"}" + _TUPLES + b"Ns.",
    "a tuple as a key among others": b"}(" + _TUPLES + b"Nu.",
    "a tuple in a set": b"\x8f(" + _TUPLES + b"\x90.",
    "a tuple in a frozenset": b"(" + _TUPLES + b"\x91.",
    "a tuple in a set of old": b"c__builtin__\nset\n(" + _TUPLES + b"l\x85R.",
    "dicts": _doubling(b"}", lambda n: b"}(K\x00h%cK\x01h%cuq%c" % (n - 1, n - 1, n)),
    "dicts of old": _doubling(b"(d", lambda n: b"(I0\nh%cI1\nh%cdq%c" % (n - 1, n - 1, n)),
    "frozensets in tuples": _doubling(b"(\x91", lambda n: b"h%ch%c\x86q%c" % (n - 1, n - 1, n)),
    "frozensets and tuples": _doubling(b")", lambda n: b"(h%ch%c\x86\x91q%c" % (n - 1, n - 1, n), DEPTH_MAX // 2),
    "a long text in a list": _LONG_TEXT + b"q\x00](" + b"h\x00" * 100 + b"e.",
    "a long text, doubled": _LONG_TEXT + b"2" * 100 + b".",
    "a long text in a tuple that is repeated": _LONG_TEXT + b"\x85q\x000](" + b"h\x00" * 100 + b"e.",
    "long bytes in old form": b"c_codecs\nencode\nq\x00"
    + _LONG_TEXT
    + b"Vlatin1\n\x86q\x01R0"
    + b"h\x00h\x01R0" * 100
    + b"N.",
    "equal long texts in keys": _LONG_TEXT
    + b"\x85q\x000"
    + _LONG_TEXT
    + b"\x85q\x010}(h\x00N"
    + b"h\x01N" * 100
    + b"u.",
    "one tuple as many keys": b"K\x01" + b"\x85" * 60 + b"q\x000}(" + b"h\x00N" * 100_000 + b"u.",
    "a set of one list, again and again": _LONG_LIST
    + b"\x85q\x000c__builtin__\nset\nq\x010"
    + b"h\x01h\x00R0" * 400
    + b"N.",
    "a large integer, again and again": b"\x8b\x00\x04\x00\x00"
    + b"\x7f" * INTEGER_BYTES_MAX
    + b"q\x00]("
    + b"h\x00" * 50_000
    + b"e.",
}


@pytest.mark.parametrize("name", MULTIPLIED)
def test_what_is_referred_to_counts_each_time(name: str) -> None:
    data = MULTIPLIED[name]
    outcome, peak = _measured(data)
    assert isinstance(outcome, LimitExceeded), outcome
    assert "pickle-bytes exceeded" in outcome.message
    print(f"{name}: {len(data)} bytes, {peak} bytes of memory")
    assert peak < _MEMORY_FACTOR * len(data) + 4 * _MEMORY_SLACK, peak


def _nested(opening: bytes, closing: bytes, levels: int) -> bytes:
    return opening * levels + closing * (levels - 1) + b"."


@pytest.mark.parametrize(
    "data",
    [
        b"]" * 1_000_000 + b"a" * 999_999 + b".",
        b"]" * 100_000 + b"a" * 99_999 + b".",
        b"(" * 1_000_000 + b"l" * 1_000_000 + b".",
        b"(" * 1_000_000 + b"\x91" * 1_000_000 + b".",
        b"N" + b"\x85" * 1_000_000 + b".",
        b"N" + b"\x85" * 100_000 + b".",
        b"}" + b"N" + b"\x85" * 100_000 + b"Ns.",
        _nested(b"]", b"a", DEPTH_MAX + 1),
        b"N" + b"\x85" * (DEPTH_MAX + 1) + b".",
        b"}N" + b"\x85" * (DEPTH_MAX + 1) + b"Ns.",
        b")" + b"\x85" * DEPTH_MAX + b".",
        b"](K\x01" + b"\x85" * 40 + b"q\x00h\x00" + b"\x85" * 30 + b"e.",
    ],
    ids=[
        *("a million lists", "lists", "marks and lists", "marks and frozensets", "a million tuples", "tuples", "a key"),
        *(
            "a list too many",
            "a tuple too many",
            "a key's tuple too many",
            "an empty tuple within",
            "what was met before",
        ),
    ],
)
def test_nesting_is_bounded(data: bytes) -> None:
    outcome, peak = _measured(data)
    assert isinstance(outcome, LimitExceeded), outcome
    print(f"{len(data)} bytes, {peak} bytes of memory")
    # A container takes more than the byte that makes it, until the bound is reached.
    assert peak < 1.5 * (limits.PICKLE_BYTES_FREE + limits.PICKLE_BYTES_FACTOR * len(data))


@pytest.mark.parametrize("value", [b"]" * DEPTH_MAX + b"a" * (DEPTH_MAX - 1), b")" + b"\x85" * (DEPTH_MAX - 1)])
def test_as_many_levels_as_a_value_may_have_are_read(value: bytes) -> None:
    read = read_pickle(value + b".")
    check_depth(read)
    assert pack(read)


@pytest.mark.parametrize(
    "data",
    [
        b"]q\x00h\x00a.",
        b"]2a.",
        b"}q\x00N]q\x01h\x00as.",
        b"}q\x00K\x01h\x00s.",
        b"]q\x00(h\x00h\x00e.",
        b"]q\x00h\x00\x85a.",
        b"]q\x00}K\x01h\x00sa.",
    ],
)
def test_what_holds_itself_is_refused(data: bytes) -> None:
    with pytest.raises(BadPayload, match="holds itself"):
        read_pickle(data)


@pytest.mark.parametrize(
    "data",
    [
        *(opcode + b"\xff" * 3 + b"\x7fx" for opcode in (b"X", b"B", b"T")),
        *(opcode + b"\xff" * 4 + b"x" for opcode in (b"X", b"B", b"T", b"\x8b")),
        *(opcode + b"\xff" * 7 + b"\x7fx" for opcode in (b"\x8d", b"\x8e", b"\x96", b"\x95")),
        *(opcode + b"\xff" * 8 + b"x" for opcode in (b"\x8d", b"\x8e", b"\x96", b"\x95")),
        *(opcode + b"\xffx" for opcode in (b"\x8c", b"C", b"U", b"\x8a")),
        *(b"\x80\x04\x95" + size.to_bytes(8, "little") + b"N." for size in (3, 1 << 32, (1 << 64) - 1)),
    ],
)
def test_a_length_that_lies_takes_no_memory(data: bytes) -> None:
    for whole in (data, data + b".", data + b"y" * 100 + b"."):
        outcome, peak = _measured(whole)
        assert isinstance(outcome, BadPayload), outcome
        assert peak < 64 << 10


@pytest.mark.parametrize("put", [b"r\xff\xff\xff\x7f", b"r\xff\xff\xff\xff", b"r\x00\x00\x00\x80", b"p4294967295\n"])
def test_a_huge_number_in_the_memo_takes_no_memory(put: bytes) -> None:
    outcome, peak = _measured(b"K\x07" + put + b".")
    assert outcome == 7
    assert peak < 64 << 10


# What costs more memory than the byte that makes it, up to the bound; and what is simply much. With a bound that is
# lower, so that it takes no minutes: by how much each may pass the factor is what it costs Python.
MANY: Final = {
    "marks and nothing else": (b"(" * 100_000 + b".", 0),
    "marks that are taken back": (b"(1" * 100_000 + b"N.", 1),
    "pops": (b"N0" * 100_000 + b"N.", 1),
    "nothings": (b"(" + b"N" * 100_000 + b"l.", 20),
    "small numbers": (b"(" + b"K\x01" * 100_000 + b"l.", 20),
    "numbers": (b"(" + b"M\x01\x02" * 100_000 + b"l.", 20),
    "floats in text": (b"(" + b"F1\n" * 100_000 + b"l.", 20),
    "short texts": (b"(" + b"\x8c\x02ab" * 100_000 + b"l.", 20),
    "doubled": (b"K\x01" + b"2" * 100_000 + b".", 20),
    "memo entries": (b"N" + b"\x94" * 100_000 + b".", 20),
    "memo entries by number": (b"N" + b"".join(b"r" + n.to_bytes(4, "little") for n in range(50_000)) + b".", 20),
    "memo entries far apart": (
        b"N" + b"".join(b"r" + (n << 9).to_bytes(4, "little") for n in range(50_000)) + b".",
        40,
    ),
    "lists": (b"(" + b"]" * 100_000 + b"l.", 40),
    "dicts": (b"(" + b"}" * 100_000 + b"l.", 40),
    "sets": (b"(" + b"\x8f" * 100_000 + b"l.", 40),
    "frozensets": (b"(" + b"((\x91" * 50_000 + b"l.", 40),
    "tuples": (b"(" + b"N\x85" * 100_000 + b"l.", 40),
    "sets of old": (b"c__builtin__\nset\nq\x000(" + b"h\x00)R" * 50_000 + b"l.", 40),
    "keys": (b"}(" + b"".join(b"M" + n.to_bytes(2, "little") + b"N" for n in range(60_000)) + b"u.", 40),
    "members": (b"\x8f(" + b"".join(b"M" + n.to_bytes(2, "little") for n in range(60_000)) + b"\x90.", 60),
}


@pytest.mark.parametrize("name", MANY)
def test_memory_is_linear_in_the_bytes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PICKLE_BYTES_FREE", 1 << 20)
    data, factor = MANY[name]
    outcome, peak = _measured(data)
    told = outcome.message if isinstance(outcome, UserError) else "read"
    print(f"{name}: {len(data)} bytes, {peak / len(data):.1f} bytes of memory each: {told}")
    assert peak < factor * len(data) + _MEMORY_SLACK, (told, peak / len(data))


@pytest.mark.parametrize(
    "keys",
    [
        [number * ((1 << 61) - 1) << 64 for number in range(1, 6000)],
        [tuple(-1 - (number >> bit & 1) for bit in range(13)) for number in range(6000)],
        [frozenset([tuple(-1 - (number >> bit & 1) for bit in range(13))]) for number in range(6000)],
    ],
    ids=["integers", "tuples", "frozensets of tuples"],
)
@pytest.mark.parametrize(
    ("before", "after_each", "after"),
    [
        (b"\x8f(", b"", b"\x90."),
        (b"(", b"", b"\x91."),
        (b"}(", b"N", b"u."),
        (b"}", b"Ns", b"."),
        (b"(", b"N", b"d."),
        (b"c__builtin__\nset\n(", b"", b"l\x85R."),
        (b"c__builtin__\nfrozenset\n(", b"", b"t\x85R."),
    ],
    ids=["set", "frozenset", "dict", "dict by items", "dict of old", "set of old", "frozenset of old"],
)
def test_keys_that_all_have_one_hash_are_refused(
    keys: list[Any], before: bytes, after_each: bytes, after: bytes
) -> None:
    assert len({hash(key) for key in keys}) == 1
    with pytest.raises(LimitExceeded, match="pickle-bytes"):
        read_pickle(before + b"".join(pickle.dumps(key, 2)[2:-1] + after_each for key in keys) + after)


@pytest.mark.parametrize("pair", [_twice(b"", b"\x86"), _twice(b"](", b"e")])
def test_what_is_read_can_be_packed(pair: Callable[[int], bytes]) -> None:
    outcomes = []
    for levels in range(10, 30):
        data = _doubling(b"]", pair, levels)
        outcome, _ = _measured(data)
        outcomes.append(type(outcome))
        if not isinstance(outcome, UserError):
            assert len(pack(outcome)[1]) < limits.PICKLE_BYTES_FREE
    assert {*outcomes} > {LimitExceeded}
    assert len({*outcomes}) == 2


def test_many_keys_of_different_hashes_are_read() -> None:
    points = {(x, y): x * y for x in range(-150, 150) for y in range(-150, 150)}
    assert read_pickle(pickle.dumps(points)) == points
    numbers = frozenset(number << 70 for number in range(20_000))
    for protocol in (2, 4):
        assert read_pickle(pickle.dumps(numbers, protocol)) == numbers
        assert read_pickle(pickle.dumps([set(points)], protocol)) == [set(points)]


def test_what_is_shared_within_reason_is_read() -> None:
    row = {"name": "x" * 100, "tags": ["a", "b"], "at": (1, 2)}
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert read_pickle(pickle.dumps([row] * 10_000, protocol)) == [row] * 10_000


def test_many_small_containers_are_read() -> None:
    for value in ([[] for _ in range(100_000)], [{n} for n in range(50_000)], [(n, {"n": n}) for n in range(50_000)]):
        assert read_pickle(pickle.dumps(value)) == value
