"""`keyhaus import`: puts the rows of a file into a database."""

from __future__ import annotations

import contextlib
import enum
import io
import os
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, BinaryIO, Final

import typer

from keyhaus.cli import database as databases
from keyhaus.cli import report
from keyhaus.cli.database import DataDir, Door, Url
from keyhaus.cli.export import Format, FormatOption, Json, format_of
from keyhaus.cli.meter import Meter
from keyhaus.client.errors import OutcomeUnknown
from keyhaus.commands import glob
from keyhaus.core.errors import Error, UserError, quoted
from keyhaus.core.limits import MIB
from keyhaus.protocol.files import document, lines, table
from keyhaus.protocol.files.row import BrokenFile, Read, Row

BATCH_ROWS: Final = 1000
BATCH_BYTES: Final = MIB  # of one batch; a larger row goes alone
TOLD_MAX: Final = 20  # refused rows that are told one by one
_ROW_BYTES: Final = 64  # what a row takes beside its key and value
# What may be about one row of a batch alone; anything else would meet the others too.
_OF_ROWS: Final = frozenset(("ERR", "SYNTAX", "LIMIT", "TXTOOLARGE"))


class OnConflict(enum.StrEnum):
    OVERWRITE = "overwrite"
    SKIP = "skip"
    FAIL = "fail"


class Stopped(UserError):
    """The import ends here."""


def import_(
    file: Annotated[str, typer.Argument(help="The file; - is standard input.", metavar="FILE")],
    form: FormatOption = None,
    url: Url = None,
    data_dir: DataDir = Path("data"),
    database: Annotated[
        int | None,
        typer.Option(
            help="Put all rows into this database.  [default: where the file says, else 0]",
            metavar="N",
            min=0,
            show_default=False,
        ),
    ] = None,
    prefix: Annotated[str, typer.Option(help="Only keys that begin so.")] = "",
    match: Annotated[str | None, typer.Option(help="Only keys that match, as of KEYS.", metavar="PATTERN")] = None,
    on_conflict: Annotated[
        OnConflict, typer.Option(help="What happens to a key that is there.")
    ] = OnConflict.OVERWRITE,
    keep_going: Annotated[bool, typer.Option("--keep-going", help="Pass over rows that are refused.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read all of it, and write nothing.")] = False,
    key_column: Annotated[
        str | None, typer.Option(help="The column of the keys, in somebody else's CSV.", metavar="NAME")
    ] = None,
    value_column: Annotated[
        str | None, typer.Option(help="The column of the values, in somebody else's CSV.", metavar="NAME")
    ] = None,
    json: Json = False,
) -> None:
    """Put the rows of a file into a running server, or into a stopped database, which is made where there is none.

    Rows go in by batches, each a transaction. Where a row can't be read or is refused the import ends, and says which
    row it is and what was imported before; with --keep-going it goes on, counts such rows, and exits with 1.

    Examples:

      keyhaus import rows.ndjson --url redis://127.0.0.1:19272

      keyhaus import cities.csv --key-column id --value-column name --on-conflict skip --data-dir /var/lib/keyhaus
    """
    chosen = format_of(file, form)
    if (key_column or value_column) and chosen is not Format.CSV:
        raise typer.BadParameter("they are about CSV", param_hint="--key-column, --value-column")
    wanted = Wanted(database, os.fsencode(prefix), None if match is None else glob.compiled(os.fsencode(match)))
    with report.failures(), contextlib.ExitStack() as stack:
        meter = stack.enter_context(Meter("checking" if dry_run else "importing", shown=not json))
        source = stack.enter_context(_source(file))
        meter.total(_size(source))
        door = None if dry_run else stack.enter_context(databases.opened(url, data_dir, to_read=False))
        importing = Import(door, on_conflict, meter, keep_going)
        try:
            for read in _to_the_break(reads(source, chosen, key_column, value_column)):
                importing.take(read, wanted)
                meter.show(_place(source))
            importing.end()
        except (Error, OSError) as error:
            raise importing.stopped(error, dry_run) from error
        except KeyboardInterrupt:
            raise importing.stopped(UserError("interrupted"), dry_run) from None
    _tell(importing, meter, dry_run, json)
    if importing.refused:
        raise typer.Exit(1)


def _tell(importing: Import, meter: Meter, dry_run: bool, json: bool) -> None:
    if json:
        report.as_json(
            {
                "rows": meter.rows,
                "skipped": importing.skipped,
                "refused": importing.refused,
                "bytes": meter.bytes,
                "seconds": round(meter.seconds, 3),
                "dry_run": dry_run,
            }
        )
        return
    beside = [
        f"{count:,} {what}" for count, what in ((importing.skipped, "skipped"), (importing.refused, "refused")) if count
    ]
    done = "could be imported" if dry_run else "imported"
    typer.echo(f"{meter.rows:,} rows {done}, {report.size(meter.bytes)}{''.join(f', {text}' for text in beside)}")


@dataclass(frozen=True)
class Wanted:
    """Which rows are imported, and where to."""

    database: int | None
    prefix: bytes
    matches: Callable[[bytes], bool] | None

    def row(self, row: Row) -> Row | None:
        if not row.key.startswith(self.prefix) or (self.matches is not None and not self.matches(row.key)):
            return None
        return row if self.database is None else row._replace(database=self.database)


@dataclass
class Import:
    """Puts rows into a database, batch by batch; without a database it only counts them.

    Attributes:
        skipped: How many keys were there already.
        refused: How many rows were none, or were not taken.
    """

    door: Door | None
    on_conflict: OnConflict
    meter: Meter
    keep_going: bool
    skipped: int = 0
    refused: int = 0
    _batch: list[tuple[int, Row]] = field(default_factory=list)
    _bytes: int = 0

    def take(self, read: Read, wanted: Wanted) -> None:
        """Raises Stopped, Error, OSError."""
        if read.row is None:
            if not self.keep_going:
                self.end()  # what stands before it is imported
            self._refuse(read.problem)
            return
        row = wanted.row(read.row)
        if row is None:
            return
        size = len(row.key) + len(row.value) + _ROW_BYTES
        full = len(self._batch) == BATCH_ROWS or self._bytes + size > BATCH_BYTES
        if self._batch and (full or self._batch[0][1].database != row.database):
            self.end()
        self._batch.append((read.line, row))
        self._bytes += size

    def end(self) -> None:
        """Puts what was taken. Raises Stopped, Error, OSError."""
        batch, self._batch, self._bytes = self._batch, [], 0
        if batch:
            self._put(batch)

    def _refuse(self, problem: str) -> None:
        self.refused += 1
        if not self.keep_going:
            raise Stopped(problem)
        if self.refused <= TOLD_MAX:
            report.clear()
            typer.echo(f"keyhaus: {problem}", err=True)
        if self.refused == TOLD_MAX:
            typer.echo("keyhaus: further refused rows are only counted", err=True)

    def _put(self, batch: list[tuple[int, Row]]) -> None:
        try:
            there = self._load(batch) if self.door is not None else []
        except OutcomeUnknown as error:
            lines = f"lines {batch[0][0]} to {batch[-1][0]}"
            what = f"whether the rows of {lines} were put is not known: all were, or none"
            raise Stopped(f"{error.message}; {what}") from error
        except Error as error:
            if error.code not in _OF_ROWS:
                raise
            if len(batch) == 1:
                self._refuse(f"line {batch[0][0]}: key {quoted(batch[0][1].key)}: {error.message}")
                return
            # One of them is refused, or all together are too much: the halves tell.
            self._put(batch[: len(batch) // 2])
            self._put(batch[len(batch) // 2 :])
            return
        if there and self.on_conflict is OnConflict.FAIL:
            line = next(line for line, row in reversed(batch) if row.key == there[0])
            more = f", and {len(there) - 1:,} more of its batch" if len(there) > 1 else ""
            raise Stopped(
                f"line {line}: the key {quoted(there[0])} is there already{more}; nothing of its batch was put"
            )
        self.skipped += len(there)
        self.meter.rows += len(batch) - len(there)
        left = set(there)
        self.meter.bytes += sum(len(row.key) + len(row.value) for _, row in batch if row.key not in left)

    def _load(self, batch: list[tuple[int, Row]]) -> list[bytes]:
        assert self.door is not None
        words: list[str | bytes] = ["TYPED", "LOAD", str(batch[0][1].database), self.on_conflict.upper()]
        for _, row in batch:
            words += (row.key, row.kind, row.value, str(row.expires or -1))
        there: list[bytes] = self.door.ask(*words)
        return there

    def stopped(self, error: Exception, dry_run: bool) -> Stopped:
        """What is told where it ends early."""
        reason = error.message if isinstance(error, Error) else str(error)
        done = "could be imported" if dry_run else "were imported"
        return Stopped(f"{reason}; {self.meter.rows:,} rows before it {done}")


# the file


@contextlib.contextmanager
def _source(file: str) -> Iterator[BinaryIO]:
    if file == "-":
        yield sys.stdin.buffer
    else:
        with Path(file).open("rb") as source:
            yield source


def _size(source: BinaryIO) -> int | None:
    try:
        status = os.fstat(source.fileno())
    except OSError:  # no file at all
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _place(source: BinaryIO) -> int:
    """How much of the file was read."""
    try:
        return os.lseek(source.fileno(), 0, os.SEEK_CUR)
    except OSError:  # a pipe
        return 0


def _to_the_break(reads: Iterator[Read]) -> Iterator[Read]:
    """What was read; where the rest of the file can't be, the last of it is that."""
    try:
        yield from reads
    except BrokenFile as error:
        yield Read(0, None, f"{error.message}; the rest of the file can't be read")


def reads(
    source: BinaryIO, form: Format, key_column: str | None = None, value_column: str | None = None
) -> Iterator[Read]:
    """What a file of a format holds. Raises BrokenFile."""
    if form is Format.NDJSON:
        return lines.read(source.readline)
    if form is Format.JSON:
        return document.read(source.read1 if isinstance(source, io.BufferedReader) else source.read)
    return table.read(source.readline, key_column, value_column)
