"""What a history is made of: operations, each with its steps, what it was told, and when.

An operation is what has to seem to happen at one moment: a transaction from BEGIN to COMMIT, an EXEC, a plain command,
or a deletion of what had expired. Real time is counted in ticks: an operation may have its moment anywhere between
the tick at which its first request was sent and the one at which its last reply left.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from tests.support.simulate.oracle import Commit, words

FAR: Final = 1 << 60
PLAIN, EXEC, SWEEP = "plain", "exec", "sweep"
PESSIMISTIC, OPTIMISTIC, READONLY = "pessimistic", "optimistic", "readonly"
OPEN, DONE, GONE = "open", "done", "gone"
NOBODY, ANYBODY, ALWAYS = 0, 1, 2  # who was told: nobody; somebody; somebody who asked for `always`


@dataclass(slots=True)
class Placed(Commit):
    """A commit, and at which tick and time of the store's clock it was made."""

    point: int
    number: bytes | None  # of its transaction


@dataclass(slots=True)
class Step:
    """One command of an operation.

    Attributes:
        args, reply: What was asked and answered.
        database: The one that it addresses.
        when: The store's time as it was answered.
        point: The tick as it was answered.
        depends, synced: What the reply depends on, and what was synced then (C2).
        carried: Whether a commit was made for it that carries the time (S6).
        told: Who was told.
    """

    args: list[bytes]
    reply: Any
    database: int
    when: int
    point: int
    depends: int
    synced: int
    carried: bool
    told: int = NOBODY

    def __str__(self) -> str:
        return f"{words(self.args)} -> {self.reply!r}"


@dataclass(eq=False)
class Operation:
    """Something that seems to happen at one moment.

    Attributes:
        client: Whose it is; -1 for the store's own.
        mode: Its kind.
        begun, ended: The ticks between which it happened.
        times: The store's time at both.
        point, time: Its serial point: the tick and the time.
        steps: Its commands.
        failed: Commands of it that the disk failed: of what they read nothing is known, but it may rest on that.
        watched: Reads of watched keys since WATCH, which have to hold at its serial point too.
        marks: What an EXEC watches, each with the tick of WATCH.
        commit: What it committed.
        outcome: Open, done, or gone: then nothing of it may ever be seen.
        why: What it is gone of.
        name: Its transaction id.
        told: Who was told that it is done.
        contended: Whether others were in its way: it waited, or died of a conflict, a deadlock or a time-out.
        partial: Whether it was cut off: its reads must hold, and nothing of its writes is there.
        sync: Whether its replies wait for a sync.
    """

    number: int
    client: int
    mode: str
    begun: int
    times: tuple[int, int]
    database: int = 0
    ended: int = FAR
    point: int = -1
    time: int = 0
    steps: list[Step] = field(default_factory=list)
    failed: list[Step] = field(default_factory=list)
    watched: list[Step] = field(default_factory=list)
    marks: dict[tuple[int, bytes], int] = field(default_factory=dict)
    commit: Placed | None = None
    outcome: str = OPEN
    why: str = ""
    name: bytes = b""
    told: int = NOBODY
    contended: bool = False
    partial: bool = False
    sync: bool = True

    def __str__(self) -> str:
        ended = "…" if self.ended == FAR else self.ended
        steps = "; ".join(map(str, [*self.watched, *self.steps]))
        what = f" commit {self.commit.seqno} {self.commit.operations}" if self.commit is not None else ""
        why = f" {self.outcome}{' ' + self.why if self.why else ''}{', partial' if self.partial else ''}"
        where = f"at {self.point} ({self.begun}-{ended}), time {self.time % 1_000_000}, client {self.client}"
        return f"{where}, {self.mode}{why}: {steps}{what}"
