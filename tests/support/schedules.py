"""Schedules as tables: what each client says, in this order, and what it is answered in each mode.

    |              | PP         | OO       |
    | 1 SET x 11   | OK         | OK       |
    | 2 SET x 12   | …          | OK       |
    | 1 COMMIT     | OK 2:OK    | OK       |
    | 2 COMMIT     | OK         | OK       |
    | 0 RANGE      | x=12,y=20  | "        |

A column is named by the mode of each transaction, in their order: P is PESSIMISTIC, O is OPTIMISTIC, R is READONLY, M
is MULTI/EXEC, and a dot is a client that says single commands. All begin before the first step, in their order, so the
last one is the youngest; but one that has a step BEGIN begins there. 0 looks at the end, outside of any transaction.

A cell says what the step is answered: a value, `nil`, an error's code, the rows of a range (`none` for none), or `…`
for a request that waits. `2:OK` is what client 2, which waited, is answered as a consequence. A `-` leaves the step
out, and a `"` stands for the cell on its left. In mode M COMMIT is EXEC and ROLLBACK is DISCARD.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import pytest

from tests.support.doors import Client, Failure, House

_MODES: Final = {"P": "PESSIMISTIC", "O": "OPTIMISTIC", "R": "READONLY"}
_IN_MULTI: Final = {"COMMIT": "EXEC", "ROLLBACK": "DISCARD"}
WAITS: Final = "…"
FILLED: Final = {"x": 10, "y": 20}  # what the database holds when a schedule begins


class Step(NamedTuple):
    """A row of a table, and its cell in one column."""

    client: int
    words: list[str]
    cell: str


def anomaly(table: str) -> Callable[[House, str], None]:
    """A test that plays a schedule through every door in every mode that the table has a column for."""
    header, *rows = [[cell.strip() for cell in line.strip()[1:-1].split("|")] for line in table.strip().split("\n")]
    modes = header[1:]
    for row in rows:
        assert len(row) == len(header), row
        for column in range(2, len(row)):
            if row[column] == '"':
                row[column] = row[column - 1]

    @pytest.mark.parametrize("modes", modes)
    def test(house: House, modes: str) -> None:
        column = header.index(modes)
        steps = [_step(row[0], row[column]) for row in rows if row[column] != "-"]
        Play(house, modes).run(steps)

    return test


def _step(text: str, cell: str) -> Step:
    client, *words = text.split()
    return Step(int(client), words, cell)


class Play:
    """A schedule that is being played in one mode."""

    def __init__(self, house: House, modes: str) -> None:
        self._modes = modes
        self._clients = [house.connect() for _ in range(len(modes) + 1)]
        self._waiting: dict[int, Client] = {}
        for key, value in FILLED.items():
            assert self._clients[0]("SET", key, value) == b"OK"

    def run(self, steps: list[Step]) -> None:
        late = {step.client for step in steps if step.words == ["BEGIN"]}
        for number in range(1, len(self._clients)):
            if number not in late:
                self._begin(number)
        for step in steps:
            if step.words == ["BEGIN"]:
                self._begin(step.client)
            else:
                self._say(step)
        assert not self._waiting, f"the schedule ends while {sorted(self._waiting)} wait"

    def _begin(self, number: int) -> None:
        mode = _MODES.get(self._modes[number - 1])
        if mode is not None:
            assert self._clients[number]("BEGIN", mode).startswith(b"tx-")

    def _say(self, step: Step) -> None:
        number, words, cell = step
        client = self._clients[number]
        assert number not in self._waiting, f"{step}: it still waits for its last reply"
        if words[0] == "RANGE":
            words = [*words, "", ""][:3]
        elif number and self._modes[number - 1] == "M":
            words = [_IN_MULTI.get(words[0], words[0]), *words[1:]]
        client.send(*words)
        own, *others = cell.split()
        if own == WAITS:
            assert client.waits(), f"{step} should wait, and is answered {client.reply()!r}"
            self._waiting[number] = client
        else:
            found = _shown(client.reply())
            assert found == own, f"{step} is answered {found!r}"
        for other in others:
            who, _, expected = other.partition(":")
            found = _shown(self._waiting.pop(int(who)).reply())
            assert found == expected, f"{step}: then client {who} is answered {found!r}"
        for number, waiting in self._waiting.items():
            assert waiting.waits(), f"{step}: then client {number} is answered {waiting.reply()!r}"


def _shown(reply: Any) -> str:
    """A reply as cells have it, without blanks."""
    if reply is None:
        return "nil"
    if isinstance(reply, Failure):
        return reply.code
    if isinstance(reply, list):
        if len(reply) == 2 and isinstance(reply[1], list):  # a page of a range: where the next one begins, and its rows
            rows = iter(reply[1])
            return (
                ",".join([f"{key.decode()}={value.decode()}" for key, value in zip(rows, rows, strict=True)]) or "none"
            )
        return f"[{','.join([_shown(part) for part in reply])}]"
    return reply.decode() if isinstance(reply, bytes) else str(reply)
