"""When a group of the journal waits for those who are expected back, and when it does not."""

from __future__ import annotations

from collections.abc import Iterator
from unittest.mock import patch

import pytest

from keyhaus.embedded import gathering as module
from keyhaus.embedded.gathering import HELD_NS_MAX, SKIPS_MAX, Gathering

SYNC_NS = 1_000_000


class Story:
    """A gathering whose clock is moved by hand."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.gone_on = 0
        self.gathering = Gathering()
        self.gathering.go_on = self.go_on
        self.gathering.keeps_time = True

    def go_on(self) -> None:
        self.gone_on += 1

    def told(self, count: int) -> list[int]:
        """A group has come back, and so many are told."""
        self.gathering.begin(SYNC_NS)
        return [self.gathering.told() for _ in range(count)]

    def missed(self) -> None:
        """One was told and does not come, and the group waits for him in vain."""
        self.told(1)
        assert self.gathering.holds_back()
        self.now_ns += SYNC_NS
        self.gathering.over()
        assert not self.gathering.holds_back()

    def skips(self) -> int:
        """How many groups wait for nobody, although somebody is expected."""
        self.told(1)
        count = 0
        while not self.gathering.holds_back():
            count += 1
        return count


@pytest.fixture
def story() -> Iterator[Story]:
    story = Story()
    patching = patch.object(module, "monotonic_ns", lambda: story.now_ns)
    patching.start()
    yield story
    patching.stop()


def test_a_group_waits_until_all_have_come(story: Story) -> None:
    numbers = story.told(3)
    for number in numbers:
        assert story.gathering.holds_back()
        assert story.gathering.patience_seconds() == SYNC_NS / 1e9
        assert story.gone_on == 0
        story.gathering.came(number)
    assert story.gone_on == 1
    assert not story.gathering.holds_back()
    assert story.gathering.patience_seconds() == -1


def test_a_group_waits_for_nobody_where_none_was_told(story: Story) -> None:
    assert not story.gathering.holds_back()
    story.told(0)
    assert not story.gathering.holds_back()


def test_a_group_waits_no_longer_than_the_last_one_took(story: Story) -> None:
    story.told(2)
    assert story.gathering.holds_back()
    story.now_ns += SYNC_NS - 1
    story.gathering.over()
    assert story.gone_on == 0
    story.now_ns += 1
    assert story.gathering.patience_seconds() == 0
    story.gathering.over()
    assert story.gone_on == 1
    story.gathering.begin(1 << 60)
    story.gathering.told()
    assert not story.gathering.holds_back()
    assert story.gathering.holds_back()
    assert story.gathering.patience_seconds() == HELD_NS_MAX / 1e9


def test_nobody_holds_back_who_keeps_no_time(story: Story) -> None:
    story.told(1)
    story.gathering.keeps_time = False
    assert not story.gathering.holds_back()
    story.gathering.over()
    assert story.gone_on == 0


def test_who_comes_late_counts_for_nothing(story: Story) -> None:
    (late,) = story.told(1)
    story.told(1)
    assert story.gathering.holds_back()
    story.gathering.came(late)
    assert story.gone_on == 0


def test_after_waiting_in_vain_more_and_more_groups_wait_for_nobody(story: Story) -> None:
    expected = 1
    for _ in range(14):
        story.missed()
        assert story.skips() == min(expected, SKIPS_MAX)
        expected *= 2
    (number,) = story.told(1)
    assert story.gathering.holds_back()
    story.gathering.came(number)
    story.missed()
    assert story.skips() == SKIPS_MAX // 2


def test_whoever_stops_keeping_the_time_lets_the_group_go(story: Story) -> None:
    story.told(1)
    assert story.gathering.holds_back()
    story.gathering.let_go()
    story.gathering.let_go()
    assert story.gone_on == 1
