"""Words as they are typed and shown: quoted as redis-cli quotes, so that what is shown can be typed again.

Invariants: `split(quoted(word).encode()) == [word]` for every word. What `escaped`, `quoted` and `shown` return has
printable characters only, whatever the bytes were: no escape sequence, no control character, nothing that turns the
direction of writing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from keyhaus.core import limits
from keyhaus.core.errors import LimitExceeded, Syntax
from keyhaus.protocol.inline import split_words

_STOPS: Final = {
    b"": re.compile(rb"[\"']"),
    b'"': re.compile(rb'\\.|"', re.DOTALL),
    b"'": re.compile(rb"\\'|'"),
}
_PIECE: Final = re.compile(
    rb"""(?P<blank>[ \t\n\v\f\r]+) | "(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\'|\\(?!'))*' | [^ \t\n\v\f\r"']+ | ["'].*""",
    re.DOTALL | re.VERBOSE,
)
_SPECIAL: Final = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\a": "\\a"}
_UNUSUAL: Final = re.compile(r"[^ !#-\[\]-~]")  # what may need an escape: all but plain ASCII without quote, backslash
_NEEDS_QUOTES: Final = re.compile(r"[\s\"'\\]|^#|^$")


# what is typed


def split(line: bytes) -> list[bytes]:
    """The words of a command. Raises Syntax."""
    words = split_words(line)
    if words is None:
        raise Syntax("the quotes are not balanced, or something follows a closing quote without a blank")
    return words


def quote_after(text: bytes, quote: bytes = b"") -> bytes:
    """The quote that is open behind a text that begins inside of `quote`; empty for none."""
    at = 0
    while found := _STOPS[quote].search(text, at):
        at = found.end()
        if found[0] in (b'"', b"'"):
            quote = b"" if quote else found[0]
    return quote


def commands(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """The commands of a script, each with the number of its first line, without blank lines and `#` comments.

    A line whose quotes are open goes on in the next one. Raises LimitExceeded where a command is too long.
    """
    parts: list[bytes] = []
    size, begun, quote = 0, 0, b""
    for number, line in enumerate(lines, 1):
        if not parts:
            if not line.strip() or line.lstrip().startswith(b"#"):
                continue
            begun = number
        parts.append(line)
        size += len(line)
        if size > limits.REQUEST_BYTES_MAX:
            raise LimitExceeded("max-request-bytes", size, limits.REQUEST_BYTES_MAX)
        quote = quote_after(line, quote)
        if not quote:
            yield begun, b"".join(parts).strip()
            parts, size = [], 0
    if parts:
        yield begun, b"".join(parts)


class Fragment(NamedTuple):
    """What stands before the cursor.

    Attributes:
        words: The words that are complete.
        raw: The last word as it is typed so far, quotes included; empty behind a blank.
        word: What the last word says so far.
    """

    words: list[bytes]
    raw: bytes
    word: bytes


def fragment(text: bytes) -> Fragment | None:
    """The words before the cursor, of the last command; None where its quotes make no sense."""
    start = quoted_from = 0
    for piece in _PIECE.finditer(text):
        if piece["blank"]:
            start = piece.end()
            if b"\n" in piece["blank"]:
                quoted_from = start
    words = split_words(text[quoted_from:start])
    raw = text[start:]
    quote = quote_after(raw)
    last = split_words(raw + quote)
    if last is None and quote:  # a backslash that waits for what follows it
        last = split_words(raw[:-1] + quote)
    if words is None or last is None:
        return None
    return Fragment(words, raw, last[0] if last else b"")


# what is shown


def escaped(data: bytes | str) -> str:
    """Text without quotes around it: what is not printable becomes an escape, of its bytes in UTF-8."""
    text = data if isinstance(data, str) else data.decode("utf-8", "surrogateescape")
    return _UNUSUAL.sub(lambda found: found[0] if found[0] == '"' else _escape(found[0]), text)


def shown(data: bytes) -> str:
    """A value in double quotes."""
    return f'"{_UNUSUAL.sub(lambda found: _escape(found[0]), data.decode("utf-8", "surrogateescape"))}"'


def quoted(word: bytes) -> str:
    """A word as it can be typed: without quotes where it needs none."""
    text = word.decode("utf-8", "surrogateescape")
    return shown(word) if _NEEDS_QUOTES.search(text) or not text.isprintable() else text


def paragraphs(data: bytes | str) -> str:
    """Text of several lines for people: line ends stay, all else is as in `escaped`."""
    text = data if isinstance(data, str) else data.decode("utf-8", "surrogateescape")
    return "\n".join(escaped(line).replace("\\\\", "\\") for line in text.replace("\r\n", "\n").split("\n"))


def _escape(character: str) -> str:
    special = _SPECIAL.get(character)
    if special is not None:
        return special
    if character.isprintable():
        return character
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))
