"""The whole store, simulated: no seed breaks a promise, each planted fault is found, and a seed is a replay.

`KEYHAUS_SIMULATION` is how many seeds. A failure names its seed; `make simulate SEEDS=… ARGS=--trace` replays it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.simulate.histories import Report, found_after, history, run_all
from tests.support.simulate.planted import PLANTED

SEEDS = int(os.environ.get("KEYHAUS_SIMULATION", "150"))
PLANTED_SEEDS = 200
# Where to begin for those that few seeds show, so that the test is short; `make simulate PLANT=…` begins anywhere.
FIRST = {
    "stale-fill": 5115,
    "deadline-forgotten": 1280,
    "dead-alive": 380,
    "swept-by-hearsay": 75,
    "counted-in-itself": 55,
    "counted-twice": 870,
}


def test_no_seed_breaks_a_promise(capsys: pytest.CaptureFixture[str]) -> None:
    total = Report()
    for report in run_all(range(SEEDS), os.cpu_count() or 1):
        total.add(report)
    assert not total.broken, "\n".join(f"seed {seed}: {broken}" for seed, broken in total.broken)
    counts = total.counts
    with capsys.disabled():
        print(f" {SEEDS} seeds, {counts['commits']} commits, {counts['flushes']} flushes", end="")
    assert counts["commits"] >= 200 * SEEDS
    assert counts["kill"] + counts["power cut"] >= SEEDS
    for kind in ("flushes", "swept", "snapshots read", "changes read", "deaths of base", "crashes in recovery"):
        assert counts[kind], f"no seed had any {kind}: they prove little"


@pytest.mark.parametrize("fault", sorted(PLANTED))
def test_a_planted_fault_is_found(fault: str) -> None:
    assert found_after(fault, PLANTED_SEEDS, FIRST.get(fault, 0)) is not None, f"{PLANTED_SEEDS} seeds broke nothing"


def test_a_seed_is_a_replay() -> None:
    digest = history(3)[1].oracle.digest()
    assert history(3)[1].oracle.digest() == digest
    code = "from tests.support.simulate.histories import history; print(history(3)[1].oracle.digest())"
    root = Path(__file__).parents[2]
    told = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": f"{root / 'src'}:{root}"},
            cwd=root,
            capture_output=True,
            check=True,
            timeout=60,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert told == [b"%d\n" % digest] * 2
