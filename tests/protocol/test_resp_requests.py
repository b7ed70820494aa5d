"""What a stream of RESP is read as, however it comes: whole, in two, byte by byte, among other requests.

The errors are those of redis-server 7.0: every vector is also sent to a real one and to keyhaus, and what both
say until they hang up is compared. Where they differ on purpose, the vector stands in `OURS`, with the reason.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import pytest

from keyhaus.core import limits
from keyhaus.protocol.inline import split_words
from keyhaus.protocol.resp import RespCodec
from tests.support.processes import keyhaus_server, redis_server
from tests.support.streams import Parsed, bytewise, conversation, cut, parse
from tests.support.wire import encoded, parsed

LINE_MOST = limits.INLINE_BYTES_MAX
PING = encoded([b"PING"])
QUIT = encoded([b"QUIT"])
COUNT = "Protocol error: invalid multibulk length"
LENGTH = "Protocol error: invalid bulk length"
TOO_BIG = "Protocol error: too big inline request"
QUOTES = "Protocol error: unbalanced quotes in request"
HTTP = "Protocol error: this is HTTP; the connection is closed"
NO_DOLLAR = "Protocol error: expected '$', got '%s'"


class Vector(NamedTuple):
    data: bytes
    requests: list[list[bytes]]
    error: str | None = None
    code: str = "PROTOCOL"

    def parsed(self, before: list[list[bytes]] | None = None, after: list[list[bytes]] | None = None) -> Parsed:
        """What a codec is to make of it, with what stands before and behind it."""
        requests = [*(before or ()), *self.requests, *(() if self.error else after or ())]
        return Parsed(requests, (self.code, self.error.encode()) if self.error else None)


def echo(*words: bytes) -> Vector:
    return Vector(encoded([b"ECHO", *words]), [[b"ECHO", *words]])


def multibulk(count: bytes, then: str | None = COUNT) -> Vector:
    """A count that is skipped (`then` is None), or is an error."""
    return Vector(b"*%b\r\n" % count + PING, [] if then else [[b"PING"]], then)


def bulk(length: bytes, error: str = LENGTH) -> Vector:
    return Vector(b"*2\r\n$4\r\nECHO\r\n$%b\r\nabcde\r\n" % length, [], error)


def inline(line: bytes, *words: bytes) -> Vector:
    return Vector(line, [list(words)] if words else [])


WELL_FORMED = {
    "one word": Vector(PING, [[b"PING"]]),
    "empty arguments": echo(b"", b"", b""),
    "only empty arguments": Vector(encoded([b"", b""]), [[b"", b""]]),
    "an empty name": Vector(encoded([b""]), [[b""]]),
    "CRLF in an argument": echo(b"a\r\nb"),
    "an argument of CRLF": echo(b"\r\n"),
    "several CRLF": echo(b"\r\n\r\n$3\r\nabc\r\n"),
    "an argument that looks like a request": echo(PING),
    "arguments that look like length lines": echo(b"$1", b"*1", b"$4", b"\r", b"\n"),
    "CR at an argument's end": echo(b"a\r"),
    "LF at an argument's beginning": echo(b"\na"),
    "every byte": echo(bytes(range(256))),
    "no UTF-8": echo(b"\xff\xfe\x80"),
    "count 0": multibulk(b"0", None),
    "count -1": multibulk(b"-1", None),
    "count -2": multibulk(b"-2", None),
    "the least count": multibulk(b"-9223372036854775808", None),
    "63 arguments": Vector(encoded([b"DEL"] * 63), [[b"DEL"] * 63]),
    "64 arguments": Vector(encoded([b"DEL"] * 64), [[b"DEL"] * 64]),
    "65 arguments": Vector(encoded([b"DEL"] * 65), [[b"DEL"] * 65]),
    "200 arguments": echo(*map(b"%d".__mod__, range(199))),
    "4095 bytes": echo(b"x" * 4095),
    "4096 bytes": echo(b"x" * 4096),
    "4097 bytes": echo(b"x" * 4097),
    "anything for the CRLF behind an argument": Vector(b"*2\r\n$4\r\nECHOab$1\r\nx\n\n", [[b"ECHO", b"x"]]),
    "anything behind CR": Vector(b"*1\rX$4\r\0PING\r\n", [[b"PING"]]),
    "an inline command": inline(b"PING\r\n", b"PING"),
    "an inline command without CR": inline(b"PING\n", b"PING"),
    "more than one CR": inline(b"ECHO a\r\r\n", b"ECHO", b"a"),
    "blanks around words": inline(b"  ECHO \t  a  \r\n", b"ECHO", b"a"),
    "every blank between words": inline(b"\v\f\tECHO\t\v\fa\r\n", b"ECHO", b"a"),
    "blanks that end no word": inline(b"ECHO a\vb\fc\r\n", b"ECHO", b"a\vb\fc"),
    "an empty line": inline(b"\r\n"),
    "a line of LF": inline(b"\n"),
    "empty lines among requests": Vector(b"\r\n\n" + PING + b"\n\r\n" + PING, [[b"PING"]] * 2),
    "a line of blanks": inline(b" \t \r\n"),
    "a word that begins like a length": inline(b"$4\r\n", b"$4"),
    "an inline reply": inline(b"+OK\r\n", b"+OK"),
    "empty quotes": inline(b"ECHO ''\r\n", b"ECHO", b""),
    "quotes in the middle of a word": inline(b'ECHO a"b c"\r\n', b"ECHO", b"ab c"),
    "escapes": inline(rb'ECHO "\n\r\t\b\a\\\"\q"' + b"\r\n", b"ECHO", b'\n\r\t\b\a\\"q'),
    "hexadecimal escapes": inline(rb'ECHO "\x00\xfF\x4a\xg1\x1"' + b"\r\n", b"ECHO", b"\x00\xff\x4axg1x1"),
    "single quotes": inline(rb"ECHO 'it\'s \n \x41 \\ '" + b"\r\n", b"ECHO", rb"it's \n \x41 \\ "),
    "the other quotes within quotes": inline(b'ECHO "it\'s"\r\n', b"ECHO", b"it's"),
    "backslashes without quotes": inline(rb"ECHO \n\x41" + b"\r\n", b"ECHO", rb"\n\x41"),
    "no UTF-8 inline": inline(b"ECHO \xff\r\n", b"ECHO", b"\xff"),
    "inline and multibulk in turn": Vector(b"PING\r\n" + PING + b"PING\n\n" + PING, [[b"PING"]] * 4),
    "the longest inline command": inline(b"x" * LINE_MOST + b"\n", b"x" * LINE_MOST),
}
# These make no request, and no error yet either.
UNFINISHED = [
    *(b"", b"*", b"*1", b"*1\r", b"*1\r\n", b"*1\r\n$", b"*1\r\n$4\r\nPING", b"*1\r\n$4\r\nPING\r", b"PING", b"PING\r"),
    *(b"*0\r\n*", b"\r\n\r", b"*x", b"*1\r\n$x\r", b"*1\r\nx", b"*" + b"1" * (LINE_MOST - 1)),
    *(b"*1048576\r\n", b"*1\r\n$134217728\r\n", b"*2\r\n$4\r\nECHO\r\n$134217724\r\nabc", b'ECHO "', b"x" * LINE_MOST),
]
MALFORMED = {
    "no count": multibulk(b""),
    "a count that is a word": multibulk(b"abc"),
    "a count with a word behind it": multibulk(b"1x"),
    "a count with a plus": multibulk(b"+1"),
    "a count with a leading zero": multibulk(b"01"),
    "a count of -0": multibulk(b"-0"),
    "a count of -": multibulk(b"-"),
    "a count with a blank before it": multibulk(b" 1"),
    "a count with a blank behind it": multibulk(b"1 "),
    "a count with an underscore": multibulk(b"1_0"),
    "a fraction": multibulk(b"1.0"),
    "digits that are no ASCII": multibulk(b"\xd9\xa1"),
    "a count over 31 bits": multibulk(b"2147483648"),
    "a count over 63 bits": multibulk(b"9223372036854775808"),
    "a negative count over 63 bits": multibulk(b"-9223372036854775809"),
    "a count of 30 digits": multibulk(b"1" * 30),
    "a count line's end without CR": Vector(b"*1\n$4\nPING\n" + PING, [], COUNT),
    "a count line as long as may be": Vector(b"*" + b"1" * (LINE_MOST - 1) + b"\r\n", [], COUNT),
    "a count line too long": Vector(b"*" + b"1" * LINE_MOST, [], "Protocol error: too big mbulk count string"),
    "no length": bulk(b""),
    "a negative length": bulk(b"-1"),
    "a length that is a word": bulk(b"abc"),
    "a length with a plus": bulk(b"+5"),
    "a length with a leading zero": bulk(b"05"),
    "a length with a blank before it": bulk(b" 5"),
    "a length with a blank behind it": bulk(b"5 "),
    "a length over the limit": bulk(b"536870913"),
    "a length over 63 bits": bulk(b"9223372036854775808"),
    "a length line as long as may be": bulk(b"5" * (LINE_MOST - 1)),
    "a length line too long": Vector(b"*1\r\n$" + b"1" * LINE_MOST, [], "Protocol error: too big bulk count string"),
    "a count for a length": Vector(b"*1\r\n*1\r\n", [], NO_DOLLAR % "*"),
    "a word for a length": Vector(b"*1\r\nPING\r\n", [], NO_DOLLAR % "P"),
    "nothing for a length": Vector(b"*1\r\n\r\n", [], NO_DOLLAR % "\r"),
    "an integer for a length": Vector(b"*2\r\n$4\r\nECHO\r\n:5\r\n", [], NO_DOLLAR % ":"),
    "a length too short": Vector(b"*3\r\n$4\r\nECHO\r\n$1\r\nabcd\r\n$1\r\na\r\n", [], NO_DOLLAR % "d"),
    "quotes that never close": Vector(b'ECHO "a\r\n', [], QUOTES),
    "single quotes that never close": Vector(b"ECHO 'a\r\n", [], QUOTES),
    "a closing quote that is escaped": Vector(b'ECHO "a\\"\r\n', [], QUOTES),
    "a closing single quote that is escaped": Vector(b"ECHO 'a\\'\r\n", [], QUOTES),
    "a word behind quotes": Vector(b'ECHO "a"b\r\n', [], QUOTES),
    "quotes behind quotes": Vector(b"ECHO 'a''b'\r\n", [], QUOTES),
    "a lone quote": Vector(b'"\r\n', [], QUOTES),
    "an inline command too long": Vector(b"x" * (LINE_MOST + 1), [], TOO_BIG),
}
# Where keyhaus answers something else than redis-server, and why.
OURS = {
    # Redis looks for a line's end as for a C string's, so at a NUL byte it waits until 64 KiB have come.
    "NUL in an inline command": Vector(b"SET k v\0w\r\n", [], "Protocol error: NUL byte in inline request"),
    "NUL in a count": Vector(b"*1\0\r\n", [], COUNT),
    "NUL in a length": Vector(b"*1\r\n$4\0\r\n", [], LENGTH),
    "NUL for a length": Vector(b"*1\r\n\0\r\n", [], NO_DOLLAR % "\0"),
    # Redis hangs up without a word at POST and Host:, and takes GET for the command.
    "a browser's GET": Vector(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", [], HTTP),
    "a browser's POST": Vector(b"POST /a?b HTTP/1.0\r\n\r\nSET k v\r\n", [], HTTP),
    "a Host header": Vector(b"Host: localhost\r\nSET k v\r\n", [], HTTP),
    "a Host header in lower case": Vector(b"host:localhost\n", [], HTTP),
    # Redis accepts a line of any length if its end comes with the bytes that make it too long.
    "an inline command too long, with its end": Vector(b"x" * (LINE_MOST + 1) + b"\n", [], TOO_BIG),
    # Redis has no such limits.
    "too many arguments": Vector(
        b"*1048577\r\n",
        [],
        "max-arguments exceeded: 1048577 arguments, at most 1048576 are allowed",
        code="LIMIT",
    ),
    "a request too large": Vector(
        b"*2\r\n$4\r\nECHO\r\n$134217725\r\n",
        [],
        "max-request-bytes exceeded: 134217729 bytes, at most 134217728 are allowed",
        code="LIMIT",
    ),
}
VECTORS = WELL_FORMED | MALFORMED | OURS
# Pipelines of one command, of several, and with one request that can't be cut out by a split.
PLAIN = {
    "alike": [[b"SET", b"k%d" % n, b"value"] for n in range(9)],
    "mixed": [[b"PING"], [b"GET", b"k"], [b"SET", b"k", b"v"], [b"PING"], [b"GET", b""], [b"PING"]],
    "odd": [[b"PING"], [b"ECHO", b"a\r\nb"], [b"PING"], [b"GET", b"k"]],
}


def places(data: bytes) -> list[int]:
    """Where to split a stream in two: everywhere, or where it is very long at both ends and here and there."""
    size = len(data)
    if size < 6000:
        return list(range(1, size))
    return [at for at in range(1, size) if at < 40 or size - at < 40 or at % 4001 == 0]


@pytest.mark.parametrize("name", VECTORS)
def test_a_vector_is_read_the_same_however_it_comes(name: str) -> None:
    vector = VECTORS[name]
    assert parse([vector.data]) == vector.parsed()
    assert parse(bytewise(vector.data)) == vector.parsed()
    for at in places(vector.data):
        assert parse(cut(vector.data, [at])) == vector.parsed(), f"split at {at}"


@pytest.mark.parametrize("plain", PLAIN.values(), ids=PLAIN)
@pytest.mark.parametrize("name", VECTORS)
def test_a_vector_is_read_the_same_within_a_pipeline(name: str, plain: list[list[bytes]]) -> None:
    vector = VECTORS[name]
    around = b"".join(map(encoded, plain))
    data = around + vector.data + around
    expected = vector.parsed(plain, plain)
    assert parse([data]) == expected
    for at in places(data) if len(data) < 1000 else (len(around) - 1, len(around), len(around) + 1, len(data) - 1):
        assert parse(cut(data, [at])) == expected, f"split at {at}"


@pytest.mark.parametrize("data", UNFINISHED)
def test_a_request_that_is_not_complete_is_waited_for(data: bytes) -> None:
    assert parse([data]) == parse(bytewise(data)) == Parsed([], None)
    assert parse([PING, data]) == parse([PING + data]) == Parsed([[b"PING"]], None)


@pytest.mark.parametrize("name", VECTORS)
def test_only_multibulk_is_read_where_inline_is_not_spoken(name: str) -> None:
    """As on the port that recognises dialects; HTTP is told apart, lines are bounded, empty ones are passed over."""
    vector = VECTORS[name]
    without_inline = partial(RespCodec, inline=False)
    expected = vector.parsed()
    if vector.data.lstrip(b"\r\n")[:1] not in (b"*", b""):
        error = "Protocol error: inline commands are spoken on a resp port only"
        expected = Parsed([], ("PROTOCOL", (vector.error if vector.error in (HTTP, TOO_BIG) else error).encode()))
    assert parse([vector.data], without_inline) == expected
    assert parse(bytewise(vector.data), without_inline) == expected


def test_limits_that_are_set_hold() -> None:
    small = partial(RespCodec, max_bulk_bytes=1 << 20, max_request_bytes=(1 << 20) + 10)
    assert parse([b"*2\r\n$4\r\nECHO\r\n$1048576\r\n"], small) == Parsed([], None)
    assert parse([b"*2\r\n$4\r\nECHO\r\n$1048577\r\n"], small) == Parsed([], ("PROTOCOL", LENGTH.encode()))
    message = b"max-request-bytes exceeded: 1048587 bytes, at most 1048586 are allowed"
    assert parse([b"*2\r\n$11\r\nECHOECHOECH\r\n$1048576\r\n"], small) == Parsed([], ("LIMIT", message))


def test_a_large_argument_is_read_whole() -> None:
    value = random.Random(7).randbytes(3 << 20)
    data = encoded([b"SET", b"k", value]) + PING
    expected = Parsed([[b"SET", b"k", value], [b"PING"]], None)
    assert parse([data]) == parse(cut(data, range(0, len(data), 65_521))) == expected


# beside redis-server


@pytest.fixture(scope="module")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with redis_server(tmp_path_factory.mktemp("redis")) as port:
        yield port


@pytest.fixture(scope="module")
def keyhaus_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    options = ("--engine", "memory", "--log-level", "error")
    with keyhaus_server(tmp_path_factory.mktemp("keyhaus"), *options) as server:
        yield server.port


@pytest.mark.parametrize("name", WELL_FORMED | MALFORMED)
def test_redis_answers_the_same_and_hangs_up_alike(name: str, redis_port: int, keyhaus_port: int) -> None:
    vector = VECTORS[name]
    stream = PING + vector.data + (b"" if vector.error else PING + QUIT)
    said = conversation(redis_port, stream)
    assert conversation(keyhaus_port, stream) == said
    if vector.error:
        assert said == b"+PONG\r\n-ERR %b\r\n" % vector.error.replace("\r", " ").encode()


@pytest.mark.parametrize("name", OURS)
def test_what_redis_does_not_refuse_is_told_and_ends_the_connection(name: str, keyhaus_port: int) -> None:
    error = OURS[name].error
    assert error is not None
    assert conversation(keyhaus_port, PING + OURS[name].data) == b"+PONG\r\n-ERR %b\r\n" % error.encode()


def test_redis_answers_random_streams_the_same(seed: int, redis_port: int, keyhaus_port: int) -> None:
    for number in range(250):
        choices = random.Random(f"{seed}/{number}")
        stream = b"".join(choices.choices(PIECES, k=choices.randint(1, 12)))
        # A stream may end in the middle of a request: then the connection is ended from this side.
        said = conversation(redis_port, stream, half_close=True)
        assert conversation(keyhaus_port, stream, half_close=True) == said, (number, stream)


PIECES = [
    *(b"*1\r\n", b"*2\r\n", b"*3\r\n", b"*0\r\n", b"*-1\r\n", b"$4\r\n", b"$1\r\n", b"$0\r\n", b"$3\r\n", b"$-1\r\n"),
    *(
        b"PING",
        b"ECHO",
        b"PING\r\n",
        b"ECHO ",
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b"\v",
        b"\f",
        b"*",
        b"$",
        b":1\r\n",
        b"-",
    ),
    *(
        b"'",
        b'"',
        b"\\",
        b"\\x41",
        b"\\n",
        b"\\'",
        b"a",
        b"1",
        b"+1",
        b"01",
        b"\xff",
        b"x",
        PING,
        encoded([b"ECHO", b"\r\n"]),
    ),
]

# words

WORDS = [
    b"'",
    b'"',
    b"\\",
    b"\\x41",
    b"\\xzz",
    b"\\n",
    b"\\'",
    b'\\"',
    b" ",
    b" ",
    b"  ",
    b"\t",
    b"\v",
    b"\f",
    b"\r",
    b"a",
    b"b",
    b"\xff",
]


def test_redis_splits_random_lines_the_same(seed: int, redis_port: int) -> None:
    """`COMMAND GETKEYS DEL …` tells the words of its own line."""
    begin = [b"COMMAND", b"GETKEYS", b"DEL"]
    balanced = 0
    for number in range(600):
        choices = random.Random(f"{seed}/{number}")
        line = b" ".join(begin) + b" first " + b"".join(choices.choices(WORDS, k=choices.randint(1, 10)))
        said = conversation(redis_port, line + b"\r\n" + QUIT)
        words = split_words(line + b"\r")
        if words is None:
            assert said == b"-ERR %b\r\n" % QUOTES.encode(), (number, line)
        else:
            balanced += 1
            assert words == [*begin, *parsed(said)[0].plain()], (number, line)
    assert 100 < balanced < 550


def test_a_word_may_have_any_byte(redis_port: int) -> None:
    everything = bytes(range(256))
    line = b'ECHO "%b"' % b"".join(b"\\x%02x" % byte for byte in everything)
    assert split_words(line) == [b"ECHO", everything]
    assert parsed(conversation(redis_port, line + b"\n" + QUIT))[0].plain() == everything
