"""Every dialect but RESP: how the bytes are cut changes nothing, and no bytes break a codec.

It gives requests, each with one reply, or raises the error that ends the stream; nothing else.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyhaus.core.codec import Codec
from keyhaus.core.errors import LimitExceeded, ProtocolError
from keyhaus.core.request import NEED_DATA, Refused
from keyhaus.protocol.frame.codec import FrameCodec
from keyhaus.protocol.jsonl import JsonLinesCodec
from keyhaus.protocol.text import TextCodec


def frame(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload


LINES = [b"PUT k v\n", b"GET k\r\n", b"\n", b"  \n", b"DEL k\n", b"nonsense\n", b"PUT k \xff\n", b"START\n"]
OBJECTS = [
    *[b'{"command": "put", "key": "k", "value": 1}\n', b'{"command": "get", "key": "k", "id": 5}\r\n', b"\n", b"{\n"],
    *[b'{"command": "ping"}\n', b"[]\n", b'{"command": "get_range", "limit": 2}\n'],
]
FRAMES = [
    *[frame(pickle.dumps({"cmd": "SET", "key": "k", "value": [1, (2,)]}, protocol)) for protocol in range(6)],
    *[frame(msgspec.msgpack.encode({"cmd": "GET", "key": "k"})), frame(b""), frame(b"\x81"), frame(b"junk")],
    frame(pickle.dumps(b"".join, 4)),
]
DIALECTS: dict[str, tuple[Callable[[], Codec], list[bytes]]] = {
    "text": (TextCodec, LINES),
    "json": (JsonLinesCodec, OBJECTS),
    "frame": (FrameCodec, FRAMES),
}


def replies(codec: Codec) -> list[tuple[Any, bytes]]:
    """The requests that are there, each with what is answered to it."""
    found: list[tuple[Any, bytes]] = []
    while (request := codec.next_request()) is not NEED_DATA:
        found.append((request, codec.encode(request.error if isinstance(request, Refused) else "OK")))
    return found


@pytest.mark.parametrize("dialect", DIALECTS)
@given(data=st.data())
def test_how_the_bytes_are_cut_changes_nothing(dialect: str, data: st.DataObject) -> None:
    make, samples = DIALECTS[dialect]
    chosen = data.draw(st.lists(st.sampled_from(samples), max_size=8))
    whole = b"".join(chosen)
    at_once, cut = make(), make()
    at_once.feed(whole)
    expected = replies(at_once)
    assert len(expected) == sum(1 for sample in chosen if sample.strip())
    found: list[tuple[Any, bytes]] = []
    while whole:
        size = data.draw(st.integers(1, len(whole)))
        cut.feed(whole[:size])
        whole = whole[size:]
        found += replies(cut)
    assert found == expected


@pytest.mark.parametrize("dialect", DIALECTS)
def test_byte_by_byte(dialect: str) -> None:
    make, samples = DIALECTS[dialect]
    whole = b"".join(samples)
    at_once, dribbled = make(), make()
    at_once.feed(whole)
    found = []
    for byte in whole:
        dribbled.feed(bytes((byte,)))
        found += replies(dribbled)
    assert found == replies(at_once)


@pytest.mark.parametrize("dialect", DIALECTS)
@given(data=st.data())
def test_no_bytes_break_it(dialect: str, data: st.DataObject) -> None:
    make, samples = DIALECTS[dialect]
    garbage = data.draw(st.binary(max_size=200))
    sample = bytearray(data.draw(st.sampled_from(samples)))
    for _ in range(data.draw(st.integers(0, 4))):
        sample[data.draw(st.integers(0, len(sample) - 1))] = data.draw(st.integers(0, 255))
    codec = make()
    codec.feed(frame(garbage) if dialect == "frame" else garbage + b"\n")
    codec.feed(bytes(sample))
    try:
        for request, line in replies(codec):
            assert isinstance(request, list)
            if dialect != "frame":
                json.loads(line)
    except (ProtocolError, LimitExceeded):
        pass


@pytest.mark.parametrize("dialect", DIALECTS)
def test_dribbled_bytes_take_linear_time(dialect: str) -> None:
    """A request of 4 MB in pieces of 64 bytes: were each piece to search from the start, it would take minutes."""
    make, _ = DIALECTS[dialect]
    value = "x" * (4 << 20)
    whole = {
        "text": f"PUT k {value}\n".encode(),
        "json": json.dumps({"command": "put", "key": "k", "value": value}).encode() + b"\n",
        "frame": frame(pickle.dumps({"cmd": "SET", "key": "k", "value": value})),
    }[dialect]
    codec = make()
    for at in range(0, len(whole), 64):
        assert codec.next_request() is NEED_DATA
        codec.feed(whole[at : at + 64])
    assert value.encode() in codec.next_request()
