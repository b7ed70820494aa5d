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
from keyhaus.core.limits import INTEGER_BYTES_MAX
from keyhaus.protocol.frame.pickles import BadPayload, UnsafePickle, read_pickle

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
    with pytest.raises(BadPayload):
        read_pickle(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"]", "it ends early"),
        (b"\x8c\x05ab.", "it ends early"),
        (b"X\x05\x00\x00\x00ab.", "a text of 5 bytes is announced, 3 are there"),
        (b"C\x05ab.", "5 bytes are announced, 3 are there"),
        (b"\x80\x04\x95\x09\x00\x00\x00\x00\x00\x00\x00N.", "a frame of 9 bytes is announced, 2 are there"),
        (b"I1", "a line in it has no end"),
        (b"h\x01N.", "its stack or its memo"),
        (b"a]N.", "its stack or its memo"),
        (b"N.N", "1 bytes stand behind its end"),
        (b"NN.", "it ends amid a value"),
        (b"\x80\x06N.", "its protocol is 6"),
        (b"N\xff.", "0xff at byte 1 is no opcode"),
        (b"\x8c\x03\xed\xa0\x80.", "surrogates are no characters"),
        (b"V\\ud800\n.", "surrogates, which are no characters"),
        (b"}]Ns.", "a list can be no key of a dict"),
        (b"\x8f(]\x90.", "a list can be no key of a dict and no member of a set"),
        (b"(}\x91.", "a dict can be no key"),
        (b"}]\x85Ns.", "a list can be no key"),
        (b"}\x8fNs.", "a set can be no key"),
        (b"NNa.", "something is appended to a NoneType"),
        (b"]NNs.", "keys and values are put into a list"),
        (b"](N\x90.", "members are added to a list"),
        (b"}(Nu.", "a dict's last key has no value"),
        (b"Ix\n.", "b'x' is no integer"),
        (b"Fx\n.", "b'x' is no float"),
        (b"g-1\nN.", "the memo's numbers are 0 to"),
        (b"S'\\z'\n.", "an escape that is none"),
        (b"Sx\n.", "no quotes"),
        (b"T\xff\xff\xff\xff.", "negative length"),
    ],
)
def test_the_error_says_what_is_wrong(data: bytes, message: str) -> None:
    with pytest.raises(BadPayload, match=f"^the pickle is broken: .*{message}"):
        read_pickle(data)


@pytest.mark.parametrize(
    "data",
    [
        *(
            b"I" + text + b"\n."
            for text in (b"", b" 1", b"1 ", b"1_0", b"010", b"0x10", b"+1", b"1L", b"1\r", b"--1", b"-")
        ),
        *(b"L" + text + b"\n." for text in (b"L", b"1LL", b"0o7L", b" 1L")),
        *(b"F" + text + b"\n." for text in (b"", b" 1.5", b"1_0.5", b"0x1p3", b"infinity", b"1e", b"1." + b"0" * 500)),
        *(b"S" + text + b"\n." for text in (b"'", b"''x", b"'x\"", b"'\\'", b"'\\x1'", b"'\\777'", b"'\\u0041'")),
    ],
)
def test_numbers_and_strings_in_text_have_the_form_that_picklers_write(data: bytes) -> None:
    with pytest.raises(BadPayload):
        read_pickle(data)


def test_a_large_integer_is_read_up_to_its_bound_and_refused_beyond() -> None:
    for protocol in PROTOCOLS:
        for largest in ((1 << 8 * INTEGER_BYTES_MAX - 1) - 1, -(1 << 8 * INTEGER_BYTES_MAX - 1)):
            assert read_pickle(pickle.dumps(largest, protocol)) == largest
        with pytest.raises(LimitExceeded, match="integer"):
            read_pickle(pickle.dumps(1 << 8 * INTEGER_BYTES_MAX, protocol))
    with pytest.raises(LimitExceeded, match="integer-digits"):
        read_pickle(b"I" + b"9" * 1_000_000 + b"\n.")


@pytest.mark.parametrize(
    ("data", "value"),
    [
        # As pickle and cPickle of Python 2.7 write them; the second counts from 1.
        (b"(dp0\nS'cmd'\np1\nS'SET'\np2\nsS'key'\np3\nVk\\u00e9\np4\ns.", {"cmd": "SET", "key": "k\xe9"}),
        (
            b"(dp1\nS'cmd'\np2\nS'SET'\np3\nsS'n'\nI5\nsS'l'\nL5L\nsS'b'\nI01\ns.",
            {"cmd": "SET", "n": 5, "l": 5, "b": True},
        ),
        (b"\x80\x02}q\x01(U\x03cmdq\x02U\x03SETq\x03U\x01xG?\xf8\x00\x00\x00\x00\x00\x00u.", {"cmd": "SET", "x": 1.5}),
        (b"\x80\x02]q\x01(U\x01aq\x02h\x02h\x02e.", ["a", "a", "a"]),
        (b"c__builtin__\nset\np0\n((lp1\nI1\naI2\natp2\nRp3\n.", {1, 2}),
        (b"c__builtin__\nfrozenset\nq\x01]q\x02K\x01a\x85q\x03Rq\x04.", frozenset({1})),
        (b"c__builtin__\nbytearray\np0\n(V\xffa\np1\nS'latin-1'\np2\ntp3\nRp4\n.", b"\xffa"),
        (b"S'it\\'s \\\\ \\n \\x41'\n.", "it's \\ \n A"),
        (b'S"it\'s"\n.', "it's"),
        (b"T\x02\x00\x00\x00ab.", "ab"),
        # What the library would read as well.
        (b"c_codecs\nencode\nV\xff\nVlatin1\n\x86R.", b"\xff"),
        (b"\x80\x04\x8c\x08builtins\x8c\x03set\x93](K\x01e\x85R.", {1}),
        (b"cbuiltins\nbytes\n)R.", b""),
        (b"N\x94K\x01r\x07\x00\x00\x000\x94j\x07\x00\x00\x00\x86.", (None, 1)),
        (b"K\x07q\x05\x94h\x01\x86.", (7, 7)),
        (b"(K\x01K\x020K\x03t.", (1, 3)),
        (b"N(NN1.", None),
        (b"N(0.", None),
        (b"\x80\x04\x95\x01\x00\x00\x00\x00\x00\x00\x00N.", None),
    ],
)
def test_old_and_unusual_pickles(data: bytes, value: Any) -> None:
    assert same(read_pickle(data), value)
    assert _plain(pickle.loads(data)) == value


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_pickle_in_any_bytes(kind: Any) -> None:
    value = {"cmd": "SET", "key": "k\xe9", "value": b"x" * 1000}
    for protocol in PROTOCOLS:
        assert same(read_pickle(kind(pickle.dumps(value, protocol))), value)


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
            b"\x96\x01\x00\x00\x00\x00\x00\x00\x00e",
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
    except (BadPayload, LimitExceeded) as error:
        assert isinstance(error, UserError)
        return "bad"
    # It is safe now to ask the library.
    readers: list[Any] = [vars(pickle)["_loads"]]
    if not set(b"rp") & set(data):  # for those, the one in C would make as much room as a number says
        readers.append(pickle.loads)
    for reader in readers:
        try:
            theirs = _plain(reader(data))
        except TypeError as error:
            assert "unhashable type: 'bytearray'" in str(error), data
            continue
        assert same(theirs, value) or "nan" in repr(value), data
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
