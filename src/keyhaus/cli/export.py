"""`keyhaus export`: writes the rows of a database to a file, as they are at one moment."""

from __future__ import annotations

import contextlib
import enum
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from keyhaus.cli import database as databases
from keyhaus.cli import report
from keyhaus.cli.database import DataDir, Door, Url
from keyhaus.cli.meter import Meter
from keyhaus.core.access.words import prefix_end
from keyhaus.core.disk import replace_file
from keyhaus.core.errors import Error, SnapshotTooOld
from keyhaus.core.keys import PLAIN_END
from keyhaus.core.limits import MIB
from keyhaus.core.settings import INT_MAX
from keyhaus.protocol.files import lines
from keyhaus.protocol.files.document import DocumentWriter
from keyhaus.protocol.files.row import Row
from keyhaus.protocol.files.table import TableWriter

PAGE_ROWS: Final = 1000
ASIDE_BYTES: Final = MIB  # of what a document has at its end, in memory; past it, in a temporary file
_ENDED: Final = frozenset(("SNAPSHOTTOOOLD", "TXTIMEOUT", "NOTX"))


class Format(enum.StrEnum):
    JSON = "json"
    NDJSON = "ndjson"
    CSV = "csv"


_SUFFIXES: Final = {
    ".json": Format.JSON,
    ".ndjson": Format.NDJSON,
    ".jsonl": Format.NDJSON,
    ".csv": Format.CSV,
}


def format_of(path: str, given: Format | None) -> Format:
    """The format that was asked for, or else that of the file's name, or else NDJSON."""
    return given or _SUFFIXES.get(Path(path).suffix.lower(), Format.NDJSON)


FormatOption = Annotated[
    Format | None,
    typer.Option(
        "--format",
        help="ndjson (one row a line), json (one document, key by key), or csv (a table).  "
        "[default: by the file's name, else ndjson]",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one line of JSON at the end.")]


def export(
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            help="The file, which is written whole or not at all; - is standard output.",
            metavar="FILE",
        ),
    ] = "-",
    form: FormatOption = None,
    url: Url = None,
    data_dir: DataDir = Path("data"),
    database: Annotated[
        int | None, typer.Option(help="Only this database.  [default: all]", metavar="N", min=0, show_default=False)
    ] = None,
    prefix: Annotated[str, typer.Option(help="Only keys that begin so.")] = "",
    match: Annotated[str | None, typer.Option(help="Only keys that match, as of KEYS.", metavar="PATTERN")] = None,
    json: Json = False,
) -> None:
    """Write the rows of a running server, or of a stopped database, to a file.

    All of it is of one moment. Kinds and expiries are kept. A file that is there is replaced once the new one is
    complete.

    Examples:

      keyhaus export --url redis://127.0.0.1:19272 --output rows.ndjson

      keyhaus export --data-dir /var/lib/keyhaus --format csv --prefix user: | xz > users.csv.xz
    """
    chosen = format_of(output, form)
    with (
        report.failures(),
        Meter("exporting", shown=not json) as meter,
        databases.opened(url, data_dir, to_read=True) as door,
        destination(output) as write,
    ):
        if meter.shows:
            meter.total(None if prefix or match else databases.keys(door, database))
        low = os.fsencode(prefix)
        rows = rows_of(door, database, low, prefix_end(low) if prefix else b"", match, meter)
        for piece in pieces(chosen, rows):
            meter.bytes += len(piece)
            write(piece)
    told = {"rows": meter.rows, "bytes": meter.bytes, "seconds": round(meter.seconds, 3), "output": output}
    to_error = output == "-"
    if json:
        report.as_json(told, err=to_error)
    else:
        typer.echo(f"{meter.rows:,} rows, {report.size(meter.bytes)}", err=to_error)


def pieces(form: Format, rows: Iterator[Row]) -> Iterator[bytes]:
    """What a file of a format is made of."""
    if form is Format.NDJSON:
        yield from map(lines.encode, rows)
    elif form is Format.CSV:
        table = TableWriter()
        yield table.head()
        yield from map(table.add, rows)
    else:
        with tempfile.SpooledTemporaryFile(ASIDE_BYTES) as aside:
            document = DocumentWriter(aside)
            yield from map(document.add, rows)
            yield from document.end()


def rows_of(
    door: Door, database: int | None, low: bytes, high: bytes, match: str | None, meter: Meter
) -> Iterator[Row]:
    """The rows of one database or of all, at one moment. Raises Error, OSError."""
    numbers = range(databases.databases(door)) if database is None else (database,)
    door.ask("BEGIN", "READONLY", "TIMEOUT", str(INT_MAX))
    options = ["EXPIRES", "LIMIT", str(PAGE_ROWS), *(("MATCH", match) if match is not None else ())]
    # Typed keys are walked on their own: a range that begins before them ends there.
    ranges = [(low, min(high or PLAIN_END, PLAIN_END)), (max(low, PLAIN_END), high)]
    for number in numbers:
        for start, end in ranges:
            if not end or start < end:
                yield from _range(door, start, end, number, options, meter)
    door.ask("ROLLBACK")


def _range(door: Door, start: bytes | None, end: bytes, number: int, options: list[str], meter: Meter) -> Iterator[Row]:
    while start is not None:
        start, flat = _page(door, start, end, number, options, meter)
        for at in range(0, len(flat), 4):
            key, kind, value, expires = flat[at : at + 4]
            meter.rows += 1
            yield Row(number, key, kind.decode(), value, max(expires, 0))
        meter.show(meter.rows)


def _page(door: Door, start: bytes, high: bytes, number: int, options: list[str], meter: Meter) -> Any:
    try:
        return door.ask("TYPED", "RANGE", start, high, "DB", str(number), *options)
    except Error as error:
        if error.code not in _ENDED:
            raise
        raise SnapshotTooOld(
            f"the export has ended after {meter.rows:,} rows, since the server keeps a moment for so long only: "
            f"{error.message}. Raise its settings snapshot-max-ms, snapshot-max-bytes and transaction-max-ms, or make "
            "a backup, restore it, and export that with --data-dir"
        ) from None


@contextlib.contextmanager
def destination(output: str) -> Iterator[Callable[[bytes], object]]:
    """Takes what a file is to hold: it gets its name once it is complete and on the disk. Raises OSError."""
    path = Path(output)
    if output == "-":
        yield sys.stdout.buffer.write
        sys.stdout.buffer.flush()
        return
    if path.exists() and not path.is_file():  # a pipe, a device
        with path.open("wb") as file:
            yield file.write
        return
    path = path.resolve()
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("xb") as file:
        try:
            yield file.write
            replace_file(file, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
