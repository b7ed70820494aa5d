"""The JSON lines dialect: objects in, requests and objects out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from keyhaus.core.errors import Conflict, LimitExceeded, ProtocolError
from keyhaus.core.objects import pack
from keyhaus.core.request import NEED_DATA, Refused
from keyhaus.protocol.jsonl import JsonLinesCodec

ID = "tx-01m8psfk74pzv0nsf8abyw17s4"


def one(**given: Any) -> tuple[Any, JsonLinesCodec]:
    codec = JsonLinesCodec()
    codec.feed(json.dumps(given).encode() + b"\n")
    request = codec.next_request()
    assert codec.next_request() is NEED_DATA
    return request, codec


def answer(reply: Any, **given: Any) -> dict[str, Any]:
    _, codec = one(**given)
    told: dict[str, Any] = json.loads(codec.encode(reply))
    return told


@pytest.mark.parametrize(
    ("given", "request_"),
    [
        ({"command": "put", "key": "k", "value": "v"}, [b"SET", b"k", b"v"]),
        ({"command": "PUT", "key": "é", "value": ""}, [b"SET", "é".encode(), b""]),
        ({"command": "put", "key": "k", "value": 5}, [b"TYPED", b"PUT", b"k", b"OBJECT", b"\x05"]),
        ({"command": "put", "key": "k", "value": {"base64": "/w=="}}, [b"TYPED", b"PUT", b"k", b"BYTES", b"\xff"]),
        ({"command": "put", "key": {"base64": "/w=="}, "value": "v"}, [b"SET", b"\xff", b"v"]),
        ({"command": "get", "key": "k"}, [b"TYPED", b"GET", b"k"]),
        ({"command": "get", "key": "k", "transaction_id": ID}, [b"TX", ID.encode(), b"TYPED", b"GET", b"k"]),
        ({"command": "delete", "key": "k"}, [b"DEL", b"k"]),
        ({"command": "get_range", "start_key": "a", "end_key": "z"}, [b"TYPED", b"RANGE", b"a", b"z\0", b"ALL"]),
        ({"command": "get_range"}, [b"TYPED", b"RANGE", b"", b"", b"ALL"]),
        (
            {"command": "get_range", "end_key": "z", "limit": 2, "reverse": True},
            [b"TYPED", b"RANGE", b"", b"z\0", b"REV", b"LIMIT", b"2", b"ALL"],
        ),
        (
            {"command": "batch_put", "keys": ["a", "b"], "values": ["1", 2]},
            [b"TYPED", b"PUT", b"a", b"TEXT", b"1", b"b", b"OBJECT", b"\x02"],
        ),
        ({"command": "batch_put", "keys": [], "values": []}, [b"TYPED", b"PUT"]),
        ({"command": "ping"}, [b"PING"]),
        ({"command": "begin"}, [b"BEGIN"]),
        (
            {"command": "start", "mode": "optimistic", "durability": "none", "timeout_ms": 9},
            [b"BEGIN", b"optimistic", b"DURABILITY", b"none", b"TIMEOUT", b"9"],
        ),
        ({"command": "commit"}, [b"COMMIT"]),
        ({"command": "rollback", "transaction_id": ID}, [b"ROLLBACK", ID.encode()]),
        ({"command": "INCRBY", "args": ["n", 2]}, [b"INCRBY", b"n", b"2"]),
        ({"command": "incrbyfloat", "args": ["n", 0.5]}, [b"incrbyfloat", b"n", b"0.5"]),
        ({"command": "get", "args": [{"base64": "/w=="}]}, [b"get", b"\xff"]),
        ({"command": "dbsize"}, [b"dbsize"]),
    ],
)
def test_what_an_object_asks_for(given: dict[str, Any], request_: list[bytes]) -> None:
    assert one(**given)[0] == request_
    assert one(**given, id=7)[0] == request_


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "no JSON"),
        ('{"command": "put", "key": "k", "value": NaN}', "no JSON"),
        ('{"command": "put", "key": "\\ud800", "value": 1}', "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[]", "expected an object"),
        ("5", "expected an object"),
        ("{}", 'expected {"command"'),
        ('{"command": 5}', 'expected {"command"'),
        ('{"command": "put", "key": "k"}', "needs 'value'"),
        ('{"command": "put", "value": "v"}', "needs 'key'"),
        ('{"command": "put", "key": 5, "value": "v"}', "a key is a text"),
        ('{"command": "put", "key": null, "value": "v"}', "a key is a text"),
        ('{"command": "put", "key": {"base64": "?"}, "value": "v"}', "base64"),
        ('{"command": "put", "key": "k", "value": "v", "ttl": 5}', "'ttl' is unknown"),
        ('{"command": "get"}', "needs 'key'"),
        ('{"command": "get", "key": ["k"]}', "a key is a text"),
        ('{"command": "batch_put", "keys": ["a"], "values": []}', "1 keys and 0 values"),
        ('{"command": "batch_put", "keys": "ab", "values": ["1", "2"]}', "two lists"),
        ('{"command": "batch_put", "keys": [1], "values": ["1"]}', "a key is a text"),
        ('{"command": "get_range", "limit": 0}', "'limit'"),
        ('{"command": "get_range", "limit": true}', "'limit'"),
        ('{"command": "get_range", "reverse": 1}', "'reverse'"),
        ('{"command": "get_range", "start_key": 1}', "a key is a text"),
        ('{"command": "begin", "mode": 5}', "'mode'"),
        ('{"command": "begin", "timeout_ms": "5"}', "'timeout_ms'"),
        ('{"command": "get", "key": "k", "transaction_id": 5}', "transaction_id"),
        ('{"command": "INCR", "args": "n"}', "args is a list"),
        ('{"command": "INCR", "args": [null]}', "an argument is"),
        ('{"command": "INCR", "args": [true]}', "an argument is"),
        ('{"command": "INCRBY", "args": ["n", 1%s]}' % ("0" * 3000), "integer-bytes"),
        ('{"command": "set", "key": "k", "value": "v"}', "'key' is unknown to 'set'"),
    ],
)
def test_what_makes_no_sense_has_an_error_and_the_next_line_is_read(line: str, why: str) -> None:
    codec = JsonLinesCodec()
    codec.feed(line.encode() + b'\n{"command": "ping"}\n')
    refused = codec.next_request()
    assert isinstance(refused, Refused)
    assert why in refused.error.message
    assert codec.next_request() == [b"PING"]
    told = json.loads(codec.encode(refused.error))
    assert told["status"] == "error"
    assert why in told["message"]
    assert json.loads(codec.encode("PONG")) == {"status": "ok", "message": "pong"}


def test_replies_of_the_seed() -> None:
    put = answer("OK", command="put", key="mykey", value="myvalue")
    assert put == {"status": "ok", "message": "Key-value pair stored"}
    assert answer([[b"TEXT", b"myvalue"]], command="get", key="k") == {"status": "ok", "value": "myvalue"}
    rows = [None, [b"key1", b"TEXT", b"value1", b"key2", b"TEXT", b"value2"]]
    data = [["key1", "value1"], ["key2", "value2"]]
    assert answer(rows, command="get_range", start_key="a", end_key="z") == {"status": "ok", "data": data}
    batch = answer("OK", command="batch_put", keys=["k1", "k2"], values=["v1", "v2"])
    assert batch == {"status": "ok", "message": "2 key-value pairs stored"}
    assert answer(1, command="delete", key="k") == {"status": "ok", "message": "Key deleted"}
    for command, reply in (("get", [None]), ("delete", 0)):
        assert answer(reply, command=command, key="k") == {"status": "error", "message": "Key not found"}


def test_further_replies() -> None:
    assert answer([b"k3", [b"k", b"OBJECT", b"\x01"]], command="get_range", limit=1) == {
        "status": "ok",
        "data": [["k", 1]],
        "next": "k3",
    }
    assert answer([b"\xff", []], command="get_range", limit=1)["next"] == {"base64": "/w=="}
    assert answer([[b"TEXT", b"\xff"]], command="get", key="k")["value"] == {"base64": "/w=="}
    assert answer([[b"OBJECT", pack({"a": [1, None]})[1]]], command="get", key="k")["value"] == {"a": [1, None]}
    begun = answer(ID.encode(), command="begin")
    assert begun == {"status": "ok", "message": "Transaction started", "transaction_id": ID}
    assert answer("OK", command="commit") == {"status": "ok", "message": "Transaction committed"}
    assert answer("OK", command="rollback") == {"status": "ok", "message": "Transaction rolled back"}
    assert answer([b"1", None], command="mget", args=["a", "b"]) == {"status": "ok", "result": ["1", None]}
    conflict = answer(Conflict("it was changed"), command="commit")
    assert conflict == {"status": "error", "message": "it was changed", "code": "CONFLICT"}
    assert answer("QUEUED", command="get", key="k") == {"status": "ok", "result": "QUEUED"}


@pytest.mark.parametrize("name", [7, "a", None, [1], {"x": 1}])
def test_an_id_comes_back_with_replies_and_errors(name: Any) -> None:
    assert answer("PONG", command="ping", id=name)["id"] == name
    assert answer([None], command="get", key="k", id=name)["id"] == name
    refused, codec = one(command="get", id=name)
    assert json.loads(codec.encode(refused.error))["id"] == name
    _, codec = one(command="get", key="k", id=name)
    codec.max_reply_bytes = 100
    large = json.loads(codec.encode([[b"TEXT", b"x" * 200]]))
    assert (large["code"], large["id"]) == ("LIMIT", name)


def test_a_browser_closes_the_stream() -> None:
    codec = JsonLinesCodec()
    codec.feed(b'{"command": "ping"}\r\nPOST / HTTP/1.1\r\n{"command": "ping"}\r\n')
    assert codec.next_request() == [b"PING"]
    with pytest.raises(ProtocolError):
        codec.next_request()


def test_a_line_has_a_bound_and_needs_no_end_for_that() -> None:
    codec = JsonLinesCodec(max_request_bytes=100)
    codec.feed(b'{"command": "ping", "id": "%b"}\n' % (b"x" * 100))
    assert isinstance(codec.next_request(), Refused)
    codec.feed(b"{" + b" " * 101)
    with pytest.raises(LimitExceeded):
        codec.next_request()


@pytest.mark.parametrize("id_", [None, 7, "a", [1, {"b": None}]])
@pytest.mark.parametrize("value", ["", "v", "é\n", "\u2028"])
@pytest.mark.parametrize("small", ["get", "put"])
def test_a_line_asks_the_same_however_it_is_spelled(small: str, value: str, id_: Any) -> None:
    """Capitals go the way of all commands, small letters the short one of the usual ones."""
    fields = {"key": "k"} if small == "get" else {"key": "k", "value": value}
    told = []
    for command in (small, small.upper()):
        request, codec = one(command=command, **fields, id=id_)
        replies: list[Any] = ["OK", [None], [[b"TEXT", value.encode()]], [[b"BYTES", b"\xff"]], [[b"TEXT", b"\xff"]]]
        told.append((request, [codec.encode_late(reply, codec.mark) for reply in replies]))
        codec.encode(replies[0])
        told[-1][1].extend(codec.encode_late(reply, codec.mark) for reply in replies)
    assert told[0] == told[1]
