"""Clients at the same time: single commands and MULTI/EXEC are whole, WATCH lets no update be lost."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.processes import HOST, keyhaus_server
from tests.support.wire import Wire, parsed

CLIENTS = 6


@pytest.fixture(scope="module", params=["memory", "rocksdb"])
def port(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    directory = tmp_path_factory.mktemp("keyhaus")
    options = ("--engine", request.param, "--data-dir", str(directory / "data"), "--log-level", "warning")
    with keyhaus_server(directory, *options) as server:
        yield server.port


@pytest.fixture
def client(port: int) -> Iterator[Wire]:
    """One client more, of an empty database."""
    with Wire(HOST, port) as wire:
        wire.call(b"FLUSHALL")
        yield wire


def ask(wire: Wire, *words: bytes) -> Any:
    return parsed(wire.call(*words))[0].plain()


def at_once(port: int, *stories: Callable[[Wire], Any]) -> list[Any]:
    """Runs each story on a connection and thread of its own, all starting together; what they give, in their order."""
    gate = threading.Barrier(len(stories))
    results: list[Any] = [None] * len(stories)
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            with Wire(HOST, port) as wire:
                gate.wait(30)
                results[number] = stories[number](wire)
        except BaseException as failure:
            gate.abort()
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(stories))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return results


# single commands


def test_no_increment_is_lost(client: Wire, port: int) -> None:
    def story(wire: Wire) -> list[int]:
        seen = []
        for _ in range(10):
            wire.send(*[[b"INCR", b"n"]] * 20)
            seen += [parsed(wire.receive())[0].plain() for _ in range(20)]
        assert seen == sorted(seen)
        return seen

    numbers = itertools.chain.from_iterable(at_once(port, *[story] * CLIENTS))
    assert sorted(numbers) == list(range(1, 200 * CLIENTS + 1))
    assert ask(client, b"GET", b"n") == b"%d" % (200 * CLIENTS)


def test_what_is_appended_stays_whole(client: Wire, port: int) -> None:
    def story(wire: Wire) -> bytes:
        word = b"<%d>" % threading.get_ident()
        for _ in range(50):
            wire.call(b"APPEND", b"k", word)
        return word

    words = at_once(port, *[story] * CLIENTS)
    value = ask(client, b"GET", b"k")
    assert len(value) == 50 * sum(map(len, words))
    assert all(value.count(word) == 50 for word in words)


def test_only_one_of_many_creates_a_key(client: Wire, port: int) -> None:
    rounds = 60

    def story(wire: Wire) -> list[Any]:
        return [ask(wire, b"SET", b"lock:%d" % number, b"x", b"NX") for number in range(rounds)]

    for replies in zip(*at_once(port, *[story] * CLIENTS), strict=True):
        assert sorted(map(str, replies)) == sorted(["b'OK'"] + ["None"] * (CLIENTS - 1))


def test_mget_sees_all_of_an_mset_or_nothing(client: Wire, port: int) -> None:
    keys = [b"key:%d" % number for number in range(8)]
    done = threading.Event()

    def write(mark: bytes) -> Callable[[Wire], None]:
        def story(wire: Wire) -> None:
            try:
                for number in range(60):
                    wire.call(b"MSET", *(word for key in keys for word in (key, b"%b%d" % (mark, number))))
            finally:
                done.set()

        return story

    def read(wire: Wire) -> None:
        while not done.is_set():
            values = ask(wire, b"MGET", *keys)
            assert len(set(values)) == 1, values

    at_once(port, write(b"a"), write(b"b"), read, read)


# MULTI


def test_nothing_of_a_transaction_is_seen_before_exec(client: Wire, port: int) -> None:
    with Wire(HOST, port) as other:
        client.call(b"MULTI")
        for words in ([b"SET", b"a", b"1"], [b"INCR", b"a"], [b"SET", b"b", b"2"]):
            assert client.call(*words) == b"+QUEUED\r\n"
            assert ask(other, b"MGET", b"a", b"b") == [None, None]
        assert ask(client, b"EXEC") == [b"OK", 2, b"OK"]
        assert ask(other, b"MGET", b"a", b"b") == [b"2", b"2"]


def test_a_transaction_sees_the_changes_before_exec_not_before_multi(client: Wire, port: int) -> None:
    with Wire(HOST, port) as other:
        client.call(b"SET", b"k", b"old")
        client.call(b"MULTI")
        client.call(b"GET", b"k")
        other.call(b"SET", b"k", b"new")
        client.call(b"APPEND", b"k", b"er")
        client.call(b"GET", b"k")
        assert ask(client, b"EXEC") == [b"new", 5, b"newer"]


def test_no_look_falls_into_a_transaction(client: Wire, port: int) -> None:
    """Money moves by two commands in MULTI; each look, by MGET or by GETs in MULTI, finds all of it."""
    client.call(b"MSET", b"a", b"1000", b"b", b"1000", b"moves", b"0")
    done = threading.Event()

    def move(wire: Wire) -> None:
        try:
            for amount in range(1, 61):
                amounts = b"%d" % amount
                moves = ([b"DECRBY", b"a", amounts], [b"INCR", b"moves"], [b"INCRBY", b"b", amounts])
                wire.send([b"MULTI"], *moves, [b"EXEC"])
                *_, (a, _, b) = [parsed(wire.receive())[0].plain() for _ in range(5)]
                assert a + b == 2000
        finally:
            done.set()

    def look(wire: Wire) -> None:
        while not done.is_set():
            assert sum(map(int, ask(wire, b"MGET", b"a", b"b"))) == 2000
            wire.send([b"MULTI"], [b"GET", b"b"], [b"GET", b"moves"], [b"GET", b"a"], [b"EXEC"])
            *_, (b, _, a) = [parsed(wire.receive())[0].plain() for _ in range(5)]
            assert int(a) + int(b) == 2000

    at_once(port, move, move, look, look)
    assert ask(client, b"MGET", b"a", b"b", b"moves") == [b"-2660", b"4660", b"120"]


def test_an_error_within_a_transaction_leaves_its_other_commands(client: Wire) -> None:
    client.call(b"MULTI")
    for words in ([b"SET", b"a", b"x"], [b"INCR", b"a"], [b"MSET", b"b", b"1", b"c", b"2"]):
        client.call(*words)
    assert b"-ERR value is not an integer" in client.call(b"EXEC")
    assert ask(client, b"MGET", b"a", b"b", b"c") == [b"x", b"1", b"2"]


# WATCH


def test_no_update_under_watch_is_lost(client: Wire, port: int) -> None:
    client.call(b"SET", b"n", b"0")

    def story(wire: Wire) -> int:
        tries = 0
        for _ in range(20):
            while True:
                tries += 1
                wire.call(b"WATCH", b"n")
                value = int(ask(wire, b"GET", b"n"))
                wire.send([b"MULTI"], [b"SET", b"n", b"%d" % (value + 1)], [b"EXEC"])
                *_, outcome = [parsed(wire.receive())[0].plain() for _ in range(3)]
                if outcome is not None:
                    assert outcome == [b"OK"]
                    break
        return tries

    tries = at_once(port, *[story] * CLIENTS)
    assert ask(client, b"GET", b"n") == b"%d" % (20 * CLIENTS)
    print(f"{sum(tries)} tries for {20 * CLIENTS} increments")


def test_of_all_who_watched_the_same_exactly_one_wins(client: Wire, port: int) -> None:
    rounds = 20
    meet = threading.Barrier(CLIENTS)

    def story(wire: Wire) -> list[bool]:
        won = []
        for _ in range(rounds):
            wire.call(b"WATCH", b"n")
            value = int(ask(wire, b"GET", b"n") or 0)
            meet.wait(30)
            wire.send([b"MULTI"], [b"SET", b"n", b"%d" % (value + 1)], [b"EXEC"])
            *_, outcome = [parsed(wire.receive())[0].plain() for _ in range(3)]
            won.append(outcome is not None)
            meet.wait(30)
        return won

    for winners in zip(*at_once(port, *[story] * CLIENTS), strict=True):
        assert winners.count(True) == 1
    assert ask(client, b"GET", b"n") == b"%d" % rounds


def test_a_transaction_of_many_watched_keys_is_serializable(client: Wire, port: int, seed: int) -> None:
    """Each moves the largest of three numbers to another one: with lost or torn reads their sum would change."""
    keys = [b"a", b"b", b"c"]
    client.call(b"MSET", b"a", b"300", b"b", b"0", b"c", b"0")

    def story(number: int) -> Callable[[Wire], None]:
        choices = random.Random(seed + number)

        def moves(wire: Wire) -> None:
            for _ in range(25):
                wire.call(b"WATCH", *keys)
                values = [int(ask(wire, b"GET", key)) for key in keys]
                giver = values.index(max(values))
                taker = choices.choice([each for each in range(3) if each != giver])
                amount = choices.randint(1, values[giver])
                pairs = ([giver, values[giver] - amount], [taker, values[taker] + amount])
                wire.send([b"MULTI"], *([b"SET", keys[key], b"%d" % value] for key, value in pairs), [b"EXEC"])
                for _ in range(4):
                    wire.receive()

        return moves

    at_once(port, *map(story, range(CLIENTS)))
    values = [*map(int, ask(client, b"MGET", *keys))]
    assert sum(values) == 300 and min(values) >= 0
