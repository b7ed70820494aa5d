"""Every reply's bytes in RESP2 and RESP3, and what a foreign reader (hiredis) makes of them."""

from __future__ import annotations

import functools
import math
from typing import Any

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyhaus.core import errors, limits
from keyhaus.core.errors import Error, LimitExceeded, ProtocolError, UserError
from keyhaus.core.reply import NULL_ARRAY, Attributed, BigNumber, NullArray, Push, SetReply, Verbatim
from keyhaus.protocol.resp import RespCodec
from tests.support.wire import parsed

BIG = 123456789012345678901234567890
VECTORS: dict[str, tuple[Any, bytes, bytes]] = {
    "a value": (b"abc", b"$3\r\nabc\r\n", b"$3\r\nabc\r\n"),
    "an empty value": (b"", b"$0\r\n\r\n", b"$0\r\n\r\n"),
    "a value with CRLF": (b"a\r\nb", b"$4\r\na\r\nb\r\n", b"$4\r\na\r\nb\r\n"),
    "a binary value": (b"\0\xff", b"$2\r\n\0\xff\r\n", b"$2\r\n\0\xff\r\n"),
    "a status": ("OK", b"+OK\r\n", b"+OK\r\n"),
    "a number": (-42, b":-42\r\n", b":-42\r\n"),
    "zero": (0, b":0\r\n", b":0\r\n"),
    "the largest number": ((1 << 63) - 1, b":9223372036854775807\r\n", b":9223372036854775807\r\n"),
    "true": (True, b":1\r\n", b"#t\r\n"),
    "false": (False, b":0\r\n", b"#f\r\n"),
    "a fraction": (1.5, b"$3\r\n1.5\r\n", b",1.5\r\n"),
    "a whole double": (3.0, b"$1\r\n3\r\n", b",3\r\n"),
    "a tenth": (0.1, b"$3\r\n0.1\r\n", b",0.1\r\n"),
    "a large double": (1e300, b"$6\r\n1e+300\r\n", b",1e+300\r\n"),
    "infinity": (math.inf, b"$3\r\ninf\r\n", b",inf\r\n"),
    "minus infinity": (-math.inf, b"$4\r\n-inf\r\n", b",-inf\r\n"),
    "no number": (math.nan, b"$3\r\nnan\r\n", b",nan\r\n"),
    "a big number": (BigNumber(BIG), b"$30\r\n%d\r\n" % BIG, b"(%d\r\n" % BIG),
    "text": (Verbatim(b"a\nb"), b"$3\r\na\nb\r\n", b"=7\r\ntxt:a\nb\r\n"),
    "no text": (Verbatim(), b"$0\r\n\r\n", b"=4\r\ntxt:\r\n"),
    "nothing": (None, b"$-1\r\n", b"_\r\n"),
    "no list": (NULL_ARRAY, b"*-1\r\n", b"_\r\n"),
    "an empty list": ([], b"*0\r\n", b"*0\r\n"),
    "a list": ([b"a", None, 1, "OK"], b"*4\r\n$1\r\na\r\n$-1\r\n:1\r\n+OK\r\n", b"*4\r\n$1\r\na\r\n_\r\n:1\r\n+OK\r\n"),
    "lists in lists": ([[], [[b"a"]]], b"*2\r\n*0\r\n*1\r\n*1\r\n$1\r\na\r\n", b"*2\r\n*0\r\n*1\r\n*1\r\n$1\r\na\r\n"),
    "no list in a list": ([NULL_ARRAY], b"*1\r\n*-1\r\n", b"*1\r\n_\r\n"),
    "a set": (SetReply([1, 2]), b"*2\r\n:1\r\n:2\r\n", b"~2\r\n:1\r\n:2\r\n"),
    "an empty set": (SetReply(), b"*0\r\n", b"~0\r\n"),
    "pairs": (
        {b"a": 1, b"b": [True]},
        b"*4\r\n$1\r\na\r\n:1\r\n$1\r\nb\r\n*1\r\n:1\r\n",
        b"%2\r\n$1\r\na\r\n:1\r\n$1\r\nb\r\n*1\r\n#t\r\n",
    ),
    "no pairs": ({}, b"*0\r\n", b"%0\r\n"),
    "pairs in pairs": (
        {"a": {"b": 1.5}},
        b"*2\r\n+a\r\n*2\r\n+b\r\n$3\r\n1.5\r\n",
        b"%1\r\n+a\r\n%1\r\n+b\r\n,1.5\r\n",
    ),
    "out of band": (
        Push([b"message", b"x"]),
        b"*2\r\n$7\r\nmessage\r\n$1\r\nx\r\n",
        b">2\r\n$7\r\nmessage\r\n$1\r\nx\r\n",
    ),
    "attributes": (Attributed({"ttl": 5}, [b"v"]), b"*1\r\n$1\r\nv\r\n", b"|1\r\n+ttl\r\n:5\r\n*1\r\n$1\r\nv\r\n"),
    "attributes within": ([Attributed({"a": True}, 1)], b"*1\r\n:1\r\n", b"*1\r\n|1\r\n+a\r\n#t\r\n:1\r\n"),
    "an error": (UserError("no such key"), b"-ERR no such key\r\n", b"-ERR no such key\r\n"),
    "an error with a code": (
        errors.WrongType(),
        *(b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n",) * 2,
    ),
    "a syntax error": (errors.Syntax(), b"-ERR syntax error\r\n", b"-ERR syntax error\r\n"),
    "a broken stream": (ProtocolError("Protocol error: x"), *(b"-ERR Protocol error: x\r\n",) * 2),
    "a limit": (LimitExceeded("max-x", 2, 1), *(b"-ERR max-x exceeded: 2 bytes, at most 1 are allowed\r\n",) * 2),
    "an error of several lines": (UserError("a\r\nb\nc\rd"), *(b"-ERR a  b c d\r\n",) * 2),
    "an error that is no UTF-8": (UserError(b"'\xff\0'"), *(b"-ERR '\xff\0'\r\n",) * 2),
    "an error in a list": ([1, UserError("x")], b"*2\r\n:1\r\n-ERR x\r\n", b"*2\r\n:1\r\n-ERR x\r\n"),
}


def codec(version: int, max_reply_bytes: int = limits.REPLY_BYTES_MAX) -> RespCodec:
    made = RespCodec(max_reply_bytes=max_reply_bytes)
    made.version = version
    return made


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("name", VECTORS)
def test_a_reply_has_these_bytes(name: str, version: int) -> None:
    reply, *expected = VECTORS[name]
    assert codec(version).encode(reply) == expected[version - 2]
    # The same within others, where it takes another way through the encoder.
    assert codec(version).encode([reply, reply]) == b"*2\r\n" + expected[version - 2] * 2


def all_errors(kind: type[Error] = Error) -> list[type[Error]]:
    return [kind, *(further for below in kind.__subclasses__() for further in all_errors(below))]


@pytest.mark.parametrize("kind", all_errors())
def test_every_error_is_one_line_with_a_code(kind: type[Error]) -> None:
    error = kind.__new__(kind)
    Error.__init__(error, "one\r\ntwo")
    code, _, message = codec(3).encode(error).removeprefix(b"-").partition(b" ")
    assert code.isalpha() and code.isupper() and message == b"one  two\r\n"


@pytest.mark.parametrize(
    "reply", [object(), bytearray(b"x"), (1, 2), {1, 2}, [memoryview(b"x")]], ids=lambda reply: type(reply).__name__
)
def test_what_is_no_reply_is_a_programming_error(reply: Any) -> None:
    with pytest.raises(TypeError, match="is no reply"):
        codec(2).encode(reply)


def test_the_version_may_change_between_replies() -> None:
    made = codec(2)
    assert made.encode(None) == b"$-1\r\n"
    made.version = 3
    assert made.encode(None) == b"_\r\n"


# limits

MOST = 1000
LARGE: dict[str, Any] = {
    "a value": b"x" * (MOST + 1),
    "a list of values": [b"x" * 100] * 10,
    "a list of numbers": [1] * 251,
    "a list of nothing": [None] * 334,
    "lists in lists": [[[b"x" * 400]], [[b"x" * 400]], [[b"x" * 400]]],
    "many empty lists": [[]] * 251,
    "pairs": {b"%d" % number: b"x" * 100 for number in range(10)},
    "a set": SetReply([b"x" * 100] * 10),
    "text": Verbatim(b"x" * (MOST + 1)),
    "truths": [True] * 251,
    "fractions": [0.1] * 334,
    "attributes": Attributed({b"a": b"x" * 600}, b"x" * 600),
    "errors": [UserError("x" * 100)] * 10,
    "a big number": [BigNumber(10**600)] * 2,
    "no lists": [NULL_ARRAY] * 334,
}


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("name", LARGE)
def test_a_reply_that_is_too_large_becomes_the_error_that_says_so(name: str, version: int) -> None:
    # In RESP2 attributes are not sent.
    reply = LARGE[name] if (name, version) != ("attributes", 2) else Attributed({}, [LARGE["a value"]])
    said = codec(version, MOST).encode(reply)
    assert said.startswith(b"-ERR max-reply-bytes exceeded: ") and said.endswith(b", at most 1000 are allowed\r\n")
    assert said.count(b"\r\n") == 1
    assert codec(version).encode(reply).startswith((b"$", b"*", b"%", b"~", b"=", b"|"))


@pytest.mark.parametrize("version", [2, 3])
def test_a_reply_up_to_the_limit_is_sent(version: int) -> None:
    made = codec(version, MOST)
    for reply in (b"x" * MOST, [b"x" * 90] * 9, [1] * 200, [None] * 100, {b"a": b"x" * 900}, Verbatim(b"x" * 900)):
        assert not made.encode(reply).startswith(b"-")


# beside hiredis

SCALARS = st.one_of(
    st.binary(max_size=40),
    st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=9),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.floats(),
    st.booleans(),
    st.none(),
    st.just(NULL_ARRAY),
    st.integers().map(BigNumber),
    st.binary(max_size=20).map(Verbatim),
    st.binary(max_size=20).map(UserError),
)
KEYS = st.binary(max_size=9) | st.integers(-5, 5)
REPLIES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.lists(inner, max_size=5).map(SetReply),
        st.lists(inner, max_size=5).map(Push),
        st.dictionaries(KEYS, inner, max_size=4),
    ),
    max_leaves=20,
)


def seen(reply: Any, version: int) -> Any:
    """What a client is to see of a reply."""
    again = functools.partial(seen, version=version)
    match reply:
        case NullArray():
            return None
        case bool() if version == 2:
            return int(reply)
        case float() if version == 2:
            return b"%d" % reply if reply.is_integer() and abs(reply) < 1e17 else str(reply).encode()
        case BigNumber():
            return b"%d" % reply
        case Error():
            return (
                "error",
                (b"ERR " + reply.raw.translate(bytes.maketrans(b"\r\n", b"  "))).decode("utf-8", "replace"),
            )
        case str():
            return reply.encode()
        case dict() if version == 3:
            return dict(zip(reply, map(again, reply.values()), strict=True))
        case dict():
            return [again(part) for pair in reply.items() for part in pair]
        case list():
            return [*map(again, reply)]
    return reply


def understood(data: bytes) -> Any:
    """What hiredis reads: one reply, and nothing behind it."""
    reader = hiredis.Reader(replyError=told, protocolError=AssertionError)
    reader.feed(data)
    reply = reader.gets()
    assert reader.gets() is False
    return reply


def told(message: str) -> Exception:
    return ValueError(message)


def same(one: Any, other: Any) -> bool:
    """Equal, and of the same type; no number is itself."""
    if isinstance(other, ValueError):
        return bool(one == ("error", other.args[0]))
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(map(same, one.values(), other.values()))
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    return bool(one == other) and isinstance(other, type(one) if not isinstance(one, Verbatim) else bytes)


@pytest.mark.parametrize("version", [2, 3])
@given(reply=REPLIES)
def test_hiredis_reads_what_was_meant(version: int, reply: Any) -> None:
    data = codec(version).encode(reply)
    read = understood(data)
    assert same(seen(reply, version), read), (reply, data, read)


@pytest.mark.parametrize("version", [2, 3])
@given(attributes=st.dictionaries(KEYS, SCALARS, min_size=1, max_size=3), reply=REPLIES)
def test_attributes_stand_before_the_reply_that_they_belong_to(
    version: int, attributes: dict[Any, Any], reply: Any
) -> None:
    made = codec(version)
    data = made.encode(Attributed(attributes, reply))
    plain = made.encode(reply)
    if version == 2:
        assert data == plain
        return
    node, end = parsed(data)
    assert node.mark == b"|" and len(node.content) == 2 * len(attributes)
    assert data[end:] == plain


@given(reply=REPLIES, most=st.integers(1, 300))
def test_a_limited_reply_is_whole_or_the_error(reply: Any, most: int) -> None:
    """Never a part of it."""
    said = codec(3, most).encode(reply)
    whole = codec(3).encode(reply)
    assert said == whole or said.startswith(b"-ERR max-reply-bytes exceeded: ")
    if isinstance(reply, (list, dict)):
        assert (said == whole) == (len(whole) <= most)
