"""CSV as RFC 4180 has it: a header, one row a record, cells quoted where they need it.

    header   = key,value,kind,expires,database
    key      = text | base64                ; as `row` has them; a text that begins like base64 is written as base64
    value    = text | base64                ; of kind TEXT
             | the base64 of its bytes      ; of kind BYTES
             | JSON                         ; of kind OBJECT, as `row` has it
    expires  = milliseconds since 1970, or nothing

A table of somebody else's has any columns: two of them are named as key and value, both are texts, and taken as they
are. So is one that has the columns key and value, without kind.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from keyhaus.core.errors import UserError
from keyhaus.core.limits import MIB, ROW_BYTES_MAX
from keyhaus.core.objects import BYTES, OBJECT, TEXT
from keyhaus.protocol.files.row import (
    KINDS,
    BrokenFile,
    Read,
    Row,
    base64_form,
    checked_database,
    checked_expiry,
    checked_key,
    read_key,
    read_value,
    text_form,
    value_form,
)

COLUMNS: Final = ("key", "value", "kind", "expires", "database")
_BASE64: Final = '{"base64"'


class TableWriter:
    """Writes a table piece by piece."""

    def __init__(self) -> None:
        self._buffer = io.StringIO(newline="")
        self._writer = csv.writer(self._buffer, lineterminator="\r\n")

    def head(self) -> bytes:
        return self._record(COLUMNS)

    def add(self, row: Row) -> bytes:
        """The row's record."""
        if row.kind == TEXT:
            value = _text_cell(row.value)
        elif row.kind == BYTES:
            value = base64.b64encode(row.value).decode()
        else:
            value = msgspec.json.encode(value_form(OBJECT, row.value)).decode()
        return self._record((_text_cell(row.key), value, row.kind, row.expires or "", row.database))

    def _record(self, cells: tuple[Any, ...]) -> bytes:
        self._writer.writerow(cells)
        text = self._buffer.getvalue()
        self._buffer.seek(0)
        self._buffer.truncate()
        return text.encode()


def _text_cell(data: bytes) -> str:
    form = text_form(data)
    if isinstance(form, str) and not form.startswith(_BASE64):
        return form
    return msgspec.json.encode(base64_form(data)).decode()


def read(
    read_line: Callable[[int], bytes],
    key_column: str | None = None,
    value_column: str | None = None,
    most: int = ROW_BYTES_MAX,
) -> Iterator[Read]:
    """The rows of a table.

    Args:
        read_line: Gives the next line up to its end, or so many bytes of it; nothing at the end.
        key_column, value_column: The columns of somebody else's table.
        most: How many bytes a line and a cell may have.

    Raises:
        BrokenFile: The columns are not there, or a line is too long.
    """
    csv.field_size_limit(most)
    records = csv.reader(_lines(read_line, most), strict=True)
    try:
        names = next(records, None)
    except csv.Error as error:
        raise BrokenFile(f"line 1: the header is no CSV: {error}") from None
    if names is None:
        raise BrokenFile("line 1: there is no header, which names the columns")
    places = _places(names, key_column, value_column)
    while True:
        line = records.line_num + 1
        try:
            record = next(records, None)
        except csv.Error as error:
            yield Read(line, None, f"line {line}: this is no CSV: {error}")
            continue
        if record is None:
            return
        if record:
            yield _read(line, record, names, places)


def _lines(read_line: Callable[[int], bytes], most: int) -> Iterator[str]:
    """The lines as texts; what is no UTF-8 in them are surrogates."""
    number = 0
    while data := read_line(most + 1):
        number += 1
        if len(data) > most:
            raise BrokenFile(f"line {number}, column 1: it has more than {most // MIB} MiB")
        text = data.decode("utf-8", "surrogateescape")
        yield text.removeprefix("\ufeff") if number == 1 else text


def _places(names: list[str], key_column: str | None, value_column: str | None) -> dict[str, int]:
    """At which place each of our columns stands. Raises BrokenFile."""
    ours = {"key": key_column or "key", "value": value_column or "value"}
    if key_column is None and value_column is None:
        unknown = [name for name in names if name not in COLUMNS]
        if unknown:
            raise BrokenFile(
                f"line 1: the columns are {', '.join(COLUMNS)}, and {unknown[0]!r} is none of them: say which columns "
                "hold the keys and the values, with --key-column and --value-column"
            )
        ours |= {name: name for name in COLUMNS if name in names}
    for name in ours.values():
        if names.count(name) != 1:
            count = "more than one" if name in names else "no"
            raise BrokenFile(f"line 1: there is {count} column {name!r} among {', '.join(names)}")
    return {column: names.index(name) for column, name in ours.items()}


def _read(line: int, record: list[str], names: list[str], places: dict[str, int]) -> Read:
    if len(record) != len(names):
        return Read(line, None, f"line {line}: it has {len(record)} cells, and the header {len(names)}")
    cells = {column: record[place] for column, place in places.items()}
    column = ""
    try:
        typed = "kind" in cells
        column = "key"
        key = read_key(_text_form(cells["key"])) if typed else checked_key(_utf8(cells["key"]))
        column = "kind"
        kind = cells.get("kind") or TEXT
        if kind not in KINDS:
            raise UserError(f"a kind is TEXT, BYTES or OBJECT, not {kind!r}")
        column = "value"
        value = _value(kind, cells["value"]) if typed else _utf8(cells["value"])
        column = "expires"
        expires = checked_expiry(_number(cells["expires"])) if cells.get("expires") else 0
        column = "database"
        database = checked_database(_number(cells["database"])) if cells.get("database") else 0
    except UserError as error:
        return Read(line, None, f"line {line}, column {names[places[column]]!r}: {error.message}")
    return Read(line, Row(database, key, kind, value, expires))


def _value(kind: str, cell: str) -> bytes:
    if kind == TEXT:
        return read_value(_text_form(cell), TEXT)[1]
    if kind == BYTES:
        return read_value({"base64": cell}, BYTES)[1]
    return read_value(_json(cell), OBJECT)[1]


def _text_form(cell: str) -> Any:
    return _json(cell) if cell.startswith(_BASE64) else cell


def _json(cell: str) -> Any:
    try:
        return msgspec.json.decode(_utf8(cell))
    except (msgspec.MsgspecError, RecursionError) as error:
        raise UserError(f"this is no JSON: {error}") from None


def _number(cell: str) -> Any:
    return int(cell) if cell.isascii() and cell.removeprefix("-").isdigit() and len(cell) <= 20 else cell


def _utf8(cell: str) -> bytes:
    try:
        return cell.encode()
    except UnicodeEncodeError:
        raise UserError("it is no UTF-8") from None
