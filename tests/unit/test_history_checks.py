"""The checks of histories on their own: each anomaly by its name, and nothing where there is none."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.support.isolation import replay
from tests.support.isolation.graph import Graph
from tests.support.isolation.operations import (
    ALWAYS,
    DONE,
    FAR,
    GONE,
    PESSIMISTIC,
    PLAIN,
    Operation,
    Placed,
    Step,
)
from tests.support.isolation.search import Found, search
from tests.support.simulate.model import Model
from tests.support.simulate.oracle import Broken

_NUMBERS = itertools.count()


def operation(
    begun: int, ended: int, *commands: tuple[str, Any], outcome: str = DONE, mode: str = PESSIMISTIC
) -> Operation:
    """Commands with their replies, between two ticks; its serial point is its end."""
    one = Operation(next(_NUMBERS), 0, mode, begun, (0, 0), ended=ended, outcome=outcome, told=ALWAYS)
    one.point = min(ended, 1000)
    for words, reply in commands:
        args = [word.encode() for word in words.split()]
        one.steps.append(Step(args, reply, 0, 0, one.point, FAR, FAR, True, ALWAYS))
    return one


def appends(key: str, element: int) -> tuple[str, Any]:
    return f"APPEND {key} ,{element}", 1


def reads(key: str, *elements: int) -> tuple[str, Any]:
    value = "".join(f",{element}" for element in elements).encode()
    return f"GET {key}", value or None


def sets(key: str, value: int) -> tuple[str, Any]:
    return f"SET {key} {value}", "OK"


ANOMALIES: dict[str, list[Operation]] = {
    "G0": [
        operation(1, 90, appends("l0", 1), appends("l1", 2)),
        operation(2, 91, appends("l0", 3), appends("l1", 4)),
        operation(3, 92, reads("l0", 1, 3), reads("l1", 4, 2)),
    ],
    "G1a": [
        operation(1, 90, appends("l0", 1), outcome=GONE),
        operation(2, 91, reads("l0", 1)),
    ],
    "G1b": [
        operation(1, 90, appends("l0", 1), appends("l0", 2)),
        operation(2, 91, reads("l0", 1)),
    ],
    "G1c": [
        operation(1, 90, appends("l0", 1), reads("l1", 2)),
        operation(2, 91, appends("l1", 2), reads("l0", 1)),
    ],
    "G-single": [
        operation(1, 90, appends("l0", 1), appends("l1", 2)),
        operation(2, 91, reads("l0", 1), reads("l1")),
        operation(3, 92, reads("l1", 2)),
    ],
    "G2": [
        operation(1, 90, reads("l0"), appends("l1", 1)),
        operation(2, 91, reads("l1"), appends("l0", 2)),
    ],
    "real-time G-single": [
        operation(1, 10, appends("l0", 1)),
        operation(20, 30, reads("l0")),
        operation(40, 50, reads("l0", 1)),
    ],
    "real-time G1c": [
        operation(1, 10, reads("l0", 1)),
        operation(20, 30, appends("l0", 1)),
    ],
    "INTERNAL": [operation(1, 90, appends("l0", 1), reads("l0"))],
    "GARBAGE": [operation(1, 90, reads("l0", 7))],
    "DUPLICATE": [operation(1, 90, appends("l0", 7)), operation(2, 91, reads("l0", 7, 7))],
    "ORDER of versions": [
        operation(1, 90, appends("l0", 1)),
        operation(2, 91, appends("l0", 2)),
        operation(3, 92, reads("l0", 1, 2)),
        operation(4, 93, reads("l0", 2)),
    ],
}
REGISTERS: dict[str, list[Operation]] = {
    "G2": [  # a lost update
        operation(1, 90, ("SET r0 1", "OK")),
        operation(2, 91, ("SET r0 2 GET", b"1")),
        operation(3, 92, ("SET r0 3 GET", b"1")),
    ],
    "real-time G-single": [
        operation(1, 10, sets("r0", 1)),
        operation(20, 30, ("GET r0", None)),
    ],
    "G1a": [operation(1, 90, sets("r0", 1), outcome=GONE), operation(2, 91, ("GET r0", b"1"))],
    "G1b": [operation(1, 90, sets("r0", 1), sets("r0", 2)), operation(2, 91, ("GET r0", b"1"))],
}


@pytest.mark.parametrize("name", ANOMALIES)
def test_an_anomaly_of_lists_is_found_by_its_name(name: str) -> None:
    with pytest.raises(Broken, match=f"^{name}:?"):
        Graph(ANOMALIES[name]).check()


@pytest.mark.parametrize("name", REGISTERS)
def test_an_anomaly_of_registers_is_found_by_its_name(name: str) -> None:
    with pytest.raises(Broken, match=f"^{name}:"):
        Graph(REGISTERS[name]).check()


def test_a_strict_serial_history_has_no_anomaly() -> None:
    Graph(
        [
            operation(1, 10, appends("l0", 1), sets("r0", 5)),
            operation(5, 20, reads("l0", 1), ("SET r0 6 GET", b"5"), appends("l0", 2), reads("l0", 1, 2)),
            operation(6, 30, reads("l0"), ("GET r0", None)),
            operation(21, 40, ("MGET l0 l1 r0", [b",1,2", None, b"6"])),
            operation(25, 45, ("RANGE l s", [None, [b"l0", b",1,2", b"r0", b"6"]])),
        ]
    ).check()


def test_whoever_was_not_told_counts_once_somebody_has_seen_it() -> None:
    lost = operation(1, 90, appends("l0", 1), appends("l1", 2))
    lost.ended = FAR
    Graph([lost, operation(2, 91, reads("l0"), reads("l1"))]).check()
    with pytest.raises(Broken, match="^G-single:"):
        Graph([lost, operation(2, 91, reads("l0", 1), reads("l1"))]).check()


# check 1


def committed(one: Operation, seqno: int, point: int, *operations: Any) -> Operation:
    one.commit, one.point = Placed(seqno, 0, list(operations), point, None), point
    return one


def test_a_reply_that_no_order_explains_is_an_anomaly() -> None:
    write = committed(operation(1, 10, sets("a", 1), mode=PLAIN), 1, 5, (1, 0, b"a", b"1", 0, 0))
    stale = operation(20, 30, ("GET a", None), mode=PLAIN)
    with pytest.raises(Broken, match="^ANOMALY .*'GET' 'a' -> None"):
        replay.check([write, stale], Model(3), "executed")


def test_a_reply_that_another_order_explains_is_elsewhere() -> None:
    write = committed(operation(1, 10, sets("a", 1), mode=PLAIN), 1, 5, (1, 0, b"a", b"1", 0, 0))
    early = operation(2, 30, ("GET a", None), mode=PLAIN)
    assert search([write, early], Model(3), replay.play) is Found.OTHER
    with pytest.raises(Broken, match="^ELSEWHERE"):
        replay.check([write, early], Model(3), "executed")


def test_a_commit_that_does_something_else_than_its_commands_is_told() -> None:
    write = committed(operation(1, 10, sets("a", 1), mode=PLAIN), 1, 5, (1, 0, b"a", b"2", 0, 0))
    with pytest.raises(Broken, match="its commands leave b'a'"):
        replay.check([write], Model(3), "executed")


def test_what_was_read_by_a_transaction_that_is_gone_has_to_hold_too() -> None:
    write = committed(operation(1, 10, sets("a", 1), mode=PLAIN), 1, 5, (1, 0, b"a", b"1", 0, 0))
    gone = operation(20, 30, ("GET a", b"2"), outcome=GONE)
    with pytest.raises(Broken, match="^ANOMALY .*partial"):
        replay.check(list(replay.settled([write, gone])), Model(3), "executed")
