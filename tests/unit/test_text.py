"""The text dialect: lines in, requests and JSON out, however the bytes are cut."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyhaus.core.errors import Conflict, LimitExceeded, ProtocolError
from keyhaus.core.objects import pack
from keyhaus.core.request import NEED_DATA, Refused
from keyhaus.protocol.text import TextCodec

ID = b"tx-01m8psfk74pzv0nsf8abyw17s4"


def requests(codec: TextCodec) -> list[Any]:
    found: list[Any] = []
    while (request := codec.next_request()) is not NEED_DATA:
        found.append(request)
    return found


def one(line: bytes) -> tuple[Any, TextCodec]:
    codec = TextCodec()
    codec.feed(line + b"\n")
    (request,) = requests(codec)
    return request, codec


def answer(line: bytes, reply: Any) -> dict[str, Any]:
    _, codec = one(line)
    told: dict[str, Any] = json.loads(codec.encode(reply))
    return told


@pytest.mark.parametrize(
    ("line", "request_"),
    [
        (b"PUT key1 value1", [b"SET", b"key1", b"value1"]),
        (b"put key1 two words ", [b"SET", b"key1", b"two words "]),
        (b"PUT k ", [b"SET", b"k", b""]),
        (b"PUT k v " + ID, [b"TX", ID, b"SET", b"k", b"v"]),
        (b"PUT k  " + ID, [b"TX", ID, b"SET", b"k", b""]),
        (b"PUT k v" + ID, [b"SET", b"k", b"v" + ID]),
        (b'PUT {"key": "a b", "value": "v"}', [b"TYPED", b"PUT", b"a b", b"TEXT", b"v"]),
        (b'PUT {"key": "k", "value": 5}', [b"TYPED", b"PUT", b"k", b"OBJECT", b"\x05"]),
        (b'PUT {"key": "k", "value": {"base64": "/w=="}}', [b"TYPED", b"PUT", b"k", b"BYTES", b"\xff"]),
        (
            b'PUT {"key": "k", "value": "v", "transaction_id": "%b"}' % ID,
            [b"TX", ID, b"TYPED", b"PUT", b"k", b"TEXT", b"v"],
        ),
        (b"GET key1", [b"TYPED", b"GET", b"key1"]),
        (b"get key1 " + ID, [b"TX", ID, b"TYPED", b"GET", b"key1"]),
        (b'GET {"key": "{k"}', [b"TYPED", b"GET", b"{k"]),
        (b"DEL key1", [b"DEL", b"key1"]),
        (b"DELETE key1 " + ID, [b"TX", ID, b"DEL", b"key1"]),
        (b"BEGIN", [b"BEGIN"]),
        (b"START optimistic", [b"BEGIN", b"optimistic"]),
        (b"COMMIT", [b"COMMIT"]),
        (b"ROLLBACK " + ID, [b"ROLLBACK", ID]),
        (b"INCR n", [b"INCR", b"n"]),
        (b"SET \"a b\" 'c'", [b"SET", b"a b", b"c"]),
        (b"STARTDEL key1", [b"STARTDEL", b"key1"]),
    ],
)
def test_what_a_line_asks_for(line: bytes, request_: list[bytes]) -> None:
    assert one(line)[0] == request_
    assert one(line + b"\r")[0] == request_


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"PUT k", "expected PUT"),
        (b"PUT", "expected PUT"),
        (b"PUT k " + ID, "between the key and the transaction id"),
        (b"PUT {", "broken"),
        (b'PUT {"key": "k"}', "expected"),
        (b'PUT {"key": "k", "value": 1, "ttl": 2}', "unknown"),
        (b'PUT {"key": 1, "value": 1}', "a key is a string"),
        (b"GET", "expected GET"),
        (b"GET a b", "expected GET"),
        (b"DEL a b c", "expected DEL"),
        (b'GET {"k": 1}', "expected"),
        (b"SET 'a", "unbalanced quotes"),
        (b"PUT k \xff", "UTF-8"),
        (b'PUT {"key": "k", "value": "\\ud800"}', "broken"),
        (b"PUT " + b"[" * 100_000, "expected PUT"),
        (b'PUT {"key": "k", "value": NaN}', "broken"),
        (b'PUT {"key": "k", "value": ' + b"[" * 100_000, "broken"),
    ],
)
def test_a_line_that_makes_no_sense_has_an_error_and_the_next_one_is_read(line: bytes, why: str) -> None:
    codec = TextCodec()
    codec.feed(line + b"\nGET k\n")
    refused, following = requests(codec)
    assert isinstance(refused, Refused)
    assert why in refused.error.message
    assert following == [b"TYPED", b"GET", b"k"]
    told = json.loads(codec.encode(refused.error))
    assert told["status"] == "Error"
    assert json.loads(codec.encode([None]))["message"] == "Key not found: k"


def test_replies() -> None:
    assert answer(b"PUT key1 value1", "OK") == {"status": "Ok", "result": {"key": "key1", "value": "value1"}}
    assert answer(b'PUT {"key": "k", "value": [1]}', "OK")["result"] == {"key": "k", "value": [1]}
    assert answer(b"GET k", [[b"TEXT", b"v"]]) == {"status": "Ok", "result": {"key": "k", "value": "v"}}
    assert answer(b"GET k", [[b"TEXT", b"\xff"]])["result"]["value"] == {"base64": "/w=="}
    assert answer(b"GET k", [[b"OBJECT", pack({"a": 1})[1]]])["result"]["value"] == {"a": 1}
    assert answer(b"GET k", [None]) == {"status": "Error", "message": "Key not found: k"}
    assert answer(b"DEL k", 1) == {"status": "Ok", "result": {"key": "k"}}
    assert answer(b"DEL k", 0)["message"] == "Key not found: k"
    assert answer(b"START", ID) == {
        "status": "Ok",
        "result": "Transaction started",
        "transaction_id": ID.decode(),
    }
    assert answer(b"COMMIT", "OK") == {"status": "Ok", "result": "Transaction committed"}
    assert answer(b"COMMIT WITHSEQNO", 7) == {"status": "Ok", "result": 7}
    assert answer(b"ROLLBACK", "OK") == {"status": "Ok", "result": "Transaction rolled back"}
    assert answer(b"COMMIT", Conflict("it was changed")) == {
        "status": "Error",
        "message": "it was changed",
        "code": "CONFLICT",
    }
    assert answer(b"MGET a b", [b"1", None]) == {"status": "Ok", "result": ["1", None]}
    assert answer(b"PUT k v", "QUEUED") == {"status": "Ok", "result": "QUEUED"}


def test_a_browser_closes_the_stream() -> None:
    codec = TextCodec()
    codec.feed(b"PUT a 1\r\nPOST / HTTP/1.1\r\nPUT b 2\r\n")
    assert codec.next_request() == [b"SET", b"a", b"1"]
    for _ in range(2):
        with pytest.raises(ProtocolError):
            codec.next_request()


def test_a_line_has_a_bound_and_needs_no_end_for_that() -> None:
    codec = TextCodec(max_request_bytes=100)
    codec.feed(b"PUT k " + b"x" * 95 + b"\n")
    assert isinstance(codec.next_request(), Refused)
    codec.feed(b"x" * 101)
    with pytest.raises(LimitExceeded):
        codec.next_request()


def test_a_line_may_be_ended_for_its_client() -> None:
    codec = TextCodec()
    codec.feed(b"PUT key1 value1")
    assert codec.next_request() is NEED_DATA
    codec.end_line()
    assert codec.next_request() == [b"SET", b"key1", b"value1"]
    codec.end_line()
    assert codec.next_request() is NEED_DATA


def test_a_reply_that_is_too_large_is_an_error() -> None:
    _, codec = one(b"GET k")
    codec.max_reply_bytes = 100
    assert json.loads(codec.encode([[b"TEXT", b"x" * 200]]))["code"] == "LIMIT"


_LINES = st.lists(
    st.sampled_from(
        [
            b"PUT k v",
            b"GET k",
            b"",
            b"  ",
            b"DEL k",
            b"nonsense",
            b"PUT k \xff",
            b'PUT {"key": "k", "value": 1}',
            b"START",
        ]
    ),
    max_size=8,
)


@given(_LINES, st.data())
def test_how_the_bytes_are_cut_changes_nothing(lines: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(line + data.draw(st.sampled_from([b"\n", b"\r\n"])) for line in lines)
    at_once, cut = TextCodec(), TextCodec()
    at_once.feed(whole)
    expected = requests(at_once)
    found: list[Any] = []
    while whole:
        size = data.draw(st.integers(1, len(whole)))
        cut.feed(whole[:size])
        whole = whole[size:]
        found += requests(cut)
    assert found == expected
    assert len(found) == sum(1 for line in lines if line.strip())


@given(st.binary(max_size=200))
def test_no_bytes_break_it(data: bytes) -> None:
    codec = TextCodec()
    codec.feed(data + b"\n")
    try:
        for request in requests(codec):
            reply = request.error if isinstance(request, Refused) else "OK"
            json.loads(codec.encode(reply))
    except (ProtocolError, LimitExceeded):
        pass
