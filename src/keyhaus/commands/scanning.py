"""Walking over keys in their order: SCAN, RANGE, DELRANGE.

A page ends after so many keys looked at, whether they match or not, so one step never takes long. SCAN walks the keys
in order of their bytes and resumes at a key, so a key that is there from beginning to end is returned, once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from keyhaus.commands import glob
from keyhaus.commands.keys import type_name
from keyhaus.commands.spec import Flag, command, integer, option
from keyhaus.commands.values import shown
from keyhaus.core.context import Context
from keyhaus.core.errors import Syntax, TransactionTooLarge, UserError, quoted
from keyhaus.core.keys import PLAIN_END
from keyhaus.core.limits import PAGE_BYTES_MAX, SCAN_COUNT_MAX
from keyhaus.store import record as rec
from keyhaus.store.record import Record
from keyhaus.store.transaction import Transaction

_COUNT_DEFAULT: Final = 10
_CURSOR: Final = re.compile(rb"[+-]?[0-9]+")
_CURSORS: Final = 1 << 64
# What a deletion takes in the journal beside its key: journal/format.py has it, and a test says that it is the same.
_DELETION_BYTES: Final = 12


def _matcher(pattern: bytes | None) -> glob.Matcher | None:
    """What tells whether a key matches; None where all do: without a pattern, or with a lone star."""
    return None if pattern is None or pattern == b"*" else glob.compiled(pattern)


# SCAN


class _ScanOptions(NamedTuple):
    pattern: bytes | None
    keys: int
    type_name: str | None


@command(
    "SCAN",
    -2,
    Flag.READ | Flag.RANGES,
    summary="Returns some keys and a cursor that goes on behind them; 0 begins, and comes back at the end.",
    since="2.8.0",
    group="generic",
    syntax="cursor [MATCH pattern] [COUNT count] [TYPE type]",
    complexity="O(n), n the COUNT",
)
async def scan(tx: Transaction, args: list[bytes], context: Context) -> Any:
    cursor = _cursor(args[1])
    options = _scan_options(args)
    matches = _matcher(options.pattern)
    start: bytes | None = b""
    if cursor:
        start = tx.store.cursors.get(cursor)
        if start is None:
            raise UserError("invalid cursor: it is no longer known, start again from 0")
    rows, following = await tx.scan(start or b"", PLAIN_END, min(options.keys, SCAN_COUNT_MAX), heads=True)
    found = [
        key
        for key, record in rows
        if (matches is None or matches(key)) and (options.type_name is None or type_name(record) == options.type_name)
    ]
    handle = 0 if following is None or tx.needs else tx.store.cursors.put(following)
    return [b"%d" % handle, found]


def _cursor(word: bytes) -> int:
    """A cursor as C's `strtoul` reads it: up to a zero byte, with a sign or without, nothing at all being 0."""
    text = word.partition(b"\0")[0]
    if not text:
        return 0
    if not _CURSOR.fullmatch(text):
        raise UserError("invalid cursor")
    digits = text.lstrip(b"+-").lstrip(b"0")
    number = int(digits or b"0") if len(digits) <= 20 else _CURSORS
    if number >= _CURSORS:
        raise UserError("invalid cursor")
    return -number % _CURSORS if text.startswith(b"-") else number


def _scan_options(args: list[bytes]) -> _ScanOptions:
    options = _ScanOptions(None, _COUNT_DEFAULT, None)
    place = 2
    while place < len(args):
        word = option(args[place])
        if word not in (b"COUNT", b"MATCH", b"TYPE") or place + 1 == len(args):
            raise Syntax
        argument = args[place + 1]
        if word == b"COUNT":
            options = options._replace(keys=integer(argument))
            if options.keys < 1:
                raise Syntax
        elif word == b"MATCH":
            options = options._replace(pattern=argument)
        else:
            options = options._replace(type_name=option(argument).decode("latin-1").lower())
        place += 2
    return options


# RANGE, DELRANGE


@dataclass(slots=True)
class RangeOptions:
    """What RANGE was asked for.

    Attributes:
        reverse: Whether it walks from the end.
        limit: How many keys at the most, be it more than a page has; None where nobody said.
        keys_only: Whether it leaves the values out.
        pattern: What keys have to match; None for all.
    """

    reverse: bool = False
    limit: int | None = None
    keys_only: bool = False
    pattern: bytes | None = None

    def take(self, args: list[bytes], place: int) -> int:
        """Takes the option at a place; how many words it has, 0 where it is none of RANGE's. Raises Syntax."""
        word = option(args[place])
        if word == b"REV":
            self.reverse = True
        elif word == b"KEYS":
            self.keys_only = True
        elif word == b"MATCH":
            self.pattern = argument(args, place, "MATCH pattern")
            return 2
        elif word == b"LIMIT":
            self.limit = _limit(argument(args, place, "LIMIT count"))
            return 2
        else:
            return 0
        return 1


def argument(args: list[bytes], place: int, form: str) -> bytes:
    """The word behind an option at a place. Raises Syntax where there is none."""
    if place + 1 == len(args):
        raise Syntax(f"syntax error: {quoted(args[place])} is the last word: expected {form}")
    return args[place + 1]


def _limit(word: bytes) -> int:
    problem = f"syntax error: LIMIT {quoted(word)} is none: expected a number from 1"
    limit = integer(word, problem)
    if limit < 1:
        raise Syntax(problem)
    return limit


@command(
    "RANGE",
    -3,
    Flag.READ | Flag.RANGES,
    summary="Returns the keys from start to before end with their values, in order, and where the next page begins.",
    since="keyhaus 0.1",
    group="generic",
    syntax="start end [REV] [LIMIT count] [KEYS] [MATCH pattern]",
    complexity="O(log n + m), n the number of keys and m of those looked at, at most 10,000",
)
async def range_(tx: Transaction, args: list[bytes], context: Context) -> Any:
    options = RangeOptions()
    place = 3
    while place < len(args):
        step = options.take(args, place)
        if not step:
            raise Syntax(
                f"syntax error: {quoted(args[place])} is no option of RANGE: expected REV, LIMIT count, KEYS or MATCH "
                "pattern"
            )
        place += step
    await tx.order()
    rows, following = bounded_page(tx, args[1], plain_end(args[2]), options)
    if options.keys_only:
        return [following, [key for key, _ in rows]]
    return [following, [word for key, record in rows for word in (key, shown(record))]]


def plain_end(end: bytes) -> bytes:
    """The end of a range of plain keys; an open one for the empty string."""
    return min(end, PLAIN_END) if end else PLAIN_END


def bounded_page(
    tx: Transaction, start: bytes, end: bytes | None, options: RangeOptions
) -> tuple[list[tuple[bytes, Record]], bytes | None]:
    """The rows of one page, of so many bytes at the most, and where the next one begins. To be in order already."""
    rows, following = _page(tx, start, end, options)
    room = PAGE_BYTES_MAX
    for number, (key, record) in enumerate(rows):
        room -= len(key) + (0 if options.keys_only else rec.value_bytes(record))
        if room < 0 and number:
            # Large values end a page early, since a reply is bounded too.
            return rows[:number], key + b"\0" if options.reverse else key
    return rows, following


def _page(
    tx: Transaction, start: bytes, end: bytes | None, options: RangeOptions
) -> tuple[list[tuple[bytes, Record]], bytes | None]:
    """The rows of one page, and where the next one goes on."""
    matches = _matcher(options.pattern)
    limit = SCAN_COUNT_MAX if options.limit is None else min(options.limit, SCAN_COUNT_MAX)
    rows: list[tuple[bytes, Record]] = []
    looked_at = 0
    while True:
        step = SCAN_COUNT_MAX - looked_at
        if matches is None:
            step = min(step, limit - len(rows))
        part, following = tx.page(start, end, step, reverse=options.reverse, heads=options.keys_only)
        looked_at += step
        for key, record in part:
            if matches is None or matches(key):
                if len(rows) == limit:
                    return rows, key + b"\0" if options.reverse else key
                rows.append((key, record))
        # What had expired was looked at and left out: without it the page would be short of its limit.
        ends = tx.cut is not None or len(rows) == limit or looked_at >= SCAN_COUNT_MAX
        if following is None or tx.needs or ends:
            return rows, following
        if options.reverse:
            end = following
        else:
            start = following


@command(
    "DELRANGE",
    3,
    Flag.WRITE | Flag.RANGES,
    summary="Deletes the keys from start to before end, all at once, and returns how many there were.",
    since="keyhaus 0.1",
    group="generic",
    syntax="start end",
    complexity="O(log n + m), n the number of keys and m of those deleted",
)
async def delrange(tx: Transaction, args: list[bytes], context: Context) -> Any:
    start: bytes | None = args[1]
    end = plain_end(args[2])
    most = tx.store.settings.integer("max-transaction-bytes")
    size = 0
    keys: list[bytes] = []
    await tx.order()
    # From here on nothing is waited for, so all keys are of one moment.
    while start is not None and not tx.needs:
        rows, start = tx.page(start, end, SCAN_COUNT_MAX, heads=True)
        keys += [key for key, _ in rows]
        size += sum([len(key) for key, _ in rows]) + _DELETION_BYTES * len(rows)
        if size > most:
            raise TransactionTooLarge(size, most)
    for key in keys:
        tx.delete(key)
    return len(keys)
