"""Lines of words: how inline commands are split, and what no line-based port may run."""

from __future__ import annotations

import re
from typing import Final

_HTTP: Final = re.compile(rb"[A-Z]+ [^ ]+ HTTP/1\.[0-9]\r?$|host:", re.IGNORECASE)
_SPACE: Final = b" \t\n\v\f\r"  # passed over between words; not all of it ends a word without quotes
_PLAIN: Final = re.compile(rb"[ \t\n\v\f\r]*([^ \t\n\r\"']*)")
_QUOTED: Final = {
    # Possessive: what may be given back costs memory for each character.
    b'"': re.compile(rb'"((?:[^"\\]++|\\.)*+)"', re.DOTALL),
    b"'": re.compile(rb"'((?:[^'\\]++|\\'|\\(?!'))*+)'", re.DOTALL),
}
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
    at = 0
    while True:
        plain = _PLAIN.match(line, at)
        assert plain is not None  # it matches anything
        word, at = plain[1], plain.end()
        quote = line[at : at + 1]
        if quote in _QUOTED:
            quoted = _QUOTED[quote].match(line, at)
            if quoted is None or (quoted.end() < len(line) and line[quoted.end()] not in _SPACE):
                return None
            at = quoted.end()
            word += _ESCAPE.sub(_unescape, quoted[1]) if quote == b'"' else quoted[1].replace(b"\\'", b"'")
        elif not word:
            return words
        words.append(word)


def _unescape(match: re.Match[bytes]) -> bytes:
    if match[1]:
        return bytes((int(match[1], 16),))
    return _ESCAPED.get(match[2], match[2])
