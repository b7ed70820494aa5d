"""Seeds, one after another and many at once."""

from __future__ import annotations

import gc
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Final

from tests.support.simulate.oracle import Broken
from tests.support.simulate.planted import planted
from tests.support.simulate.world import World

CHUNK: Final = 20


@dataclass
class Report:
    """What came of some seeds.

    Attributes:
        seeds: How many.
        broken: Those that broke a promise, and which.
        counts: What happened in all of them.
    """

    seeds: int = 0
    broken: list[tuple[int, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, other: Report) -> None:
        self.seeds += other.seeds
        self.broken += other.broken
        self.counts.update(other.counts)


def history(seed: int, trace: Callable[[str], None] | None = None) -> tuple[str | None, World]:
    """Runs one seed; what broke, None if nothing did."""
    world = World(seed, trace)
    try:
        world.run()
    except Broken as broken:
        return str(broken), world
    except Exception:
        return f"FAULT {traceback.format_exc()}", world
    return None, world


def run(seeds: Sequence[int], plant: str | None = None) -> Report:
    """Runs seeds in this process."""
    report = Report()
    enabled = gc.isenabled()
    gc.disable()  # histories are full of circles, and short
    try:
        with planted(plant):
            for seed in seeds:
                broken, world = history(seed)
                report.seeds += 1
                if broken is not None:
                    report.broken.append((seed, broken))
                report.counts.update(world.counts)
                report.counts.update({f"faults: {kind}": times for kind, times in world.disk.struck.items()})
                if report.seeds % 10 == 0:
                    del world
                    gc.collect()
    finally:
        if enabled:
            gc.enable()
    return report


def _run(task: tuple[Sequence[int], str | None]) -> Report:
    return run(*task)


def run_all(seeds: Sequence[int], processes: int, plant: str | None = None) -> Iterator[Report]:
    """Runs seeds in several processes; reports as they come."""
    tasks = [(seeds[at : at + CHUNK], plant) for at in range(0, len(seeds), CHUNK)]
    if processes == 1 or len(tasks) == 1:
        yield from map(_run, tasks)
        return
    with get_context("fork").Pool(processes) as pool:
        yield from pool.imap_unordered(_run, tasks)


def found_after(plant: str, most: int, first: int = 0) -> tuple[int, str] | None:
    """How many seeds it takes to find a planted fault, and how it shows; None where `most` don't."""
    for number in range(most):
        report = run([first + number], plant)
        if report.broken:
            return number + 1, report.broken[0][1]
    return None
