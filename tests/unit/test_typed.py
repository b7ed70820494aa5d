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


@pytest.mark.parametrize("mode", ["", "PESSIMISTIC", "OPTIMISTIC", "READONLY"])
def test_a_whole_range_comes_at_once(client: Caller, mode: str) -> None:
    names = [b"%05d" % number for number in range(25_000)]
    for start in range(0, len(names), 5000):
        client("MSET", *[word for name in names[start : start + 5000] for word in (name, b"v")])
    if mode:
        client("BEGIN", mode)
    following, rows = client("TYPED", "RANGE", "", "", "ALL")
    assert (following, rows[::3]) == (None, names)
    following, rows = client("TYPED", "RANGE", names[2], names[20_000], "REV", "LIMIT", 12_000, "ALL")
    assert (following, rows[::3]) == (names[7999], names[8000:20_000][::-1])
    following, rows = client("TYPED", "RANGE", names[2], names[12_002], "LIMIT", 12_000, "ALL")
    assert (following, rows[::3]) == (None, names[2:12_002])
    if mode in ("PESSIMISTIC", "OPTIMISTIC"):
        put(client, "00000a", 1)
        assert client("TYPED", "RANGE", "00000", "00001", "ALL")[1][3:] == [b"00000a", b"OBJECT", b"\x01"]


def test_a_whole_range_that_is_too_large_is_an_error(client: Caller) -> None:
    client("MSET", *[word for number in range(30) for word in (b"%02d" % number, b"v" * 100_000)])
    client("CONFIG", "SET", "max-reply-bytes", 2_000_000)
    client.raises("LIMIT", "TYPED", "RANGE", "", "", "ALL")
    assert client("TYPED", "RANGE", "", "", "LIMIT", 2, "ALL")[0] == b"02"


@pytest.mark.parametrize("words", ["KEYS ALL", "MATCH * ALL", "LIMIT 0 ALL", "ALL LIMIT", "ALL MATCH *", "LIMIT x ALL"])
def test_words_that_a_whole_range_does_not_take(client: Caller, words: str) -> None:
    client.raises("SYNTAX", "TYPED", "RANGE", "", "", *words.split())
    assert client("TYPED", "RANGE", "", "", "MATCH", "ALL") == [None, []]
    assert client("TYPED", "RANGE", "", "", "ALL", "REV", "LIMIT", 1, "DB", 3, "EXPIRES") == [None, []]


@pytest.mark.parametrize("whole", [[], ["ALL"]])
def test_the_last_of_an_option_that_is_there_twice_counts(client: Caller, whole: list[str]) -> None:
    client("MSET", "a", "1", "b", "2", "c", "3")
    following, rows = client("TYPED", "RANGE", "", "", "LIMIT", 1, "DB", 3, "LIMIT", 2, "DB", 0, *whole)
    assert (following, rows[::3]) == (b"c", [b"a", b"b"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("PUT a LIST x", "key 'a': kind 'LIST' is none: expected TEXT, BYTES or OBJECT"),
        ("LOAD 0 MERGE a TEXT x -1", "mode 'MERGE' is none: expected OVERWRITE, SKIP or FAIL, for keys that are there"),
        (
            "LOAD 0 SKIP a TEXT x soon",
            "key 'a': expiry 'soon' is none: expected milliseconds since 1970, or -1 (never)",
        ),
        (
            "RANGE a b KEYS",
            "syntax error: 'KEYS' is no option of TYPED RANGE: expected REV, LIMIT count, MATCH pattern or ALL, DB db, "
            "or EXPIRES",
        ),
        ("RANGE a b MATCH x* ALL", "syntax error: MATCH 'x*' with ALL: expected one of them"),
        ("RANGE a b DB", "syntax error: 'DB' is the last word: expected DB db"),
    ],
)
def test_an_error_names_what_was_given_and_what_was_expected(client: Caller, words: str, message: str) -> None:
    assert client.raises("SYNTAX", "TYPED", *words.split()).message == message


def test_a_range_of_any_database_tells_expiries(client: Caller) -> None:
    client("SELECT", 3)
    client("SET", "a", "x", "PXAT", 9_999_999_999_999)
    put(client, "b", [1])
    client("SELECT", 0)
    assert client("TYPED", "RANGE", "", "", "EXPIRES", "DB", 3) == [
        None,
        [b"a", b"TEXT", b"x", 9_999_999_999_999, b"b", b"OBJECT", pack([1])[1], -1],
    ]
    assert client("TYPED", "RANGE", "", "", "DB", 3, "MATCH", "EXPIRES") == [None, []]
    assert client("TYPED", "RANGE", "", "", "DB", 3, "LIMIT", 1, "EXPIRES")[0] == b"b"
    assert client("DBSIZE") == 0, "the connection's own database is what it was"
    for words in (("DB",), ("DB", "x"), ("EXPIRES", "LIMIT")):
        client.raises("SYNTAX", "TYPED", "RANGE", "", "", *words)
    client.raises("ERR", "TYPED", "RANGE", "", "", "DB", 16)


def test_one_moment_has_all_databases() -> None:
    sessions = Sessions()
    client, other = sessions.connect(), sessions.connect()
    client("SET", "a", "before")
    client("TYPED", "LOAD", 5, "OVERWRITE", "b", "TEXT", "before", -1)
    client("BEGIN", "READONLY")
    other("SET", "a", "after")
    other("TYPED", "LOAD", 5, "OVERWRITE", "b", "TEXT", "after", -1)
    assert client("TYPED", "RANGE", "", "")[1] == [b"a", b"TEXT", b"before"]
    assert client("TYPED", "RANGE", "", "", "DB", 5)[1] == [b"b", b"TEXT", b"before"]
    client("ROLLBACK")


def test_rows_are_loaded_with_kind_and_expiry(client: Caller) -> None:
    rows = ("a", "TEXT", "x", 9_999_999_999_999, "b", "BYTES", b"\xff", -1, "c", "OBJECT", pack([1])[1], -1)
    assert client("TYPED", "LOAD", 0, "OVERWRITE", *rows) == []
    assert client("PEXPIRETIME", "a") == 9_999_999_999_999
    assert client("PEXPIRETIME", "b") == -1
    assert client("TYPED", "GET", "b", "c") == [[b"BYTES", b"\xff"], [b"OBJECT", pack([1])[1]]]
    assert client("TYPED", "LOAD", 0, "OVERWRITE", "past", "TEXT", "x", 1) == []
    assert client("GET", "past") is None, "what has expired by now is there for nobody"


def test_keys_that_are_there_are_told_skipped_or_stop_all(client: Caller) -> None:
    client("SET", "b", "old")
    rows = ("a", "TEXT", "1", -1, "b", "TEXT", "2", -1, "a", "TEXT", "3", -1)
    assert client("TYPED", "LOAD", 0, "FAIL", *rows) == [b"b", b"a"]
    assert client("MGET", "a", "b") == [None, b"old"]
    assert client("TYPED", "LOAD", 0, "SKIP", *rows) == [b"b", b"a"]
    assert client("MGET", "a", "b") == [b"1", b"old"]
    assert client("TYPED", "LOAD", 0, "OVERWRITE", *rows) == []
    assert client("MGET", "a", "b") == [b"3", b"2"]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("SYNTAX", "0 OVERWRITE before TEXT x -1 a TEXT x"),
        ("SYNTAX", "0 OVERWRITE before TEXT x -1 a LIST x -1"),
        ("SYNTAX", "0 MERGE before TEXT x -1 a TEXT x -1"),
        ("ERR", "16 OVERWRITE before TEXT x -1 a TEXT x -1"),
        ("ERR", "0 OVERWRITE before TEXT x -1 a OBJECT \xc1 -1"),
        ("SYNTAX", "0 OVERWRITE before TEXT x -1 a TEXT x 0"),
        ("SYNTAX", "0 OVERWRITE before TEXT x -1 a TEXT x soon"),
    ],
)
def test_what_is_no_row_loads_nothing(client: Caller, code: str, words: str) -> None:
    client.raises(code, "TYPED", "LOAD", *words.split())
    assert client("EXISTS", "a", "before") == 0
