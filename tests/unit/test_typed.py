"""TYPED: values keep their kinds, and plain commands read them all the same."""

from __future__ import annotations

from typing import Any

import pytest

from keyhaus.core.objects import pack
from tests.support.sessions import Caller, Sessions


@pytest.fixture
def client() -> Caller:
    return Sessions().connect()


def put(client: Caller, key: str, value: Any) -> None:
    kind, data = pack(value)
    assert client("TYPED", "PUT", key, kind, data) == "OK"


def test_kinds_come_back(client: Caller) -> None:
    client("SET", "plain", "x")
    put(client, "text", "é")
    put(client, "bytes", b"\xff")
    put(client, "object", {"a": 1})
    assert client("TYPED", "GET", "plain", "text", "bytes", "object", "none") == [
        [b"TEXT", b"x"],
        [b"TEXT", "é".encode()],
        [b"BYTES", b"\xff"],
        [b"OBJECT", pack({"a": 1})[1]],
        None,
    ]


def test_plain_commands_read_an_object_as_json(client: Caller) -> None:
    put(client, "o", {"a": [1, None], "b": b"\xff"})
    told = b'{"a":[1,null],"b":{"base64":"/w=="}}'
    assert client("GET", "o") == told
    assert client("MGET", "o", "none") == [told, None]
    assert client("RANGE", "", "") == [None, [b"o", told]]
    assert client("TYPE", "o") == "object"
    assert client("GETEX", "o", "PX", 1000) == told
    assert client("TYPED", "GET", "o")[0][0] == b"OBJECT"
    assert client("GETDEL", "o") == told


@pytest.mark.parametrize(
    "words", ["INCR o", "APPEND o x", "STRLEN o", "SETRANGE o 1 x", "GETRANGE o 0 1", "SET o x GET"]
)
def test_what_takes_strings_refuses_an_object(client: Caller, words: str) -> None:
    put(client, "o", [1])
    client.raises("WRONGTYPE", *words.split())
    assert client("SET", "o", "x") == "OK"
    assert client("TYPE", "o") == "string"


def test_bytes_are_a_string_to_plain_commands(client: Caller) -> None:
    put(client, "b", b"ab")
    assert client("APPEND", "b", "c") == 3
    assert client("TYPED", "GET", "b") == [[b"BYTES", b"abc"]]
    client("SET", "b", "x")
    assert client("TYPED", "GET", "b") == [[b"TEXT", b"x"]]


def test_several_are_put_at_once_or_none(client: Caller) -> None:
    assert client("TYPED", "PUT", "a", "TEXT", "1", "b", "bytes", "2") == "OK"
    for words in (
        ("c", "TEXT", "1", "d"),
        ("c", "TEXT", "1", "d", "LIST", "2"),
        ("c", "TEXT", "1", "d", "OBJECT", "\xc1"),
    ):
        client.raises("SYNTAX" if words[-2] != "OBJECT" else "ERR", "TYPED", "PUT", *words)
    assert client("EXISTS", "a", "b", "c", "d") == 2


def test_several_are_put_for_a_time(client: Caller) -> None:
    assert client("TYPED", "PUT", "a", "OBJECT", "\x01", "b", "TEXT", "2", "px", 60_000) == "OK"
    assert 0 < client("PTTL", "a") <= 60_000 and 0 < client("PTTL", "b") <= 60_000
    assert client("TYPED", "GET", "a") == [[b"OBJECT", b"\x01"]]
    assert client("TYPED", "PUT", "a", "TEXT", "1", "EX", 100) == "OK"
    assert 60 < client("TTL", "a") <= 100
    assert client("TYPED", "PUT", "a", "TEXT", "1") == "OK"
    assert client("TTL", "a") == -1
    for end, code in ((("PX", 0), "ERR"), (("PX", "x"), "SYNTAX"), (("EXAT", 1), "SYNTAX"), (("PX",), "SYNTAX")):
        client.raises(code, "TYPED", "PUT", "c", "TEXT", "1", *end)
    assert client("EXISTS", "c") == 0


def test_a_range_tells_kinds(client: Caller) -> None:
    put(client, "a", 1)
    put(client, "b", "x")
    put(client, "c", b"y")
    assert client("TYPED", "RANGE", "a", "", "LIMIT", 2) == [b"c", [b"a", b"OBJECT", b"\x01", b"b", b"TEXT", b"x"]]
    assert client("TYPED", "RANGE", "", "", "REV", "LIMIT", 1) == [b"b\0", [b"c", b"BYTES", b"y"]]
    client.raises("SYNTAX", "TYPED", "RANGE", "", "", "KEYS")


def test_kinds_within_transactions(client: Caller) -> None:
    client("BEGIN")
    put(client, "o", (1, 2))
    assert client("TYPED", "GET", "o") == [[b"OBJECT", pack((1, 2))[1]]]
    assert client("GET", "o") == b"[1,2]"
    assert client("COMMIT") == "OK"
    assert client("TYPED", "GET", "o") == [[b"OBJECT", pack((1, 2))[1]]]
