"""A load that does not wait for the server: each request has its time, and its latency counts from then.

So a server that stops for a second is charged for every request that was due in that second (no coordinated omission),
and a client that is late itself is charged, too: by how much it was late is recorded for each request. Half of the
requests are GETs, half SETs; each kind has half of the connections, since replies keep their order on a connection and
a GET would wait for the SET before it.

On one more connection the server is asked now and then what it is doing in the background; requests are told apart
afterwards by what was under way at any time between when they were due and when they were answered.
"""

from __future__ import annotations

import bisect
import gc
import itertools
import random
import select
import time
from array import array
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec

from benchmarks.driver import SILENCE_SECONDS_MAX, connect, received
from benchmarks.rows import Rows
from benchmarks.servers import BenchmarkError, fields_of

Kind: TypeAlias = Literal["GET", "SET"]
State: TypeAlias = Literal["calm", "compaction", "flush"]
STATES: Final[tuple[State, ...]] = ("calm", "compaction", "flush")
_BURST_MAX: Final = 64  # requests that are overdue and sent without looking for replies
_FAR: Final = 1 << 62


class Questions(msgspec.Struct, frozen=True):
    """How a server tells what it does in the background.

    Attributes:
        section: Of INFO.
        flushing: The field that is not 0 while a flush is under way.
        flushes: The field that counts flushes: one that came and went between two questions shows there.
        compacting: The field that is not 0 while files are merged.
        nudge: A command that starts a flush, or nothing where they come by themselves.
        nudge_seconds: How often it is sent.
    """

    section: str
    flushing: str
    flushes: str
    compacting: str
    nudge: str = ""
    nudge_seconds: float = 10.0


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent, and when.

    Attributes:
        per_second: Requests a second, GETs and SETs together.
        seconds: For how long.
        keys: Of how many rows they choose.
        value_bytes: The length of each value; all rows exist with that length.
        connections: For both kinds together.
        ask_ms: How often INFO is asked for.
        seed: Of the random choices.
    """

    per_second: int
    seconds: float
    keys: int
    value_bytes: int
    connections: int
    ask_ms: int
    seed: int


class Answer(msgspec.Struct, frozen=True):
    """One answer to the question what is going on: true at some time between the two."""

    asked_ns: int
    answered_ns: int
    flushing: bool
    flushes: int
    compacting: bool


class Heard(msgspec.Struct, frozen=True):
    """What came of a schedule. The arrays are by request: even ones are GETs, odd ones SETs; times are monotonic."""

    due_ns: array[int]
    latency_ns: array[int]
    lag_ns: array[int]
    answers: list[Answer]
    first: dict[str, str]
    last: dict[str, str]
    client_busy: float


class _Lane:
    """One connection that carries one kind of request."""

    def __init__(self, port: int, reply_bytes: int) -> None:
        self.socket = connect(port)
        self.under_way: deque[int] = deque()
        self._reply_bytes = reply_bytes
        self._have = 0

    def answered(self) -> Iterator[int]:
        """Takes what has come; the requests that it answers."""
        self._have += len(received(self.socket))
        while self._have >= self._reply_bytes:
            self._have -= self._reply_bytes
            if not self.under_way:
                raise BenchmarkError("the server sent more than was asked for")
            yield self.under_way.popleft()


class _Asker:
    """The connection that asks what is going on."""

    def __init__(self, port: int, questions: Questions, ask_ms: int) -> None:
        self.socket = connect(port)
        self.answers: list[Answer] = []
        self.first: dict[str, str] = {}
        self.last: dict[str, str] = {}
        self.next_ns = 0
        self._questions, self._every_ns = questions, ask_ms * 1_000_000
        section = questions.section.encode()
        self._request = b"*2\r\n$4\r\nINFO\r\n$%d\r\n%b\r\n" % (len(section), section)
        self._nudges = connect(port) if questions.nudge else None
        self._nudge_ns = 0
        self._asked_ns = 0
        self._have = b""

    def ask(self, now: int) -> None:
        """Asks, once the answer before is there."""
        self.next_ns = _FAR
        self._asked_ns = now
        self.socket.sendall(self._request)
        if self._nudges is not None and now >= self._nudge_ns:
            if self._nudge_ns:
                self._nudges.recv(4096)
            self._nudge_ns = now + int(self._questions.nudge_seconds * 1e9)
            self._nudges.sendall(self._questions.nudge.encode() + b"\r\n")

    def take(self) -> None:
        """Takes what has come of the answer."""
        self._have += self.socket.recv(1 << 16)
        head, newline, body = self._have.partition(b"\r\n")
        if not newline or len(body) < int(head[1:]) + 2:
            return
        self._have = b""
        self.last = fields_of(body)
        self.first = self.first or self.last
        told, names = self.last, self._questions
        self.answers.append(
            Answer(
                self._asked_ns,
                time.monotonic_ns(),
                told.get(names.flushing, "0") != "0",
                int(told.get(names.flushes, "0")),
                told.get(names.compacting, "0") != "0",
            )
        )
        self.next_ns = self._asked_ns + self._every_ns

    def close(self) -> None:
        self.socket.close()
        if self._nudges is not None:
            self._nudges.close()


def run(port: int, schedule: Schedule, questions: Questions) -> Heard:
    """Sends what is due when it is due. Meant to run in a process and on a core of its own."""
    # Sleeps end when they should rather than up to 50 µs later.
    Path("/proc/self/timerslack_ns").write_text("1")
    load = _OpenLoop(port, schedule, questions)
    gc.disable()
    try:
        return load.run()
    finally:
        gc.enable()
        load.close()


class _OpenLoop:
    def __init__(self, port: int, schedule: Schedule, questions: Questions) -> None:
        self._rows = Rows(schedule.value_bytes)
        half = max(1, schedule.connections // 2)
        replies = (self._rows.get_reply_bytes, self._rows.set_reply_bytes)
        self._lanes = [[_Lane(port, reply_bytes) for _ in range(half)] for reply_bytes in replies]
        self._asker = _Asker(port, questions, schedule.ask_ms)
        self._poll = select.epoll()
        self._by_descriptor = {lane.socket.fileno(): lane for lanes in self._lanes for lane in lanes}
        for descriptor in (*self._by_descriptor, self._asker.socket.fileno()):
            self._poll.register(descriptor, select.EPOLLIN)
        self._schedule = schedule
        self._total = int(schedule.per_second * schedule.seconds)
        self._due, self._latency, self._lag = (array("q", bytes(8 * self._total)) for _ in range(3))
        self._rng = random.Random(schedule.seed)

    def run(self) -> Heard:
        interval = 1e9 / self._schedule.per_second
        clock = time.monotonic_ns
        cpu, began = time.process_time(), clock()
        sent = answered = 0
        due = began
        heard_ns = began
        while answered < self._total:
            now = clock()
            for _ in range(_BURST_MAX):
                if due > now:
                    break
                self._send(sent, due)
                sent += 1
                due = began + int(sent * interval) if sent < self._total else _FAR
            if now >= self._asker.next_ns:
                self._asker.ask(now)
            wait = max(0, min(due, self._asker.next_ns, now + 1_000_000_000) - clock()) / 1e9
            # epoll's own time-outs are whole milliseconds.
            if select.select([self._poll], [], [], wait)[0]:
                answered += self._receive()
                heard_ns = clock()
            elif clock() - heard_ns > SILENCE_SECONDS_MAX * 1e9:
                raise BenchmarkError(f"no reply for {SILENCE_SECONDS_MAX:.0f} s")
        busy = (time.process_time() - cpu) / ((clock() - began) / 1e9)
        self._ask_once_more()
        asker = self._asker
        return Heard(self._due, self._latency, self._lag, asker.answers, asker.first, asker.last, busy)

    def _send(self, number: int, due: int) -> None:
        kind = number & 1
        lanes = self._lanes[kind]
        lane = lanes[(number >> 1) % len(lanes)]
        row = int(self._rng.random() * self._schedule.keys)
        request = self._rows.sets((row,), number) if kind else self._rows.gets((row,))
        self._due[number] = due
        lane.under_way.append(number)
        self._lag[number] = time.monotonic_ns() - due
        lane.socket.sendall(request)

    def _receive(self) -> int:
        count = 0
        for descriptor, _ in self._poll.poll(0):
            lane = self._by_descriptor.get(descriptor)
            if lane is None:
                self._asker.take()
                continue
            for number in lane.answered():
                self._latency[number] = time.monotonic_ns() - self._due[number]
                count += 1
        return count

    def _ask_once_more(self) -> None:
        asker = self._asker
        for _ in range(2):  # what is asked now may still be under way, and ends the last span but one
            if asker.next_ns != _FAR:
                asker.ask(time.monotonic_ns())
            while asker.next_ns == _FAR:
                asker.take()

    def close(self) -> None:
        self._poll.close()
        self._asker.close()
        for lane in self._by_descriptor.values():
            lane.socket.close()


class Timeline:
    """When which background work was under way, as far as the answers tell.

    What lies between two answers of which only one speaks of a flush counts as flush, since the seal that begins one
    and the change of files that ends it lie there.
    """

    def __init__(self, answers: list[Answer]) -> None:
        self._spans: dict[State, list[tuple[int, int]]] = {"flush": [], "compaction": []}
        for before, after in itertools.pairwise(answers):
            span = (before.asked_ns, after.answered_ns)
            if before.flushing or after.flushing or before.flushes != after.flushes:
                self._add("flush", span)
            elif before.compacting or after.compacting:
                self._add("compaction", span)
        self._starts = {state: [start for start, _ in spans] for state, spans in self._spans.items()}
        self._total_ns = answers[-1].answered_ns - answers[0].asked_ns if answers else 0

    def _add(self, state: State, span: tuple[int, int]) -> None:
        spans = self._spans[state]
        if spans and spans[-1][1] >= span[0]:
            spans[-1] = (spans[-1][0], span[1])
        else:
            spans.append(span)

    def state(self, start_ns: int, end_ns: int) -> State:
        """What was under way at any time between two; a flush counts before a compaction."""
        for state, spans in self._spans.items():
            at = bisect.bisect_right(self._starts[state], end_ns) - 1
            if at >= 0 and spans[at][1] >= start_ns:
                return state
        return "calm"

    def share(self, state: State) -> float:
        """Of the time."""
        covered = sum(end - start for start, end in self._spans.get(state, ()))
        return covered / self._total_ns if self._total_ns else 0.0
