"""LCS: the longest common subsequence of two strings, with Redis' choice among equally long ones.

The table of lengths is kept as one bit a cell: where a length is larger than its left neighbour's (Hyyrö, "Bit-parallel
LCS-length computation revisited", 2004). A row is one Python integer, computed from the row above by four operations on
whole integers; so the largest table that Redis allows takes a thirty-second of its memory, and milliseconds.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from keyhaus.commands.spec import Flag, Keys, command, integer, option
from keyhaus.core.context import Context
from keyhaus.core.errors import LimitExceeded, Syntax, UserError
from keyhaus.core.limits import LCS_BYTES_MAX
from keyhaus.store import record as rec
from keyhaus.store.record import OBJECT
from keyhaus.store.transaction import Transaction

CELL_BYTES: Final = 4  # what a cell takes in Redis, whose bound on the table is ours


class _Match(NamedTuple):
    """A run that both strings share: where it begins in each, and its length."""

    first: int
    second: int
    length: int

    def reply(self, *, with_length: bool) -> list[Any]:
        ranges: list[Any] = [[start, start + self.length - 1] for start in (self.first, self.second)]
        return [*ranges, self.length] if with_length else ranges


@command(
    "LCS",
    -3,
    Flag.READ,
    keys=Keys(1, 2),
    summary="Finds the longest common subsequence of the strings that two keys hold.",
    since="7.0.0",
    group="string",
    syntax="key1 key2 [LEN] [IDX] [MINMATCHLEN min-match-len] [WITHMATCHLEN]",
    complexity="O(n*m), n and m the lengths of the strings",
)
async def lcs(tx: Transaction, args: list[bytes], context: Context) -> Any:
    records = [tx.get(key) for key in args[1:3]]
    if any(record is not None and record[7] & OBJECT for record in records):
        raise UserError("The specified keys must contain string values")
    words, shortest = _options(args)
    if b"IDX" in words and b"LEN" in words:
        raise UserError("If you want both the length and indexes, please just use IDX.")
    one, other = (b"" if record is None else rec.value_of(record) for record in records)
    _check_size(tx, len(one), len(other))
    table = _rows(one, other)
    length = len(other) - table[-1].bit_count()
    if b"LEN" in words:
        return length
    matches = _matches(one, other, table)
    if b"IDX" not in words:
        return b"".join(one[match.first : match.first + match.length] for match in reversed(matches))
    with_length = b"WITHMATCHLEN" in words
    shown = [match.reply(with_length=with_length) for match in matches if match.length >= shortest]
    return {b"matches": shown, b"len": length}


def _options(args: list[bytes]) -> tuple[set[bytes], int]:
    words: set[bytes] = set()
    shortest = 0
    place = 3
    while place < len(args):
        word = option(args[place])
        if word == b"MINMATCHLEN" and place + 1 < len(args):
            place += 1
            shortest = integer(args[place])
        elif word in (b"IDX", b"LEN", b"WITHMATCHLEN"):
            words.add(word)
        else:
            raise Syntax
        place += 1
    return words, shortest


def _check_size(tx: Transaction, one: int, other: int) -> None:
    if (one + 1) * (other + 1) * CELL_BYTES > tx.store.settings.integer("proto-max-bulk-len"):
        raise UserError("Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len")
    if one + other > LCS_BYTES_MAX:
        raise LimitExceeded("max-lcs-bytes", one + other, LCS_BYTES_MAX)


def _rows(one: bytes, other: bytes) -> list[int]:
    """For no byte, one byte, … of `one` a row: bit j is 0 where byte j of `other` makes the subsequence longer."""
    full = (1 << len(other)) - 1
    backwards = other[::-1]  # an integer's text begins with its highest bit
    places = {
        byte: int(backwards.translate(bytes(48 + (byte == each) for each in range(256))) or b"0", 2)
        for byte in set(one)
    }
    row = full
    table = [row]
    for byte in one:
        hits = row & places[byte]
        row = ((row + hits) | (row - hits)) & full
        table.append(row)
    return table


def _matches(one: bytes, other: bytes, table: list[int]) -> list[_Match]:
    """The matching runs, the last one first, as Redis finds them: along `other` where there is a choice."""
    matches: list[_Match] = []
    row_bytes = (len(other) + 7) // 8
    first, second = len(one), len(other)
    length = 0  # of the run that is being walked; it begins at (first, second)
    row = table[first].to_bytes(row_bytes, "little")
    while first and second:
        if one[first - 1] == other[second - 1]:
            first, second, length = first - 1, second - 1, length + 1
            row = table[first].to_bytes(row_bytes, "little")
            continue
        if length:
            matches.append(_Match(first, second, length))
            length = 0
        if row[second - 1 >> 3] >> (second - 1 & 7) & 1:
            second -= 1
        else:
            first -= 1
            row = table[first].to_bytes(row_bytes, "little")
    if length:
        matches.append(_Match(first, second, length))
    return matches
