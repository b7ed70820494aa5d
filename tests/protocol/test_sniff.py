"""The dialect of a connection by its first bytes: the same however they are cut, bounded, and never an exception."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyhaus.core import limits
from keyhaus.protocol.sniff import Dialect, Sniffer, is_http

VECTORS = [
    (b"*1\r\n$4\r\nPING\r\n", Dialect.RESP),
    (b"*", Dialect.RESP),
    (b'{"command": "ping"}\n', Dialect.JSON),
    (b"\x00\x00\x00\x05hello", Dialect.FRAME),
    (b"\x16\x03\x01\x02\x00", Dialect.TLS),
    (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", Dialect.HTTP),
    (b"GET /v1/keys/a HTTP/1.0\n", Dialect.HTTP),
    (b"OPTIONS * HTTP/1.1\r\n", Dialect.HTTP),
    (b"PUT /k HTTP/1.1\r\n", Dialect.HTTP),
    (b"PUT /k HTTP/1.1 more\r\n", Dialect.TEXT),
    (b"PUT k value\n", Dialect.TEXT),
    (b"PUT k HTTP\n", Dialect.TEXT),
    (b"PUT k HTTP/2.0\r\n", Dialect.TEXT),
    (b"PUT k v with blanks\r\n", Dialect.TEXT),
    (b"PUT k  two blanks\r\n", Dialect.TEXT),
    (b"PUT k\ttab value\n", Dialect.TEXT),
    ("PUT schlüssel wert\n".encode(), Dialect.TEXT),
    (b"GET k\r\n", Dialect.TEXT),
    (b"BEGIN\n", Dialect.TEXT),
    (b"Host: example.org\r\n", Dialect.TEXT),  # which the text dialect then closes
    (b"\n", Dialect.TEXT),
    (b"\r\n", Dialect.TEXT),
    (b" PING\n", Dialect.TEXT),
    (b"\x01", Dialect.UNKNOWN),
    (b"\x80", Dialect.UNKNOWN),
    (b"\xff\xfe", Dialect.UNKNOWN),
    (b"PING\x00\n", Dialect.UNKNOWN),
    (b"PING\x7f\n", Dialect.UNKNOWN),
    (b"GET k\x1b[A\n", Dialect.UNKNOWN),
]
UNDECIDED = [b"", b"P", b"GET", b"GET /", b"GET / ", b"GET / HTTP/1.1", b"GET / HTTP/1.1\r", b"BEGIN", b"PUT k"]
BYTES_IN_SHORT_LINES = st.lists(
    st.one_of(
        st.sampled_from([b"GET", b"PUT", b" ", b"/", b"HTTP/1.1", b"HTTP/1.", b"\r\n", b"\n", b"\r", b"*", b"{", b"k"]),
        st.binary(max_size=4),
    ),
    max_size=12,
).map(b"".join)


def sniff(*pieces: bytes) -> Dialect | None:
    sniffer = Sniffer()
    for piece in pieces:
        if (dialect := sniffer.feed(piece)) is not None:
            return dialect
    return None


@pytest.mark.parametrize(("data", "dialect"), VECTORS)
def test_each_dialect_is_recognised_whole(data: bytes, dialect: Dialect) -> None:
    assert sniff(data) is dialect


@pytest.mark.parametrize(("data", "dialect"), VECTORS)
def test_each_dialect_is_recognised_split_at_every_byte(data: bytes, dialect: Dialect) -> None:
    for at in range(len(data)):
        assert sniff(data[:at], data[at:]) is dialect
    assert sniff(*(bytes([byte]) for byte in data)) is dialect


@pytest.mark.parametrize("data", UNDECIDED)
def test_a_beginning_that_may_become_several_dialects_needs_more(data: bytes) -> None:
    assert sniff(data) is None
    assert sniff(*(bytes([byte]) for byte in data)) is None


def test_all_bytes_come_back_for_the_codec() -> None:
    sniffer = Sniffer()
    assert sniffer.feed(b"PUT k") is None
    assert sniffer.feed(b"ey value\nGET") is Dialect.TEXT
    assert sniffer.buffered == b"PUT key value\nGET"
    assert sniffer.dialect is Dialect.TEXT
    assert sniffer.feed(b" key\n") is Dialect.TEXT
    assert sniffer.buffered == b"PUT key value\nGET key\n"


def test_a_long_value_in_the_first_line_is_not_waited_for() -> None:
    assert sniff(b"PUT k " + b"v" * (2 * limits.INLINE_BYTES_MAX)) is Dialect.TEXT


@pytest.mark.parametrize("piece", [1, 7, 4096, 1 << 20])
def test_a_first_line_over_the_limit_is_unknown_however_it_comes(piece: int) -> None:
    line = b"G" * (limits.INLINE_BYTES_MAX + 1) + b"\n"
    assert sniff(*(line[at : at + piece] for at in range(0, len(line), piece))) is Dialect.UNKNOWN
    line = line[1:]
    assert sniff(*(line[at : at + piece] for at in range(0, len(line), piece))) is Dialect.TEXT


def test_dribbled_bytes_take_linear_time() -> None:
    sniffer = Sniffer()
    begin = time.process_time()
    for _ in range(limits.INLINE_BYTES_MAX):
        assert sniffer.feed(b"G") is None
    # A search from the start for each byte would take minutes.
    assert time.process_time() - begin < 5


@given(st.one_of(st.binary(max_size=64), BYTES_IN_SHORT_LINES), st.data())
def test_any_bytes_are_decided_alike_however_they_are_cut(data: bytes, draw: st.DataObject) -> None:
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(data)), max_size=6)))
    pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    assert sniff(*pieces) is sniff(data) is sniff(*(bytes([byte]) for byte in data))


@given(st.lists(st.binary(max_size=32), max_size=8))
def test_nothing_that_was_fed_is_lost(pieces: list[bytes]) -> None:
    sniffer = Sniffer()
    for piece in pieces:
        sniffer.feed(piece)
    assert sniffer.buffered == b"".join(pieces)


@pytest.mark.parametrize(
    ("line", "http"),
    [
        (b"GET / HTTP/1.1", True),
        (b"POST /a/b?c HTTP/1.0\r", True),
        (b"Host: localhost:6379", True),
        (b"host:x", True),
        (b"GET / HTTP/2", False),
        (b"GET key", False),
        (b"SET host: x", False),
        (b"PUT k HTTP/1.1 is a value", False),
        (b"", False),
    ],
)
def test_http_lines_are_told_from_commands(line: bytes, http: bool) -> None:
    assert is_http(line) is http
