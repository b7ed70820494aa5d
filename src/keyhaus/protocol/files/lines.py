"""NDJSON: one row a line, as `row` has it; blank lines are none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from keyhaus.core.errors import UserError
from keyhaus.core.limits import MIB, ROW_BYTES_MAX
from keyhaus.protocol.files.json_text import NoJson, place_behind, read_json
from keyhaus.protocol.files.row import BrokenFile, Read, Row, read_row, row_form

_encoder: Final = msgspec.json.Encoder()
_BOM: Final = b"\xef\xbb\xbf"


def encode(row: Row) -> bytes:
    """A row's line."""
    return _encoder.encode(row_form(row)) + b"\n"


def read(read_line: Callable[[int], bytes], most: int = ROW_BYTES_MAX) -> Iterator[Read]:
    """The rows of a file.

    Args:
        read_line: Gives the next line up to its end, or so many bytes of it; nothing at the end.
        most: How many bytes a line may have.

    Raises:
        BrokenFile: A line is too long.
    """
    number = 0
    while data := read_line(most + 1):
        number += 1
        if len(data) > most:
            raise BrokenFile(f"line {number}, column 1: it has more than {most // MIB} MiB")
        if number == 1:
            data = data.removeprefix(_BOM)
        text = data.strip(b" \t\r\n")
        if text:
            yield _read(text, number, 1 + len(data) - len(data.lstrip(b" \t\r\n")))


def _read(text: bytes, line: int, column: int) -> Read:
    try:
        return Read(line, read_row(read_json(text)))
    except NoJson as error:
        column = place_behind(text[: error.at], line, column)[1]
        return Read(line, None, f"line {line}, column {column}: {error.message}")
    except UserError as error:
        return Read(line, None, f"line {line}, column {column}: {error.message}")
