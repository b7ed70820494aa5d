"""The turn that threads share: what is queued is done by whoever leaves, in order, and nothing is left behind."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator

import pytest

from keyhaus.embedded.background import Background
from keyhaus.embedded.interrupts import Place
from keyhaus.embedded.spawn import GroupWriter, TurnWorker
from keyhaus.embedded.turns import LEAVE_NS, Turns
from tests.support.embedded import SECONDS, Running, until


@pytest.fixture
def turns() -> Turns:
    return Turns()


@pytest.fixture
def background(turns: Turns) -> Iterator[Background]:
    background = Background(turns)
    yield background
    background.close()


def test_what_is_posted_meanwhile_is_done_by_who_leaves(turns: Turns) -> None:
    done: list[tuple[str, threading.Thread]] = []

    def note(what: str) -> None:
        done.append((what, threading.current_thread()))

    turns.post(note, "at once")
    with turns.taken(Place()):
        turns.soon(note, "first")
        Running(turns.post, note, "second").result()
        assert [what for what, _ in done] == ["at once"]
    assert done == [(what, threading.current_thread()) for what in ("at once", "first", "second")]


def test_what_a_callback_queues_follows_in_order(turns: Turns) -> None:
    done: list[str] = []
    with turns.taken(Place()):
        turns.soon(lambda: turns.soon(done.append, "third"))
        turns.soon(done.append, "first")
        turns.soon(lambda: done.append("second"))
    assert done == ["first", "second", "third"]


def test_what_takes_long_is_left_to_the_background(turns: Turns, background: Background) -> None:
    done: list[threading.Thread] = []

    def slow() -> None:
        time.sleep(LEAVE_NS / 5e8)
        done.append(threading.current_thread())
        if len(done) < 5:
            turns.soon(slow)

    with turns.taken(Place()):
        turns.soon(slow)
    until(lambda: len(done) == 5)
    assert done[0] is threading.current_thread()
    assert {thread.name for thread in done[1:]} == {"keyhaus-background"}


def test_nothing_is_lost_among_threads(turns: Turns, background: Background, seed: int) -> None:
    done: list[int] = []

    def work(number: int) -> None:
        generator = random.Random(seed + number)
        for _ in range(500):
            kind = generator.randrange(3)
            if kind == 0:
                turns.post(done.append, number)
            elif kind == 1:
                with turns.taken(Place()):
                    turns.soon(done.append, number)
            else:
                with turns.taken(Place()):
                    background.later(generator.random() * 3, lambda: done.append(number))

    threads = [Running(work, number) for number in range(6)]
    for thread in threads:
        thread.result()
    until(lambda: len(done) == 3000)
    assert {number: done.count(number) for number in range(6)} == dict.fromkeys(range(6), 500)


def test_timers_fire_in_order_unless_they_are_cancelled(turns: Turns, background: Background) -> None:
    fired: list[str] = []
    with turns.taken(Place()):
        background.later(30, lambda: fired.append("late"))
        cancelled = background.later(10, lambda: fired.append("never"))
        background.later(5, lambda: fired.append("early"))
        cancelled.cancel()
    until(lambda: "late" in fired)
    assert fired == ["early", "late"]


def test_jobs_of_a_worker_follow_each_other_whoever_does_them(turns: Turns, seed: int) -> None:
    worker = GroupWriter(turns, "tested")
    running = threading.Lock()
    by: list[str] = []
    order: list[int] = []
    errors: list[BaseException] = []
    numbers = iter(range(10_000))

    def job() -> int:
        assert running.acquire(False), "two at once"
        by.append(threading.current_thread().name)
        number = next(numbers)
        time.sleep(0.0001)  # others come in between
        running.release()
        return number

    def done(result: int, error: BaseException | None) -> None:
        order.append(result)
        if error is not None:
            errors.append(error)

    def submit(number: int) -> None:
        generator = random.Random(seed + number)
        for _ in range(200):
            turns.enter()
            for _ in range(generator.randrange(1, 3)):
                turns.soon(worker.submit, job, done)
            lent = turns.leave_to_wait()
            if lent is not None:
                lent()

    threads = [Running(submit, number) for number in range(4)]
    for thread in threads:
        thread.result()
    worker.close()
    until(lambda: len(order) == len(by) + len(errors))
    assert errors == []
    assert order == sorted(order)
    assert 800 < len(order) == next(numbers)
    assert "tested" in by and len(set(by)) > 1


def test_a_worker_hands_on_what_its_job_raises(turns: Turns) -> None:
    answered = threading.Event()
    answers: list[object] = []

    def fail() -> None:
        raise OSError("full")

    def done(result: object, error: BaseException | None) -> None:
        answers.append(error)
        answered.set()

    worker = TurnWorker(turns, "tested")
    with turns.taken(Place()):
        worker.submit(fail, done)
    assert answered.wait(SECONDS)
    assert isinstance(answers[0], OSError)
    worker.close()
