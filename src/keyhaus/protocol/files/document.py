"""One JSON document of all rows: the state file of those who kept a key-value store in JSON, and what it can't hold.

    document = {key: value, …}                          ; database 0
             | {key: value, …, "keyhaus.rows": [row, …]}

A member is a key and its value as `row` has it. Rows that no member can express stand as whole rows under the one name
`keyhaus.rows`: those of other databases, with an expiry, a key that is no UTF-8, a TEXT that is none, and a key that is
called `keyhaus.rows`. Without any of those the document is plain, as any JSON library writes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import IO, Final

import msgspec

from keyhaus.core.errors import UserError
from keyhaus.core.limits import ROW_BYTES_MAX
from keyhaus.core.objects import TEXT
from keyhaus.protocol.files import lines
from keyhaus.protocol.files.json_text import JsonText, NoJson, read_json
from keyhaus.protocol.files.row import Read, Row, checked_key, read_row, read_value, text_form, value_form

ROWS: Final = "keyhaus.rows"
_encoder: Final = msgspec.json.Encoder()
_COPY_BYTES: Final = 256 * 1024
_QUOTE, _END, _ARRAY_END = b'"}]'


class DocumentWriter:
    """Writes a document piece by piece, in the order in which the rows come."""

    def __init__(self, aside: IO[bytes]) -> None:
        """`aside` keeps the rows that no member can express until the end: an empty file to write and read."""
        self._aside = aside
        self._members = self._rows = 0

    def add(self, row: Row) -> bytes:
        """The row's piece; empty for one that comes at the end."""
        key, value = text_form(row.key), None
        if not row.database and not row.expires and isinstance(key, str) and key != ROWS:
            value = value_form(row.kind, row.value)
            if row.kind == TEXT and not isinstance(value, str):
                value = None
        if value is None:
            self._aside.write((b",\n" if self._rows else b"\n") + lines.encode(row)[:-1])
            self._rows += 1
            return b""
        return self._member(key) + _encoder.encode(value)

    def _member(self, name: str) -> bytes:
        self._members += 1
        return (b"{\n" if self._members == 1 else b",\n") + _encoder.encode(name) + b": "

    def end(self) -> Iterator[bytes]:
        """The last pieces."""
        if self._rows:
            yield self._member(ROWS) + b"["
            self._aside.seek(0)
            while piece := self._aside.read(_COPY_BYTES):
                yield piece
            yield b"\n]"
        yield b"\n}\n" if self._members else b"{}\n"


def read(read_bytes: Callable[[int], bytes], most: int = ROW_BYTES_MAX) -> Iterator[Read]:
    """The rows of a document.

    Args:
        read_bytes: Gives the next bytes, up to so many; none at the end.
        most: How many bytes a member or a row may have.

    Raises:
        BrokenFile: It is no JSON, or no object; what was read before stands.
    """
    text = JsonText(read_bytes, most)
    text.take(b"{", "an object, {key: value, …}")
    if text.peek() == _END:
        text.take(b"}", "its end")
    else:
        while True:
            yield from _member(text)
            if text.take(b",}", "a comma, or the end of the object") == _END:
                break
    if text.peek() != -1:
        raise text.broken("the document has ended, and something follows")


def _member(text: JsonText) -> Iterator[Read]:
    line = text.mark()
    if text.peek() != _QUOTE:
        raise text.broken("expected a key, which is a text in quotes")
    name = text.part()
    text.take(b":", "a colon behind the key")
    text.peek()
    offset, at = text.offset, 0
    try:
        key = read_json(name)
    except NoJson as error:
        text.part()
        yield _problem(text, line, error.at, error)
        return
    if key == ROWS:
        yield from _rows(text)
        return
    data = text.part()
    try:
        checked_key(key.encode())
        at = offset
        kind, value = read_value(read_json(data))
    except NoJson as error:
        yield _problem(text, line, at + error.at, error)
    except UserError as error:
        yield _problem(text, line, at, error)
    else:
        yield Read(line, Row(0, key.encode(), kind, value))


def _rows(text: JsonText) -> Iterator[Read]:
    text.take(b"[", f"an array of rows under {ROWS!r}")
    if text.peek() == _ARRAY_END:
        text.take(b"]", "its end")
        return
    while True:
        line = text.mark()
        data = text.part()
        try:
            yield Read(line, read_row(read_json(data)))
        except NoJson as error:
            yield _problem(text, line, error.at, error)
        except UserError as error:
            yield _problem(text, line, 0, error)
        if text.take(b",]", "a comma, or the end of the array") == _ARRAY_END:
            return


def _problem(text: JsonText, line: int, offset: int, error: UserError) -> Read:
    place = text.place(offset)
    return Read(line, None, f"line {place[0]}, column {place[1]}: {error.message}")
