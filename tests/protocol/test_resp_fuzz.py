"""Any bytes, cut anywhere: the codec gives the same requests and then the same error, or none; it raises nothing else.

What holds after every piece (bounded memory, errors for good) is watched by `parse`. That time is linear is shown by
counting the bytes that the codec looks at, searches and copies, for streams that invite it to do so again and again.
"""

from __future__ import annotations

import itertools
import random
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, SupportsIndex

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keyhaus.core.errors import Error
from keyhaus.protocol import resp
from keyhaus.protocol.inline import split_words
from keyhaus.protocol.resp import RespCodec
from tests.support.streams import Parsed, bytewise, cut, drained, parse
from tests.support.wire import encoded

PIECES = st.sampled_from(
    [
        *(b"*1\r\n", b"*2\r\n", b"*3\r\n", b"*0\r\n", b"*-1\r\n", b"*", b"*65\r\n", b"*1048577\r\n", b"*01\r\n"),
        *(b"$0\r\n", b"$1\r\n", b"$3\r\n", b"$4\r\n", b"$-1\r\n", b"$", b"$4096\r\n", b"$1048577\r\n", b":1\r\n"),
        *(
            b"PING",
            b"ECHO",
            b"\r\n",
            b"\r",
            b"\n",
            b"\0",
            b" ",
            b"'",
            b'"',
            b"\\",
            b"GET / HTTP/1.1\r\n",
            b"Host: x\r\n",
        ),
        *(encoded([b"PING"]), encoded([b"ECHO", b"\r\n"]), encoded([b"SET", b"k", b"v" * 5000]), b"PING a\r\n"),
    ]
)
WORDS = st.lists(
    st.binary(max_size=6) | st.sampled_from([b"\r\n", b"", b"$1\r\n", b"x" * 4096]), min_size=1, max_size=5
)
REQUESTS = st.lists(WORDS | st.just([b"DEL"] * 65), max_size=8)
SHORT = st.binary(max_size=9) | st.sampled_from([b"\r\n", b"a\r\n$1", b"a", b"b"])
ONE_COMMAND = st.integers(1, 4).flatmap(
    lambda count: st.lists(st.lists(SHORT, min_size=count, max_size=count), max_size=20)
)
# Mostly requests, since streams of noise end at their first line.
STREAMS = st.lists(st.one_of(PIECES, PIECES, st.binary(max_size=8), WORDS.map(encoded)), max_size=16).map(b"".join)
COUNTS: st.SearchStrategy[int | None] = st.sampled_from([0, 1, 2, None])
CODECS = st.sampled_from([RespCodec, partial(RespCodec, inline=False)])


def anywhere(data: bytes) -> st.SearchStrategy[list[bytes]]:
    """The stream's pieces, some of which may be empty."""
    return st.lists(st.integers(0, len(data)), max_size=8).map(partial(cut, data))


@given(st.data(), STREAMS | st.binary(), CODECS)
def test_any_bytes_are_read_alike_however_they_are_cut(
    draw: st.DataObject, data: bytes, make: Callable[[], RespCodec]
) -> None:
    whole = parse([data], make)
    assert parse(draw.draw(anywhere(data)), make) == whole
    assert parse(bytewise(data), make) == whole


@given(st.data(), STREAMS)
def test_what_is_asked_for_late_is_read_alike(draw: st.DataObject, data: bytes) -> None:
    """A connection that waits for something feeds what it received, and takes requests later, or a few at a time."""
    codec = RespCodec()
    requests: list[list[bytes]] = []
    error = None
    try:
        for piece in draw.draw(anywhere(data)):
            codec.feed(piece)
            requests += itertools.islice(drained(codec), draw.draw(COUNTS))
            requests += [codec.ready.popleft() for _ in range(min(len(codec.ready), draw.draw(COUNTS) or 0))]
        requests += drained(codec)
    except Error as raised:
        error = (raised.code, raised.raw)
    assert Parsed(requests, error) == parse([data])


@given(st.data(), REQUESTS | ONE_COMMAND)
def test_requests_come_back_as_they_were_sent(draw: st.DataObject, requests: list[list[bytes]]) -> None:
    data = b"".join(map(encoded, requests))
    expected = Parsed(requests, None)
    assert parse([data]) == expected
    assert parse(draw.draw(anywhere(data))) == expected
    assert parse(bytewise(data)) == expected


@given(REQUESTS, st.binary())
def test_nothing_is_left_behind_whole_requests(requests: list[list[bytes]], tail: bytes) -> None:
    codec = RespCodec()
    codec.feed(b"".join(map(encoded, requests)))
    assert list(drained(codec)) == requests
    assert codec.buffered() == 0
    codec.feed(b"*1\r\n$%d\r\n" % (len(tail) + 1) + tail)
    assert list(drained(codec)) == []
    assert codec.buffered() == len(tail)


@given(st.lists(st.binary(), max_size=6), st.lists(st.sampled_from([b" ", b"\t", b"\v ", b"  ", b"\r"]), min_size=7))
def test_quoted_words_come_back(words: list[bytes], blanks: list[bytes]) -> None:
    quoted = [b'"%b"' % b"".join(b"\\x%02x" % byte for byte in word) for word in words]
    line = b"".join(blank + word for blank, word in zip(blanks, quoted, strict=False)) + blanks[-1]
    assert split_words(line) == words


@given(st.binary() | st.lists(st.sampled_from([b"'", b'"', b"\\", b" ", b"a", b"x4", b"\0"])).map(b"".join))
@example(b"'" * 9)
@example(b'"\\')
def test_any_line_is_split_or_refused(line: bytes) -> None:
    words = split_words(line)
    assert words is None or all(isinstance(word, bytes) for word in words)


# time


class Looked:
    """How many bytes a codec has looked at, and how often it has searched for the end of a line."""

    def __init__(self) -> None:
        self.bytes = self.searches = 0


def counting(looked: Looked) -> type[bytearray]:
    """A bytearray that counts what is searched, copied and appended."""

    class Counting(bytearray):
        def find(self, sub: Any, start: Any = 0, end: Any = None) -> int:
            found = super().find(sub, start)
            looked.bytes += (len(self) if found < 0 else found) - start
            looked.searches += 1
            return found

        def __getitem__(self, key: Any) -> Any:
            part = super().__getitem__(key)
            looked.bytes += len(part) if isinstance(part, bytearray) else 1
            return part

        def __iadd__(self, other: Any) -> Any:  # type: ignore[misc]  # adding makes a plain one
            looked.bytes += len(other)
            return super().__iadd__(other)

    return Counting


class CountingBytes(bytes):
    """What was received; counts being split."""

    looked: Looked

    def split(self, sep: Any = None, maxsplit: SupportsIndex = -1) -> list[bytes]:
        self.looked.bytes += len(self)
        return super().split(sep, maxsplit)


def work(pieces: Iterable[bytes], monkeypatch: pytest.MonkeyPatch, *, backlog: bool = False) -> Looked:
    """What the codec looks at; with a backlog only one request is taken at a time."""
    looked = Looked()
    with monkeypatch.context() as patch:
        patch.setattr(resp, "bytearray", counting(looked), raising=False)
        patch.setattr(CountingBytes, "looked", looked, raising=False)
        codec = RespCodec()
        for piece in pieces:
            codec.feed(CountingBytes(piece))
            if backlog:
                codec.next_request()
            else:
                for _ in drained(codec):
                    pass
        for _ in drained(codec):
            pass
    return looked


def small_requests(size: int) -> bytes:
    request = encoded([b"SET", b"key", b"value"])
    return request * (size // len(request))


def odd_requests(size: int) -> bytes:
    """Each second one can't be cut out by a split."""
    requests = encoded([b"GET", b"key"]) + encoded([b"SET", b"k\r\n", b"v"])
    return requests * (size // len(requests))


def in_pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


STREAMS_BY_SIZE: dict[str, Callable[[int], Iterable[bytes]]] = {
    "an argument, dribbled": lambda size: bytewise(b"*1\r\n$%d\r\n" % size + b"x" * size + b"\r\n"),
    "an argument, in reads": lambda size: in_pieces(b"*1\r\n$%d\r\n" % (8 * size) + b"x" * 8 * size + b"\r\n", 1000),
    "a line, dribbled": lambda size: bytewise(b"x" * min(size, 60_000) + b"\n"),
    "a count line, dribbled": lambda size: bytewise(b"*" + b"1" * min(size, 60_000)),
    "a length line, dribbled": lambda size: bytewise(b"*1\r\n$" + b"1" * min(size, 60_000)),
    "requests, dribbled": lambda size: bytewise(small_requests(size)),
    "odd requests, dribbled": lambda size: bytewise(odd_requests(size)),
    "requests, cut anywhere": lambda size: in_pieces(small_requests(8 * size), 997),
    "odd requests, cut anywhere": lambda size: in_pieces(odd_requests(8 * size), 997),
    "odd requests at once": lambda size: [odd_requests(8 * size)],
    "requests at once": lambda size: [small_requests(32 * size)],
    "arguments of one request": lambda size: bytewise(b"*%d\r\n" % (size // 4) + b"$0\r\n\r\n" * (size // 4)),
    "inline commands": lambda size: in_pieces(b"GET key\r\n" * size, 997),
    "empty lines": lambda size: in_pieces(b"\r\n" * size, 997),
    "counts of nothing": lambda size: in_pieces(b"*0\r\n" * size, 997),
}


@pytest.mark.parametrize("backlog", [False, True], ids=["taken at once", "taken one by one"])
@pytest.mark.parametrize("name", STREAMS_BY_SIZE)
def test_every_byte_is_looked_at_a_few_times(name: str, backlog: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more look at all that is buffered for each byte or request would make thousands."""
    pieces = list(STREAMS_BY_SIZE[name](40_000))
    size = sum(map(len, pieces))
    assert size <= work(pieces, monkeypatch, backlog=backlog).bytes <= 8 * size + 64


LARGE_WORD = b"v\r\n" * 1000


@pytest.mark.parametrize(
    "read", [len(encoded([LARGE_WORD])), 50_000], ids=["one request a read", "reads that cut them"]
)
def test_what_was_read_is_let_go(read: int) -> None:
    """A codec keeps what is not complete, and no more than a read beside it."""
    codec = RespCodec()
    held, peak = memory_of(codec, encoded([LARGE_WORD]) * 400, read)
    assert held < 150_000 and peak < 400_000


def test_the_arguments_of_a_large_request_are_kept_once() -> None:
    codec = RespCodec()
    words = 400
    held, peak = memory_of(codec, encoded([LARGE_WORD] * words)[:-2], 50_000)
    assert codec.buffered() < 100_000
    assert held < len(LARGE_WORD) * words * 1.15 and peak < len(LARGE_WORD) * words * 1.3


def memory_of(codec: RespCodec, stream: bytes, read: int) -> tuple[int, int]:
    """How many bytes a codec holds at the end of a stream, and at most."""
    tracemalloc.start()
    try:
        for piece in in_pieces(stream, read):
            codec.feed(piece)
            for _ in drained(codec):
                pass
        return tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()


def test_a_backlog_that_grows_by_bytes_is_not_looked_at_anew(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte that comes lets one request of a long backlog be executed, and finds something odd in front."""
    choices = random.Random(seed)
    for backlog in (small_requests(100_000), odd_requests(100_000), encoded([b"ECHO", b"\r\n"]) * 5000):
        tail = small_requests(3000)
        start = choices.randrange(len(backlog))
        pieces = [backlog[:start], backlog[start:], *bytewise(tail)]
        size = len(backlog) + len(tail)
        assert work(pieces, monkeypatch, backlog=True).bytes <= 8 * size


def test_plain_requests_are_cut_out_by_a_split_wherever_reads_cut_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Line by line only the one request is read that a read has cut in two: a pipeline must not stay slow for good."""
    data = small_requests(300_000)
    for size in (997, 20_011):
        pieces = list(in_pieces(data, size))
        lines = 7  # of a request
        assert work(pieces, monkeypatch).searches <= (lines + 1) * len(pieces)
