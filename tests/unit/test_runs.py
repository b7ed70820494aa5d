"""How a run is written beside a server that may share its core."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator

import pytest

from keyhaus.engines.base import Change
from keyhaus.engines.model import ModelRunWriter
from keyhaus.store import record
from keyhaus.store.runs import RUN_ROWS_A_YIELD, RunBuilder
from tests.support.simulation import SimulatedDisk
from tests.support.turns import ManualClock

ROWS = 100 * RUN_ROWS_A_YIELD


@pytest.mark.parametrize(("waits_ms", "least", "most"), [(0, 100, 100), (64, 100, 100), (64_000, 1, 2)])
def test_it_yields_unless_that_takes_most_of_the_time(
    waits_ms: int, least: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock()
    yields = 0

    def yielded() -> None:
        nonlocal yields
        yields += 1
        clock.ms += waits_ms

    class Slow(ModelRunWriter):
        """Takes a millisecond for each row."""

        def add(self, changes: Iterable[Change]) -> None:
            super().add(self._slowly(changes))

        def _slowly(self, changes: Iterable[Change]) -> Iterator[Change]:
            for change in changes:
                clock.ms += 1
                yield change

    monkeypatch.setattr(os, "sched_yield", yielded)
    disk = SimulatedDisk(random.Random(1))
    disk.make_directory("runs")
    builder = RunBuilder(lambda name: Slow(disk, f"runs/{name}"), clock=clock)
    for name in ("first", "second"):  # each run begins anew
        yields = 0
        builder.add(b"", [(b"%06d" % number, record.make(number, 0, b"v")) for number in range(ROWS)])
        assert builder.finish(name, b"meta") == ROWS + 1
        assert least <= yields <= most
