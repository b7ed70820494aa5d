"""Random concurrent histories of transactions and commands are strictly serializable and durable; each rule is needed.

`KEYHAUS_HISTORIES` is how many in memory; the durable ones, which take longer, are a tenth of that. A failure names its
seed; `python -m tests.support.isolation SEED --trace` replays it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

from tests.support.isolation.histories import Report, found_after, history, run, run_all
from tests.support.isolation.left_out import DURABLE, LEFT_OUT, MEMORY
from tests.support.isolation.recorder import Recorder
from tests.support.simulate.oracle import Broken

LONG = "KEYHAUS_HISTORIES" in os.environ
HISTORIES = {MEMORY: int(os.environ.get("KEYHAUS_HISTORIES", "400"))}
HISTORIES[DURABLE] = max(1, HISTORIES[MEMORY] // 6)
WITHOUT_A_RULE = 3000  # histories at the most, until one breaks
# Where to begin for those that few seeds show, so that the test is short; in the long form all begin at 0.
FIRST = {
    "next-key": 620,
    "watch-flush": 540,
    "connection-waits": 190,
    "sealed-ranges": 840,
    "sweep-counts": 140,
    "watch-expiry": 65,
    "dependency": 45,
    "evict-passes": 50,
    "told-before-sync": 14,
}
# What the graph alone finds, knowing nothing of the store.
BY_GRAPH = ("shared-locks", "two-phase", "validate-points", "writes-wait", "look-again")


@pytest.mark.parametrize("ground", [MEMORY, DURABLE])
def test_no_history_breaks_a_promise(ground: str, capsys: pytest.CaptureFixture[str]) -> None:
    total = Report()
    for report in run_all(range(HISTORIES[ground]), ground, os.cpu_count() or 1):
        total.add(report)
    assert not total.broken, "\n".join(f"seed {seed}, {ground}: {broken}" for seed, broken in total.broken)
    with capsys.disabled():
        print(
            f" {total.histories} histories, {total.committed} committed transactions, "
            f"{total.contention:.0%} of all attempts in contention",
            end="",
        )
    assert total.contention >= 0.2
    wanted = ["done: exec", "done: plain", "gone: CONFLICT", "gone: DEADLOCK", "gone: LOCKTIMEOUT", "gone: WATCH"]
    wanted += ["gone: TXTIMEOUT", "gone: VANISHED", "gone: NOTX"]
    if ground == DURABLE:
        wanted += ["flushes", "deaths: kill", "deaths: power cut", "lost", "gone: CRASH"]
    for kind in wanted:
        assert total.counts[kind], f"no history had any {kind}: they prove little"


@pytest.mark.parametrize("rule", LEFT_OUT)
def test_without_a_rule_some_history_breaks(rule: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = found_after(rule, WITHOUT_A_RULE, 0 if LONG else FIRST.get(rule, 0))
    assert found is not None, f"{WITHOUT_A_RULE} histories broke nothing"
    with capsys.disabled():
        print(f" {found[0]} histories", end="")


@pytest.mark.parametrize("rule", BY_GRAPH)
def test_the_graph_alone_finds_that_a_rule_is_left_out(rule: str) -> None:
    def unchecked(recorder: Recorder, begin: object, what: str = "") -> None:
        recorder.all += recorder.ledger.operations

    names = ("G0", "G1", "G-single", "G2", "real-time", "INTERNAL", "ORDER of versions")
    with patch.object(Recorder, "check_life", unchecked):
        for seed in range(WITHOUT_A_RULE):
            for _, broken in run([seed], MEMORY, rule).broken:
                assert broken.startswith(names), broken
                return
    raise AssertionError(f"{WITHOUT_A_RULE} histories broke nothing")


@pytest.mark.parametrize("ground", [MEMORY, DURABLE])
def test_a_seed_is_a_replay(ground: str) -> None:
    digests = [history(seed, ground)[1].recorder.digest() for seed in (3, 4)]
    code = (
        "from tests.support.isolation.histories import history\n"
        f"print([history(seed, {ground!r})[1].recorder.digest() for seed in (3, 4)])"
    )
    root = Path(__file__).parents[2]
    told = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": f"{root / 'src'}:{root}"},
        cwd=root,
        capture_output=True,
        check=True,
        timeout=60,
    ).stdout
    assert told == f"{digests}\n".encode()


def test_who_never_comes_to_an_end_is_told_of() -> None:
    with patch("keyhaus.store.locks.Locks._serve", lambda *args: None):  # nobody is ever served
        broken = [history(seed, MEMORY)[0] for seed in range(20)]
    assert any(one is not None and one.startswith("STUCK") for one in broken)


def test_a_broken_promise_is_no_exception_that_the_product_could_catch() -> None:
    assert not issubclass(Broken, Exception)
