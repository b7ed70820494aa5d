"""S6: the machine's clock jumps while the server runs, and between two runs; keyhaus' own never runs back."""

from __future__ import annotations

import pytest

from tests.support.based import BasedStore

HOUR: int = 3_600_000


def put_again(it: BasedStore, flushed: bool) -> None:
    """A commit, perhaps into the base, and a restart."""
    it.until(it.put(b"last", b"written"))
    it.synced()
    if flushed:
        it.flush()
    it.kill()


@pytest.mark.parametrize("flushed", [False, True])
def test_a_clock_that_is_set_back_between_two_runs_stands_still_until_it_is_caught_up(flushed: bool) -> None:
    it = BasedStore()
    begun = it.clock.ms
    it.until(it.put(b"minute", b"value", begun + 60_000))
    it.clock.ms += HOUR // 120  # half the minute
    put_again(it, flushed)
    it.clock.ms -= HOUR
    it.kill()
    assert it.store.now() == begun + 30_000
    assert it.until(it.get(b"minute")) == b"value"
    it.clock.ms += HOUR + 29_000
    assert it.until(it.get(b"minute")) == b"value"
    it.clock.ms += 2_000
    assert it.until(it.get(b"minute")) is None, "its time counts on where the clock stood"


@pytest.mark.parametrize("flushed", [False, True])
def test_a_clock_that_is_set_forward_between_two_runs_expires_for_good(flushed: bool) -> None:
    it = BasedStore()
    begun = it.clock.ms
    it.until(it.put(b"minute", b"value", begun + 60_000))
    it.until(it.put(b"day", b"value", begun + 24 * HOUR))
    put_again(it, flushed)
    it.clock.ms += HOUR
    it.kill()
    assert [it.until(it.get(key)) for key in (b"minute", b"day")] == [None, b"value"]
    it.until(it.put(b"later", b"value"))
    it.synced()
    it.clock.ms = begun
    it.kill()
    assert [it.until(it.get(key)) for key in (b"minute", b"day")] == [None, b"value"], "it does not come back"
    assert it.until(it.count()) == 3
