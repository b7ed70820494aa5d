"""Typed values come back equal and of the same type; what is none is refused, however deep."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyhaus.core.errors import LimitExceeded, UserError
from keyhaus.core.limits import VALUE_DEPTH_MAX
from keyhaus.core.objects import BYTES, OBJECT, TEXT, decode, from_json, json_text, jsonable, pack, unpack

_SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
_HASHABLE = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=6,
)
VALUES = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.sets(_HASHABLE, max_size=4)
        | st.frozensets(_HASHABLE, max_size=4)
        | st.dictionaries(_HASHABLE, inner, max_size=4)
    ),
    max_leaves=20,
)


def same(one: Any, other: Any) -> bool:
    """Equal, and of the same types all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return same(list(one), list(other)) and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


@given(VALUES)
def test_a_value_comes_back_equal_and_of_the_same_type(value: Any) -> None:
    assert same(unpack(*pack(value)), value)


@given(VALUES)
def test_every_value_has_a_json_text(value: Any) -> None:
    assert json.loads(json_text(value)) == json.loads(json.dumps(jsonable(value)))


@pytest.mark.parametrize(("value", "kind"), [("é", TEXT), (b"\xff", BYTES), (bytearray(b"x"), BYTES), (5, OBJECT)])
def test_the_kind_of_a_value(value: Any, kind: str) -> None:
    assert pack(value)[0] == kind


def test_text_that_is_no_utf8_reads_as_bytes() -> None:
    assert unpack(TEXT, b"\xff") == b"\xff"


@pytest.mark.parametrize("value", [object(), 1j, range(3), {"k": object()}, "\ud800", ["\ud800"], type])
def test_what_is_no_value_is_refused(value: Any) -> None:
    with pytest.raises(UserError):
        pack(value)


def nested(levels: int, kind: Any = list) -> Any:
    value: Any = kind()
    for _ in range(levels - 1):
        value = kind([value])
    return value


@pytest.mark.parametrize("kind", [list, tuple, frozenset])
def test_nesting_has_a_bound(kind: Any) -> None:
    value = nested(VALUE_DEPTH_MAX, kind)
    assert same(unpack(*pack(value)), value)
    with pytest.raises(LimitExceeded, match="nesting"):
        pack(nested(VALUE_DEPTH_MAX + 1, kind))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x91",
        msgspec.msgpack.encode(msgspec.msgpack.Ext(9, b"\x90")),
        msgspec.msgpack.encode(msgspec.msgpack.Ext(1, b"\x01")),
        msgspec.msgpack.encode(msgspec.msgpack.Ext(5, b"\x91\x01")),
        msgspec.msgpack.encode(msgspec.msgpack.Ext(2, b"\x91\x90")),  # a list in a set
        b"\x91" * 100_000 + b"\x01",
        b"\x91" * (VALUE_DEPTH_MAX + 1) + b"\x01",
    ],
)
def test_what_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises((UserError, LimitExceeded)):
        decode(data)


def test_extensions_within_extensions_have_a_bound() -> None:
    data = b"\x90"
    for _ in range(2000):
        data = b"\x91" + msgspec.msgpack.encode(msgspec.msgpack.Ext(1, data))
    with pytest.raises(LimitExceeded, match="nesting"):
        decode(data)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({3, 1, 2}, "[1,2,3]"),
        ({10, 9, -1, 0.5}, "[-1,0.5,9,10]"),
        (frozenset({10, 2}), "[2,10]"),
        ({True, 0, 1 << 80, -1e300}, f"[-1e+300,0,true,{1 << 80}]"),
        (
            {10, 9.5, None, "b", "a", b"x", (2,), (10,), frozenset({3, 20})},
            '[9.5,10,"a","b",[10],[2],[3,20],null,{"base64":"eA=="}]',
        ),
        ({3, float("nan"), 1, float("inf"), 2}, "[1,2,3,null,null]"),
        ((1, b"\xff"), '[1,{"base64":"/w=="}]'),
        (float("nan"), "null"),
        ({1: 2, None: 3, (1, 2): 4}, '{"1":2,"null":3,"[1,2]":4}'),
        (1 << 80, str(1 << 80)),
    ],
)
def test_what_json_tells_of_a_value(value: Any, told: str) -> None:
    assert json_text(value).decode() == told


def test_base64_alone_means_bytes() -> None:
    assert from_json({"base64": "/w=="}) == b"\xff"
    assert from_json([{"base64": "", "x": 1}]) == [{"base64": "", "x": 1}]
    with pytest.raises(UserError, match="base64"):
        from_json({"base64": "?"})


@pytest.mark.parametrize("within", [b"", b"\x91", b"\x81\xa1a", b"\x81", b"\x81\x01", b"\xc7\x07\x01\x91"])
def test_timestamps_are_no_values(within: bytes) -> None:
    """msgspec makes datetimes of them, which no JSON tells and no reply holds."""
    timestamp = b"\xd6\xff\x00\x00\x00\x01"
    with pytest.raises(UserError, match="datetime|unhashable"):
        decode(within + timestamp + (b"\xc0" if within == b"\x81" else b""))
