"""Pickles are read, and never executed: what plain data makes of itself comes back, everything else is an error."""

from __future__ import annotations

import collections
import io
import pickle
import random
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyhaus.core.errors import LimitExceeded, UserError
from keyhaus.protocol.frame.pickles import BadPickle, UnsafePickle, read_pickle

PROTOCOLS: Final = range(pickle.HIGHEST_PROTOCOL + 1)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(1 << 2000), 1 << 2000)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
)
HASHABLE = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4).map(tuple) | st.frozensets(inner, max_size=4), max_leaves=8
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(HASHABLE, inner, max_size=5)
        | st.sets(HASHABLE, max_size=5)
        | st.frozensets(HASHABLE, max_size=5)
    ),
    max_leaves=25,
)


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal and of the same types, all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return (
            one == other
            and list(map(type, one)) == list(map(type, other))
            and all(same(one[key], other[key]) for key in one)
        )
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@given(value=VALUES)
def test_plain_data_comes_back_equal_and_of_its_types(protocol: int, value: Any) -> None:
    assert same(read_pickle(pickle.dumps(value, protocol)), value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_the_slow_pickler_writes_is_read_too(protocol: int) -> None:
    shared = ["x"]
    value = {"a": [shared, shared], "b": (1, ("c",), {2}), "d": frozenset({b"e"}), "long": "y" * 300, "n": 1 << 100}
    output = io.BytesIO()
    pickle._Pickler(output, protocol).dump(value)  # type: ignore[attr-defined]
    assert same(read_pickle(output.getvalue()), value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("value", [bytearray(), bytearray(b"abc\xff")], ids=["empty", "full"])
def test_a_bytearray_becomes_bytes(value: bytearray, protocol: int) -> None:
    assert same(read_pickle(pickle.dumps(value, protocol)), bytes(value))


def test_large_values() -> None:
    for protocol in PROTOCOLS:
        value = {
            "list": list(range(5000)),
            "text": "é" * 70_000,
            "bytes": b"x" * 70_000,
            "map": {str(n): n for n in range(3000)},
        }
        assert same(read_pickle(pickle.dumps(value, protocol)), value)


# what is broken, or too much


@pytest.mark.parametrize(
    "data",
    [
        *[b"", b".", b"\x80", b"\x80\x06N.", b"N", b"NN.", b"N.N", b"(N.", b"N(.", b"\xff", b"\x00", b"hello", b"K"],
        *[b"\x80\x04\x95\xff\x00\x00\x00\x00\x00\x00\x00N.", b"\x8c\x05ab.", b"X\xff\xff\xff\xff.", b"C\x05ab."],
        *[b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffx.", b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fx.", b"B\xff\xff\xff\x7f."],
        *[b"\x96\xff\xff\xff\xff\xff\xff\xff\xffx.", b"T\xff\xff\xff\xff.", b"T\xff\xff\xff\x7fx.", b"U\x05a."],
        *[
            b"\x8b\xff\xff\xff\xff.",
            b"h\x01.",
            b"g5\n.",
            b"j\x00\x00\x00\x00.",
            b"Ix\n.",
            b"Fx\n.",
            b"Sx\n.",
            b"S'x\n.",
        ],
        *[
            b"S'\\xff'\n.",
            b"\x8c\x01\xff.",
            b"V\\ud800\n.",
            b"\x8c\x03\xed\xa0\x80.",
            b"I1",
            b"V",
            b"a.",
            b"Na.",
            b"NNa.",
        ],
        *[
            b"(lNu.",
            b"}(Nu.",
            b"}NNu.",
            b"e.",
            b"]e.",
            b"}]Ns.",
            b"}}Ns.",
            b"\x8f(]\x90.",
            b"(]\x91.",
            b"N(N\x90.",
            b"t.",
        ],
        *[
            b"\x85.",
            b"N\x86.",
            b"NN\x87.",
            b"(\x85.",
            b"q\x00.",
            b"p0\n.",
            b"\x94.",
            b"2.",
            b"0.",
            b"1.",
            b"(d",
            b"(Nd.",
        ],
        *[
            b"G\x00.",
            b"J\x00.",
            b"M\x00.",
            b"\x8a\x05\x01.",
            b"R.",
            b")R.",
            b"cbuiltins\nset",
            b"\x93.",
            b"L5\n",
            b"L\n.",
        ],
    ],
)
def test_a_broken_pickle_is_an_error(data: bytes) -> None:
    with pytest.raises(BadPickle):
        read_pickle(data)


# anything at all


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_one_of_the_errors(data: bytes) -> None:
    _read_alike(data)


@given(VALUES, st.sampled_from(PROTOCOLS), st.data())
def test_so_are_pickles_with_other_bytes_in_them(value: Any, protocol: int, draw: st.DataObject) -> None:
    data = bytearray(pickle.dumps(value, protocol))
    for _ in range(draw.draw(st.integers(1, 4))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    _read_alike(bytes(data))


def test_many_random_programs(seed: int) -> None:
    """Opcodes in a random order, harmless and hostile ones: an error, or what the library's reader makes of it."""
    random_ = random.Random(seed)
    parts = [
        *[
            b"N",
            b"\x88",
            b"\x89",
            b"K\x07",
            b"J\x01\x02\x03\x04",
            b"M\x01\x02",
            b"I01\n",
            b"I5\n",
            b"L7L\n",
            b"F1.5\n",
            b"V\\u00e9\n",
        ],
        *[
            b"S'a'\n",
            b"\x8c\x01a",
            b"X\x01\x00\x00\x00b",
            b"C\x01c",
            b"U\x01d",
            b"]",
            b"}",
            b")",
            b"\x8f",
            b"(",
            b"a",
            b"e",
            b"s",
            b"u",
        ],
        *[
            b"t",
            b"l",
            b"d",
            b"\x85",
            b"\x86",
            b"\x87",
            b"\x90",
            b"\x91",
            b"0",
            b"1",
            b"2",
            b"\x94",
            b"q\x00",
            b"h\x00",
            b"q\x01",
            b"h\x01",
        ],
        *[
            b"p2\n",
            b"g2\n",
            b"cbuiltins\nset\n",
            b"c__builtin__\nfrozenset\n",
            b"c_codecs\nencode\n",
            b"Vlatin1\n",
            b"R",
        ],
        *[b"cos\nsystem\n", b"o", b"b", b"\x81", b"\x92", b"ios\nsystem\n", b"Px\n", b"Q", b"\x93"],
    ]
    outcomes: collections.Counter[str] = collections.Counter()
    for _ in range(20_000):
        program = b"".join(random_.choices(parts, k=random_.randint(1, 12))) + b"."
        outcomes[_read_alike(program)] += 1
    assert outcomes["read"] > 100 and outcomes["unsafe"] > 1000 and outcomes["bad"] > 1000, outcomes


def _read_alike(data: bytes) -> str:
    try:
        value = read_pickle(data)
    except UnsafePickle:
        return "unsafe"
    except (BadPickle, LimitExceeded) as error:
        assert isinstance(error, UserError)
        return "bad"
    # It is safe now to ask the library.
    theirs = pickle.loads(data)
    assert _plain(theirs) == value or "nan" in repr(value), data
    return "read"


def _plain(value: Any) -> Any:
    """With bytes for each bytearray."""
    if isinstance(value, bytearray):
        return bytes(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else value
