"""The frame dialect: dicts in, requests out, and plain data back in the same form."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyhaus.core import objects
from keyhaus.core.errors import (
    Conflict,
    Deadlock,
    DiskFull,
    Error,
    ExecAborted,
    Internal,
    LimitExceeded,
    LockTimeout,
    NoPerm,
    Poisoned,
    ReadOnly,
    SnapshotTooOld,
    Syntax,
    TransactionTimeout,
    TransactionTooLarge,
    UnknownCommand,
    UnknownTransaction,
    WrongType,
)
from keyhaus.core.keys import pack_key
from keyhaus.core.objects import pack
from keyhaus.core.request import NEED_DATA, NeedData, Refused
from keyhaus.protocol.frame.codec import FrameCodec
from keyhaus.protocol.frame.pickles import read_usual

ID = "tx-01m8psfk74pzv0nsf8abyw17s4"
FORMS = ["pickle", "messagepack"]


def frame(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload


def payload_of(asked: Any, form: str) -> bytes:
    return pickle.dumps(asked) if form == "pickle" else objects.encode(asked)


def one(asked: Any, form: str = "pickle") -> tuple[Any, FrameCodec]:
    codec = FrameCodec()
    codec.feed(frame(payload_of(asked, form)))
    request = codec.next_request()
    assert codec.next_request() is NEED_DATA
    return request, codec


def read(told: bytes, form: str = "pickle") -> Any:
    size, payload = int.from_bytes(told[:4], "big"), told[4:]
    assert size == len(payload)
    return pickle.loads(payload) if form == "pickle" else objects.decode(payload)


def answer(reply: Any, form: str = "pickle", **given: Any) -> Any:
    _, codec = one(given, form)
    return read(codec.encode(reply), form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("given", "request_"),
    [
        ({"cmd": "SET", "key": "foo", "value": "bar"}, [b"SET", b"foo", b"bar"]),
        ({"cmd": "set", "key": b"\xff", "value": b"\xfe"}, [b"TYPED", b"PUT", b"\xff", b"BYTES", b"\xfe"]),
        ({"cmd": "SET", "key": (1, "a"), "value": None}, [b"TYPED", b"PUT", pack_key((1, "a")), b"OBJECT", b"\xc0"]),
        ({"cmd": "GET", "key": True}, [b"TYPED", b"GET", pack_key(1)]),
        ({"cmd": "GET", "key": "k", "transaction_id": ID}, [b"TX", ID.encode(), b"TYPED", b"GET", b"k"]),
        ({"cmd": "DELETE", "key": None}, [b"DEL", pack_key(None)]),
        ({"cmd": "EXISTS", "key": "k"}, [b"EXISTS", b"k"]),
        ({"cmd": "KEYS"}, [b"TYPED", b"KEYS"]),
        (
            {"cmd": "BULKSET", "items": [("a", 1), ["b", "2"]]},
            [b"TYPED", b"PUT", b"a", b"OBJECT", b"\x01", b"b", b"TEXT", b"2"],
        ),
        ({"cmd": "BULKSET", "items": {"a": "1"}}, [b"TYPED", b"PUT", b"a", b"TEXT", b"1"]),
        ({"cmd": "BULKSET", "items": []}, [b"TYPED", b"PUT"]),
        ({"cmd": "BEGIN"}, [b"BEGIN", b"pessimistic"]),
        ({"cmd": "START", "mode": "optimistic"}, [b"BEGIN", b"optimistic"]),
        ({"cmd": "COMMIT", "transaction_id": ID}, [b"COMMIT", ID.encode()]),
        ({"cmd": "ROLLBACK"}, [b"ROLLBACK"]),
        ({"cmd": "INCRBY", "args": ["n", 2]}, [b"INCRBY", b"n", b"2"]),
        ({"cmd": "GET", "args": (b"\xff",)}, [b"GET", b"\xff"]),
        ({"cmd": "DBSIZE"}, [b"DBSIZE"]),
    ],
)
def test_what_a_dict_asks_for(given: dict[str, Any], request_: list[bytes], form: str) -> None:
    assert one(given, form)[0] == request_


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"x": 1}, "BAD_REQUEST"),
        ({"cmd": 5}, "BAD_REQUEST"),
        ({"cmd": "SET", "key": "k"}, "BAD_REQUEST"),
        ({"cmd": "SET", "value": "v"}, "BAD_REQUEST"),
        ({"cmd": "SET", "key": "k", "value": "v", "ttl": 5}, "BAD_REQUEST"),
        ({"cmd": "GET", "key": [1]}, "INVALID_KEY"),
        ({"cmd": "GET", "key": {"a": 1}}, "INVALID_KEY"),
        ({"cmd": "GET", "key": float("nan")}, "INVALID_KEY"),
        ({"cmd": "GET", "key": b"\xff" * 16 + b"\x15\x07"}, "INVALID_KEY"),
        ({"cmd": "BULKSET", "items": 5}, "BAD_REQUEST"),
        ({"cmd": "BULKSET", "items": [("a",)]}, "BAD_REQUEST"),
        ({"cmd": "BULKSET", "items": [("a", 1), ([], 2)]}, "INVALID_KEY"),
        ({"cmd": "INCR", "args": "n"}, "BAD_REQUEST"),
        ({"cmd": "INCR", "args": [None]}, "BAD_REQUEST"),
        ({"cmd": "GET", "key": "k", "transaction_id": 5}, "BAD_REQUEST"),
        ({"cmd": "BEGIN", "mode": 5}, "BAD_REQUEST"),
    ],
)
def test_a_dict_that_makes_no_sense_has_an_error_and_the_next_one_is_read(given: Any, code: str, form: str) -> None:
    codec = FrameCodec()
    codec.feed(frame(payload_of(given, form)) + frame(payload_of({"cmd": "KEYS"}, form)))
    refused = codec.next_request()
    assert isinstance(refused, Refused)
    assert codec.next_request() == [b"TYPED", b"KEYS"]
    assert read(codec.encode(refused.error), form) == {"error": code}
    assert read(codec.encode([]), form) == []


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", "BAD_PAYLOAD"),
        (b"junk", "BAD_PAYLOAD"),
        (pickle.dumps({"cmd": "KEYS"})[:-3], "BAD_PAYLOAD"),
        (pickle.dumps([1]), "BAD_REQUEST"),
        (pickle.dumps(b"".join), "UNSAFE_PICKLE"),
        (pickle.dumps({"cmd": "SET", "key": "k", "value": 1 << 20_000}), "LIMIT_EXCEEDED"),
    ],
)
def test_a_pickle_that_is_none_or_unsafe_has_an_error(payload: bytes, code: str) -> None:
    codec = FrameCodec()
    codec.feed(frame(payload) + frame(pickle.dumps({"cmd": "KEYS"})))
    refused = codec.next_request()
    assert isinstance(refused, Refused)
    assert read(codec.encode(refused.error)) == {"error": code}
    assert codec.next_request() == [b"TYPED", b"KEYS"]


@pytest.mark.parametrize(
    "payload", [b"\x81", b"\x81\xa3cmd", b"\x81\xa3cmd\xa4KEYSx", b"\x81\xc1\x01", b"\xde\xff\xff"]
)
def test_a_broken_messagepack_has_an_error_in_messagepack(payload: bytes) -> None:
    codec = FrameCodec()
    codec.feed(frame(payload))
    refused = codec.next_request()
    assert isinstance(refused, Refused)
    assert read(codec.encode(refused.error), "messagepack") == {"error": "BAD_PAYLOAD"}


@pytest.mark.parametrize("form", FORMS)
def test_replies(form: str) -> None:
    assert answer("OK", form, cmd="SET", key="k", value="v") == "OK"
    for value in ("bar", b"\xff", None, True, 5, 1 << 70, 0.5, [1], (1, (2,)), {"a": {1}}, frozenset({1})):
        kind, data = pack(value)
        told = answer([[kind.encode(), data]], form, cmd="GET", key="k")
        assert told == value
        assert type(told) is type(value)
    assert answer([None], form, cmd="GET", key="k") is None
    assert answer([[b"TEXT", b"\xff"]], form, cmd="GET", key="k") == b"\xff"
    assert answer(1, form, cmd="DELETE", key="k") == "OK"
    assert answer(0, form, cmd="DELETE", key="k") == "NOT_FOUND"
    assert answer(1, form, cmd="EXISTS", key="k") is True
    assert answer(0, form, cmd="EXISTS", key="k") is False
    keys = answer([b"a", b"\xff", pack_key(7), pack_key((1, "a"))], form, cmd="KEYS")
    assert keys == ["a", b"\xff", 7, (1, "a")]
    assert answer(ID.encode(), form, cmd="BEGIN") == ID
    assert answer([b"1", None, [b"\xff", 5]], form, cmd="MGET", args=["a"]) == ["1", None, [b"\xff", 5]]
    assert answer("QUEUED", form, cmd="GET", key="k") == "QUEUED"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UnknownCommand("x"), "UNKNOWN_COMMAND"),
        (WrongType(), "WRONG_TYPE"),
        (LimitExceeded("max-key-bytes", 2, 1), "LIMIT_EXCEEDED"),
        (SnapshotTooOld("x"), "SNAPSHOT_TOO_OLD"),
        (Conflict("x"), "CONFLICT"),
        (ExecAborted("x"), "BAD_REQUEST"),
        (Deadlock("x"), "DEADLOCK"),
        (LockTimeout("x"), "LOCK_TIMEOUT"),
        (UnknownTransaction("x"), "NO_TRANSACTION"),
        (ReadOnly(), "READ_ONLY"),
        (TransactionTooLarge(2, 1), "TRANSACTION_TOO_LARGE"),
        (TransactionTimeout("x"), "TRANSACTION_TIMEOUT"),
        (NoPerm("x"), "NOT_PERMITTED"),
        (Poisoned("x"), "STORAGE_ERROR"),
        (DiskFull("x"), "STORAGE_ERROR"),
        (Internal(), "INTERNAL"),
        (Syntax(), "BAD_REQUEST"),
    ],
)
def test_errors_have_codes(error: Error, code: str) -> None:
    assert answer(error, cmd="GET", key="k") == {"error": code}
    told = answer(error, cmd="GET", key="k", wrapped=True)
    assert told == {"error": code, "message": error.message}


@pytest.mark.parametrize("form", FORMS)
def test_a_wrapped_reply_can_not_be_taken_for_an_error(form: str) -> None:
    kind, data = pack({"error": "CONFLICT"})
    stored = [[kind.encode(), data]]
    assert answer(stored, form, cmd="GET", key="k") == {"error": "CONFLICT"}
    assert answer(stored, form, cmd="GET", key="k", wrapped=True) == {"result": {"error": "CONFLICT"}}
    assert answer([None], form, cmd="GET", key="k", wrapped=True) == {"result": None}


@pytest.mark.parametrize("form", [*FORMS, "none"])
def test_a_length_over_the_limit_ends_the_stream_in_the_form_that_was_spoken(form: str) -> None:
    codec = FrameCodec(max_request_bytes=100)
    if form != "none":
        codec.feed(frame(payload_of({"cmd": "KEYS"}, form)))
        assert codec.next_request() == [b"TYPED", b"KEYS"]
        codec.encode([])
    codec.feed(b"\0\0\0\x65" + b"x" * 0x65)
    for _ in range(2):
        with pytest.raises(LimitExceeded) as refused:
            codec.next_request()
    assert read(codec.encode(refused.value), "pickle" if form == "none" else form) == {"error": "LIMIT_EXCEEDED"}


def test_a_reply_that_is_too_large_is_an_error() -> None:
    _, codec = one({"cmd": "GET", "key": "k"})
    codec.max_reply_bytes = 100
    assert read(codec.encode([[b"TEXT", b"x" * 200]])) == {"error": "LIMIT_EXCEEDED"}


TEXTS = st.text(max_size=300) | st.sampled_from(
    ["", "\0", "\x94u.", "é" * 127, "é" * 128, "a" * 255, "a" * 256, "\ud800"]
)


@given(key=TEXTS, value=TEXTS, command=st.sampled_from(["GET", "SET", "DEL"]), with_value=st.booleans())
def test_a_pickle_asks_the_same_whatever_its_protocol(key: str, value: str, command: str, with_value: bool) -> None:
    """What CPython pickles by default is read by its bytes, where it can be; what protocol 2 makes never is."""
    asked = {"cmd": command, "key": key, **({"value": value} if with_value else {})}
    found = []
    for protocol in (2, 4, 5):
        codec = FrameCodec()
        codec.feed(frame(pickle.dumps(asked, protocol)))
        request = codec.next_request()
        assert not isinstance(request, NeedData)
        error = request.error.message if isinstance(request, Refused) else None
        found.append((list(request), error, codec.encode("OK")))
    assert found[0] == found[1] == found[2]


@given(data=st.binary(max_size=20), place=st.integers(0, 80), cut=st.integers(0, 80))
def test_what_is_nearly_a_usual_pickle_is_read_as_pickle_loads_reads_it(data: bytes, place: int, cut: int) -> None:
    usual = pickle.dumps({"cmd": "SET", "key": "key", "value": "value"}, 4)
    payload = (usual[:place] + data + usual[place + len(data) :])[: len(usual) - cut % 3]
    words = read_usual(payload)
    if words is not None:
        command, key, value = (None if word is None else word.decode("utf-8", "surrogatepass") for word in words)
        expected = {"cmd": command, "key": key} if value is None else {"cmd": command, "key": key, "value": value}
        assert pickle.loads(payload) == expected
