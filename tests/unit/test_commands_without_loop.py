"""Every data command, driven by hand: no event loop, no session, no socket.

A handler knows only its transaction and awaits only Waits, so one body of code serves the server and the embedded
database. Each scenario is a conversation with an empty database; a data command without one fails the test.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import pytest

import keyhaus.commands  # noqa: F401  (fills the table)
from keyhaus.commands import scanning
from keyhaus.commands.spec import TABLE, CommandSpec, Flag
from keyhaus.core import limits
from keyhaus.core.errors import BusyKey, Error, TransactionTooLarge, UserError, WrongType
from keyhaus.core.reply import OK
from keyhaus.journal import format as layout
from keyhaus.store import record as rec
from tests.support.turns import BEGIN_MS, Loopless

_BEGIN_S = BEGIN_MS // 1000
_MAX = (1 << 63) - 1


class Refused(str):
    """Stands for an error with this message."""

    __slots__ = ()


_NO_INTEGER = Refused("value is not an integer or out of range")
_SYNTAX = Refused("syntax error")

# Command: a conversation, each line with the reply that is expected.
SCENARIOS: dict[str, list[tuple[str, Any]]] = {
    "TYPED|PUT": [("TYPED PUT k TEXT v l BYTES w", OK), ("MGET k l", [b"v", b"w"])],
    "TYPED|GET": [("TYPED PUT k BYTES v", OK), ("TYPED GET k missing", [[b"BYTES", b"v"], None])],
    "TYPED|KEYS": [("MSET k v l w", OK), ("TYPED KEYS", [b"k", b"l"])],
    "TYPED|RANGE": [
        ("SET k v", OK),
        ("TYPED RANGE a z", [None, [b"k", b"TEXT", b"v"]]),
        ("TYPED RANGE a z DB 0 EXPIRES", [None, [b"k", b"TEXT", b"v", -1]]),
    ],
    "TYPED|LOAD": [
        ("TYPED LOAD 0 OVERWRITE k TEXT v -1", []),
        ("TYPED LOAD 0 FAIL k TEXT w -1 l TEXT w -1", [b"k"]),
        ("TYPED LOAD 0 SKIP k TEXT w -1 l TEXT w -1", [b"k"]),
        ("MGET k l", [b"v", b"w"]),
    ],
    "SET": [
        ("SET k v", OK),
        ("GET k", b"v"),
        ("SET k w NX", None),
        ("SET k w XX", OK),
        ("SET missing w XX", None),
        ("SET k x GET", b"w"),
        ("SET new x NX GET", None),
        ("GET new", b"x"),
        ("SET k y NX GET", b"x"),
        ("SET k y IFEQ no", None),
        ("SET k y IFEQ x", OK),
        ("SET k z IFEQ y GET", b"y"),
        ("SET k ! IFEQ y GET", b"z"),
        ("GET k", b"z"),
        ("SET missing z IFEQ ''", None),
        ("EXISTS missing", 0),
        ("SET k v EX 100", OK),
        ("PTTL k", 100_000),
        ("SET k w KEEPTTL", OK),
        ("PTTL k", 100_000),
        ("SET k w", OK),
        ("TTL k", -1),
        ("SET k v ex 1 EX 2", OK),
        ("PTTL k", 2000),
        ("SET k v PX 1500", OK),
        ("PTTL k", 1500),
        (f"SET k v EXAT {_BEGIN_S + 7}", OK),
        ("PTTL k", 7000),
        (f"SET k v PXAT {BEGIN_MS + 7}", OK),
        ("PTTL k", 7),
        ("SET k v EXAT 1", OK),
        ("GET k", None),
        ("SET k v EX 0", Refused("invalid expire time in 'set' command")),
        ("SET k v PX -1", Refused("invalid expire time in 'set' command")),
        (f"SET k v EX {_MAX // 1000}", Refused("invalid expire time in 'set' command")),
        (f"SET k v PX {_MAX}", Refused("invalid expire time in 'set' command")),
        ("SET k v EX 1.5", _NO_INTEGER),
        *[
            (f"SET k v {words}", _SYNTAX)
            for words in ("NX XX", "XX NX", "NX IFEQ a", "EX", "EX 1 PX 1", "EX 1 KEEPTTL", "PERSIST", "what")
        ],
        ("SET k", Refused("wrong number of arguments for 'set' command")),
        ("GET k", None),
    ],
    "GET": [("GET k", None), ("SET k ''", OK), ("GET k", b""), ("get k", b"")],
    "GETDEL": [("GETDEL k", None), ("SET k v", OK), ("GETDEL k", b"v"), ("EXISTS k", 0)],
    "GETEX": [
        ("GETEX k EX 1", None),
        ("SET k v", OK),
        ("GETEX k", b"v"),
        ("TTL k", -1),
        ("GETEX k EX 5", b"v"),
        ("TTL k", 5),
        ("GETEX k PERSIST", b"v"),
        ("TTL k", -1),
        (f"GETEX k PXAT {BEGIN_MS + 9}", b"v"),
        ("PTTL k", 9),
        ("GETEX k KEEPTTL", _SYNTAX),
        ("GETEX k EX 1 PERSIST", _SYNTAX),
        ("GETEX k EX 0", Refused("invalid expire time in 'getex' command")),
        ("GETEX missing EX 0", None),
        ("GETEX k EXAT 1", b"v"),
        ("EXISTS k", 0),
    ],
    "GETSET": [("GETSET k 1", None), ("EXPIRE k 9", 1), ("GETSET k 2", b"1"), ("TTL k", -1), ("GET k", b"2")],
    "CAS": [
        ("CAS k '' v", 0),
        ("SET k v", OK),
        ("CAS k w x", 0),
        ("CAS k v x", 1),
        ("GET k", b"x"),
    ],
    "SETNX": [("SETNX k v", 1), ("SETNX k w", 0), ("GET k", b"v")],
    "SETEX": [
        ("SETEX k 10 v", OK),
        ("TTL k", 10),
        ("SETEX k 0 v", Refused("invalid expire time in 'setex' command")),
    ],
    "PSETEX": [
        ("PSETEX k 10 v", OK),
        ("PTTL k", 10),
        ("PSETEX k -1 v", Refused("invalid expire time in 'psetex' command")),
    ],
    "MGET": [("MSET a 1 b 2", OK), ("MGET a x b a", [b"1", None, b"2", b"1"])],
    "MSET": [
        ("MSET a 1 a 2", OK),
        ("GET a", b"2"),
        ("MSET a 1 b", Refused("wrong number of arguments for 'mset' command")),
    ],
    "MSETNX": [
        ("MSETNX a 1 b 2", 1),
        ("MSETNX b 3 c 4", 0),
        ("MGET a b c", [b"1", b"2", None]),
        ("MSETNX a", Refused("wrong number of arguments for 'msetnx' command")),
        ("MSETNX a 1 b", Refused("wrong number of arguments for 'msetnx' command")),
    ],
    "STRLEN": [("STRLEN k", 0), ("SETEX k 9 four", OK), ("STRLEN k", 4)],
    "APPEND": [
        ("APPEND k ab", 2),
        ("PEXPIRE k 50", 1),
        ("APPEND k cd", 4),
        ("GET k", b"abcd"),
        ("PTTL k", 50),
    ],
    "SETRANGE": [
        ("SETRANGE k 3 ''", 0),
        ("EXISTS k", 0),
        ("SETRANGE k 2 xy", 4),
        ("GET k", b"\0\0xy"),
        ("SETRANGE k 1 -", 4),
        ("GET k", b"\0-xy"),
        ("SETRANGE k 0 ''", 4),
        ("SETRANGE k -1 x", Refused("offset is out of range")),
        ("SETRANGE k x x", _NO_INTEGER),
        (
            f"SETRANGE k {limits.BULK_BYTES_MAX} x",
            Refused("string exceeds maximum allowed size (proto-max-bulk-len)"),
        ),
        (f"SETRANGE k {_MAX} x", Refused("string exceeds maximum allowed size (proto-max-bulk-len)")),
    ],
    "GETRANGE": [
        ("GETRANGE k 0 -1", b""),
        ("SET k hello", OK),
        ("GETRANGE k 0 -1", b"hello"),
        ("GETRANGE k 1 3", b"ell"),
        ("GETRANGE k -3 -2", b"ll"),
        ("GETRANGE k -2 -3", b""),
        ("GETRANGE k 3 1", b""),
        ("GETRANGE k -100 1", b"he"),
        ("GETRANGE k -100 -99", b"h"),
        (f"GETRANGE k 4 {_MAX}", b"o"),
        ("GETRANGE k 9 10", b""),
        ("GETRANGE k a 1", _NO_INTEGER),
        ("SET k ''", OK),
        ("GETRANGE k 0 0", b""),
        ("SETEX k 5 hello", OK),
        ("GETRANGE k 1 -2", b"ell"),
    ],
    "SUBSTR": [("SET k hello", OK), ("SUBSTR k 1 2", b"el")],
    "INCR": [
        ("INCR n", 1),
        ("EXPIRE n 7", 1),
        ("INCR n", 2),
        ("TTL n", 7),
        ("SET n 01", OK),
        ("INCR n", _NO_INTEGER),
        ("SET n ''", OK),
        ("INCR n", _NO_INTEGER),
        (f"SET n {_MAX}", OK),
        ("INCR n", Refused("increment or decrement would overflow")),
    ],
    "DECR": [
        ("DECR n", -1),
        (f"SET n {-_MAX - 1}", OK),
        ("DECR n", Refused("increment or decrement would overflow")),
    ],
    "INCRBY": [("INCRBY n 5", 5), ("INCRBY n -7", -2), ("INCRBY n +1", _NO_INTEGER), ("INCRBY n 1.0", _NO_INTEGER)],
    "DECRBY": [
        ("DECRBY n 5", -5),
        (f"DECRBY n {-_MAX - 1}", Refused("decrement would overflow")),
        ("DECRBY n x", _NO_INTEGER),
    ],
    "INCRBYFLOAT": [
        ("INCRBYFLOAT f 10.5", b"10.5"),
        ("INCRBYFLOAT f 0.1", b"10.6"),
        ("INCRBYFLOAT f -5", b"5.6"),
        ("SET f 5.0e3", OK),
        ("EXPIRE f 7", 1),
        ("INCRBYFLOAT f 2.0e2", b"5200"),
        ("TTL f", 7),
        ("INCRBYFLOAT f abc", Refused("value is not a valid float")),
        ("INCRBYFLOAT f nan", Refused("value is not a valid float")),
        ("INCRBYFLOAT f -inf", Refused("increment would produce NaN or Infinity")),
        ("SET f 1e4932", OK),
        ("INCRBYFLOAT f 1e4932", Refused("increment would produce NaN or Infinity")),
    ],
    "LCS": [
        ("MSET a ohmytext b mynewtext", OK),
        ("LCS a b", b"mytext"),
        ("LCS a b LEN", 6),
        ("LCS a b IDX", {b"matches": [[[4, 7], [5, 8]], [[2, 3], [0, 1]]], b"len": 6}),
        ("LCS a b IDX MINMATCHLEN 4 WITHMATCHLEN", {b"matches": [[[4, 7], [5, 8], 4]], b"len": 6}),
        ("LCS a missing", b""),
        ("LCS missing b LEN", 0),
        ("LCS a b LEN IDX", Refused("If you want both the length and indexes, please just use IDX.")),
        ("LCS a b MINMATCHLEN", _SYNTAX),
        ("LCS a b MINMATCHLEN x", _NO_INTEGER),
    ],
    "DEL": [("MSET a 1 b 2", OK), ("DEL a a b c", 2), ("EXISTS a b", 0)],
    "UNLINK": [("MSET a 1 b 2", OK), ("UNLINK a b", 2), ("DBSIZE", 0)],
    "EXISTS": [("EXISTS a", 0), ("SET a 1", OK), ("EXISTS a a b", 2)],
    "TOUCH": [("SET a 1", OK), ("TOUCH a b a", 2)],
    "TYPE": [("TYPE k", "none"), ("SET k v", OK), ("TYPE k", "string")],
    "RANDOMKEY": [("RANDOMKEY", None), ("SET only v", OK), ("RANDOMKEY", b"only")],
    "KEYS": [
        ("MSET aa 1 ab 2 b 3", OK),
        ("KEYS a?", [b"aa", b"ab"]),
        ("KEYS *", [b"aa", b"ab", b"b"]),
        ("KEYS x*", []),
    ],
    "COPY": [
        ("COPY a b", 0),
        ("SETEX a 9 v", OK),
        ("COPY a b", 1),
        ("GET b", b"v"),
        ("TTL b", 9),
        ("COPY a b", 0),
        ("COPY a b REPLACE", 1),
        ("COPY a a", Refused("source and destination objects are the same")),
        ("COPY a a DB 3", 1),
        ("COPY a a DB 3", 0),
        ("MOVE a 3", 0),
        ("COPY a b DB 16", Refused("DB index is out of range")),
        ("COPY a b DB x", _NO_INTEGER),
        ("COPY a b DB 2147483648", Refused("value is out of range, value must between -2147483648 and 2147483647")),
        ("COPY a b DB", _SYNTAX),
    ],
    "MOVE": [
        ("MOVE k 1", 0),
        ("SETEX k 5 v", OK),
        ("MOVE k 0", Refused("source and destination objects are the same")),
        ("MOVE k -1", Refused("DB index is out of range")),
        ("MOVE k 1", 1),
        ("EXISTS k", 0),
        ("SWAPDB 0 1", OK),
        ("TTL k", 5),
    ],
    "RENAME": [
        ("RENAME a b", Refused("no such key")),
        ("SETEX a 5 v", OK),
        ("SET b w", OK),
        ("RENAME a b", OK),
        ("EXISTS a", 0),
        ("GET b", b"v"),
        ("TTL b", 5),
        ("RENAME b b", OK),
        ("GET b", b"v"),
    ],
    "RENAMENX": [
        ("RENAMENX a b", Refused("no such key")),
        ("MSET a 1 b 2", OK),
        ("RENAMENX a b", 0),
        ("RENAMENX a a", 0),
        ("RENAMENX a c", 1),
        ("GET c", b"1"),
    ],
    "DUMP": [("DUMP k", None), ("SET k 10", OK), ("DUMP k", b"\x00\xc0\n\n\x00n\x9fWE\x0e\xaec\xbb")],
    "RESTORE": [
        ("RESTORE k 0 x", Refused("DUMP payload version or checksum are wrong")),
        ("RESTORE k -1 x", Refused("Invalid TTL value, must be >= 0")),
        ("RESTORE k 0 x FREQ 256", Refused("Invalid FREQ value, must be >= 0 and <= 255")),
        ("RESTORE k 0 x IDLETIME -1", Refused("Invalid IDLETIME value, must be >= 0")),
        ("RESTORE k 0 x IDLETIME 1 FREQ 1", _SYNTAX),
        ("SET k v", OK),
        ("RESTORE k 0 x", Refused("Target key name already exists.")),
    ],
    "EXPIRE": [
        ("EXPIRE k 1", 0),
        ("SET k v", OK),
        ("EXPIRE k 10 XX", 0),
        ("EXPIRE k 10 GT", 0),
        ("EXPIRE k 10 LT", 1),
        ("EXPIRE k 20 NX", 0),
        ("EXPIRE k 20 LT", 0),
        ("EXPIRE k 20 GT", 1),
        ("EXPIRE k 20 GT", 0),
        ("EXPIRE k 5 XX LT", 1),
        ("TTL k", 5),
        ("EXPIRE k 1 what", Refused("Unsupported option what")),
        ("EXPIRE k 1 NX GT", Refused("NX and XX, GT or LT options at the same time are not compatible")),
        ("EXPIRE k 1 LT GT", Refused("GT and LT options at the same time are not compatible")),
        (f"EXPIRE k {_MAX}", Refused("invalid expire time in 'expire' command")),
        ("EXPIRE k x", _NO_INTEGER),
        ("EXPIRE k -1", 1),
        ("EXISTS k", 0),
    ],
    "PEXPIRE": [("SET k v", OK), ("PEXPIRE k 1500", 1), ("PTTL k", 1500), ("TTL k", 2), ("PEXPIRE k 0", 1)],
    "EXPIREAT": [("SET k v", OK), (f"EXPIREAT k {_BEGIN_S + 3}", 1), ("TTL k", 3), ("EXPIREAT k 1", 1), ("TTL k", -2)],
    "PEXPIREAT": [("SET k v", OK), (f"PEXPIREAT k {BEGIN_MS + 3}", 1), ("PTTL k", 3)],
    "TTL": [("TTL k", -2), ("SET k v", OK), ("TTL k", -1), ("PEXPIRE k 1499", 1), ("TTL k", 1)],
    "PTTL": [("PTTL k", -2), ("SET k v", OK), ("PTTL k", -1)],
    "EXPIRETIME": [
        ("EXPIRETIME k", -2),
        ("SET k v", OK),
        ("EXPIRETIME k", -1),
        (f"PEXPIREAT k {_MAX}", 1),
        ("EXPIRETIME k", 9223372036854776),
    ],
    "PEXPIRETIME": [("SETEX k 5 v", OK), ("PEXPIRETIME k", BEGIN_MS + 5000)],
    "PERSIST": [("PERSIST k", 0), ("SETEX k 5 v", OK), ("PERSIST k", 1), ("PERSIST k", 0), ("GET k", b"v")],
    "SCAN": [
        ("MSET aa 1 ab 2 b 3", OK),
        ("SCAN 0", [b"0", [b"aa", b"ab", b"b"]]),
        ("SCAN 0 MATCH a* COUNT 100 TYPE STRING", [b"0", [b"aa", b"ab"]]),
        ("SCAN 0 TYPE zset", [b"0", []]),
        ("SCAN x", Refused("invalid cursor")),
        ("SCAN ' 0'", Refused("invalid cursor")),
        ("SCAN 18446744073709551616", Refused("invalid cursor")),
        ("SCAN 7", Refused("invalid cursor: it is no longer known, start again from 0")),
        ("SCAN 0 COUNT 0", _SYNTAX),
        ("SCAN 0 COUNT", _SYNTAX),
        ("SCAN 0 COUNT x", _NO_INTEGER),
    ],
    "RANGE": [
        ("MSET a 1 b 2 c 3 d 4", OK),
        ("RANGE '' ''", [None, [b"a", b"1", b"b", b"2", b"c", b"3", b"d", b"4"]]),
        ("RANGE b d", [None, [b"b", b"2", b"c", b"3"]]),
        ("RANGE d b", [None, []]),
        ("RANGE '' '' LIMIT 2 KEYS", [b"c", [b"a", b"b"]]),
        ("RANGE c '' LIMIT 2 KEYS", [None, [b"c", b"d"]]),
        ("RANGE '' '' REV LIMIT 2 KEYS", [b"b\0", [b"d", b"c"]]),
        ("RANGE '' '' LIMIT 1 KEYS MATCH [bd]", [b"d", [b"b"]]),
        ("RANGE '' '' REV LIMIT 1 KEYS MATCH [bd]", [b"b\0", [b"d"]]),
        ("RANGE '' '' LIMIT 0", Refused("syntax error: LIMIT '0' is none: expected a number from 1")),
        ("RANGE '' '' limit", Refused("syntax error: 'limit' is the last word: expected LIMIT count")),
        ("RANGE '' '' LIMIT x", Refused("syntax error: LIMIT 'x' is none: expected a number from 1")),
        (
            "RANGE '' '' ALL",
            Refused("syntax error: 'ALL' is no option of RANGE: expected REV, LIMIT count, KEYS or MATCH pattern"),
        ),
    ],
    "DELRANGE": [
        ("MSET a 1 b 2 c 3 d 4", OK),
        ("DELRANGE b d", 2),
        ("RANGE '' '' KEYS", [None, [b"a", b"d"]]),
        ("DELRANGE d a", 0),
        ("DELRANGE '' ''", 2),
        ("DBSIZE", 0),
    ],
    "LOCK": [("LOCK k", Refused("LOCK is for PESSIMISTIC transactions: say BEGIN first"))],
    "DBSIZE": [("DBSIZE", 0), ("MSET a 1 b 2", OK), ("DBSIZE", 2)],
    "FLUSHDB": [("MSET a 1 b 2", OK), ("FLUSHDB", OK), ("DBSIZE", 0), ("FLUSHDB ASYNC", OK), ("FLUSHDB x", _SYNTAX)],
    "FLUSHALL": [("MSET a 1 b 2", OK), ("COPY a a DB 5", 1), ("FLUSHALL", OK), ("MOVE a 5", 0), ("SWAPDB 0 5", OK)],
    "SWAPDB": [
        ("SET a 1", OK),
        ("SWAPDB 0 9", OK),
        ("GET a", None),
        ("SWAPDB 9 0", OK),
        ("GET a", b"1"),
        ("SWAPDB 0 16", Refused("DB index is out of range")),
    ],
    "MEMORY|USAGE": [("MEMORY USAGE k", None)],
    "OBJECT|ENCODING": [("OBJECT ENCODING k", None), ("SET k 12", OK), ("OBJECT ENCODING k", b"int")],
    "OBJECT|REFCOUNT": [("OBJECT REFCOUNT k", None), ("SET k v", OK), ("OBJECT REFCOUNT k", 1)],
    "OBJECT|IDLETIME": [("OBJECT IDLETIME k", None)],
    "OBJECT|FREQ": [("OBJECT FREQ k", None)],
}
# Replies that differ from run to run are only asked for.
_UNPREDICTABLE = {"LOLWUT": ["LOLWUT", "LOLWUT VERSION 1"]}


def _data_commands(table: dict[str, CommandSpec]) -> Iterator[CommandSpec]:
    for spec in table.values():
        # What may block has a client: its tests stand where there is one.
        if spec.handler is not None and spec.flags & (Flag.READ | Flag.WRITE) and not spec.flags & Flag.BLOCKING:
            yield spec
        yield from _data_commands(spec.subcommands)


def test_every_data_command_has_a_scenario() -> None:
    assert {spec.name for spec in _data_commands(TABLE)} == {*SCENARIOS, *_UNPREDICTABLE}


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_command_answers_without_a_loop(name: str) -> None:
    database = Loopless()
    for line, expected in SCENARIOS[name]:
        reply = database.run(*shlex.split(line))
        if isinstance(reply, Error):
            assert isinstance(expected, Refused), f"{line}: {reply!r}"
            assert reply.message == expected, line
        else:
            assert not isinstance(expected, Refused), f"{line}: {reply!r}"
            assert (type(reply), reply) == (type(expected), expected), line


@pytest.mark.parametrize("name", _UNPREDICTABLE)
def test_an_unpredictable_command_answers_without_a_loop(name: str) -> None:
    database = Loopless()
    for line in _UNPREDICTABLE[name]:
        assert not isinstance(database.run(*shlex.split(line)), Error)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_command_of_a_transaction_sees_what_the_ones_before_it_wrote(name: str) -> None:
    """The same conversation as one transaction, which commits nothing before its end."""
    database = Loopless()
    database.tx.begin()
    for line, expected in SCENARIOS[name]:
        args = [word.encode() for word in shlex.split(line)]
        spec = TABLE[args[0].upper().decode()]
        if spec.subcommands:
            spec = spec.subcommands[args[1].upper().decode()]
        if not spec.accepts(len(args)):
            continue
        mark = database.tx.mark()
        reply = database.handle(spec, args)
        if isinstance(reply, Error):
            database.tx.undo(mark)
            assert reply.message == expected, line
        else:
            assert reply == expected, line
    assert database.store.last == 0
    seen = dict(database.tx.all())
    assert database.tx.commit() is None
    assert {key: rec.value_of(record) for key, record in database.tx.all()} == {
        key: rec.value_of(record) for key, record in seen.items()
    }


# what a line of a scenario can't say

_STRING_COMMANDS = (
    *("GETSET k v", "SET k v GET", "SET k v IFEQ a", "CAS k a b", "STRLEN k"),
    *("APPEND k v", "SETRANGE k 0 v", "SETRANGE k 0 ''", "GETRANGE k 0 1", "SUBSTR k 0 1", "DUMP k"),
    *("INCR k", "DECR k", "INCRBY k 1", "DECRBY k 1", "INCRBYFLOAT k 1"),
)


def _with_object() -> Loopless:
    database = Loopless()
    database.tx.put(b"k", b"\x93\x01\x02\x03", BEGIN_MS + 60_000, rec.OBJECT)
    assert database.tx.commit() is None
    return database


@pytest.mark.parametrize("line", _STRING_COMMANDS)
def test_a_string_command_refuses_a_typed_object_and_leaves_it(line: str) -> None:
    database = _with_object()
    assert isinstance(database.run(*shlex.split(line)), WrongType)
    assert database.run("TYPE", "k") == "object"
    assert database.run("TTL", "k") == 60


def test_lcs_refuses_a_typed_object_in_its_own_words() -> None:
    reply = _with_object().run("LCS", "x", "k")
    assert type(reply) is UserError
    assert reply.message == "The specified keys must contain string values"


@pytest.mark.parametrize("line", ["GET k", "MGET k", "GETEX k", "GETDEL k"])
def test_what_reads_a_typed_object_has_its_json(line: str) -> None:
    reply = _with_object().run(*line.split())
    assert reply in (b"[1,2,3]", [b"[1,2,3]"])


@pytest.mark.parametrize(
    ("line", "key"),
    [("RENAME k n", "n"), ("RENAMENX k n", "n"), ("COPY k n", "n"), ("PEXPIRE k 60000", "k"), ("PERSIST k", "k")],
)
def test_what_moves_or_dates_a_key_keeps_its_kind(line: str, key: str) -> None:
    database = _with_object()
    assert database.run(*line.split()) in (1, OK)
    assert database.run("TYPE", key) == "object"
    assert database.run("TTL", key) == (-1 if "PERSIST" in line else 60)


def test_changing_bytes_in_place_leaves_bytes_and_setting_makes_a_plain_value() -> None:
    database = Loopless()
    database.tx.put(b"k", b"1", 0, rec.BYTES)
    assert database.tx.commit() is None
    database.run("INCR", "k")
    database.run("APPEND", "k", "0")
    database.run("SETRANGE", "k", "0", "3")
    record = database.tx.get(b"k")
    assert record is not None
    assert (rec.flags_of(record), rec.value_of(record)) == (rec.BYTES, b"30")
    database.run("SET", "k", "v", "KEEPTTL")
    record = database.tx.get(b"k")
    assert record is not None
    assert rec.flags_of(record) == 0


@pytest.mark.parametrize("line", ["GET k", "GETDEL k", "TTL k", "EXISTS k", "INCR k", "APPEND k 1", "RENAME k n"])
def test_an_expired_key_is_a_missing_one(line: str) -> None:
    expired, empty = Loopless(), Loopless()
    expired.run("SET", "k", "5", "PX", "10")
    expired.clock.ms += 10
    reply, other = expired.run(*line.split()), empty.run(*line.split())
    assert (repr(reply), expired.run("GET", "k")) == (repr(other), empty.run("GET", "k"))


def test_a_read_that_meets_an_expired_key_deletes_it() -> None:
    database = Loopless()
    database.run("SET", "k", "v", "PX", "10")
    database.clock.ms += 10
    assert database.run("DBSIZE") == 1
    assert database.run("GET", "k") is None
    assert database.run("DBSIZE") == 0


def test_a_failed_command_leaves_nothing() -> None:
    database = Loopless()
    long_key = b"k" * (limits.KEY_BYTES_MAX + 1)
    assert isinstance(database.run("MSET", "a", "1", long_key, "2"), UserError)
    assert database.run("EXISTS", "a") == 0


def test_a_string_that_no_transaction_may_write_is_refused_before_it_is_made() -> None:
    database = Loopless(max_transaction_bytes=2 << 20)
    assert isinstance(database.run("SETRANGE", "k", 3 << 20, "x"), TransactionTooLarge)
    database.run("SET", "k", b"x" * (1 << 20))
    assert isinstance(database.run("APPEND", "k", b"x" * (1 << 20) + b"y"), TransactionTooLarge)
    assert database.run("STRLEN", "k") == 1 << 20


def test_mget_refuses_a_reply_that_is_too_large_before_it_is_made() -> None:
    database = Loopless(max_reply_bytes=4 << 20)
    database.run("SET", "k", b"x" * (1 << 20))
    reply = database.run("MGET", *["k"] * 5)
    assert isinstance(reply, UserError)
    assert "max-reply-bytes" in reply.message


def test_lcs_is_bounded_in_cells_and_in_bytes() -> None:
    database = Loopless()
    database.run("SET", "a", b"a" * 20_000)
    database.run("SET", "long", b"b" * (2 << 20))
    assert "exceeds proto-max-bulk-len" in database.run("LCS", "a", "a").message
    assert "max-lcs-bytes" in database.run("LCS", "none", "long").message


def test_an_option_ends_at_a_zero_byte_as_in_c() -> None:
    database = Loopless()
    assert database.run("SET", "k", "v", b"EX\0anything", "5") == OK
    assert database.run("TTL", "k") == 5
    assert database.run("EXPIRE", "k", "5", b"so\0much").message == "Unsupported option so"


def test_restore_takes_what_dump_gave() -> None:
    database = Loopless()
    for value in (b"", b"12", b"-70000", b"text", b"\0" * 300, b"x" * 20_000):
        database.run("SET", "k", value)
        payload = database.run("DUMP", "k")
        assert isinstance(database.run("RESTORE", "k", "0", payload), BusyKey)
        assert database.run("RESTORE", "k", "5000", payload, "REPLACE", "FREQ", "3") == OK
        assert (database.run("GET", "k"), database.run("PTTL", "k")) == (value, 5000)
        assert database.run("RESTORE", "k", BEGIN_MS + 7, payload, "ABSTTL", "REPLACE") == OK
        assert database.run("PTTL", "k") == 7
        assert database.run("RESTORE", "k", "7", payload, "ABSTTL", "REPLACE") == OK
        assert database.run("EXISTS", "k") == 0


# walking


def _scan_all(database: Loopless, *options: str | int) -> list[bytes]:
    keys: list[bytes] = []
    cursor = b"0"
    while True:
        cursor, page = database.run("SCAN", cursor, *options)
        keys += page
        if cursor == b"0":
            return keys


def test_scan_returns_what_is_there_throughout_whatever_else_changes() -> None:
    database = Loopless()
    steady = [b"s%03d" % number for number in range(200)]
    for key in steady:
        database.run("SET", key, "v")
    cursor, found = b"0", []
    for step in range(1000):
        cursor, page = database.run("SCAN", cursor, "COUNT", "7")
        found += page
        database.run("SET", f"r{step}", "v")
        database.run("SET", f"t{step}", "v")
        database.run("DEL", f"t{step - 1}")
        if cursor == b"0":
            break
    assert [key for key in found if key.startswith(b"s")] == steady


def test_a_cursor_may_be_used_twice() -> None:
    database = Loopless()
    database.run("MSET", *"a1b2c3")
    cursor, _ = database.run("SCAN", "0", "COUNT", "1")
    assert database.run("SCAN", cursor, "COUNT", "9") == database.run("SCAN", cursor, "COUNT", "9")


def test_scan_waits_in_turns_while_many_keys_are_put_in_order() -> None:
    database = Loopless()
    database.run("MSET", *[f"k{number // 2}" for number in range(40_000)])
    assert len(_scan_all(database, "COUNT", 10_000)) == 20_000
    assert database.waits > 0


@pytest.mark.parametrize("reverse", [[], ["REV"]])
def test_pages_of_a_range_join_without_gap_or_overlap(reverse: list[str]) -> None:
    database = Loopless()
    keys = [b"k%d" % number for number in range(100)] + [b"", b"k\0", b"k", b"k1\0"]
    for key in keys:
        database.run("SET", key, "v", *(["PX", "5"] if key.endswith(b"7") else []))
    database.clock.ms += 5
    living = sorted((key for key in keys if not key.endswith(b"7")), reverse=bool(reverse))
    start, end, found = b"", b"", []
    for _ in range(100):
        following, page = database.run("RANGE", start, end, "LIMIT", "3", "KEYS", *reverse)
        found += page
        assert len(page) == 3 or following is None
        if following is None:
            break
        start, end = (start, following) if reverse else (following, end)
    assert found == living


def test_a_page_of_a_range_ends_after_so_many_keys_looked_at() -> None:
    database = Loopless()
    database.run("MSET", *[word for number in range(12_000) for word in (f"{number:05}", "v")])
    assert database.run("RANGE", "", "", "MATCH", "x*") == [b"10000", []]
    following, page = database.run("RANGE", "", "", "LIMIT", "999999", "KEYS")
    assert (following, len(page)) == (b"10000", 10_000)


@pytest.mark.parametrize("reverse", [[], ["REV"]])
def test_large_values_end_a_page_of_a_range_early(reverse: list[str]) -> None:
    database = Loopless()
    for number in range(5):
        database.run("SET", number, b"v" * (limits.PAGE_BYTES_MAX * 2 // 5))
    assert database.run("RANGE", "", "", "KEYS", *reverse)[0] is None
    following, page = database.run("RANGE", "", "", *reverse)
    assert (following, page[::2]) == ((b"2\0", [b"4", b"3"]) if reverse else (b"2", [b"0", b"1"]))


def test_delrange_obeys_the_limit_of_transactions() -> None:
    database = Loopless(max_transaction_bytes=1024)
    for number in range(3):
        database.run("SET", b"%d" % number * 500, "v")
    assert isinstance(database.run("DELRANGE", "", ""), TransactionTooLarge)
    assert database.run("DBSIZE") == 3


def test_delrange_counts_what_the_journal_adds_to_each_key() -> None:
    assert scanning._DELETION_BYTES == layout.OPERATION_BYTES
    assert len(layout.frame(1, 0, [(layout.DELETE, 0, b"k")])) == layout.FRAME_BYTES + layout.OPERATION_BYTES + 1
    database = Loopless(max_transaction_bytes=1024)
    for number in range(80):
        database.run("SET", b"%02d" % number, "v")
    error = database.run("DELRANGE", "", "")
    assert isinstance(error, TransactionTooLarge)
    assert error.message == "the write has 1120 bytes, at most 1024 are allowed (max-transaction-bytes)"
    assert database.run("DBSIZE") == 80
    assert database.run("DELRANGE", "", "70") == 70
