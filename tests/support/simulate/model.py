"""The sequential model: what every command answers and does, on plain dicts, at one moment.

It knows nothing of journals, views or caches. A command is run on it with the number and the time of its serial point;
what it looked at says on which commit its answer rests (C2), and whether it rests on an expiry (S6).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

from keyhaus.journal.format import DELETE, FLUSH, LAPSE, PUT, Operation

Row: TypeAlias = tuple[bytes, int]  # value, and when it expires (0: never)
Rows: TypeAlias = dict[bytes, Row]
OK: Final = "OK"


class Refusal(Exception):
    """The command fails: it is a mistake of its client's."""


class Anything:
    """A reply that is right if a test of it says so."""

    def __init__(self, test: Callable[[Any], bool], said: str) -> None:
        self.test, self.said = test, said

    def __eq__(self, other: object) -> bool:
        return self.test(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return self.said


class Space:
    """What lies under a database's number.

    Attributes:
        rows: Keys and what stands under them, expired ones included until their end is a commit.
        touched: The number of the last commit that changed a key, deletions included.
        newest: The number of the last one that changed any.
    """

    __slots__ = ("newest", "rows", "touched")

    def __init__(self, newest: int = 0) -> None:
        self.rows: Rows = {}
        self.touched: dict[bytes, int] = {}
        self.newest = newest

    def copy(self) -> Space:
        other = Space(self.newest)
        other.rows, other.touched = dict(self.rows), dict(self.touched)
        return other


class Model:
    """All databases at one moment.

    Attributes:
        spaces: Per number, what lies there.
        mapped: Per number, the commit that put it there.
        seqno, now: The number that a commit gets, and the time of the command that is run.
        bound: The newest commit that the answer rests on.
        rested: Whether it rests on an expiry.
        changed: Whether anything was changed.
        database: The one that the command addresses.
    """

    def __init__(self, databases: int) -> None:
        self.spaces = [Space() for _ in range(databases)]
        self.mapped = [0] * databases
        self.seqno = self.now = self.bound = self.database = 0
        self.rested = self.changed = False
        self._undo: list[tuple[Space, bytes, Row | None, int]] = []

    def copy(self) -> Model:
        other = Model(0)
        other.spaces = [space.copy() for space in self.spaces]
        other.mapped = list(self.mapped)
        return other

    def counts(self) -> tuple[int, ...]:
        return tuple([len(space.rows) for space in self.spaces])

    # one command

    def begin(self, database: int, seqno: int, now: int) -> None:
        self.database, self.seqno, self.now = database, seqno, now
        self.bound = 0
        self.rested = self.changed = False
        self._undo.clear()

    def run(self, args: list[bytes]) -> Any:
        """What a command answers; what it does is done. A command that fails leaves nothing."""
        point = len(self._undo)
        try:
            return _COMMANDS[args[0]](self, args)
        except Refusal as refusal:
            while len(self._undo) > point:
                space, key, row, touched = self._undo.pop()
                if row is None:
                    space.rows.pop(key, None)
                else:
                    space.rows[key] = row
                space.touched[key] = touched
            self.changed = bool(self._undo)
            return refusal

    # commits

    def apply(self, seqno: int, operations: list[Operation]) -> None:
        """Does what a commit did, as its operations say."""
        self.seqno = seqno
        for operation in operations:
            kind, database = operation[0], operation[1]
            if kind == PUT:
                self.put(database, operation[2], operation[3], operation[4])
            elif kind in (DELETE, LAPSE):
                self.remove(database, operation[2])
            elif kind == FLUSH:
                self.flush(database)
            else:
                self.swap(database, operation[2])
        self._undo.clear()

    def put(self, database: int, key: bytes, value: bytes, expires: int = 0) -> None:
        space = self.spaces[database]
        self._undo.append((space, key, space.rows.get(key), space.touched.get(key, 0)))
        space.rows[key] = (value, expires)
        space.touched[key] = space.newest = self.seqno
        self.changed = True

    def remove(self, database: int, key: bytes) -> None:
        space = self.spaces[database]
        row = space.rows.pop(key, None)
        if row is not None:
            self._undo.append((space, key, row, space.touched.get(key, 0)))
            space.touched[key] = space.newest = self.seqno
            self.changed = True

    def flush(self, database: int) -> None:
        self.spaces[database] = Space(self.seqno)
        self.mapped[database] = self.seqno
        self.changed = True

    def swap(self, one: int, other: int) -> None:
        spaces = self.spaces
        spaces[one], spaces[other] = spaces[other], spaces[one]
        self.mapped[one] = self.mapped[other] = self.seqno
        self.changed = True

    # reading

    def get(self, key: bytes, database: int | None = None) -> Row | None:
        number = self.database if database is None else database
        space = self.spaces[number]
        touched = space.touched.get(key, 0)
        if touched != self.seqno:  # its own commit is no reason
            self.bound = max(self.bound, touched)
        if self.mapped[number] != self.seqno:
            self.bound = max(self.bound, self.mapped[number])
        row = space.rows.get(key)
        if row is not None and row[1] and row[1] <= self.now:
            self.rested = True
            self.remove(number, key)
            return None
        return row

    def value(self, key: bytes) -> bytes | None:
        row = self.get(key)
        return None if row is None else row[0]

    def within(self, start: bytes = b"", end: bytes | None = None) -> list[bytes]:
        """The keys of a range, expired ones too."""
        space = self.spaces[self.database]
        self.bound = max(self.bound, space.newest, self.mapped[self.database])
        return sorted([key for key in space.rows if key >= start and (end is None or key < end)])

    def alive(self, key: bytes) -> bool:
        expires = self.spaces[self.database].rows[key][1]
        if expires and expires <= self.now:
            self.rested = True
            return False
        return True


def visible(rows: Rows, now: int) -> Rows:
    return {key: row for key, row in rows.items() if not row[1] or row[1] > now}


# the commands


def _set(model: Model, args: list[bytes]) -> Any:
    key, options = args[1], args[3:]
    expires = 0
    if b"PX" in options:
        expires = model.now + int(options[options.index(b"PX") + 1])
    elif b"PXAT" in options:
        expires = int(options[options.index(b"PXAT") + 1])
    if not {b"NX", b"XX", b"GET", b"KEEPTTL"}.isdisjoint(options):
        old = model.get(key)
        said = old[0] if old is not None and b"GET" in options else None
        if (b"NX" in options and old is not None) or (b"XX" in options and old is None):
            return said
        if b"KEEPTTL" in options and old is not None:
            expires = old[1]
        model.put(model.database, key, args[2], expires)
        return said if b"GET" in options else OK
    model.put(model.database, key, args[2], expires)
    return OK


def _getdel(model: Model, args: list[bytes]) -> Any:
    value = model.value(args[1])
    if value is not None:
        model.remove(model.database, args[1])
    return value


def _append(model: Model, args: list[bytes]) -> Any:
    row = model.get(args[1])
    value, expires = row if row is not None else (b"", 0)
    model.put(model.database, args[1], value + args[2], expires)
    return len(value) + len(args[2])


def _incrby(model: Model, args: list[bytes]) -> Any:
    row = model.get(args[1])
    value, expires = row if row is not None else (b"0", 0)
    if not value.isdigit() or (value[0] == 48 and value != b"0"):
        raise Refusal("not an integer")
    number = int(value) + (int(args[2]) if len(args) > 2 else 1)
    model.put(model.database, args[1], b"%d" % number, expires)
    return number


def _mset(model: Model, args: list[bytes]) -> Any:
    for place in range(1, len(args), 2):
        model.put(model.database, args[place], args[place + 1])
    return OK


def _msetnx(model: Model, args: list[bytes]) -> Any:
    for key in args[1::2]:
        if model.get(key) is not None:
            return 0
    _mset(model, args)
    return 1


def _del(model: Model, args: list[bytes]) -> Any:
    deleted = 0
    for key in args[1:]:
        if model.get(key) is not None:
            model.remove(model.database, key)
            deleted += 1
    return deleted


def _pexpire(model: Model, args: list[bytes]) -> Any:
    expires = int(args[2]) + (model.now if args[0] == b"PEXPIRE" else 0)
    row = model.get(args[1])
    if row is None:
        return 0
    if b"GT" in args[3:] and (not row[1] or expires <= row[1]):
        return 0
    if b"NX" in args[3:] and row[1]:
        return 0
    if expires <= model.now:
        model.remove(model.database, args[1])
    else:
        model.put(model.database, args[1], row[0], expires)
    return 1


def _persist(model: Model, args: list[bytes]) -> Any:
    row = model.get(args[1])
    if row is None or not row[1]:
        return 0
    model.put(model.database, args[1], row[0])
    return 1


def _pttl(model: Model, args: list[bytes]) -> Any:
    row = model.get(args[1])
    if row is None:
        return -2
    return row[1] - model.now if row[1] else -1


def _rename(model: Model, args: list[bytes]) -> Any:
    row = model.get(args[1])
    if row is None:
        raise Refusal("no such key")
    if args[1] == args[2]:
        return OK if args[0] == b"RENAME" else 0
    if args[0] == b"RENAMENX" and model.get(args[2]) is not None:
        return 0
    model.remove(model.database, args[1])
    model.put(model.database, args[2], *row)
    return OK if args[0] == b"RENAME" else 1


def _copy(model: Model, args: list[bytes]) -> Any:
    database = int(args[4]) if args[3:4] == [b"DB"] else model.database
    if database == model.database and args[1] == args[2]:
        raise Refusal("the same")
    row = model.get(args[1])
    if row is None or (model.get(args[2], database) is not None and args[-1] != b"REPLACE"):
        return 0
    model.put(database, args[2], *row)
    return 1


def _move(model: Model, args: list[bytes]) -> Any:
    database = int(args[2])
    if database == model.database:
        raise Refusal("the same")
    row = model.get(args[1])
    if row is None or model.get(args[1], database) is not None:
        return 0
    model.put(database, args[1], *row)
    model.remove(model.database, args[1])
    return 1


def _range(model: Model, args: list[bytes]) -> Any:
    options = args[3:]
    limit = int(options[options.index(b"LIMIT") + 1]) if b"LIMIT" in options else 10_000
    reverse = b"REV" in options
    keys = model.within(args[1], args[2] or None)
    if reverse:
        keys.reverse()
    shown: list[bytes] = []
    found = place = 0
    while place < len(keys) and found < limit:
        key = keys[place]
        place += 1
        if model.alive(key):
            found += 1
            shown.append(key)
            if b"KEYS" not in options:
                shown.append(model.spaces[model.database].rows[key][0])
    following = None
    if place < len(keys):
        following = keys[place] + b"\0" if reverse else keys[place]
    return [following, shown]


def _delrange(model: Model, args: list[bytes]) -> Any:
    keys = [key for key in model.within(args[1], args[2] or None) if model.alive(key)]
    for key in keys:
        model.remove(model.database, key)
    return len(keys)


def _keys(model: Model, args: list[bytes]) -> Any:
    keys = [key for key in model.within() if model.alive(key)]
    return Anything(lambda reply: isinstance(reply, list) and sorted(reply) == keys, f"in any order {keys}")


def _randomkey(model: Model, args: list[bytes]) -> Any:
    rows = visible(model.spaces[model.database].rows, model.now)
    return Anything(lambda reply: reply in rows if rows else reply is None, f"one of {sorted(rows)}")


def _flushall(model: Model, args: list[bytes]) -> Any:
    for database in range(len(model.spaces)):
        model.flush(database)
    return OK


def _flushdb(model: Model, args: list[bytes]) -> Any:
    model.flush(model.database)
    return OK


def _swapdb(model: Model, args: list[bytes]) -> Any:
    if args[1] != args[2]:
        model.swap(int(args[1]), int(args[2]))
    return OK


def _select(model: Model, args: list[bytes]) -> Any:
    model.database = int(args[1])
    return OK


def _dbsize(model: Model, args: list[bytes]) -> Any:
    space = model.spaces[model.database]
    model.bound = max(model.bound, space.newest, model.mapped[model.database])
    return len(space.rows)


_COMMANDS: Final[dict[bytes, Callable[[Model, list[bytes]], Any]]] = {
    b"SET": _set,
    b"GET": lambda model, args: model.value(args[1]),
    b"GETDEL": _getdel,
    b"APPEND": _append,
    b"STRLEN": lambda model, args: len(model.value(args[1]) or b""),
    b"INCR": _incrby,
    b"INCRBY": _incrby,
    b"MSET": _mset,
    b"MSETNX": _msetnx,
    b"MGET": lambda model, args: [model.value(key) for key in args[1:]],
    b"DEL": _del,
    b"EXISTS": lambda model, args: sum([model.get(key) is not None for key in args[1:]]),
    b"PEXPIRE": _pexpire,
    b"PEXPIREAT": _pexpire,
    b"PERSIST": _persist,
    b"PTTL": _pttl,
    b"RENAME": _rename,
    b"RENAMENX": _rename,
    b"COPY": _copy,
    b"MOVE": _move,
    b"RANGE": _range,
    b"DELRANGE": _delrange,
    b"KEYS": _keys,
    b"RANDOMKEY": _randomkey,
    b"FLUSHALL": _flushall,
    b"FLUSHDB": _flushdb,
    b"SWAPDB": _swapdb,
    b"SELECT": _select,
    b"DBSIZE": _dbsize,
}
