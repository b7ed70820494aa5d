"""Whether any serial order at all explains what was told.

Tried are all orders that keep real time, each operation at each time within its own: what comes first is chosen among
those that were begun before any other ended. A state of things that was met before is not looked at again.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final

from tests.support.isolation.operations import SWEEP, Operation
from tests.support.simulate.model import Model

PLAYS_MAX: Final = 20_000
TIMES_MAX: Final = 12  # milliseconds of an operation that are tried one by one
_Play = Callable[[Operation, Model, int], str]


class Found(Enum):
    NONE = "no order explains it"
    OTHER = "another order explains it"
    UNKNOWN = "so many orders can't be tried"


class _TooMany(Exception):
    pass


class _Search:
    def __init__(self, operations: list[Operation], play: _Play) -> None:
        self._operations = sorted(operations, key=lambda operation: operation.point)
        self._play = play
        self._known: set[object] = set()
        self._plays = 0

    def explained(self, model: Model, clock: int) -> bool:
        """Depth first; what is to be done at each depth is on the stack, since histories are long."""
        stack = [(frozenset(range(len(self._operations))), model, clock)]
        while stack:
            todo, model, clock = stack.pop()
            if not todo:
                return True
            state = (todo, clock, tuple(tuple(sorted(space.rows.items())) for space in model.spaces))
            if state in self._known:
                continue
            self._known.add(state)
            stack += self._next(todo, model, clock)
        return False

    def _next(self, todo: frozenset[int], model: Model, clock: int) -> list[tuple[frozenset[int], Model, int]]:
        operations = self._operations
        until = min(operations[number].ended for number in todo)
        following = []
        for number in sorted(todo, reverse=True):  # the promised order is tried first
            operation = operations[number]
            if operation.begun >= until:
                continue
            for time in self._times(operation, clock):
                self._plays += 1
                if self._plays > PLAYS_MAX:
                    raise _TooMany
                copy = model.copy()
                if not self._play(operation, copy, time):
                    following.append((todo - {number}, copy, time))
        return following

    @staticmethod
    def _times(operation: Operation, clock: int) -> list[int]:
        first, last = operation.times
        if operation.mode == SWEEP or first == last:
            return [operation.time]
        times = {*range(max(clock, first), min(last, first + TIMES_MAX) + 1), operation.time, last}
        return sorted((time for time in times if clock <= time), reverse=True)


def search(operations: list[Operation], begin: Model, play: _Play) -> Found:
    """Looks for a serial order of all of them."""
    try:
        clock = min(operation.times[0] for operation in operations)
        return Found.OTHER if _Search(operations, play).explained(begin.copy(), clock) else Found.NONE
    except _TooMany:
        return Found.UNKNOWN
