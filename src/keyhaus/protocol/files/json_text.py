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
_QUOTE: Final = ord('"')
_BOM: Final = b"\xef\xbb\xbf"
_NO_BLANK: Final = re.compile(rb"[^ \t\r\n]")
_IN_STRING: Final = re.compile(rb'["\\]')
_NESTING: Final = re.compile(rb'["{}\[\]]')
_BEHIND_WORD: Final = re.compile(rb"[,\]} \t\r\n]")
_BYTE: Final = re.compile(r" \(byte (\d+)\)$")
_WORDS: Final = {
    "Input data was truncated": "it ends too early",
    "JSON is malformed: ": "",
}


class JsonText:
    """A text, read from its beginning."""

    def __init__(self, read: Callable[[int], bytes], most: int = ROW_BYTES_MAX) -> None:
        """`read` gives the next bytes, up to so many, and none at the end; a part may have `most` bytes."""
        self._read, self._most = read, most
        self._data = bytearray()
        self._at = 0
        self._ended = False
        # The place is only looked for where somebody asks: from the last point on at which it is known.
        self._known = 0
        self._line = self._column = 1
        while len(self._data) < len(_BOM) and self._more():
            pass
        if self._data.startswith(_BOM):
            self._at = self._known = len(_BOM)

    def mark(self) -> int:
        """The line on which the next character stands, blanks aside; offsets count from here."""
        self.peek()
        self._line, self._column = self.place(self.offset)
        self._known = self._at
        return self._line

    @property
    def offset(self) -> int:
        """Bytes from the mark to here."""
        return self._at - self._known

    def place(self, offset: int) -> tuple[int, int]:
        """The line and column so many bytes behind the mark, both counted from 1; columns are characters."""
        return place_behind(self._data[self._known : self._known + offset], self._line, self._column)

    def peek(self) -> int:
        """The next character that is no blank; -1 at the end."""
        while True:
            match = _NO_BLANK.search(self._data, self._at)
            if match is not None:
                self._at = match.start()
                return self._data[self._at]
            self._at = len(self._data)
            if not self._more():
                return -1

    def take(self, characters: bytes, expected: str) -> int:
        """The next character, which is one of those; raises BrokenFile saying what was expected."""
        found = self.peek()
        if found == -1 or found not in characters:
            raise self.broken(f"expected {expected}, found {_shown(found)}")
        self._at += 1
        return found

    def part(self) -> bytes:
        """The next value, whatever it is. Raises BrokenFile."""
        first = self.peek()
        if first == -1 or first in b",:]}":
            raise self.broken(f"expected a value, found {_shown(first)}")
        if first == _QUOTE:
            length = self._string_end(1)
        elif first in b"{[":
            length = self._nested_end()
        else:
            length = self._word_end()
        end = self._at + length
        data = bytes(self._data[self._at : end])
        self._at = end
        return data

    def broken(self, problem: str) -> BrokenFile:
        line, column = self.place(self.offset)
        return BrokenFile(f"line {line}, column {column}: {problem}")

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
        del self._data[: self._known]
        self._at -= self._known
        self._known = 0
        self._data += piece
        return True


def _shown(character: int) -> str:
    return "the end of the file" if character == -1 else repr(chr(character))


def place_behind(data: bytes | bytearray, line: int, column: int) -> tuple[int, int]:
    """The line and column behind some bytes that begin at a place."""
    breaks = data.count(b"\n")
    if breaks:
        data, line, column = data[data.rfind(b"\n") + 1 :], line + breaks, 1
    return line, column + len(data.decode("utf-8", "replace"))


class NoJson(UserError):
    """Some bytes are no JSON.

    Attributes:
        at: Which of them is the first that is none.
    """

    def __init__(self, message: str, at: int = 0) -> None:
        super().__init__(f"this is no JSON: {message}")
        self.at = at


def read_json(data: bytes) -> Any:
    """What some bytes say. Raises NoJson."""
    try:
        return msgspec.json.decode(data)
    except msgspec.MsgspecError as error:
        message, at = str(error), 0
        place = _BYTE.search(message)
        if place is not None:
            message, at = message[: place.start()], int(place[1])
        for theirs, ours in _WORDS.items():
            message = message.replace(theirs, ours)
        raise NoJson(message, at) from None
    except UnicodeDecodeError as error:
        raise NoJson("it is no UTF-8", error.start) from None
    except RecursionError:
        raise NoJson("it is nested too deeply") from None
