"""Seeds, one after another and many at once, on both grounds."""

from __future__ import annotations

import gc
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Final, TypeAlias

from tests.support.isolation.durable import Durable
from tests.support.isolation.left_out import DURABLE, LEFT_OUT, MEMORY, left_out
from tests.support.isolation.memory import Memory
from tests.support.isolation.operations import EXEC, OPTIMISTIC, PESSIMISTIC, PLAIN, READONLY, Operation
from tests.support.isolation.views import WRITES
from tests.support.simulate.oracle import Broken

CHUNK: Final = 20
_History: TypeAlias = Memory | Durable
GROUNDS: Final[dict[str, Callable[[int, Callable[[str], None] | None], _History]]] = {MEMORY: Memory, DURABLE: Durable}


@dataclass
class Report:
    """What came of some histories.

    Attributes:
        histories: How many.
        broken: Those that broke a promise, and which.
        counts: What happened in all of them: operations by kind and end; `attempts` (transactions, EXECs and plain
            writes) and how many of those were `contended`: they waited, or died of a conflict, a deadlock or a
            time-out.
    """

    histories: int = 0
    broken: list[tuple[int, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, other: Report) -> None:
        self.histories += other.histories
        self.broken += other.broken
        self.counts.update(other.counts)

    @property
    def contention(self) -> float:
        """The share of attempts in contention."""
        return self.counts["contended"] / max(1, self.counts["attempts"])

    @property
    def committed(self) -> int:
        """How many transactions were committed."""
        return sum(self.counts[f"done: {mode}"] for mode in (PESSIMISTIC, OPTIMISTIC, READONLY))


def history(seed: int, ground: str, trace: Callable[[str], None] | None = None) -> tuple[str | None, _History]:
    """Runs one seed; what broke, None if nothing did."""
    world = GROUNDS[ground](seed, trace)
    try:
        world.run()
    except Broken as broken:
        return str(broken), world
    except Exception:
        return f"FAULT {traceback.format_exc()}", world
    return None, world


def _attempts(operations: list[Operation]) -> Iterator[Operation]:
    for operation in operations:
        if operation.partial:
            continue
        if operation.mode in (PESSIMISTIC, OPTIMISTIC, READONLY, EXEC) or (
            operation.mode == PLAIN and (operation.why or operation.steps[0].args[0] in WRITES)
        ):
            yield operation


def run(seeds: Sequence[int], ground: str, rule: str | None = None) -> Report:
    """Runs seeds in this process."""
    report = Report()
    enabled = gc.isenabled()
    gc.disable()  # histories are full of circles, and short
    try:
        with left_out(rule):
            for seed in seeds:
                broken, world = history(seed, ground)
                report.histories += 1
                if broken is not None:
                    report.broken.append((seed, broken))
                report.counts.update(world.recorder.ledger.counts)
                attempts = list(_attempts(world.recorder.all))
                contended = sum(operation.contended for operation in attempts)
                report.counts.update(attempts=len(attempts), contended=contended)
                report.counts.update({f"deaths: {kind}": world.recorder.counts[kind] for kind in ("kill", "power cut")})
                report.counts.update({kind: world.recorder.counts[kind] for kind in ("flushes", "commits")})
                if report.histories % 10 == 0:
                    del world
                    gc.collect()
    finally:
        if enabled:
            gc.enable()
    return report


def _run(task: tuple[Sequence[int], str, str | None]) -> Report:
    return run(*task)


def run_all(seeds: Sequence[int], ground: str, processes: int, rule: str | None = None) -> Iterator[Report]:
    """Runs seeds in several processes; reports as they come."""
    tasks = [(seeds[at : at + CHUNK], ground, rule) for at in range(0, len(seeds), CHUNK)]
    if processes == 1 or len(tasks) == 1:
        yield from map(_run, tasks)
        return
    with get_context("fork").Pool(processes) as pool:
        yield from pool.imap_unordered(_run, tasks)


def found_after(rule: str, most: int, first: int = 0, *, weak: bool = False) -> tuple[int, str] | None:
    """How many histories it takes to find that a rule is left out, and how it shows; None where `most` don't.

    What another order explains than the promised one counts only where `weak` says so.
    """
    for number in range(most):
        report = run([first + number], LEFT_OUT[rule][1], rule)
        for _, broken in report.broken:
            assert not broken.startswith("FAULT"), f"without {rule} the history itself fails: {broken}"
            if weak or not broken.startswith("ELSEWHERE"):
                return number + 1, broken
    return None
