"""A JSON text that comes in pieces: where its parts begin and end, and where in it one is.

What a part says is msgspec's to read. Here only its end is looked for, once over each byte, so that a document may be
larger than memory, and one part of it is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import msgspec

from keyhaus.core.errors import UserError
from keyhaus.core.limits import MIB, ROW_BYTES_MAX
from keyhaus.protocol.files.row import BrokenFile

PIECE_BYTES: Final = 256 * 1024
_BOM: Final = b"\xef\xbb\xbf"
_BLANKS: Final = re.compile(rb"[ \t\r\n]*")
_IN_STRING: Final = re.compile(rb'["\\]')
_NESTING: Final = re.compile(rb'["{}\[\]]')
_BEHIND_WORD: Final = re.compile(rb"[,\]} \t\r\n]")
_BYTE: Final = re.compile(r" \(byte (\d+)\)$")
_WORDS: Final = {
    "Input data was truncated": "it ends too early",
    "JSON is malformed: ": "",
}


class JsonText:
    """A text, read from its beginning.

    Attributes:
        line, column: The place, both counted from 1; columns are characters.
    """

    def __init__(self, read: Callable[[int], bytes], most: int = ROW_BYTES_MAX) -> None:
        """`read` gives the next bytes, up to so many, and none at the end; a part may have `most` bytes."""
        self._read, self._most = read, most
        self._data = bytearray()
        self._at = 0
        self._ended = False
        self.line = self.column = 1
        while len(self._data) < len(_BOM) and self._more():
            pass
        if self._data.startswith(_BOM):
            self._at = len(_BOM)

    def peek(self) -> bytes:
        """The next character that is no blank; empty at the end."""
        while True:
            match = _BLANKS.match(self._data, self._at)
            assert match is not None
            self._advance(match.end())
            if self._at < len(self._data):
                return bytes(self._data[self._at : self._at + 1])
            if not self._more():
                return b""

    def take(self, characters: bytes, expected: str) -> bytes:
        """The next character, which is one of those; raises BrokenFile saying what was expected."""
        found = self.peek()
        if not found or found not in characters:
            shown = repr(found.decode("latin-1")) if found else "the end of the file"
            raise self.broken(f"expected {expected}, found {shown}")
        self._advance(self._at + 1)
        return found

    def part(self) -> bytes:
        """The next value, whatever it is. Raises BrokenFile."""
        first = self.peek()
        if not first or first in b",:]}":
            raise self.broken(f"expected a value, found {repr(first.decode()) if first else 'the end of the file'}")
        if first == b'"':
            length = self._string_end(1)
        elif first in b"{[":
            length = self._nested_end()
        else:
            length = self._word_end()
        data = bytes(self._data[self._at : self._at + length])
        self._advance(self._at + length)
        return data

    def broken(self, problem: str) -> BrokenFile:
        return BrokenFile(f"line {self.line}, column {self.column}: {problem}")

    # Lengths, from the place on: what is read meanwhile moves the place within the buffer.

    def _string_end(self, length: int) -> int:
        while True:
            match = _IN_STRING.search(self._data, self._at + length)
            if match is None:
                length = self._grown()
            elif match[0] == b'"':
                return match.end() - self._at
            else:
                length = match.end() + 1 - self._at
                while length > len(self._data) - self._at:
                    self._grown()

    def _nested_end(self) -> int:
        depth = length = 0
        while True:
            match = _NESTING.search(self._data, self._at + length)
            if match is None:
                length = self._grown()
                continue
            length = match.end() - self._at
            if match[0] == b'"':
                length = self._string_end(length)
            else:
                depth += 1 if match[0] in b"{[" else -1
                if not depth:
                    return length

    def _word_end(self) -> int:
        length = 0
        while True:
            match = _BEHIND_WORD.search(self._data, self._at + length)
            if match is not None:
                return match.start() - self._at
            length = len(self._data) - self._at
            if not self._more():
                return length

    def _grown(self) -> int:
        """Reads on in the middle of a part; how much of it there was. Raises BrokenFile."""
        length = len(self._data) - self._at
        if length > self._most:
            raise self.broken(f"what begins here has more than {self._most // MIB} MiB")
        if not self._more():
            raise self.broken("what begins here has no end")
        return length

    def _more(self) -> bool:
        if self._ended:
            return False
        piece = self._read(PIECE_BYTES)
        if not piece:
            self._ended = True
            return False
        del self._data[: self._at]
        self._at = 0
        self._data += piece
        return True

    def _advance(self, to: int) -> None:
        self.line, self.column = place_behind(self._data[self._at : to], self.line, self.column)
        self._at = to


def place_behind(data: bytes | bytearray, line: int, column: int) -> tuple[int, int]:
    """The line and column behind some bytes that begin at a place."""
    breaks = data.count(b"\n")
    if breaks:
        data, line, column = data[data.rfind(b"\n") + 1 :], line + breaks, 1
    return line, column + len(data.decode("utf-8", "replace"))


class NoJson(UserError):
    """A part is no JSON; the message has no place, `line` and `column` have."""

    def __init__(self, message: str, line: int, column: int) -> None:
        super().__init__(message)
        self.line, self.column = line, column


def read_json(data: bytes, line: int, column: int) -> Any:
    """What a part says that begins at a place. Raises NoJson with the place at which it is none."""
    try:
        return msgspec.json.decode(data)
    except msgspec.MsgspecError as error:
        message = str(error)
        at = _BYTE.search(message)
        if at is not None:
            message = message[: at.start()]
            line, column = place_behind(data[: int(at[1])], line, column)
        for theirs, ours in _WORDS.items():
            message = message.replace(theirs, ours)
        raise NoJson(f"this is no JSON: {message}", line, column) from None
    except UnicodeDecodeError as error:
        raise NoJson("this is no JSON: it is no UTF-8", *place_behind(data[: error.start], line, column)) from None
    except RecursionError:
        raise NoJson("it is nested too deeply", line, column) from None
