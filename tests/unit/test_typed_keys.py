"""Typed keys: packed so that equal keys are one and their order is kept, and seen by nobody who did not ask."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyhaus.core.errors import LimitExceeded, UserError
from keyhaus.core.keys import PLAIN_END, InvalidKey, pack_key, unpack_key
from keyhaus.core.objects import pack
from tests.support.colliding import of_one_hash
from tests.support.sessions import Caller, Sessions

NUMBERS = (
    st.integers() | st.floats(allow_nan=False) | st.booleans() | st.integers(min_value=-(1 << 600), max_value=1 << 600)
)
LEAVES = st.none() | NUMBERS | st.text() | st.binary() | st.binary(max_size=4).map(lambda tail: PLAIN_END + tail)
ELEMENTS = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4).map(tuple) | st.frozensets(inner, max_size=4), max_leaves=12
)


def _can_be(key: Any) -> bool:
    """Whether it can be a key: bytes that begin as typed keys do can't, though they can be within one."""
    if not isinstance(key, bytes) or not key.startswith(PLAIN_END):
        return True
    with pytest.raises(InvalidKey):
        pack_key(key)
    return False


@given(ELEMENTS.filter(_can_be))
def test_a_key_reads_as_an_equal_one(key: Any) -> None:
    packed = pack_key(key)
    if isinstance(key, bytes):
        assert packed == key
        assert unpack_key(packed) in (key, key.decode("utf-8", "replace"))
    else:
        assert unpack_key(packed) == key
        assert hash(unpack_key(packed)) == hash(key)


@given(ELEMENTS.filter(_can_be), ELEMENTS.filter(_can_be))
def test_keys_are_one_exactly_where_they_are_equal(one: Any, other: Any) -> None:
    same = one == other
    for text, data in ((one, other), (other, one)):
        same = same or (isinstance(text, str) and isinstance(data, bytes) and text.encode() == data)
    assert (pack_key(one) == pack_key(other)) == same


@given(st.lists(st.integers() | st.integers(min_value=-(1 << 600), max_value=1 << 600)))
def test_integers_keep_their_order(numbers: list[int]) -> None:
    assert sorted(numbers, key=pack_key) == sorted(numbers)


@given(st.lists(st.floats(allow_nan=False).filter(lambda number: not number.is_integer())))
def test_fractions_keep_their_order(numbers: list[float]) -> None:
    assert sorted(numbers, key=pack_key) == sorted(numbers)


@pytest.mark.parametrize(
    ("one", "other"), [(True, 1), (1.0, 1), (0, -0.0), (False, 0), ((1.0, True), (1, 1)), (1e300, int(1e300))]
)
def test_numbers_that_are_equal_are_one_key(one: Any, other: Any) -> None:
    assert pack_key(one) == pack_key(other)


@pytest.mark.parametrize(
    "key",
    [
        *([], {}, set(), math.nan, 1 << 2040, -(1 << 2040), (1, []), bytearray(b"x"), object(), "\ud800", ("\ud800",)),
        *(PLAIN_END, pack_key(7), PLAIN_END + b"x"),
    ],
)
def test_what_can_be_no_key(key: Any) -> None:
    with pytest.raises(InvalidKey):
        pack_key(key)


def test_what_begins_like_a_typed_key_may_be_within_one() -> None:
    assert pack_key(b"\xff" * 15 + b"\xfe") < PLAIN_END
    for key in ((PLAIN_END,), frozenset({pack_key(7)})):
        assert unpack_key(pack_key(key)) == key
    for data in (b"\x01" + PLAIN_END + b"\0", b"\x01x\0", b"\x02x\0"):
        with pytest.raises(UserError, match="no typed key"):
            unpack_key(PLAIN_END + data)


def test_elements_that_were_chosen_to_collide_are_refused() -> None:
    numbers = of_one_hash(2000)["integers"]
    for count in (50, 1999):
        packed = pack_key(frozenset(numbers[:count]))
        if count == 50:
            assert unpack_key(packed) == frozenset(numbers[:count])
        else:
            with pytest.raises(LimitExceeded, match="key-probes"):
                unpack_key(packed)


def test_nesting_is_bounded() -> None:
    key: Any = ()
    for _ in range(31):
        key = (key,)
    assert unpack_key(pack_key(key)) == key
    with pytest.raises(InvalidKey, match="32 levels"):
        pack_key((key,))
    with pytest.raises(UserError):
        unpack_key(PLAIN_END + b"\x05" * 100_000)


@given(st.binary(max_size=40))
def test_any_bytes_are_a_key_or_an_error(data: bytes) -> None:
    try:
        key = unpack_key(PLAIN_END + data)
    except UserError:
        return
    assert pack_key(key) == PLAIN_END + data


# seen by those who ask


@pytest.fixture
def client() -> Caller:
    client = Sessions().connect()
    client("SET", "plain", "x")
    client("TYPED", "PUT", pack_key(7), "TEXT", "seven", pack_key((1, "a")), "OBJECT", pack([1])[1])
    return client


def test_they_are_put_and_read_and_counted(client: Caller) -> None:
    assert client("TYPED", "GET", pack_key(7.0)) == [[b"TEXT", b"seven"]]
    assert client("DBSIZE") == 3
    assert sorted(client("TYPED", "KEYS")) == sorted([b"plain", pack_key(7), pack_key((1, "a"))])
    assert client("DEL", pack_key(7)) == 1
    assert client("DBSIZE") == 2
    client("FLUSHDB")
    assert client("TYPED", "KEYS") == []


def test_no_other_command_tells_of_them(client: Caller) -> None:
    assert client("KEYS", "*") == [b"plain"]
    assert client("SCAN", 0) == [b"0", [b"plain"]]
    assert client("RANGE", "", "") == [None, [b"plain", b"x"]]
    assert client("RANGE", PLAIN_END, "") == [None, []]
    assert client("RANGE", "", "", "REV", "KEYS") == [None, [b"plain"]]
    assert client("TYPED", "RANGE", "", "") == [None, [b"plain", b"TEXT", b"x"]]
    assert {client("RANDOMKEY") for _ in range(50)} == {b"plain"}
    told = [operation for _, _, operations in client("CHANGES", "AFTER", 0) for operation in operations]
    assert told == [[b"put", 0, b"plain", b"x"]]
    client("DEL", "plain")
    assert client("RANDOMKEY") is None
    assert client("DELRANGE", "", "") == 0
    assert client("DBSIZE") == 2


def test_inside_transactions_they_stay_unseen_too(client: Caller) -> None:
    for mode in ("PESSIMISTIC", "OPTIMISTIC", "READONLY"):
        client("BEGIN", mode)
        if mode != "READONLY":
            client("TYPED", "PUT", pack_key(None), "TEXT", "nothing")
        assert client("KEYS", "*") == [b"plain"]
        assert client("RANGE", "", "", "KEYS") == [None, [b"plain"]]
        assert client("RANDOMKEY") == b"plain"
        assert len(client("TYPED", "KEYS")) == (3 if mode == "READONLY" else 4)
        client("ROLLBACK")


def test_whoever_asks_for_them_is_told(client: Caller) -> None:
    following, rows = client("TYPED", "RANGE", PLAIN_END, "")
    assert following is None
    assert [unpack_key(key) for key in rows[::3]] == [(1, "a"), 7]
    told = [
        operation for _, _, operations in client("CHANGES", "AFTER", 0, "PREFIX", PLAIN_END) for operation in operations
    ]
    assert [unpack_key(operation[2]) for operation in told] == [7, (1, "a")]


@pytest.mark.parametrize("words", [["SET"], ["SETEX"], ["COPY"], ["RENAME"]])
def test_nobody_else_puts_one(client: Caller, words: list[Any]) -> None:
    key = PLAIN_END + b"x"
    request = {
        "SET": ["SET", key, "v"],
        "SETEX": ["SETEX", key, 10, "v"],
        "COPY": ["COPY", "plain", key],
        "RENAME": ["RENAME", "plain", key],
    }[words[0]]
    with pytest.raises(UserError, match="typed keys"):
        raise client(*request)
    with pytest.raises(UserError, match="no typed key"):
        raise client("TYPED", "PUT", key, "TEXT", "v")
    assert client("DBSIZE") == 3
