"""What one operation sees: the sequential model, with the rules of transactions on time (T2).

Committed rows are judged by the time of the operation's serial point, its own by that of the command. What has expired
is deleted by plain commands as they meet it, and passed over by transactions. TTL replies count from the command.
"""

from __future__ import annotations

from typing import Any, Final

from keyhaus.core.errors import Error, ReadOnly, UserError
from tests.support.isolation.operations import EXEC, PLAIN, READONLY, Operation, Step
from tests.support.simulate.model import Anything, Model, Refusal, Row

NEVER: Final = -1  # no commit's number
WRITES: Final = frozenset(
    b"SET GETDEL APPEND INCR INCRBY MSET MSETNX DEL PEXPIRE PEXPIREAT PERSIST RENAME RENAMENX COPY MOVE DELRANGE "
    b"FLUSHDB FLUSHALL SWAPDB".split()
)


class View(Model):
    """The databases as an operation sees them.

    Attributes:
        judged: The time by which committed rows are judged.
        lazy: Whether what has expired is deleted when it is met.
        mine: What it has written itself.
    """

    def __init__(self, model: Model, operation: Operation, time: int) -> None:
        super().__init__(0)
        self.spaces = [space.copy() for space in model.spaces]
        self.mapped = list(model.mapped)
        self.judged, self.lazy = time, operation.mode in (PLAIN, EXEC)
        self.mine: set[tuple[int, bytes]] = set()
        self._read_only = operation.mode == READONLY

    def step(self, step: Step) -> Any:
        """What a command has to answer."""
        self.begin(step.database, NEVER, self.judged if self.lazy else step.when)
        name = step.args[0]
        if self._read_only and name in WRITES:
            return Anything(lambda reply: isinstance(reply, ReadOnly), "READONLY")
        own = getattr(self, f"_{name.decode().lower()}", None)
        return own(step.args) if own is not None else self.run(step.args)

    def differs(self, step: Step) -> str:
        """What is wrong with the reply of a command; nothing: empty. What the command does is done."""
        expected, reply = self.step(step), step.reply
        if isinstance(expected, Refusal):
            fine = isinstance(reply, UserError)
        else:
            fine = bool(expected == reply) and (isinstance(expected, Anything) or not isinstance(reply, Error))
        return "" if fine else f"{step}, and it is to be {expected!r}"

    # rows

    def _expired(self, number: int, key: bytes, row: Row) -> bool:
        return bool(row[1]) and row[1] <= (self.now if (number, key) in self.mine else self.judged)

    def get(self, key: bytes, database: int | None = None) -> Row | None:
        number = self.database if database is None else database
        space = self.spaces[number]
        touched = space.touched.get(key, 0)
        if touched != NEVER:  # what its own writes rest on is told by their replies, which leave before
            self.bound = max(self.bound, touched, self.mapped[number])
        row = space.rows.get(key)
        if row is None or not self._expired(number, key, row):
            return row
        self.rested = self.rested or (number, key) not in self.mine
        if self.lazy:
            self.remove(number, key)
        return None

    def alive(self, key: bytes) -> bool:
        self.bound = max(self.bound, self.spaces[self.database].touched.get(key, 0))
        row = self.spaces[self.database].rows[key]
        if not self._expired(self.database, key, row):
            return True
        self.rested = self.rested or (self.database, key) not in self.mine
        return False

    def within(self, start: bytes = b"", end: bytes | None = None) -> list[bytes]:
        self.bound = max(self.bound, self.mapped[self.database])
        return sorted(key for key in self.spaces[self.database].rows if key >= start and (end is None or key < end))

    def put(self, database: int, key: bytes, value: bytes, expires: int = 0) -> None:
        super().put(database, key, value, expires)
        self.mine.add((database, key))

    # commands that the model does not have, or that time makes special

    def _scan(self, args: list[bytes]) -> Any:
        """The first page; where it ends nobody but the store knows the cursor."""
        keys, count = self.within(), int(args[3])
        page = [key for key in keys[:count] if self.alive(key)]
        more = len(keys) > count

        def fits(reply: Any) -> bool:
            return isinstance(reply, list) and reply[1] == page and (reply[0] != b"0") == more

        return Anything(fits, f"{'a cursor' if more else 0} and {page}")

    def _randomkey(self, args: list[bytes]) -> Any:
        rows = self.spaces[self.database].rows
        keys = [key for key in sorted(rows) if not self._expired(self.database, key, rows[key])]
        return Anything(lambda reply: reply in keys if keys else reply is None, f"one of {keys}")

    def _pttl(self, args: list[bytes]) -> Any:
        row = self.get(args[1])
        if row is None:
            return -2
        return max(row[1] - self.now, 0) if row[1] else -1

    def _pexpiretime(self, args: list[bytes]) -> Any:
        row = self.get(args[1])
        return -2 if row is None else row[1] or -1

    def _lock(self, args: list[bytes]) -> Any:
        return "OK"
