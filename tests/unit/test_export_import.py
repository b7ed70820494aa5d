"""What is exported and imported is what there was, whatever it is; and exporting that gives the same file."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given

import keyhaus
from keyhaus.cli.database import Embedded
from keyhaus.cli.export import Format, pieces, rows_of
from keyhaus.cli.import_ import Import, OnConflict, Stopped, Wanted, reads
from keyhaus.cli.meter import Meter
from keyhaus.core.keys import PLAIN_END
from keyhaus.protocol.files import lines
from keyhaus.protocol.files.row import Row
from tests.unit.test_files import ROWS

ALL = Wanted(None, b"", None)


class Emptied:
    """A database of its own for each example: it is emptied before."""

    def __init__(self, database: keyhaus.Database) -> None:
        self.door = Embedded(database)

    def exported(self, form: Format) -> bytes:
        return b"".join(pieces(form, rows_of(self.door, None, b"", b"", None, Meter(""))))

    def imported(self, data: bytes, form: Format, on_conflict: OnConflict = OnConflict.OVERWRITE) -> Import:
        importing = Import(self.door, on_conflict, Meter(""), keep_going=False)
        for read in reads(io.BytesIO(data), form):
            importing.take(read, ALL)
        importing.end()
        return importing

    def rows(self) -> list[Any]:
        ranges = [(b"", PLAIN_END), (PLAIN_END, b"")]
        return [
            self.door.ask("TYPED", "RANGE", *range_, "DB", str(database), "EXPIRES")
            for database in (0, 5)
            for range_ in ranges
        ]


@pytest.fixture(scope="module")
def databases() -> Iterator[tuple[Emptied, Emptied]]:
    with keyhaus.open(engine="memory") as one, keyhaus.open(engine="memory") as other:
        yield Emptied(one), Emptied(other)


@pytest.mark.parametrize("form", Format)
@given(rows=ROWS)
def test_a_round_trip_loses_nothing(databases: tuple[Emptied, Emptied], form: Format, rows: list[Row]) -> None:
    one, other = databases
    one.door.ask("FLUSHALL")
    other.door.ask("FLUSHALL")
    one.imported(b"".join(map(lines.encode, rows)), Format.NDJSON)
    alive = [row for row in rows if row.expires != 1]
    assert sum(len(page[1]) for page in one.rows()) == 4 * len(alive)
    written = one.exported(form)
    assert other.imported(written, form).meter.rows == len(alive)
    assert other.rows() == one.rows()
    assert other.exported(form) == written


def test_what_no_batch_can_be_is_halved_until_the_row_is_found() -> None:
    with keyhaus.open(engine="memory", max_transaction_bytes="1024") as database:
        emptied = Emptied(database)
        small = [Row(0, b"%03d" % number, "TEXT", b"x" * 100) for number in range(50)]
        data = b"".join(map(lines.encode, small))
        assert emptied.imported(data, Format.NDJSON).meter.rows == 50
        assert emptied.exported(Format.NDJSON) == data
        database.execute("FLUSHALL")
        large = Row(0, b"large", "TEXT", b"x" * 2000)
        with pytest.raises(Stopped, match=r"line 31: key 'large': the write has \d+ bytes, at most 1024 are allowed"):
            emptied.imported(b"".join(map(lines.encode, [*small[:30], large, *small[30:]])), Format.NDJSON)
        assert database.execute("DBSIZE") == 30, "what stands before it is there, and nothing behind it"


def test_a_key_that_is_there_twice_in_a_file_conflicts_with_itself() -> None:
    data = b'{"key": "a", "value": "1"}\n{"key": "a", "value": "2"}\n'
    with keyhaus.open(engine="memory") as database:
        emptied = Emptied(database)
        with pytest.raises(Stopped, match="line 2: the key 'a' is there already; nothing of its batch was put"):
            emptied.imported(data, Format.NDJSON, OnConflict.FAIL)
        assert database.execute("DBSIZE") == 0
        assert emptied.imported(data, Format.NDJSON, OnConflict.SKIP).skipped == 1
        assert database.get("a") == b"1"
        emptied.imported(data, Format.NDJSON)
        assert database.get("a") == b"2"


def test_keys_behind_all_others_are_exported_too() -> None:
    keys = [b"a", b"\xff" * 15, b"\xff" * 16 + b"\x14", b"\xff" * 16 + b"\x15\x01"]
    data = b"".join(lines.encode(Row(0, key, "TEXT", b"x")) for key in keys)
    with keyhaus.open(engine="memory") as database:
        emptied = Emptied(database)
        emptied.imported(data, Format.NDJSON)
        assert emptied.exported(Format.NDJSON) == data
        of_prefix = rows_of(emptied.door, 0, b"\xff" * 16 + b"\x15", b"\xff" * 16 + b"\x16", None, Meter(""))
        assert [row.key for row in of_prefix] == keys[3:]
        assert [row.key for row in rows_of(emptied.door, 0, b"\xff", b"", None, Meter(""))] == keys[1:]
        assert [row.key for row in rows_of(emptied.door, 0, b"a", b"b", None, Meter(""))] == keys[:1]
