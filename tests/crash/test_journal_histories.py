"""The journal's promises over a simulated disk: random histories, and each rule's absence noticed (COMMIT rules J, C4).

`KEYHAUS_HISTORIES` is how many, `KEYHAUS_SEED` the first seed; one failing history is replayed with the seed that the
failure names and `KEYHAUS_HISTORIES=1`.
"""

from __future__ import annotations

import os

import pytest

from tests.support.histories import PLANTED, World, history, planted

FIRST = int(os.environ.get("KEYHAUS_SEED", "0"))
HISTORIES = int(os.environ.get("KEYHAUS_HISTORIES", "1200"))
PLANTED_HISTORIES = 1500


def _show(seed: int, broken: str, world: World | None) -> str:
    log = "\n  ".join(world.log if world is not None else [])
    return f"KEYHAUS_SEED={seed} KEYHAUS_HISTORIES=1 replays it: {broken}\n  {log}"


def test_no_history_breaks_a_promise(capsys: pytest.CaptureFixture[str]) -> None:
    commits = recoveries = crashes = 0
    for seed in range(FIRST, FIRST + HISTORIES):
        broken, world = history(seed)
        assert broken is None, _show(seed, broken or "", world)
        assert world is not None
        commits += world.commits
        recoveries += world.recoveries
        crashes += world.crashes
    with capsys.disabled():
        print(f" {HISTORIES} histories, {commits} commits, {crashes} crashes, {recoveries} recoveries", end="")
    assert crashes > HISTORIES, "the histories hardly crash: they prove nothing"


@pytest.mark.parametrize("rule", sorted(PLANTED))
def test_a_rule_that_is_left_out_is_noticed(rule: str) -> None:
    with planted(rule) as base_covers:
        assert any(history(seed, base_covers)[0] is not None for seed in range(PLANTED_HISTORIES)), (
            f"{PLANTED_HISTORIES} histories without {rule} broke nothing"
        )
