"""Which closed segments may go: what is being copied stays, unless its room is needed."""

from __future__ import annotations

from keyhaus.journal.manifest import Line, Manifest
from keyhaus.journal.retention import Retention

MANIFEST = Manifest("00" * 16, tuple(Line(number, number, number * 10) for number in range(1, 6)))
SIZES = dict.fromkeys(range(1, 6), 100)


def covered(*, retain_bytes: int = 0) -> Retention:
    retention = Retention(dict(SIZES), retain_bytes, archives=False)
    retention.covered = 45
    return retention


def test_what_the_base_covers_goes() -> None:
    plan = covered().plan(MANIFEST)
    assert plan is not None
    assert [line.number for line in plan.dropped] == [1, 2, 3]
    assert [line.number for line in plan.manifest.segments] == [4, 5]


def test_what_is_pinned_stays_and_goes_once_it_is_not() -> None:
    retention = covered()
    retention.pins.append(25)
    plan = retention.plan(MANIFEST)
    assert plan is not None
    assert [line.number for line in plan.dropped] == [1]
    assert [line.number for line in plan.manifest.retained] == [2, 3]
    retention.drop(plan.dropped)
    assert retention.plan(plan.manifest) is None
    retention.pins.remove(25)
    plan = retention.plan(plan.manifest)
    assert plan is not None
    assert [line.number for line in plan.dropped] == [2, 3]


def test_a_pin_gives_way_before_writers_would_be_refused() -> None:
    retention = covered(retain_bytes=1 << 30)
    retention.pins.append(0)
    plan = retention.plan(MANIFEST)
    assert plan is not None
    assert not plan.dropped
    assert retention.give_way(plan.manifest, 150)
    plan = retention.plan(plan.manifest)
    assert plan is not None
    assert [line.number for line in plan.dropped] == [1, 2], "as many as the room takes, and no more"
