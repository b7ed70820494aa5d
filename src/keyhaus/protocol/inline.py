"""Lines of words: how inline commands are split, and what no line-based port may run."""

from __future__ import annotations

import re
from typing import Final

_HTTP: Final = re.compile(rb"[A-Z]+ [^ ]+ HTTP/1\.[0-9]\r?$|host:", re.IGNORECASE)
_SPACE: Final = b" \t\n\v\f\r"  # passed over between words
_ENDS: Final = b" \t\n\r"  # what ends a word without quotes
_ESCAPE: Final = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_ESCAPED: Final = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"a": b"\a"}


def is_http(line: bytes) -> bool:
    """Whether a line is an HTTP request line or its Host header: a browser's POST must not run what is in its body."""
    return _HTTP.match(line) is not None


def split_words(line: bytes) -> list[bytes] | None:
    """The words of a line, quoted as redis-cli quotes; None where the quotes are not balanced.

    Words stand between blanks. In double quotes `\\n \\r \\t \\b \\a` and `\\xHH` are what they are in C and any other
    character behind a backslash is itself; in single quotes only `\\'` is special. A closing quote ends its word.
    """
    words: list[bytes] = []
    at, end = 0, len(line)
    while True:
        while at < end and line[at] in _SPACE:
            at += 1
        if at == end:
            return words
        word = bytearray()
        while at < end and line[at] not in _ENDS:
            if line[at] in b"\"'":
                quoted = _quoted(line, at)
                if quoted is None:
                    return None
                part, at = quoted
                word += part
                if at < end and line[at] not in _SPACE:
                    return None
                break
            word.append(line[at])
            at += 1
        words.append(bytes(word))


def _quoted(line: bytes, at: int) -> tuple[bytes, int] | None:
    """What stands in the quotes that open at `at`, and where they end; None where they never do."""
    quote = line[at : at + 1]
    inside = _DOUBLE if quote == b'"' else _SINGLE
    match = inside.match(line, at)
    if match is None:
        return None
    text = match[1]
    if quote == b"'":
        return text.replace(b"\\'", b"'"), match.end()
    return _ESCAPE.sub(_unescape, text), match.end()


_DOUBLE: Final = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_SINGLE: Final = re.compile(rb"'((?:[^'\\]|\\'|\\(?!'))*)'", re.DOTALL)


def _unescape(match: re.Match[bytes]) -> bytes:
    if match[1]:
        return bytes((int(match[1], 16),))
    return _ESCAPED.get(match[2], match[2])
