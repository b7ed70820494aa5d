"""Payloads that stand for far more than their bytes: refused before anything is built of it, pickles and MessagePack.

The bounds are the real ones where that takes no time; where a bomb has to be built up to its bound, that is lowered.
"""

from __future__ import annotations

import pickle
import time
import tracemalloc
from collections.abc import Callable
from typing import Any, Final

import pytest

from keyhaus.core import limits
from keyhaus.core.errors import LimitExceeded, UserError
from keyhaus.core.limits import INTEGER_BYTES_MAX, VALUE_DEPTH_MAX
from keyhaus.core.objects import check_depth, decode, encode, pack
from keyhaus.protocol.frame.pickles import BadPayload, read_pickle
from tests.support.colliding import of_one_hash, walking

_MEMORY_FACTOR: Final = 20  # bytes of memory for a byte of a pickle that is scalars
_MEMORY_SLACK: Final = 1 << 20


def _measured(data: bytes, read: Callable[[bytes], Any] = read_pickle) -> tuple[Any, int]:
    """What is read, or the error; and how much memory it took at most."""
    tracemalloc.start()
    try:
        try:
            outcome = read(data)
        except UserError as error:
            outcome = error
        return outcome, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _doubling(empty: bytes, pair: Callable[[int], bytes], levels: int = VALUE_DEPTH_MAX - 4) -> bytes:
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
    "frozensets and tuples": _doubling(b")", lambda n: b"(h%ch%c\x86\x91q%c" % (n - 1, n - 1, n), VALUE_DEPTH_MAX // 2),
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
    assert "value-bytes exceeded" in outcome.message
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
        _nested(b"]", b"a", VALUE_DEPTH_MAX + 1),
        b"N" + b"\x85" * (VALUE_DEPTH_MAX + 1) + b".",
        b"}N" + b"\x85" * (VALUE_DEPTH_MAX + 1) + b"Ns.",
        b")" + b"\x85" * VALUE_DEPTH_MAX + b".",
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
    assert peak < 1.5 * (limits.VALUE_BYTES_FREE + limits.VALUE_BYTES_FACTOR * len(data))


@pytest.mark.parametrize(
    "value", [b"]" * VALUE_DEPTH_MAX + b"a" * (VALUE_DEPTH_MAX - 1), b")" + b"\x85" * (VALUE_DEPTH_MAX - 1)]
)
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


def _array(item: bytes, count: int = 30_000, *, head: int = 0xDD) -> bytes:
    return bytes((head,)) + count.to_bytes(4, "big") + item * count


def _extension(code: int, items: bytes) -> bytes:
    return b"\xc9" + len(items).to_bytes(4, "big") + bytes((code,)) + items


_NUMBERS: Final = b"".join(b"\xcd" + n.to_bytes(2, "big") for n in range(20_000))

# The same in MessagePack, whose bytes are fewer.
PACKED: Final = {
    "nothings": (_array(b"\xc0"), 20),
    "small numbers": (_array(b"\x01"), 20),
    "numbers": (_array(b"\xcd\x01\x02"), 20),
    "floats": (_array(b"\xca\x3f\xa0\0\0"), 20),
    "short texts": (_array(b"\xa2ab"), 25),
    "lists": (_array(b"\x90"), 40),
    "lists of one": (_array(b"\x91\xc0"), 40),
    "lists in lists": (_array(b"\x91" * 20 + b"\xc0", 5000), 40),
    "dicts": (_array(b"\x80"), 40),
    "dicts of one": (_array(b"\x81\xc0\xc0"), 80),  # 64 are counted, 232 are taken
    "dicts in dicts": (_array(b"\x81\xc0" * 20 + b"\xc0", 5000), 60),
    "values of a dict": (
        b"\xdf"
        + (20_000).to_bytes(4, "big")
        + b"".join(b"\xce" + n.to_bytes(4, "big") + b"\x90" for n in range(20_000)),
        60,
    ),
    "tuples": (_array(b"\xd5\x01\x91\xc0"), 40),
    "tuples in a tuple": (_extension(1, _array(b"\xd5\x01\x91\xc0")), 40),
    "sets": (_array(b"\xd4\x02\x90"), 40),
    "sets in a dict": (_extension(5, _array(b"\x01\xd4\x02\x90")), 40),
    "frozensets": (_array(b"\xd4\x03\x90"), 40),
    "frozensets of one": (_array(b"\xd5\x03\x91\xc0"), 60),
    "empty dicts of pairs": (_array(b"\xd4\x05\x90"), 40),
    "lists behind what is no array": (_array(b"\xd5\x01\xc6\xff" + b"\x90" * 19, 50_000), 40),
    "keys": (
        b"\xdf"
        + (20_000).to_bytes(4, "big")
        + b"".join(b"\xcd" + n.to_bytes(2, "big") + b"\xc0" for n in range(20_000)),
        60,
    ),
    "members": (_extension(2, b"\xdd" + (20_000).to_bytes(4, "big") + _NUMBERS), 60),
    "a list that ends early": (b"\xdd\xff\xff\xff\xff" + b"\x90" * 100_000, 40),
    "a short list that ends early": (b"\xdd\xff\xff\xff\xff\x90", 0),
    "a dict that ends early": (b"\xdf\xff\xff\xff\xff" + _NUMBERS, 60),
    "a text that ends early": (b"\xdb\xff\xff\xff\xff" + b"x" * 100_000, 2),
}
_READERS: Final = {"pickle": read_pickle, "MessagePack": decode}


@pytest.mark.parametrize(
    ("form", "name"), [*(("pickle", name) for name in MANY), *(("MessagePack", name) for name in PACKED)]
)
def test_memory_is_linear_in_the_bytes(form: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "VALUE_BYTES_FREE", 1 << 20)
    data, factor = (MANY if form == "pickle" else PACKED)[name]
    outcome, peak = _measured(data, _READERS[form])
    told = outcome.message if isinstance(outcome, UserError) else "read"
    print(f"{name}: {len(data)} bytes, {peak / len(data):.1f} bytes of memory each: {told}")
    assert peak < factor * len(data) + _MEMORY_SLACK, (told, peak / len(data))


ON_A_WALK: Final = "numbers on a walk"  # which is one in dicts only
KEYS: Final = {**of_one_hash(), ON_A_WALK: [number for part in walking() for number in part]}


def _pickled(before: bytes, after_each: bytes, after: bytes) -> Callable[[list[Any]], bytes]:
    return lambda keys: before + b"".join(pickle.dumps(key, 2)[2:-1] + after_each for key in keys) + after


def _packed(after_each: bytes, wrap: Callable[[bytes], bytes], *, head: int = 0xDD) -> Callable[[list[Any]], bytes]:
    def build(keys: list[Any]) -> bytes:
        count = len(keys) * (2 if after_each and head == 0xDD else 1)
        items = b"".join(encode(key) + after_each for key in keys)
        return wrap(bytes((head,)) + count.to_bytes(4, "big") + items)

    return build


FORMS: Final[dict[str, tuple[Callable[[bytes], Any], Callable[[list[Any]], bytes]]]] = {
    "set": (read_pickle, _pickled(b"\x8f(", b"", b"\x90.")),
    "frozenset": (read_pickle, _pickled(b"(", b"", b"\x91.")),
    "dict": (read_pickle, _pickled(b"}(", b"N", b"u.")),
    "dict by items": (read_pickle, _pickled(b"}", b"Ns", b".")),
    "dict of old": (read_pickle, _pickled(b"(", b"N", b"d.")),
    "set of old": (read_pickle, _pickled(b"c__builtin__\nset\n(", b"", b"l\x85R.")),
    "frozenset of old": (read_pickle, _pickled(b"c__builtin__\nfrozenset\n(", b"", b"t\x85R.")),
    "packed set": (decode, _packed(b"", lambda items: _extension(2, items))),
    "packed frozenset": (decode, _packed(b"", lambda items: _extension(3, items))),
    "packed pairs": (decode, _packed(b"\xc0", lambda items: _extension(5, items))),
    "packed map": (decode, _packed(b"\xc0", bytes, head=0xDF)),
    "packed map within": (decode, _packed(b"\xc0", lambda items: b"\x92\x01\x81\xa1k" + items, head=0xDF)),
    "packed map in a tuple": (decode, _packed(b"\xc0", lambda items: _extension(1, b"\x91" + items), head=0xDF)),
    "packed map that ends early": (decode, _packed(b"\xc0", lambda items: items[:-1], head=0xDF)),
    "packed map that is broken behind": (decode, _packed(b"\xc0", lambda items: b"\x92" + items + b"\xc1", head=0xDF)),
}


@pytest.mark.parametrize(
    ("name", "form"),
    [(name, form) for name in KEYS for form in FORMS if name != ON_A_WALK or "set" not in form],
)
def test_keys_that_collide_are_refused(name: str, form: str) -> None:
    read, build = FORMS[form]
    keys = KEYS[name]
    data = build(keys)
    began = time.process_time()
    with pytest.raises(UserError, match="key-probes|ends early"):
        read(data)
    assert time.process_time() - began < 0.5
    if "early" not in form and "broken" not in form:
        read(build(keys[:40]))


@pytest.mark.parametrize("pair", [_twice(b"", b"\x86"), _twice(b"](", b"e")])
def test_what_is_read_can_be_packed(pair: Callable[[int], bytes]) -> None:
    outcomes = []
    for levels in range(10, 30):
        data = _doubling(b"]", pair, levels)
        outcome, _ = _measured(data)
        outcomes.append(type(outcome))
        if not isinstance(outcome, UserError):
            assert len(pack(outcome)[1]) < limits.VALUE_BYTES_FREE
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


def test_so_is_whatever_pack_makes() -> None:
    points = {(x, y): x * y for x in range(-50, 50) for y in range(-50, 50)}
    for value in (
        [[] for _ in range(100_000)],
        [{n} for n in range(10_000)],
        [(n, {"n": n}) for n in range(20_000)],
        points,
        set(points),
        {n * 1000: str(n) for n in range(20_000)},
        {n: {str(n): n for n in range(100)} for n in range(200)},
        {str(n): {n: n for n in range(100)} for n in range(200)},
        ["ÞßÞß" * 1000, b"\xde\xdf" * 10_000, list(range(0xDE00, 0xDFFF))],
        frozenset(n << 70 for n in range(20_000)),
    ):
        assert decode(pack(value)[1]) == value


def test_lists_are_keys_in_a_map_of_any_size() -> None:
    for count in (1, 300, 2000):
        pairs = b"".join(b"\x92\x91\xc0\xcd" + n.to_bytes(2, "big") + b"\xc0" for n in range(count))
        assert decode(b"\xde" + count.to_bytes(2, "big") + pairs) == {((None,), n): None for n in range(count)}
    keys = [b"\x9d" + b"".join(encode(-1 - (n >> bit & 1)) for bit in range(13)) + b"\xc0" for n in range(6000)]
    with pytest.raises(LimitExceeded, match="key-probes"):
        decode(b"\xde" + (6000).to_bytes(2, "big") + b"".join(keys))
    with pytest.raises(UserError, match="unhashable"):
        decode(b"\xde" + (300).to_bytes(2, "big") + b"\x91\x80\xc0" * 300 + b"\xc0" * 2000)


def test_what_could_not_be_read_again_is_not_packed() -> None:
    with pytest.raises(LimitExceeded, match="value-bytes"):
        pack([[] for _ in range(400_000)])
    with pytest.raises(LimitExceeded, match="value-bytes"):
        pack([set() for _ in range(100_000)])


def test_a_memo_with_gaps_is_counted_too() -> None:
    """A memo that was begun at a large number is a dict, and each MEMOIZE of one byte an entry of it."""
    with pytest.raises(LimitExceeded):
        read_pickle(b"\x80\x04Nr\xff\xff\xff\xff" + b"\x94" * (4 << 20) + b".")
