"""DUMP's payloads: what Redis 7.0.15 wrote is read, what is written is what its format says, and damage is refused."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keyhaus.commands import dump
from keyhaus.commands.dump import dumped, restored
from keyhaus.core import limits
from keyhaus.core.errors import LimitExceeded, TransactionTooLarge, UserError
from tests.support.processes import HOST, redis_server
from tests.support.wire import Wire, parsed

_MOST = 1 << 20

# Strings, and what DUMP of a redis-server 7.0.15 made of them.
FROM_REDIS = [
    (b"", "00000a005d9b5c400f7fa2da"),
    (b"12", "00c00c0a003c2af8515c04bcd5"),
    (b"-129", "00c17fff0a001760822854808480"),
    (b"70000", "00c2701101000a0001a408fe953095a5"),
    (b"2147483648", "000a323134373438333634380a00e7b129a34c1d76ee"),
    (b"hello", "000568656c6c6f0a006372df766534200a"),
    (b"a" * 40, "00c30928016161e01b000161610a00cf092faaae25831d"),
    (b"abcabcabc" * 20, "00c30b40b40361626361e0a5020162630a002b5b6bac6c26c36d"),
    (
        b"x" * 300 + bytes(range(64)) * 4,
        "00c34051422c017878e0ff00e019001f000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
        "1f202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3fe0b53f013e3f0a0096fb8cc25ef9a35d",
    ),
    (
        b"".join(b"user:%d:name;" % number for number in range(12)),
        "00c3404740920c757365723a303a6e616d653b75400b0031e0020b0032e0020b0033e0020b0034e0020b0035e0020b00"
        "36e0020b0037e0020b0038e0020b0039e0020b0031e00478607901653b0a0043443e734558afab",
    ),
]
# A list, a sorted set, a hash, a set of strings, a set of numbers, as the same server dumped them.
OTHER_TYPES = [
    "1201020a0a0000000100816102ff0a0009b9edf594ded995",
    "110c0c00000002008161020101ff0a00a805ceb8d7a93302",
    "100d0d0000000200816102816202ff0a00d93c7f0728f0edcc",
    "020101610a006296e97e44d21a6d",
    "0b0a020000000100000001000a00056f61290c490534",
]


def _sealed(body: bytes, version: int = dump.VERSION) -> bytes:
    """A payload with the right checksum, whatever its content."""
    data = body + version.to_bytes(2, "little")
    return data + dump._crc64(data).to_bytes(8, "little")


def _packed(packed: bytes, length: int) -> bytes:
    return _sealed(b"\0\xc3" + dump._length(len(packed)) + dump._length(length) + packed)


@pytest.mark.parametrize(("value", "payload"), FROM_REDIS)
def test_what_redis_dumped_is_restored(value: bytes, payload: str) -> None:
    assert restored(bytes.fromhex(payload), _MOST) == value


@pytest.mark.parametrize(("value", "payload"), FROM_REDIS[:6])
def test_what_needs_no_compression_is_dumped_as_redis_does(value: bytes, payload: str) -> None:
    assert dumped(value) == bytes.fromhex(payload)


@pytest.mark.parametrize("size", [0, 63, 64, 16_383, 16_384, 70_000])
def test_every_form_of_a_length_is_read_back(size: int) -> None:
    assert restored(dumped(b"\xfe" * size), _MOST) == b"\xfe" * size


def test_the_long_form_of_a_length_is_read() -> None:
    assert restored(_sealed(b"\0\x81" + (5).to_bytes(8, "big") + b"hello"), _MOST) == b"hello"


@given(st.binary(max_size=300) | st.integers(-(1 << 33), 1 << 33).map(b"%d".__mod__))
@example(b"-2147483648")
@example(b"-2147483649")
@example(b"007")
@example(b"-0")
def test_a_dumped_string_is_restored(value: bytes) -> None:
    assert restored(dumped(value), _MOST) == value


@given(st.data(), st.binary(max_size=60))
def test_any_changed_byte_is_noticed(data: st.DataObject, value: bytes) -> None:
    payload = bytearray(dumped(value))
    place = data.draw(st.integers(0, len(payload) - 1))
    payload[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(UserError, match=r"^DUMP payload version or checksum are wrong$"):
        restored(bytes(payload), _MOST)


@pytest.mark.parametrize("payload", [b"", b"\0", b"x" * 9, _sealed(b"\0\1a", version=11), dumped(b"a")[:-1]])
def test_a_short_or_later_payload_is_refused_in_the_words_of_redis(payload: bytes) -> None:
    with pytest.raises(UserError, match=r"^DUMP payload version or checksum are wrong$"):
        restored(payload, _MOST)


def test_an_earlier_version_is_read() -> None:
    assert restored(_sealed(b"\0\1a", version=6), _MOST) == b"a"


def test_what_stands_behind_the_string_is_passed_over() -> None:
    assert restored(_sealed(b"\0\1a and more"), _MOST) == b"a"


@pytest.mark.parametrize("payload", OTHER_TYPES)
def test_another_type_is_refused_by_its_name(payload: str) -> None:
    with pytest.raises(UserError, match=r"^Bad data format: the payload's type is \d+, and only strings"):
        restored(bytes.fromhex(payload), _MOST)


@pytest.mark.parametrize(
    "body",
    [
        b"\0",  # no string
        b"\0\5abc",  # cut short
        b"\0\x40",  # half a length
        b"\0\x80\0\0\0",
        b"\0\x82\0",  # no such length
        b"\0\xc1\0",  # half a number
        b"\0\xc4\0",  # no such form
        b"\0\xc3\5\5ab",  # fewer packed bytes than announced
        b"\x08\1a",  # no such type
        b"\xff\1a",
    ],
)
def test_a_damaged_string_is_bad_data_format(body: bytes) -> None:
    with pytest.raises(UserError, match=r"^Bad data format$"):
        restored(_sealed(body), _MOST)


# LZF


@pytest.mark.parametrize(
    ("packed", "value"),
    [
        (b"\0a", b"a"),
        (b"\1ab\x20\1", b"ababa"),  # three bytes from two back: a copy that reaches into itself
        (b"\0a\xe0\xff\0", b"a" * 265),  # the longest copy
        (b"\2abc\x20\2\x20\5", b"abcabcabc"),
        (bytes([31]) + b"x" * 32, b"x" * 32),  # the longest run of literals
    ],
)
def test_lzf_unpacks(packed: bytes, value: bytes) -> None:
    assert restored(_packed(packed, len(value)), _MOST) == value


def test_lzf_reaches_eight_kibibytes_back() -> None:
    text = bytes(byte % 251 for byte in range(8192))
    literals = b"".join(bytes([31]) + text[at : at + 32] for at in range(0, len(text), 32))
    assert restored(_packed(literals + b"\x3f\xff", len(text) + 3), _MOST) == text + text[:3]


@pytest.mark.parametrize(
    ("packed", "length"),
    [
        (b"\0a", 2),  # shorter than announced
        (b"\1ab", 1),  # longer than announced
        (b"\5ab", 6),  # literals cut short
        (b"\0a\x20", 4),  # a copy cut short
        (b"\0a\xe0", 12),
        (b"\0a\x20\1", 4),  # from before the beginning
        (b"\x20\0", 3),
        (b"", 0x3FFF),
        (b"\0a\xe0\xff\0", 10_000),  # more than such bytes could ever make
    ],
)
def test_damaged_lzf_is_bad_data_format(packed: bytes, length: int) -> None:
    with pytest.raises(UserError, match=r"^Bad data format$"):
        restored(_packed(packed, length), _MOST)


@given(st.binary(max_size=40), st.integers(0, 3000))
def test_any_packed_bytes_are_read_or_refused(packed: bytes, length: int) -> None:
    try:
        made = len(restored(_packed(packed, length), _MOST))
    except UserError:
        made = length
    assert made == length


def test_an_announced_length_over_the_limit_is_refused_before_it_is_made() -> None:
    bomb = b"\0a" + b"\xe0\xff\0" * 5000
    with pytest.raises(TransactionTooLarge, match="max-transaction-bytes"):
        restored(_packed(bomb, 1 + 5000 * 264), _MOST)
    with pytest.raises(TransactionTooLarge, match="max-transaction-bytes"):
        restored(_sealed(b"\0\x81" + (1 << 60).to_bytes(8, "big") + b"x"), _MOST)


def test_lzf_that_would_take_too_long_is_refused() -> None:
    most = limits.LZF_BYTES_MAX
    packed = b"\0a" * (most // 2)
    assert restored(_packed(packed, most // 2), _MOST) == b"a" * (most // 2)
    with pytest.raises(LimitExceeded, match=f"^lzf-bytes exceeded: {most + 2} bytes, at most {most} are allowed$"):
        restored(_packed(packed + b"\0a", most // 2 + 1), _MOST)
    assert restored(dumped(b"a" * (most + 1)), 2 * most) == b"a" * (most + 1)  # it is not compressed


# with a redis-server


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    with redis_server(tmp_path_factory.mktemp("redis")) as port, Wire(HOST, port) as wire:
        yield wire


def _texts(seed: int) -> list[bytes]:
    generator = random.Random(seed)
    words = [generator.randbytes(generator.randint(1, 9)) for _ in range(12)]
    texts = [b"".join(generator.choices(words, k=generator.randint(0, 200))) for _ in range(40)]
    numbers = [b"%d" % generator.randint(-(1 << bits), 1 << bits) for bits in range(0, 70, 3)]
    return [*texts, *numbers, b"z" * 100_000, Path(__file__).read_bytes()]


def test_redis_restores_what_is_dumped_and_what_it_dumps_is_restored(redis: Wire, seed: int) -> None:
    compressed = 0
    for text in _texts(seed):
        assert redis.call(b"RESTORE", b"k", b"0", dumped(text), b"REPLACE") == b"+OK\r\n"
        assert parsed(redis.call(b"GET", b"k"))[0].content == text
        payload = parsed(redis.call(b"DUMP", b"k"))[0].content
        compressed += payload[1] == 0xC3
        assert restored(payload, _MOST) == text
    assert compressed > 10
