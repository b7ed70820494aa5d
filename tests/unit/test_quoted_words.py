"""What a message quotes of a request is what a redis-server 7.0.15 quotes of it."""

from __future__ import annotations

import pytest

from keyhaus.protocol.resp import RespCodec
from tests.support.surroundings import Surrounded

_HELLO = b"-ERR Syntax error in HELLO option '%s'\r\n"
_CONFIG = b"-ERR Unknown option or number of arguments for CONFIG SET - '%s'\r\n"


@pytest.mark.parametrize("name", ["EXPIRE", "PEXPIRE", "EXPIREAT", "PEXPIREAT"])
@pytest.mark.parametrize(
    ("word", "quoted"),
    [
        *((b"abc\r\n", b"abc"), (b"a\r\nb\n\r", b"a  b"), (b"\r\n", b""), (b"abc\r\n\0x", b"abc")),
        *((b"abc \r\n", b"abc "), (b"abc\r\n ", b"abc   "), (b"\0", b"")),
    ],
)
def test_an_option_of_an_expiry_is_quoted_without_its_line_end(name: str, word: bytes, quoted: bytes) -> None:
    reply = Surrounded().run(name, "k", "100", word)
    assert RespCodec().encode(reply) == b"-ERR Unsupported option %s\r\n" % quoted


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        *(((b"HELLO", b"3", b"a\0bc"), _HELLO % b"a"), ((b"HELLO", b"3", b"\0"), _HELLO % b"")),
        *(((b"HELLO", b"3", b"a\r\n\0b"), _HELLO % b"a  "), ((b"HELLO", b"3", b"a\0\r\nb"), _HELLO % b"a")),
        *(((b"CONFIG", b"SET", b"z\0z", b"1"), _CONFIG % b"z"), ((b"CONFIG", b"SET", b"\0", b"1"), _CONFIG % b"")),
        ((b"CONFIG", b"SET", b"maxmemory\0", b"1"), _CONFIG % b"maxmemory"),
        ((b"CONFIG", b"SET", b"z\r\nb", b"1"), _CONFIG % b"z  b"),
    ],
)
def test_a_word_is_quoted_up_to_its_nul(words: tuple[bytes, ...], expected: bytes) -> None:
    assert RespCodec().encode(Surrounded().run(*words)) == expected
