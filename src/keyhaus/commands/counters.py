"""Strings that are numbers: INCR and its family.

A counter is a string in decimal. It keeps its kind and its expiry when it is changed.
"""

from __future__ import annotations

from typing import Any, Final

from keyhaus.commands import extended
from keyhaus.commands.spec import Flag, Keys, command, integer
from keyhaus.commands.values import INTEGER_MAX, INTEGER_MIN, change, string
from keyhaus.core.context import Context
from keyhaus.core.errors import UserError
from keyhaus.store.transaction import Transaction

_FLAGS: Final = Flag.WRITE | Flag.DENY_OOM | Flag.FAST
_ONE: Final = Keys(1, 1)


def _add(tx: Transaction, key: bytes, delta: int) -> int:
    record = tx.get(key)
    number = delta if record is None else integer(string(record)) + delta
    if not INTEGER_MIN <= number <= INTEGER_MAX:
        raise UserError("increment or decrement would overflow")
    change(tx, key, b"%d" % number, record)
    return number


@command(
    "INCR",
    2,
    _FLAGS,
    keys=_ONE,
    summary="Adds one to the integer that a key holds; a missing key counts as 0.",
    since="1.0.0",
    group="string",
    syntax="key",
)
async def incr(tx: Transaction, args: list[bytes], context: Context) -> Any:
    return _add(tx, args[1], 1)


@command(
    "DECR",
    2,
    _FLAGS,
    keys=_ONE,
    summary="Takes one from the integer that a key holds; a missing key counts as 0.",
    since="1.0.0",
    group="string",
    syntax="key",
)
async def decr(tx: Transaction, args: list[bytes], context: Context) -> Any:
    return _add(tx, args[1], -1)


@command(
    "INCRBY",
    3,
    _FLAGS,
    keys=_ONE,
    summary="Adds a number to the integer that a key holds; a missing key counts as 0.",
    since="1.0.0",
    group="string",
    syntax="key increment",
)
async def incrby(tx: Transaction, args: list[bytes], context: Context) -> Any:
    return _add(tx, args[1], integer(args[2]))


@command(
    "DECRBY",
    3,
    _FLAGS,
    keys=_ONE,
    summary="Takes a number from the integer that a key holds; a missing key counts as 0.",
    since="1.0.0",
    group="string",
    syntax="key decrement",
)
async def decrby(tx: Transaction, args: list[bytes], context: Context) -> Any:
    number = integer(args[2])
    if number == INTEGER_MIN:
        raise UserError("decrement would overflow")
    return _add(tx, args[1], -number)


@command(
    "INCRBYFLOAT",
    3,
    _FLAGS,
    keys=_ONE,
    summary="Adds a decimal fraction to the number that a key holds; a missing key counts as 0.",
    since="2.6.0",
    group="string",
    syntax="key increment",
)
async def incrbyfloat(tx: Transaction, args: list[bytes], context: Context) -> Any:
    record = tx.get(args[1])
    number = extended.ZERO if record is None else _extended(string(record))
    total = extended.add(number, _extended(args[2]))
    if total is None:
        raise UserError("increment would produce NaN or Infinity")
    value = extended.show(total)
    change(tx, args[1], value, record)
    return value


def _extended(word: bytes) -> extended.Number:
    number = extended.parse(word)
    if number is None:
        raise UserError("value is not a valid float")
    return number
